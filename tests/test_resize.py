"""Resizing holds against scikit-image and nnU-Net's rule for anisotropic voxels, written out slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, gaussian_filter, map_coordinates
from skimage.transform import resize as skimage_resize

from medseg.geometry import Geometry
from medseg.inference.importance import importance_map
from medseg.inference.windows import place_windows
from medseg.preprocess.scaled_first import content_box, without_holes
from medseg.resample import coarse_axis, resize, spline_matrix
from medseg.volume import Volume

SIZES = st.tuples(*[st.integers(1, 14)] * 3)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(source=SIZES, target=SIZES, order=st.sampled_from((1, 3)))
def test_resize_is_that_of_scikit_image(
    source: tuple[int, int, int], target: tuple[int, int, int], order: int
) -> None:
    image = noise(source)
    expected = skimage_resize(image.astype(float), target, order, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(resize(image, target, order=order), expected, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("count", [4, 7, 11])
def test_a_coarse_axis_takes_the_nearest_plane_and_each_plane_its_own_range(axis: int, count: int) -> None:
    image = noise((7, 7, 7))
    target = [9, 12, 6]
    target[axis] = count
    across = [n for a, n in enumerate(target) if a != axis]
    planes = [
        skimage_resize(plane.astype(float), across, 3, mode="edge", anti_aliasing=False)
        for plane in np.moveaxis(image, axis, 0)
    ]
    at = 7 / count * (np.arange(count) + 0.5) - 0.5
    nearest = map_coordinates(np.arange(7.0), [at], order=0, mode="nearest").astype(int)
    expected = np.moveaxis(np.stack([planes[n] for n in nearest]), 0, axis)
    np.testing.assert_allclose(resize(image, target, nearest_axis=axis), expected, atol=2e-5)


@settings(deadline=None, max_examples=30)
@given(source=st.integers(1, 90), target=st.integers(1, 90))
def test_spline_weights_sum_to_one(source: int, target: int) -> None:
    matrix = spline_matrix(source, target)
    assert matrix.shape == (target, source)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(spline_matrix(source, source), np.eye(source), atol=1e-12)


def test_bands_leave_nothing_out() -> None:
    image = noise((300, 2, 2))
    whole = np.tensordot(spline_matrix(300, 201), image.astype(float), axes=1)
    low, high = image.min(), image.max()
    np.testing.assert_allclose(resize(image, (201, 2, 2)), np.clip(whole, low, high), atol=1e-5)


@pytest.mark.parametrize(
    ("held", "wanted", "axis"),
    [
        ((1, 1, 5), (1, 1, 1), 2),
        ((1, 1, 3), (1, 1, 1), None),
        ((1, 1, 3.000001), (1, 1, 1), None),
        ((5, 5.00001, 1), (1, 1, 1), None),
        ((1, 1, 1), (6, 1, 1), 0),
        ((5, 5, 1), (1, 1, 9), None),  # the first grid decides, and has two coarse axes
        ((1, 8, 1), (9, 1, 1), 1),
    ],
)
def test_which_axis_is_coarse(held: tuple[float, ...], wanted: tuple[float, ...], axis: int | None) -> None:
    assert coarse_axis(held, wanted) == axis


@settings(deadline=None, max_examples=50)
@given(length=st.integers(1, 400), size=st.integers(1, 130), overlap=st.sampled_from((0.0, 0.25, 0.5, 0.8)))
def test_even_windows_cover_all_in_the_fewest_equal_steps(length: int, size: int, overlap: float) -> None:
    starts = place_windows((length, 1, 1), (size, 1, 1), overlap, "even").starts[0]
    last = max(length - size, 0)
    assert (starts[0], starts[-1]) == (0, last)
    steps = np.diff(starts)
    assert len(steps) == math.ceil(last / (size * (1 - overlap)))
    if len(steps):
        assert steps.max() - steps.min() <= 1
        assert steps.max() <= math.ceil(size * (1 - overlap))


@pytest.mark.parametrize("size", [(16, 24, 20), (5, 7, 8), (64, 64, 28)])
def test_weights_are_those_of_a_filtered_point_in_half_precision(size: tuple[int, int, int]) -> None:
    point = np.zeros(size)
    point[tuple(n // 2 for n in size)] = 1
    blurred = gaussian_filter(point, [n / 8 for n in size], mode="constant")
    expected = (blurred / blurred.max() * 10).astype(np.float16).astype(np.float32)
    expected[expected == 0] = expected[expected > 0].min()
    np.testing.assert_allclose(importance_map(size, "gaussian-nnunet").numpy(), expected, rtol=1e-3)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), density=st.floats(0.1, 0.95))
def test_holes_are_those_of_scipy(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((6, 7, 8)) < density
    np.testing.assert_array_equal(without_holes(mask), binary_fill_holes(mask))


def test_the_box_of_what_is_not_zero_counts_every_image_and_no_nan() -> None:
    geometry = Geometry.from_spacing((6, 7, 8))
    one, other = np.zeros((6, 7, 8), np.float32), np.zeros((6, 7, 8), np.float32)
    assert content_box([Volume(one, geometry)]) is None
    one[2, 3, 4], other[3, 1, 5] = 1, -1
    one[0, 0, 0] = np.nan
    box = content_box([Volume(one, geometry), Volume(other, geometry)])
    assert box is not None
    assert (box.start, box.stop) == ((2, 1, 4), (4, 4, 6))
    assert content_box([Volume(np.ones((6, 7, 8), np.float32), geometry)]) is None
