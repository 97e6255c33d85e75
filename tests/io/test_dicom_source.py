"""Labels put back onto the slices: exact on the volume's own grid, in place on any other."""

from __future__ import annotations

import warnings
from pathlib import Path

import dicom_bytes as raw
import hostile_places
import numpy as np
import pytest

from medseg.io.dicom_series import read_series
from medseg.io.dicom_source import DicomVolume, labels_on_slices
from medseg.labels import LabelSet
from medseg.volume import LabelVolume


def read_quietly(path: Path) -> DicomVolume:
    with warnings.catch_warnings():
        # That slices were resampled is known here.
        warnings.simplefilter("ignore")
        return read_series(path)


def slice_centres(volume: DicomVolume, n: int) -> np.ndarray:
    """World RAS of every pixel of a slice, `(rows, columns, 3)`, straight from the definition."""
    assert volume.dicom is not None
    plane = volume.dicom.slices[n]
    row, column = np.meshgrid(np.arange(raw.ROWS), np.arange(raw.COLUMNS), indexing="ij")
    lps = (
        np.array(plane.position_mm)
        + column[..., None] * np.array(plane.row_direction) * plane.pixel_spacing_mm[1]
        + row[..., None] * np.array(plane.column_direction) * plane.pixel_spacing_mm[0]
    )
    return np.asarray(lps * (-1, -1, 1))


def test_on_its_own_grid_labels_are_only_moved(tmp_path: Path) -> None:
    volume = read_series(raw.write(tmp_path / "s", raw.series()))
    assert volume.dicom is not None
    stored = np.stack([raw.pixels_of(n) for n in range(raw.SLICES)])
    labels = LabelVolume(volume.array.astype(np.int32) + 1024, volume.geometry, LabelSet())
    assert np.array_equal(labels_on_slices(labels, volume.dicom), stored)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR", "PIL"])
def test_any_order_of_axes_gives_the_same_slices(tmp_path: Path, codes: str) -> None:
    volume = read_series(raw.write(tmp_path / "s", raw.series()))
    assert volume.dicom is not None
    labels = LabelVolume(volume.array.astype(np.int32) + 1024, volume.geometry, LabelSet())
    here = labels_on_slices(labels, volume.dicom)
    assert np.array_equal(labels_on_slices(labels.reorient(codes), volume.dicom), here)


def test_a_part_fills_only_its_place(tmp_path: Path) -> None:
    volume = read_series(raw.write(tmp_path / "s", raw.series()))
    assert volume.dicom is not None
    labels = LabelVolume(np.ones(volume.geometry.shape, np.uint8), volume.geometry, LabelSet())
    back = labels_on_slices(labels.crop((2, 3, 4), (9, 8, 7)), volume.dicom)
    assert back.sum() == 7 * 5 * 3
    assert back[4:7, 3:8, 2:9].all()


@pytest.mark.parametrize(
    "build", [hostile_places.tilted, hostile_places.variable], ids=["tilted", "variable"]
)
def test_irregular_series_get_labels_on_their_own_slices(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a builder
    """A ball painted on the upright grid is found at the same place of the world on every slice."""
    volume = read_quietly(build(tmp_path))
    assert volume.dicom is not None
    assert volume.dicom.resampled
    centre = volume.geometry.to_world((np.array(volume.geometry.shape) - 1) / 2)
    index = np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), axis=-1)
    ball = np.linalg.norm(volume.geometry.to_world(index) - centre, axis=-1) <= 4.5
    back = labels_on_slices(LabelVolume(ball.astype(np.uint8), volume.geometry), volume.dicom)
    assert back.shape == (raw.SLICES, raw.ROWS, raw.COLUMNS)
    # A pixel takes the nearest voxel, so only those near the surface may differ.
    reach = np.linalg.norm(volume.geometry.spacing_mm) / 2
    for n in range(raw.SLICES):
        distance = np.linalg.norm(slice_centres(volume, n) - centre, axis=-1)
        inside = volume.geometry.to_index(slice_centres(volume, n))
        held = ((inside > -0.5) & (inside < np.array(volume.geometry.shape) - 0.5)).all(axis=-1)
        assert back[n][held & (distance < 4.5 - reach)].all()
        assert not back[n][distance > 4.5 + reach].any()
    assert back.any()


def test_affine_of_a_slice_is_its_definition(tmp_path: Path) -> None:
    volume = read_quietly(hostile_places.tilted(tmp_path))
    assert volume.dicom is not None
    for n, plane in enumerate(volume.dicom.slices):
        corner = plane.affine @ (raw.COLUMNS - 1, raw.ROWS - 1, 0, 1)
        assert np.allclose(corner[:3], slice_centres(volume, n)[-1, -1])


def test_the_record_says_no_path(tmp_path: Path) -> None:
    """A path may hold a patient's name; it must not slip into a log by printing the record."""
    volume = read_series(raw.write(tmp_path / "Doe_John", raw.series()))
    assert "Doe" not in repr(volume.dicom)
