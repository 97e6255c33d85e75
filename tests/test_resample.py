"""Laws of interpolation, and scipy and SimpleITK as slow, obvious witnesses."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Sphere, centre_mm, label_map, linear_ramp, oblique_grid, rotation, world_of_voxels
from scipy.ndimage import map_coordinates
from strategies import ORIENTATIONS, geometries, label_volumes, orientations, spacings_mm, volumes

from medseg import resample
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.resample import ANTI_ALIAS_FACTOR, axis_maps, resample_labels, resample_volume
from medseg.volume import InstanceVolume, LabelVolume, Volume

few = settings(deadline=None, max_examples=40)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def as_itk(volume: Volume | LabelVolume) -> sitk.Image:
    """The same voxels for SimpleITK, which counts the world in LPS and arrays backwards."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin((RAS_TO_LPS @ volume.geometry.affine[:3, 3]).tolist())
    image.SetDirection((RAS_TO_LPS @ volume.geometry.directions).ravel().tolist())
    return image


def by_itk(volume: Volume | LabelVolume, target: Geometry, how: int, fill: float = 0) -> np.ndarray:
    """SimpleITK's answer on a target grid."""
    empty = as_itk(Volume(np.zeros(target.shape, np.uint8), target))
    moved = sitk.Resample(as_itk(volume), empty, sitk.Transform(), how, fill)
    return np.asarray(sitk.GetArrayFromImage(moved)).T


def by_scipy(volume: Volume, target: Geometry) -> np.ndarray:
    """Trilinear look-up of every voxel; NaN outside the source's field of view."""
    at = np.moveaxis(volume.geometry.to_index(world_of_voxels(target)), -1, 0)
    limit = np.array(volume.geometry.shape).reshape(3, 1, 1, 1)
    values = map_coordinates(volume.array.astype(np.float64), np.clip(at, 0, limit - 1), order=1)
    outside = ((at < -0.5) | (at > limit - 0.5)).any(axis=0)
    values[outside] = np.nan
    return np.asarray(values)


def away_from_rim(source: Geometry, target: Geometry, margin: float = 1e-3) -> np.ndarray:
    """Target voxels whose answer no rounding can change: not on the rim of the field of view."""
    at = source.to_index(world_of_voxels(target))
    limit = np.array(source.shape) - 0.5
    return np.asarray(((np.abs(at + 0.5) > margin) & (np.abs(at - limit) > margin)).all(axis=-1))


# ---------------------------------------------------------------------- nothing changes


@given(volumes(shear=True))
@few
def test_onto_its_own_grid_nothing_changes(volume: Volume) -> None:
    same = resample_volume(volume, volume.geometry)
    np.testing.assert_array_equal(same.array, volume.array)
    assert not np.shares_memory(same.array, volume.array)


@given(volumes(shear=True), orientations)
@few
def test_onto_its_own_grid_turned_voxels_only_move(volume: Volume, codes: str) -> None:
    turned = volume.reorient(codes)
    np.testing.assert_array_equal(resample_volume(volume, turned.geometry).array, turned.array)


@given(label_volumes(shear=True), orientations)
@few
def test_onto_their_own_grid_turned_labels_only_move(labels: LabelVolume, codes: str) -> None:
    turned = labels.reorient(codes)
    result = resample_labels(labels, turned.geometry)
    np.testing.assert_array_equal(result.array, turned.array)
    assert result.array.dtype == labels.array.dtype
    assert result.labels == labels.labels


@given(geometries(), geometries(), st.floats(-5, 5))
@few
def test_ones_in_ones_out(source: Geometry, target: Geometry, value: float) -> None:
    ones = Volume(np.full(source.shape, value, np.float32), source)
    result = resample_volume(ones, target, fill=value).array
    assert result.dtype == np.float32
    assert result.shape == target.shape
    np.testing.assert_allclose(result, np.float32(value), rtol=1e-6)


# ---------------------------------------------------------------------- linear functions are exact


@given(geometries(least=2, shear=True), st.integers(1, 3), orientations)
@few
def test_a_ramp_stays_a_ramp_between_the_outer_centres(grid: Geometry, parts: int, codes: str) -> None:
    source = linear_ramp(grid)
    target = grid.respace([s / parts for s in grid.spacing_mm]).reorient(codes)
    result = resample_volume(source, target).array
    at = grid.to_index(world_of_voxels(target))
    between = ((at >= 0) & (at <= np.array(grid.shape) - 1)).all(axis=-1)
    np.testing.assert_allclose(
        result[between], linear_ramp(target).array[between], rtol=1e-4, atol=1e-3 * max(grid.spacing_mm)
    )


def test_a_ramp_stays_a_ramp_on_a_turned_grid() -> None:
    source = linear_ramp(oblique_grid(degrees=10))
    target = oblique_grid((20, 20, 20), (0.7, 0.7, 0.7), degrees=41)
    np.testing.assert_allclose(resample_volume(source, target).array, linear_ramp(target).array, atol=1e-4)


def test_centres_are_aligned_by_half_a_voxel() -> None:
    """Going to half the spacing, new centres lie a quarter voxel beside the old: 0.75 and 0.25."""
    grid = Geometry.from_spacing((2, 1, 1), (2, 1, 1))
    fine = resample_volume(Volume(np.array([[[0.0]], [[8.0]]]), grid), grid.respace((1, 1, 1)))
    np.testing.assert_allclose(fine.array.ravel(), [0, 2, 6, 8])


def test_going_up_and_down_by_two_keeps_a_ramp() -> None:
    source = linear_ramp(oblique_grid((12, 12, 12)))
    fine = source.geometry.respace([s / 2 for s in source.geometry.spacing_mm])
    back = resample_volume(resample_volume(source, fine), source.geometry)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(back.array[inner], source.array[inner], atol=1e-4)


# ---------------------------------------------------------------------- against others


@given(volumes(least=2), geometries(least=2))
@few
def test_any_grid_to_any_grid_as_scipy_says(volume: Volume, target: Geometry) -> None:
    """No anti-aliasing: spacings at most twice the source's."""
    affine = target.affine.copy()
    affine[:3, :3] = target.directions * np.minimum(target.spacing_mm, 2 * min(volume.geometry.spacing_mm))
    middle = np.array(centre_mm(volume.geometry))
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(target.shape) - 1) / 2)
    target = Geometry(target.shape, affine)
    expected = by_scipy(volume, target)
    result = resample_volume(volume, target, fill=np.nan).array
    sure = away_from_rim(volume.geometry, target)
    np.testing.assert_allclose(result[sure], expected[sure], atol=2e-2)


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_intensities_as_simpleitk_has_them(degrees: float) -> None:
    random = np.random.default_rng(1)
    source = Volume(random.normal(0, 1, (21, 18, 15)).astype(np.float32), oblique_grid((21, 18, 15)))
    target = oblique_grid((24, 30, 20), (0.6, 0.9, 1.3), degrees=23 + degrees).reorient("LSP")
    inside = ~np.isnan(by_scipy(source, target))
    expected = by_itk(source, target, sitk.sitkLinear)
    result = resample_volume(source, target).array
    # SimpleITK's field of view ends at the same place; its values there are clamped as ours are.
    sure = away_from_rim(source.geometry, target)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(result[sure], expected[sure], atol=1e-4)


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_labels_as_simpleitk_has_them(degrees: float) -> None:
    random = np.random.default_rng(2)
    source = LabelVolume(random.integers(0, 9, (21, 18, 15), dtype=np.int16), oblique_grid((21, 18, 15)))
    target = oblique_grid((24, 30, 20), (0.6, 0.9, 1.3), degrees=23 + degrees).reorient("AIR")
    at = source.geometry.to_index(world_of_voxels(target))
    sure = (np.abs(at - np.floor(at) - 0.5) > 1e-3).all(axis=-1)  # no voxel at equal distance of two
    expected = by_itk(source, target, sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(resample_labels(source, target).array[sure], expected[sure])


# ---------------------------------------------------------------------- world position


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_sphere_stays_where_it_is_in_all_48_orientations(codes: str) -> None:
    source = oblique_grid((34, 30, 22), (0.8, 1.1, 1.7)).reorient(codes)
    sphere = Sphere(centre_mm(source), 9.0)
    labels = label_map(source, {"ball": sphere})
    target = oblique_grid((30, 30, 30), (1.3, 1.0, 1.2), degrees=-31.0)
    result = resample_labels(labels, target)
    points = world_of_voxels(target)[result.mask("ball")]
    np.testing.assert_allclose(points.mean(axis=0), sphere.centre_mm, atol=0.15)
    assert len(points) * target.voxel_volume_mm3 == pytest.approx(sphere.volume_mm3, rel=0.03)


@given(geometries(least=3, shear=True), st.data())
@few
def test_a_labelled_point_survives_respacing_and_turning(grid: Geometry, data: st.DataObject) -> None:
    """Down to a finer grid and back onto the first: the very voxel."""
    index = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    array = np.zeros(grid.shape, np.uint8)
    array[index] = 1
    point = LabelVolume(array, grid, LabelSet.from_names({1: "point"}))
    finer = grid.respace([data.draw(st.sampled_from([0.25, 0.4, 0.5, 0.9])) * s for s in grid.spacing_mm])
    there = resample_labels(point, finer.reorient(data.draw(orientations)))
    found = world_of_voxels(there.geometry)[there.array == 1]
    if len(found):  # a spacing just below the source's may step over one voxel
        distance = grid.to_index(found) - np.array(index)
        assert np.abs(distance).max() <= 0.5 + 1e-4
    back = resample_labels(there, grid).array
    assert set(map(tuple, np.argwhere(back))) <= {index}


@given(volumes(least=2), st.tuples(spacings_mm, spacings_mm, spacings_mm))
@few
def test_a_linear_answer_never_leaves_the_range_of_the_source(
    volume: Volume, spacing: tuple[float, float, float]
) -> None:
    target = volume.geometry.respace(np.maximum(spacing, np.array(volume.geometry.spacing_mm) / 6).tolist())
    result = resample_volume(volume, target, fill=float(volume.array.min())).array
    assert result.min() >= volume.array.min() - 1e-2
    assert result.max() <= volume.array.max() + 1e-2


# ---------------------------------------------------------------------- outside


def test_outside_the_field_of_view_stands_the_fill_value() -> None:
    grid = Geometry.from_spacing((4, 4, 4), (2, 2, 2))
    ones = Volume(np.ones((4, 4, 4), np.float32), grid)
    wide = grid.pad((2, 2, 2), (2, 2, 2))
    result = resample_volume(ones, wide, fill=-1000).array
    assert (result[2:-2, 2:-2, 2:-2] == 1).all()
    assert (result == 1).sum() == 64
    assert (result == -1000).sum() == result.size - 64
    turned = resample_volume(ones, Geometry(wide.shape, turned_affine(wide, 30)), fill=-1000).array
    assert set(np.unique(turned)) == {-1000, 1}
    labels = LabelVolume(np.full((4, 4, 4), 3, np.uint8), grid)
    assert (resample_labels(labels, wide).array == 3).sum() == 64
    far = Geometry(wide.shape, wide.affine + np.array([[0, 0, 0, 500.0]] * 3 + [[0, 0, 0, 0]]))
    assert not resample_labels(labels, far).array.any()


def turned_affine(grid: Geometry, degrees: float) -> np.ndarray:
    affine = grid.affine.copy()
    middle = np.array(centre_mm(grid))
    affine[:3, :3] = rotation((1, 1, 0), degrees) @ affine[:3, :3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2)
    return affine


def test_up_to_half_a_voxel_beyond_the_outer_centres_the_last_value_holds() -> None:
    grid = Geometry.from_spacing((3, 1, 1), (1, 1, 1))
    volume = Volume(np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1), grid)
    affine = np.eye(4)
    affine[0, 0], affine[0, 3] = 0.25, -0.75
    target = Geometry((16, 1, 1), affine)  # centres at -0.75, -0.5, … 3.0
    expected = [0, 1, 1, 1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3, 3, 0, 0]
    np.testing.assert_allclose(resample_volume(volume, target).array.ravel(), expected)


# ---------------------------------------------------------------------- anti-aliasing


def wave(grid: Geometry, period_mm: float) -> Volume:
    return Volume(np.cos(2 * np.pi * world_of_voxels(grid)[..., 0] / period_mm), grid)


def test_a_wave_above_nyquist_does_not_come_back_as_another() -> None:
    fine = Geometry.from_spacing((240, 2, 2), (1, 1, 1))
    coarse = fine.respace((6, 1, 1))
    aliased = wave(fine, 6.6).array[3::6]  # what bare sampling makes of it: a wave of 66 mm
    smooth = resample_volume(wave(fine, 6.6), coarse).array[3:-3]
    assert np.abs(aliased).max() > 0.9
    assert np.abs(smooth).max() < 0.06  # exp(-2 pi^2 sigma^2 / period^2) = 0.057


def test_a_long_wave_passes() -> None:
    fine = Geometry.from_spacing((240, 2, 2), (1, 1, 1))
    coarse = fine.respace((4, 1, 1))
    result = resample_volume(wave(fine, 60), coarse).array
    np.testing.assert_allclose(result[3:-3], wave(coarse, 60).array[3:-3], atol=0.06)


def test_up_to_the_factor_nothing_is_blurred() -> None:
    grid = Geometry.from_spacing((9, 1, 1))
    spike = np.zeros((9, 1, 1), np.float32)
    spike[4] = 1
    source = Volume(spike, grid)
    coarse = resample_volume(source, grid.respace((ANTI_ALIAS_FACTOR, 1, 1)))
    assert np.count_nonzero(coarse.array) <= 2
    coarser = resample_volume(source, grid.respace((3, 1, 1)))
    assert 0 < coarser.array.max() < 1


def test_blurring_keeps_the_mean_and_a_constant() -> None:
    source = Volume(np.full((30, 30, 30), 7.0), oblique_grid((30, 30, 30), (1, 1, 1)))
    np.testing.assert_allclose(
        resample_volume(source, source.geometry.respace((5, 5, 5))).array, 7, rtol=1e-6
    )


def test_a_single_slice_is_a_volume_too() -> None:
    grid = Geometry.from_spacing((8, 8, 1), (1, 1, 5))
    source = linear_ramp(grid, (1, 1, 0))
    result = resample_volume(source, grid.respace((1, 1, 1))).array
    assert result.shape == (8, 8, 5)
    np.testing.assert_allclose(result, np.repeat(source.array, 5, axis=2), atol=1e-5)


# ---------------------------------------------------------------------- which way, and what travels


@pytest.mark.parametrize("name", ["intensity", "labels"])
def test_both_ways_of_looking_up_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The axis by axis way against the voxel by voxel way, on grids where both are right."""
    from medseg import resample

    random = np.random.default_rng(3)
    source = oblique_grid((14, 13, 12))
    target = source.respace((1.1, 0.7, 1.3)).pad((1, 1, 1), (2, 2, 2))
    if name == "intensity":
        volume = Volume(random.normal(size=source.shape).astype(np.float32), source)
        fast = resample_volume(volume, target, fill=5).array
    else:
        labels = LabelVolume(random.integers(0, 5, source.shape), source)
        fast = resample_labels(labels, target).array
    assert axis_maps(source, target) is not None
    monkeypatch.setattr(resample, "axis_maps", lambda *_: None)
    slow = (
        resample_volume(volume, target, fill=5).array
        if name == "intensity"
        else resample_labels(labels, target).array
    )
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_axis_maps_only_for_parallel_axes() -> None:
    grid = oblique_grid()
    assert axis_maps(grid, grid.respace((2, 2, 2))) is not None
    assert axis_maps(grid, grid.flip(0)) is None
    assert axis_maps(grid, oblique_grid(degrees=24)) is None


def test_what_is_known_travels() -> None:
    grid = Geometry.from_spacing((2, 2, 2))
    volume = resample_volume(Volume(np.zeros((2, 2, 2)), grid, modality="MR", source="t1"), grid)
    assert (volume.modality, volume.source) == ("MR", "t1")
    objects = InstanceVolume(np.ones((2, 2, 2), np.int32), grid, LabelSet.from_names({1: "cell"}), {1: 1})
    result = resample_labels(objects, grid.respace((0.5, 0.5, 0.5)))
    assert isinstance(result, InstanceVolume)
    assert result.classes == {1: 1}


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "float64", ">i2", "bool"])
def test_every_stored_type_is_read(dtype: str) -> None:
    grid = Geometry.from_spacing((3, 3, 3))
    array = np.arange(27).reshape(3, 3, 3).astype(dtype)
    result = resample_volume(Volume(array, grid), grid).array
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, array.astype(np.float32))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "uint16", ">i4"])
def test_large_label_ids_come_through_both_ways(dtype: str) -> None:
    grid = Geometry.from_spacing((3, 3, 3))
    top = int(np.iinfo(dtype).max)
    labels = LabelVolume(np.full((3, 3, 3), top, dtype), grid)
    small_turn = Geometry((3, 3, 3), turned_affine(grid, 3))
    for target in (grid, small_turn):
        result = resample_labels(labels, target).array
        assert set(np.unique(result)) <= {0, top}
        assert result[1, 1, 1] == top


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.7, 1.3, 0.4), (1.1, 3.0, 5.0)])
def test_bands_equal_the_whole(monkeypatch: pytest.MonkeyPatch, spacing_mm: tuple[float, ...]) -> None:
    """One source plane at a time gives the same bits, with and without smoothing."""
    array = np.random.default_rng(0).normal(size=(13, 11, 37)).astype(np.float32)
    volume = Volume(array, Geometry.from_spacing(array.shape, (1.0, 1.0, 1.0)))
    grid = volume.geometry.respace(spacing_mm).pad((0, 1, 2), (1, 0, 2))
    whole = resample_volume(volume, grid, fill=-7).array
    monkeypatch.setattr(resample, "BAND_BYTES", 1)
    assert np.array_equal(resample_volume(volume, grid, fill=-7).array, whole)
    assert (whole == -7).any()
