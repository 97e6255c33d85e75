"""Laws of grids: points, orientation, cropping, spacing; against nibabel where it has the function."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from phantoms import oblique_grid, rotation
from strategies import ORIENTATIONS, geometries, orientations, spacings_mm

from medseg.errors import GeometryError
from medseg.geometry import Geometry, require_same_grid

few = settings(deadline=None, max_examples=50)
any_grid = geometries(shear=True)


def corners(geometry: Geometry) -> np.ndarray:
    return np.array(list(itertools.product(*((0, n - 1) for n in geometry.shape))), dtype=float)


# ---------------------------------------------------------------------- what a grid may be


@pytest.mark.parametrize("shape", [(0, 4, 4), (-1, 4, 4), (4, 4), (4, 4, 4, 4), (32767, 32767, 32767)])
def test_impossible_sizes_are_refused(shape: Sequence[int]) -> None:
    with pytest.raises(GeometryError) as caught:
        Geometry(shape, np.eye(4))  # type: ignore[arg-type]  # what a broken header hands over
    assert caught.value.code == "BAD_SHAPE"


@pytest.mark.parametrize(
    "affine",
    [
        np.zeros((4, 4)),
        np.diag([1.0, 1, 0, 1]),
        np.diag([1.0, 1, np.nan, 1]),
        np.diag([1e200, 1e200, 1e200, 1]),
        np.diag([1.0, 1, np.inf, 1]),
        np.eye(3),
        np.diag([1.0, 1, 1, 2]),
        np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.1, 0, 0, 1]]),
    ],
)
def test_impossible_affines_are_refused(affine: np.ndarray) -> None:
    with pytest.raises(GeometryError) as caught:
        Geometry((2, 3, 4), affine)
    assert caught.value.code == "BAD_AFFINE"


def test_tiny_voxels_are_not_singular() -> None:
    grid = Geometry.from_spacing((4, 4, 4), (1e-4, 1e-4, 3e-4))  # microscopy, in mm
    assert grid.voxel_volume_mm3 == pytest.approx(3e-12)


def test_the_affine_is_a_frozen_copy() -> None:
    affine = np.eye(4)
    grid = Geometry((2, 2, 2), affine)
    affine[0, 3] = 99
    assert grid.affine[0, 3] == 0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1
    untyped: Any = grid
    with pytest.raises(AttributeError):
        untyped.shape = (1, 1, 1)
    assert pickle.loads(pickle.dumps(grid)).is_close(grid)  # noqa: S301  (our own bytes)


def test_from_spacing_is_the_diagonal() -> None:
    grid = Geometry.from_spacing((3, 4, 5), (1, 2, 3))
    assert grid.axis_codes == "RAS"
    assert grid.spacing_mm == (1.0, 2.0, 3.0)
    assert grid.voxel_volume_mm3 == 6
    assert grid.voxels == 60
    np.testing.assert_array_equal(grid.to_world((1, 1, 1)), (1, 2, 3))


# ---------------------------------------------------------------------- points


@given(any_grid)
@few
def test_world_to_index_to_world_is_the_identity(grid: Geometry) -> None:
    index = corners(grid) + 0.25
    np.testing.assert_allclose(grid.to_index(grid.to_world(index)), index, atol=1e-9)
    homogeneous = np.c_[index, np.ones(len(index))] @ grid.affine.T
    np.testing.assert_allclose(grid.to_world(index), homogeneous[:, :3], atol=1e-9)


def test_points_keep_the_shape_of_their_array() -> None:
    grid = oblique_grid()
    assert grid.to_world(np.zeros((2, 5, 3))).shape == (2, 5, 3)
    assert grid.to_index([1.0, 2.0, 3.0]).shape == (3,)


@given(any_grid)
@few
def test_spacing_and_volume_are_those_of_neighbouring_centres(grid: Geometry) -> None:
    edges = grid.to_world(np.eye(3)) - grid.to_world(np.zeros(3))
    np.testing.assert_allclose(np.linalg.norm(edges, axis=1), grid.spacing_mm, rtol=1e-9)
    assert abs(np.linalg.det(edges)) == pytest.approx(grid.voxel_volume_mm3, rel=1e-9)


def test_shear_is_told_from_turning() -> None:
    assert oblique_grid().is_orthogonal
    sheared = np.eye(4)
    sheared[1, 2] = np.tan(np.radians(5))
    assert not Geometry((4, 4, 4), sheared).is_orthogonal


# ---------------------------------------------------------------------- orientation


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_all_48_orientations_keep_every_voxel_in_its_place(codes: str) -> None:
    grid = oblique_grid((5, 4, 3))
    turned = grid.reorient(codes)
    assert turned.axis_codes == codes
    assert "".join(aff2axcodes(turned.affine)) == codes
    assert turned.voxel_volume_mm3 == pytest.approx(grid.voxel_volume_mm3)
    axes, flips = grid.orientation_steps(codes)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    voxels = np.flip(index.transpose(*axes, 3), flips)  # which old voxel is where now
    new_index = np.stack(np.meshgrid(*map(np.arange, turned.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(turned.to_world(new_index), grid.to_world(voxels), atol=1e-9)
    assert turned.reorient(grid.axis_codes).is_close(grid, 1e-9)


@given(geometries(oblique=True), orientations)
@few
def test_orientation_agrees_with_nibabel(grid: Geometry, codes: str) -> None:
    turned = grid.reorient(codes)
    ours = nibabel.Nifti1Image(np.zeros(grid.shape, np.uint8), grid.affine)
    start = nibabel.orientations.axcodes2ornt(tuple(grid.axis_codes))
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    theirs = ours.as_reoriented(nibabel.orientations.ornt_transform(start, wanted))
    np.testing.assert_allclose(turned.affine, theirs.affine, atol=1e-9)
    assert turned.shape == theirs.shape


@pytest.mark.parametrize("codes", ["", "RA", "RAR", "RAL", "RAX", "ras", "RASS"])
def test_codes_that_are_no_orientation_are_refused(codes: str) -> None:
    with pytest.raises(GeometryError) as caught:
        oblique_grid().reorient(codes)
    assert caught.value.code == "BAD_AXIS_CODES"


@given(any_grid, st.integers(0, 2))
@few
def test_two_flips_are_none(grid: Geometry, axis: int) -> None:
    assert grid.flip(axis).flip(axis).is_close(grid, 1e-7)
    last = np.zeros(3)
    last[axis] = grid.shape[axis] - 1
    np.testing.assert_allclose(grid.flip(axis).to_world(np.zeros(3)), grid.to_world(last), atol=1e-9)


@given(any_grid, st.permutations([0, 1, 2]))
@few
def test_transpose_moves_axes_as_numpy_does(grid: Geometry, axes: list[int]) -> None:
    turned = grid.transpose(axes)
    assert turned.shape == np.zeros(grid.shape).transpose(axes).shape
    index = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(turned.to_world(index[axes]), grid.to_world(index), atol=1e-9)


@pytest.mark.parametrize("axis", [-1, 3])
def test_an_axis_that_is_none_is_refused(axis: int) -> None:
    with pytest.raises(GeometryError, match="0, 1 or 2"):
        oblique_grid().flip(axis)
    with pytest.raises(GeometryError, match="0, 1 and 2"):
        oblique_grid().transpose((0, 1, axis))


def test_an_axis_named_twice_is_refused() -> None:
    with pytest.raises(GeometryError, match="0, 1 and 2"):
        oblique_grid().transpose((0, 1, 1))


# ---------------------------------------------------------------------- crop and pad


@given(geometries(shear=True), st.data())
@few
def test_a_crop_keeps_voxels_in_place_and_padding_undoes_it(grid: Geometry, data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, n - 1)) for n in grid.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True)]
    part = grid.crop(start, stop)
    np.testing.assert_allclose(part.to_world(np.zeros(3)), grid.to_world(start), atol=1e-9)
    assert part.shape == tuple(b - a for a, b in zip(start, stop, strict=True))
    after = [n - b for n, b in zip(grid.shape, stop, strict=True)]
    assert part.pad(start, after).is_close(grid, 1e-7)


@pytest.mark.parametrize(
    ("start", "stop"), [((0, 0, 0), (0, 4, 4)), ((-1, 0, 0), (2, 2, 2)), ((0, 0, 0), (5, 4, 4))]
)
def test_a_crop_outside_or_empty_is_refused(start: Sequence[int], stop: Sequence[int]) -> None:
    with pytest.raises(GeometryError) as caught:
        Geometry.from_spacing((4, 4, 4)).crop(start, stop)
    assert caught.value.code == "BAD_CROP"


def test_negative_padding_is_refused() -> None:
    with pytest.raises(GeometryError, match="negative"):
        Geometry.from_spacing((4, 4, 4)).pad((0, 0, -1), (0, 0, 0))


# ---------------------------------------------------------------------- spacing


@given(any_grid, st.tuples(spacings_mm, spacings_mm, spacings_mm))
@few
def test_respacing_keeps_middle_axes_and_field_of_view(
    grid: Geometry, spacing: tuple[float, float, float]
) -> None:
    new = grid.respace(spacing)
    np.testing.assert_allclose(new.spacing_mm, spacing, rtol=1e-9)
    np.testing.assert_allclose(new.directions, grid.directions, atol=1e-9)
    old_middle = grid.to_world((np.array(grid.shape) - 1) / 2)
    np.testing.assert_allclose(new.to_world((np.array(new.shape) - 1) / 2), old_middle, atol=1e-6)
    old_extent = np.array(grid.shape) * grid.spacing_mm
    difference = np.abs(np.array(new.shape) * spacing - old_extent)
    grown_to_one = np.array(new.shape) == 1
    assert (grown_to_one | (difference <= np.array(spacing) * (0.5 + 1e-5))).all()


@given(any_grid)
@few
def test_respacing_to_its_own_spacing_changes_nothing(grid: Geometry) -> None:
    assert grid.respace(grid.spacing_mm).is_close(grid, 1e-6)


@given(any_grid, st.integers(1, 4))
@few
def test_respacing_to_a_whole_part_and_back_changes_nothing(grid: Geometry, parts: int) -> None:
    fine = grid.respace([s / parts for s in grid.spacing_mm])
    assert fine.shape == tuple(n * parts for n in grid.shape)
    assert fine.respace(grid.spacing_mm).is_close(grid, 1e-6)


def test_half_a_voxel_is_where_it_should_be() -> None:
    grid = Geometry.from_spacing((4, 4, 4), (2, 2, 2))  # field of view from -1 to 7 mm
    fine = grid.respace((1, 1, 1))
    np.testing.assert_allclose(fine.to_world(np.zeros(3)), (-0.5, -0.5, -0.5))
    np.testing.assert_allclose(fine.to_world((7, 7, 7)), (6.5, 6.5, 6.5))


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, 1, -1), (1, np.nan, 1), (1, np.inf, 1), (1, 1)])
def test_a_spacing_that_is_none_is_refused(spacing: Sequence[float]) -> None:
    with pytest.raises(GeometryError) as caught:
        oblique_grid().respace(spacing)
    assert caught.value.code == "BAD_SPACING"


# ---------------------------------------------------------------------- equality, both branches


@given(any_grid)
@few
def test_a_grid_is_close_to_itself_and_to_its_rounding(grid: Geometry) -> None:
    assert grid.is_close(grid)
    assert grid.is_close(Geometry(grid.shape, grid.affine.astype(np.float32)))
    require_same_grid(grid, grid, "image and labels")


@pytest.mark.parametrize("move", range(6))
def test_a_grid_elsewhere_is_not_close(move: int) -> None:
    grid = oblique_grid((30, 30, 30), (1, 1, 1))
    affine = grid.affine.copy()
    if move < 3:
        affine[move, 3] += 0.05
    elif move == 3:
        affine[:3, :3] = rotation((0, 0, 1), 0.2) @ affine[:3, :3]
    elif move == 4:
        affine[:3, 2] *= 1.002
    else:
        affine[:3, 2] += 0.002 * affine[:3, 0]
    other = Geometry(grid.shape, affine)
    assert not grid.is_close(other)
    assert not other.is_close(grid)
    assert grid.is_close(other, tolerance_voxels=0.5)
    with pytest.raises(GeometryError, match="at another place") as caught:
        require_same_grid(grid, other, "prediction and reference")
    assert caught.value.code == "GRID_MISMATCH"


def test_another_shape_is_another_grid() -> None:
    grid = oblique_grid((5, 5, 5))
    other = grid.pad((0, 0, 0), (0, 0, 1))
    assert not grid.is_close(other)
    with pytest.raises(GeometryError, match="image and labels"):
        require_same_grid(grid, other, "image and labels")


def test_a_flipped_grid_is_another_grid() -> None:
    grid = oblique_grid((5, 5, 5))
    assert not grid.is_close(grid.flip(0))
