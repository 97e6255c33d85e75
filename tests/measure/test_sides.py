"""Left lies left: names in the spellings of published models, places in the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from phantoms import Body, Sphere, label_map, oblique_grid
from strategies import ORIENTATIONS

from medseg.geometry import Geometry
from medseg.io.formats import read_labels
from medseg.measure.regions import measure_regions
from medseg.measure.sides import find_swapped_sides, side_of
from medseg.models.registry import BUNDLED_FOLDER, read_card
from medseg.volume import LabelVolume


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("left kidney", ("left", "kidney")),
        ("kidney_left", ("left", "kidney")),
        ("Left-Cerebral-White-Matter", ("left", "cerebral white matter")),
        ("KidneyRight", ("right", "kidney")),
        ("ctx-rh-insula", ("right", "ctx insula")),
        ("L femur", ("left", "femur")),
        ("lung_R", ("right", "lung")),
        ("rib_left_12", ("left", "rib 12")),
        ("vertebrae_L5", None),
        ("heart", None),
        ("left", None),
        ("left to right shunt", None),
    ],
)
def test_sides_are_read_from_names(name: str, told: tuple[str, str] | None) -> None:
    assert side_of(name) == told


def organs(names: tuple[str, ...], places_mm: tuple[float, ...], grid: Geometry) -> LabelVolume:
    bodies: dict[str, Body] = {
        name: Sphere((x, -12.0, 30.0), 4.0) for name, x in zip(names, places_mm, strict=True)
    }
    return label_map(grid, bodies)


def warnings_of(labels: LabelVolume) -> tuple[str, ...]:
    return find_swapped_sides(measure_regions(labels))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_the_world_decides_not_the_order_of_voxels(codes: str) -> None:
    grid = oblique_grid((60, 40, 40), (1.0, 1.0, 1.0)).reorient(codes)
    names = ("kidney_left", "kidney_right")
    assert warnings_of(organs(names, (-6.0, 20.0), grid)) == ()
    (words,) = warnings_of(organs(names, (20.0, -6.0), grid))
    assert words.startswith("[SIDES_SWAPPED] 1 of 1")
    assert "kidney" in words


def test_all_of_several_pairs_exchanged_make_the_header_suspect() -> None:
    grid = Geometry.from_spacing((80, 30, 40)).pad((40, 30, 0), (0, 0, 0))
    names = ("left lung", "right lung", "left eye", "right eye", "spine")
    labels = organs(names, (-30, 30, -12, 12, 0), grid)
    assert warnings_of(labels) == ()
    mirrored = grid.affine.copy()
    mirrored[0] *= -1
    (words,) = warnings_of(LabelVolume(labels.array, Geometry(grid.shape, mirrored), labels.labels))
    assert words.startswith("[SIDES_MIRRORED] all 2")
    (one,) = warnings_of(organs(names, (-30, 30, 12, -12, 0), grid))
    assert one.startswith("[SIDES_SWAPPED] 1 of 2")
    assert "eye" in one
    assert "lung" not in one


def test_a_structure_of_a_few_voxels_or_without_partner_is_not_judged() -> None:
    grid = Geometry.from_spacing((40, 20, 40))
    labels = organs(("left lung", "right eye"), (20, 5), grid)
    assert warnings_of(labels) == ()
    array = np.zeros(grid.shape, dtype=np.uint8)
    array[30, 5, 5] = 1
    array[5:8, 5:8, 5:8] = 2
    assert warnings_of(LabelVolume(array, grid, organs(("l x", "r x"), (5, 9), grid).labels)) == ()


def test_real_label_maps_lie_right_and_mirrored_ones_are_seen(shared_data: Path) -> None:
    labels = read_labels(shared_data / "ct/example_seg.nii.gz")
    assert any(side_of(name) for name in labels.labels.names.values())
    assert warnings_of(labels) == ()
    affine = labels.geometry.affine.copy()
    affine[0] *= -1
    mirrored = LabelVolume(labels.array, Geometry(labels.geometry.shape, affine), labels.labels)
    assert "SIDES_MIRRORED" in warnings_of(mirrored)[0]


def test_the_bundled_models_pairs_are_understood() -> None:
    names = read_card(BUNDLED_FOLDER / "brain-mri").labels.names.values()
    sided = [told for name in names if (told := side_of(name)) is not None]
    assert len(sided) == sum("left" in name or "right" in name for name in names)
    lefts, rights = ({key for side, key in sided if side == wanted} for wanted in ("left", "right"))
    assert lefts == rights
