"""Distances and smoothing: closed forms, a slow oracle, scipy, and the bits of a block."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from instance_oracles import nearest_background

from medseg.instances.fields import distance_reach, distance_to_background, smooth, smoothing_reach

SHAPES = st.tuples(*[st.integers(1, 7)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.3, 1.0, 2.0, 12.0])] * 3)


@settings(deadline=None, max_examples=50)
@given(
    mask=SHAPES.flatmap(lambda s: hnp.arrays(bool, s)), spacing=SPACINGS, cap=st.sampled_from([0.9, 3, 99])
)
def test_distance_equals_a_search_of_all_background(
    mask: np.ndarray, spacing: tuple[float, float, float], cap: float
) -> None:
    found = distance_to_background(mask, spacing, cap)
    assert np.array_equal(found, nearest_background(mask, spacing, cap))


def test_distance_of_a_sphere_is_its_depth() -> None:
    spacing = (2.0, 0.5, 1.0)
    grid = np.stack(
        np.meshgrid(*[np.arange(n) * w for n, w in zip((25, 100, 50), spacing, strict=True)], indexing="ij"),
        axis=-1,
    )
    radius = np.linalg.norm(grid - (24, 25, 25), axis=-1)
    found = distance_to_background(radius < 20, spacing, 1000.0)
    inside = radius < 20
    assert np.abs(found[inside] - (20 - radius[inside])).max() < np.linalg.norm(spacing)


def test_all_foreground_has_the_capped_distance() -> None:
    assert (distance_to_background(np.ones((3, 4, 5), bool), (1, 1, 1), 7.5) == 7.5).all()


def test_smoothing_equals_scipy() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(1)
    field = rng.normal(size=(20, 3, 70)).astype(np.float32)
    spacing, sigma = (1.0, 0.4, 2.0), 1.7
    expected = field.astype(np.float64)
    for axis, w in enumerate(spacing):
        radius = math.ceil(3 * sigma / w)
        expected = ndimage.gaussian_filter1d(expected, sigma / w, axis=axis, radius=radius, mode="reflect")
    np.testing.assert_allclose(smooth(field.copy(), spacing, sigma), expected, atol=2e-6)


def test_constants_stay_and_sums_are_kept_by_smoothing() -> None:
    flat = smooth(np.full((5, 6, 7), 3.0, np.float32), (1, 2, 3), 1.5)
    np.testing.assert_allclose(flat, 3.0, rtol=1e-6)
    point = np.zeros((9, 9, 9), np.float32)
    point[4, 0, 8] = 1
    assert smooth(point, (1, 1, 1), 1.0).sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("start", [(0, 0, 0), (7, 11, 2), (20, 15, 18)])
def test_a_block_with_its_margin_has_the_bits_of_the_whole(start: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(2)
    spacing, cap, sigma = (1.1, 0.7, 0.9), 3.0, 1.0
    mask = rng.random((40, 37, 33)) < 0.97
    whole = smooth(distance_to_background(mask, spacing, cap), spacing, sigma)
    reach = np.add(distance_reach(spacing, cap), smoothing_reach(spacing, sigma))
    stop = np.minimum(np.add(start, (8, 9, 10)), mask.shape)
    low, high = np.maximum(0, start - reach), np.minimum(mask.shape, stop + reach)
    part = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    field = smooth(distance_to_background(part, spacing, cap), spacing, sigma)
    core = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
    expected = whole[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    assert np.array_equal(field[core], expected)
