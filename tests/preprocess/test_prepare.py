"""A scan becomes what the card asks for, or is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from phantoms import Body, Sphere, label_map, linear_ramp, oblique_grid
from small_models import make_card
from strategies import geometries

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.io.formats import read_volume
from medseg.preprocess.prepare import card_grid, check_volume, prepare, straight_grid
from medseg.volume import Volume


def test_prepared_ramp_is_the_same_function_of_the_world() -> None:
    source = linear_ramp(oblique_grid().reorient("LIA"))
    card = make_card(orientation="RAS", spacing_mm=(1.5, 1.6, 1.9))
    prepared = prepare(source, card)
    assert prepared.array.dtype == np.float32
    assert prepared.geometry.axis_codes == "RAS"
    assert prepared.geometry.spacing_mm == pytest.approx((1.5, 1.6, 1.9))
    expected = linear_ramp(prepared.geometry).array
    inner = (slice(2, -2),) * 3  # linear interpolation holds the value at the outermost half voxel
    assert np.allclose(prepared.array[inner], expected[inner], atol=1e-3)


def test_source_grid_is_kept_where_the_card_is_silent() -> None:
    grid = oblique_grid((5, 6, 7)).reorient("PSL")
    assert card_grid(grid, make_card()) is grid
    assert card_grid(grid, make_card(spacing_mm=grid.spacing_mm)) is grid


@given(source=geometries(least=2, most=9, shear=True))
@settings(deadline=None, max_examples=50)
def test_straight_grid_covers_a_sheared_one(source: Geometry) -> None:
    straight = straight_grid(source)
    assert straight.is_orthogonal
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    outer = source.to_world(corners * (np.array(source.shape) - 1))
    index = straight.to_index(outer)
    assert index.min() >= -0.5
    assert (index <= np.array(straight.shape) - 0.5).all()
    assert straight.spacing_mm == pytest.approx(source.spacing_mm)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.full((4, 4, 4), np.nan), "ALL_NAN"),
        (np.full((4, 4, 4), np.inf), "ALL_NAN"),
        (np.full((4, 4, 4), 7, dtype=np.int16), "CONSTANT_VOLUME"),
        (np.where(np.eye(4)[..., None] * np.ones(4) > 0, np.nan, 3.0), "CONSTANT_VOLUME"),
        (np.arange(16.0).reshape(4, 4, 1), "TOO_THIN"),
        (np.ones((1, 1, 1)), "TOO_THIN"),
    ],
)
def test_what_is_no_scan_is_refused(array: np.ndarray, code: str) -> None:
    volume = Volume(array, Geometry.from_spacing(array.shape))
    with pytest.raises(VolumeError) as caught:
        prepare(volume, make_card())
    assert caught.value.code == code
    assert ";" in str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float64"])
def test_a_label_map_is_no_scan(dtype: str) -> None:
    grid = Geometry.from_spacing((40, 40, 30))
    bodies: dict[str, Body] = {"ball": Sphere((20, 20, 15), 9), "other": Sphere((30, 20, 15), 6)}
    labels = label_map(grid, bodies).array.astype(dtype)
    with pytest.raises(VolumeError) as caught:
        check_volume(Volume(labels, grid))
    assert caught.value.code == "LABELS_NOT_IMAGE"
    noisy = labels * 40 + np.random.default_rng(0).integers(0, 30, grid.shape).astype(dtype)
    check_volume(Volume(noisy, grid))


@pytest.mark.parametrize("name", ["ch2.nii.gz", "chris_PD.nii.gz", "aal.nii.gz"])
def test_real_scans_are_scans_and_an_atlas_is_not(shared_data: Path, name: str) -> None:
    volume = read_volume(shared_data / "brain_mr" / name)
    if name != "aal.nii.gz":
        check_volume(volume)
        return
    with pytest.raises(VolumeError) as caught:
        check_volume(volume)
    assert caught.value.code == "LABELS_NOT_IMAGE"


def test_empty_voxels_take_the_lowest_intensity() -> None:
    array = np.arange(27.0).reshape(3, 3, 3) + 5
    array[2, 2, 2] = np.nan
    prepared = prepare(Volume(array, Geometry.from_spacing((3, 3, 3))), make_card())
    assert prepared.array[2, 2, 2] == 5
    assert np.isfinite(prepared.array).all()
    assert np.isnan(array[2, 2, 2])


def test_metres_taken_for_millimetres_are_refused_before_allocation() -> None:
    grid = Geometry.from_spacing((512, 512, 512), (1000, 1000, 1000))
    with pytest.raises(GeometryError) as caught:
        card_grid(grid, make_card(spacing_mm=(1, 1, 1)))
    assert caught.value.code == "GRID_TOO_LARGE"
