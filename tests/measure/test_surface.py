"""Surface distances against formulas, brute force, and the definitions of MONAI and DeepMind."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Box, Sphere, centre_mm, mask_of, oblique_grid
from strategies import geometries

from medseg.errors import GeometryError, SettingsError
from medseg.geometry import Geometry
from medseg.measure import surface as module
from medseg.measure.surface import (
    SurfaceDistances,
    assd_mm,
    bounding_box,
    hausdorff_mm,
    nsd,
    surface_distances,
)

SHAPE = (7, 6, 5)


def surface_area_mm2(mask: npt.NDArray[np.bool_], grid: Geometry) -> float:
    """Areas of all elements; steps do not vanish, so a sphere's is 1.09 times too large on any grid."""
    return float(surface_distances(mask, mask, grid).prediction_mm2.sum())


def blobs(seed: int, shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[np.bool_]:
    generator = np.random.default_rng(seed)
    mask = generator.random(shape) < generator.choice([0.02, 0.4, 0.9])
    mask[tuple(n // 2 for n in shape)] = True
    return np.asarray(mask)


def obvious_corners(mask: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Every corner between voxels that has both inside and outside around it, one by one."""
    padded = np.pad(mask, 1)
    found = [
        np.array(corner) - 0.5
        for corner in np.ndindex(*(n + 1 for n in mask.shape))
        if 0 < padded[tuple(slice(c, c + 2) for c in corner)].sum() < 8
    ]
    return np.array(found).reshape(-1, 3)


@given(seed=st.integers(0, 2**31), grid=geometries(least=5, most=6, shear=True), tree=st.booleans())
@settings(deadline=None, max_examples=40)
def test_distances_equal_brute_force_on_any_grid(seed: int, grid: Geometry, tree: bool) -> None:
    """To rounding; axes within 0.06 degrees of a right angle are measured as if at one."""
    cosine = np.abs(grid.directions.T @ grid.directions - np.eye(3)).max()
    near = max(1e-5, cosine) if grid.is_orthogonal else 1e-5
    a, b = blobs(seed, grid.shape), blobs(seed + 1, grid.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SPARSE_BOX", 0 if tree else 10**9)
        found = surface_distances(a, b, grid)
    p, r = grid.to_world(obvious_corners(a)), grid.to_world(obvious_corners(b))
    between = np.linalg.norm(p[:, None] - r[None], axis=2)
    np.testing.assert_allclose(found.prediction_mm, np.sort(between.min(axis=1)), rtol=near, atol=1e-5)
    np.testing.assert_allclose(found.reference_mm, np.sort(between.min(axis=0)), rtol=near, atol=1e-5)
    assert hausdorff_mm(found, 100) == pytest.approx(
        max(between.min(axis=1).max(), between.min(axis=0).max()), rel=near, abs=1e-5
    )


@given(seed=st.integers(0, 2**31), grid=geometries(least=5, most=6, shear=True))
@settings(deadline=None, max_examples=30)
def test_symmetric_in_its_masks_and_zero_for_equal_ones(seed: int, grid: Geometry) -> None:
    a, b = blobs(seed, grid.shape), blobs(seed + 1, grid.shape)
    there, back = surface_distances(a, b, grid), surface_distances(b, a, grid)
    for read in (hausdorff_mm, assd_mm, lambda d: nsd(d, 1.0)):
        assert read(there) == pytest.approx(read(back), rel=1e-9)
    same = surface_distances(a, a, grid)
    assert (hausdorff_mm(same, 100), assd_mm(same), nsd(same, 0)) == (0, 0, 1)


@pytest.mark.parametrize("tree", [False, True])
def test_parallel_planes_at_anisotropic_spacing(tree: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARSE_BOX", 0 if tree else 10**9)
    grid = Geometry.from_spacing((60, 50, 40), (0.5, 1.0, 3.0))
    lower, upper = np.zeros((2, *grid.shape), dtype=bool)
    lower[10:50, 10:40, 10:30] = True
    upper[10:50, 10:40, 10:34] = True
    found = surface_distances(upper, lower, grid)
    assert hausdorff_mm(found, 100) == pytest.approx(12.0)
    # the top face is 12 mm off; of the sides of the higher box 12 mm stand out, on average 6 mm off
    top, sides, ring = 20 * 30, 2 * (20 + 30), 2 * (20 + 30) * 12
    upper_area, lower_area = 2 * top + sides * 72, 2 * top + sides * 60
    # seen from the lower box only its top face is away from the other: at most 10 or 15 mm from the
    # sides, and 12 mm from the top
    i, j = np.meshgrid(np.arange(0, 20.5, 0.5), np.arange(0, 31, 1.0), indexing="ij")
    to_sides = np.minimum(np.minimum(i, 20 - i), np.minimum(j, 30 - j))
    lower_top = np.minimum(to_sides, 12).mean() * top
    expected = (top * 12 + ring * 6 + lower_top) / (upper_area + lower_area)
    assert assd_mm(found) == pytest.approx(expected, rel=0.03)


def test_concentric_spheres_on_an_oblique_grid() -> None:
    grid = oblique_grid((80, 60, 50), (0.5, 0.7, 0.9))
    middle = centre_mm(grid)
    small, large = mask_of(Sphere(middle, 12.0), grid), mask_of(Sphere(middle, 15.0), grid)
    found = surface_distances(large, small, grid)
    # elements lie up to half a voxel off the surface, and the nearest one wins
    assert assd_mm(found) == pytest.approx(3.0, abs=0.45)
    assert hausdorff_mm(found) == pytest.approx(3.0, abs=0.5)
    assert nsd(found, 1.5) == 0
    assert nsd(found, 4.0) == 1


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.4, 0.9, 1.0)])
def test_area_of_a_box_and_of_a_sphere(spacing: tuple[float, float, float]) -> None:
    grid = Geometry.from_spacing((90, 60, 60), spacing)
    box = Box(centre_mm(grid), (24.0, 36.0, 30.0))
    assert surface_area_mm2(mask_of(box, grid), grid) == pytest.approx(box.surface_mm2, rel=0.03)
    ball = Sphere(centre_mm(grid), 16.0)
    ratio = surface_area_mm2(mask_of(ball, grid), grid) / ball.surface_mm2
    assert 1.0 < ratio < 1.15


def test_area_follows_shear() -> None:
    affine = np.array([[1.0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    mask = np.ones((30, 40, 50), dtype=bool)
    slanted = 2 * (30 * 40 * 2 * 0.5 + 0)  # two faces of constant k: 30 x 40 mm each
    slanted += 2 * 30 * 50 * 2  # two of constant j: base 30, height 100
    slanted += 2 * 40 * 50 * math.sqrt(8)  # two of constant i: 40 by 50 steps of (2, 2) mm
    assert surface_area_mm2(mask, Geometry(mask.shape, affine)) == pytest.approx(slanted, rel=0.05)


# -------------------------------------------------------------------- MONAI, hence DeepMind's definition


monai_warns_of_itself = pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
"""MONAI 1.6 calls its own function with an argument that it has deprecated."""


def _monai() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a third party's deprecations at import
        import monai.metrics
    return monai.metrics


@monai_warns_of_itself
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 3.0)])
def test_equals_surface_dice_of_monai_with_subvoxels(spacing: tuple[float, float, float]) -> None:
    import torch

    metrics = _monai()
    for seed in range(12):
        a, b = blobs(3 * seed, (9, 8, 7)), blobs(3 * seed + 1, (9, 8, 7))
        found = surface_distances(a, b, Geometry.from_spacing(a.shape, spacing))
        for tolerance in (0.0, 0.75, 1.5, 3.2):
            there = metrics.compute_surface_dice(
                torch.from_numpy(a)[None, None],
                torch.from_numpy(b)[None, None],
                class_thresholds=[tolerance],
                include_background=True,
                spacing=spacing,
                use_subvoxels=True,
            )
            assert nsd(found, tolerance) == pytest.approx(there.item(), abs=1e-5)


@monai_warns_of_itself
def test_close_to_voxel_definitions_of_monai_on_smooth_bodies() -> None:
    """MONAI takes edge voxels without areas: on smooth bodies both agree within half a voxel."""
    import torch

    metrics = _monai()
    grid = Geometry.from_spacing((50, 50, 40), (1.0, 1.0, 1.5))
    a = mask_of(Sphere((22.0, 24.0, 28.0), 14.0), grid)
    b = mask_of(Sphere((27.0, 25.0, 30.0), 16.0), grid)
    found = surface_distances(a, b, grid)
    masks = [torch.from_numpy(m)[None, None].float() for m in (a, b)]
    options = {"include_background": True, "spacing": grid.spacing_mm}
    hausdorff = metrics.compute_hausdorff_distance(*masks, **options).item()
    robust = metrics.compute_hausdorff_distance(*masks, percentile=95, **options).item()
    average = metrics.compute_average_surface_distance(*masks, symmetric=True, **options).item()
    assert hausdorff_mm(found, 100) == pytest.approx(hausdorff, abs=0.75)
    assert hausdorff_mm(found) == pytest.approx(robust, abs=0.75)
    assert assd_mm(found) == pytest.approx(average, abs=0.5)


@monai_warns_of_itself
def test_equals_monai_hausdorff_of_two_boxes() -> None:
    import torch

    metrics = _monai()
    a, b = np.zeros((2, 20, 20, 20), dtype=bool)
    a[4:10, 4:10, 4:10], b[4:16, 4:10, 5:10] = True, True
    masks = [torch.from_numpy(m)[None, None].float() for m in (a, b)]
    for spacing in ((1.0, 1.0, 1.0), (0.5, 2.0, 3.0)):
        there = metrics.compute_hausdorff_distance(*masks, include_background=True, spacing=spacing).item()
        found = surface_distances(a, b, Geometry.from_spacing(a.shape, spacing))
        assert hausdorff_mm(found, 100) == pytest.approx(there)


def test_percentile_and_mean_are_weighted_by_area() -> None:
    some = SurfaceDistances(
        np.array([0.0, 1.0, 9.0]), np.array([90.0, 6.0, 4.0]), np.array([2.0]), np.array([1.0])
    )
    assert hausdorff_mm(some, 90) == 2.0
    assert hausdorff_mm(some, 96) == 2.0
    assert hausdorff_mm(some, 97) == 9.0
    assert assd_mm(some) == pytest.approx((6 + 36 + 2) / 101)
    assert nsd(some, 1.0) == pytest.approx(96 / 101)


# -------------------------------------------------------------------- empty and bad


def test_empty_masks_are_spoken() -> None:
    grid = Geometry.from_spacing(SHAPE)
    none, some = np.zeros(SHAPE, dtype=bool), blobs(1)
    both = surface_distances(none, none, grid)
    assert all(math.isnan(x) for x in (hausdorff_mm(both), assd_mm(both), nsd(both, 1)))
    for one in (surface_distances(none, some, grid), surface_distances(some, none, grid)):
        assert (hausdorff_mm(one), assd_mm(one), nsd(one, 1)) == (math.inf, math.inf, 0)
    assert surface_area_mm2(none, grid) == 0
    assert bounding_box(none) is None


def test_a_mask_that_fills_the_grid_ends_at_its_border() -> None:
    grid = Geometry.from_spacing((4, 5, 6), (1, 2, 3))
    full = np.ones(grid.shape, dtype=bool)
    less = full.copy()
    less[-1] = False
    assert hausdorff_mm(surface_distances(full, less, grid), 100) == pytest.approx(1.0)


def test_refuses_other_shapes_and_settings_out_of_bounds() -> None:
    grid = Geometry.from_spacing(SHAPE)
    with pytest.raises(GeometryError):
        surface_distances(np.ones((2, 2, 2), dtype=bool), np.ones(SHAPE, dtype=bool), grid)
    found = surface_distances(blobs(1), blobs(2), grid)
    for percentile in (-1, 101, math.nan):
        with pytest.raises(SettingsError):
            hausdorff_mm(found, percentile)
    for tolerance in (-0.1, math.nan):
        with pytest.raises(SettingsError):
            nsd(found, tolerance)
