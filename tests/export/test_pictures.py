"""Pictures show the right plane, the right way round."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from phantoms import Box, Sphere, label_map
from PIL import Image

from medseg.export.pictures import draw_sections, draw_sizes, largest_sections, pictures
from medseg.geometry import Geometry
from medseg.labels import Label, LabelSet
from medseg.measure.regions import measure_regions
from medseg.result import Result
from medseg.volume import InstanceVolume, LabelVolume, Volume

GRID = Geometry.from_spacing((30, 40, 20), (2.0, 1.0, 3.0))


def pixels(picture: Image.Image) -> npt.NDArray[Any]:
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "IRP"])
def test_planes_are_the_fullest_and_stand_as_radiologists_see_them(codes: str) -> None:
    """A corner body at the right, front, top ends up at the left, up (or left), up."""
    body = Box((52.0, 35.0, 51.0), (8.0, 6.0, 12.0))
    labels = label_map(GRID, {"corner": body}).reorient(codes)
    axial, coronal, sagittal = largest_sections(labels)
    assert [s.name for s in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    for section, at in (
        (axial, body.centre_mm[2]),
        (coronal, body.centre_mm[1]),
        (sagittal, body.centre_mm[0]),
    ):
        assert abs(section.position_mm - at) <= 6
        rows, columns = np.nonzero(section.labels)
        assert rows.mean() < section.labels.shape[0] / 2
        assert columns.mean() < section.labels.shape[1] / 2
    assert axial.pixel_mm == pytest.approx((1.0, 2.0))
    assert coronal.pixel_mm == pytest.approx((3.0, 2.0))
    assert sagittal.pixel_mm == pytest.approx((3.0, 1.0))


def test_outlines_have_the_colours_of_the_classes_and_leave_the_inside_free() -> None:
    ball = label_map(GRID, {"ball": Sphere((28.0, 20.0, 28.0), 12.0)})
    red = LabelSet((Label(1, "ball", (255, 0, 0)),))
    labels = LabelVolume(ball.array, GRID, red)
    image = Volume(np.full(GRID.shape, 50.0), GRID)
    outlined = pixels(draw_sections(labels, image))
    filled = pixels(draw_sections(labels))
    count = [(picture == (255, 0, 0)).all(axis=2).sum() for picture in (outlined, filled)]
    assert 0 < count[0] < count[1] / 5


def test_objects_have_distinct_colours() -> None:
    array = np.zeros(GRID.shape, np.uint64)
    array[2:8, 2:12, 2:8], array[10:16, 2:12, 2:8], array[20:26, 2:12, 2:8] = 1, 2, 2**50
    objects = InstanceVolume(array, GRID, LabelSet.from_names({1: "x"}), classes={1: 1, 2: 1, 2**50: 1})
    shown = pixels(draw_sections(objects))
    colours, counts = np.unique(shown.reshape(-1, 3), axis=0, return_counts=True)
    bright = [tuple(c) for c, n in zip(colours, counts, strict=True) if n > 1000 and np.ptp(c) > 60]
    assert len(bright) == 3


def test_result_gives_png_files_and_an_empty_one_too() -> None:
    labels = label_map(GRID, {"a": Sphere((28, 20, 28), 9)})
    empty = LabelVolume(np.zeros(GRID.shape, np.uint8), GRID)
    objects = InstanceVolume(labels.array, GRID, labels.labels, classes={1: 1})
    full = Result(labels, objects, measure_regions(labels) + measure_regions(objects))
    nothing = Result(empty, InstanceVolume(empty.array, GRID), (), image=Volume(empty.array, GRID))
    for result in (full, nothing):
        files = pictures(result)
        assert list(files) == ["labels", "instances", "sizes"]
        for png in files.values():
            picture = Image.open(io.BytesIO(png))
            assert picture.format == "PNG"
            assert min(picture.size) > 50
            assert not picture.info  # no text chunks that could name a patient
    assert list(pictures(Result(labels))) == ["labels"]


def test_one_object_and_a_flat_image_do_no_harm() -> None:
    labels = label_map(GRID, {"a": Sphere((28, 20, 28), 9)})
    assert draw_sizes(measure_regions(labels)).size == draw_sizes([]).size
    flat = Geometry.from_spacing((1, 1, 1))
    one = LabelVolume(np.ones((1, 1, 1), np.uint8), flat)
    assert min(draw_sections(one, Volume(np.full((1, 1, 1), np.nan), flat)).size) > 50


def test_many_classes_fit_the_legend() -> None:
    array = np.arange(np.prod(GRID.shape)).reshape(GRID.shape) // 400
    picture = draw_sections(LabelVolume(array.astype(np.int32), GRID))
    assert picture.size[1] < 600
