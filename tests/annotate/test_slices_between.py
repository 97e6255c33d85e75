"""The laws of shape-based interpolation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.annotate.slices import interpolate_slices, signed_distance
from medseg.errors import VolumeError

FAST = settings(deadline=None, max_examples=40)


def filled(mask: np.ndarray, axis: int, mm: tuple[float, ...]) -> np.ndarray:
    found = interpolate_slices(mask, axis, mm)
    new = np.zeros(mask.shape, bool)
    box = tuple(slice(a, a + n) for a, n in zip(found.start, found.ids.shape, strict=True))
    new[box] = found.ids > 0
    assert not (new & mask).any()
    return np.asarray(new | mask)


def disc(radius_mm: float, mm: tuple[float, float], size: int = 61) -> np.ndarray:
    rows, columns = np.indices((size, size)) - size // 2
    return np.asarray(np.hypot(rows * mm[0], columns * mm[1]) <= radius_mm)


def stack(slices: dict[int, np.ndarray], count: int) -> np.ndarray:
    shape = next(iter(slices.values())).shape
    mask = np.zeros((count, *shape), bool)
    for number, each in slices.items():
        mask[number] = each
    return mask


blobs = st.integers(0, 2**32 - 1).map(
    lambda seed: (
        np.pad(np.random.default_rng(seed).random((8, 9)) < 0.4, 2) | (np.indices((12, 13)).sum(0) == 9)
    )
)


@FAST
@given(blobs, blobs, blobs)
def test_drawn_slices_stay_as_they_are(first: np.ndarray, middle: np.ndarray, last: np.ndarray) -> None:
    mask = stack({1: first, 4: middle, 9: last}, 12)
    whole = filled(mask, 0, (1, 1, 1))
    for number in (1, 4, 9):
        assert np.array_equal(whole[number], mask[number])
    assert not whole[[0, 10, 11]].any()


@FAST
@given(blobs, st.integers(2, 8), st.sampled_from([(1, 1, 1), (3, 0.5, 2)]))
def test_a_cylinder_comes_back_exactly(base: np.ndarray, gap: int, mm: tuple[float, float, float]) -> None:
    mask = stack({0: base, gap: base}, gap + 1)
    assert (filled(mask, 0, mm) == base).all()


@FAST
@given(blobs, blobs, st.integers(2, 7))
def test_from_the_smaller_to_the_larger_it_only_grows(small: np.ndarray, more: np.ndarray, gap: int) -> None:
    large = small | more
    whole = filled(stack({0: small, gap: large}, gap + 1), 0, (1, 0.7, 1.3))
    for below, above in pairwise(whole):
        assert not (below & ~above).any()


@FAST
@given(blobs, blobs, st.permutations(range(3)))
def test_the_order_of_axes_is_only_an_order(first: np.ndarray, last: np.ndarray, axes: list[int]) -> None:
    mask, mm = stack({0: first, 5: last}, 6), (1.0, 2.0, 0.5)
    plain = filled(mask, 0, mm)
    turned = filled(mask.transpose(axes), axes.index(0), tuple(mm[a] for a in axes))
    assert np.array_equal(turned, plain.transpose(axes))


@pytest.mark.parametrize("mm", [(1.0, 1.0), (2.0, 0.5)])
def test_a_cone_has_the_radius_of_each_height(mm: tuple[float, float]) -> None:
    """Of two discs around one axis, the slice between has the radius between: in mm, not in pixels."""
    whole = filled(stack({0: disc(6, mm), 10: disc(16, mm)}, 11), 0, (3, *mm))
    for number in range(11):
        radius = np.sqrt(whole[number].sum() * mm[0] * mm[1] / np.pi)
        assert radius == pytest.approx(6 + number, abs=max(mm) / 2)


def test_signed_distance_is_that_to_the_nearest_centre_of_the_other_side() -> None:
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:7] = True
    mm = np.array((2.0, 0.5))
    found = signed_distance(mask, tuple(mm))
    wide = np.pad(mask, 1)
    for place in np.ndindex(mask.shape):
        others = np.argwhere(wide != mask[place]) - 1
        nearest = np.sqrt((((others - place) * mm) ** 2).sum(axis=1)).min()
        assert found[place] == pytest.approx((nearest - 0.25) * (1 if mask[place] else -1))


@pytest.mark.parametrize("numbers", [[], [3], [3, 4, 5]])
def test_too_few_slices_are_refused(numbers: list[int]) -> None:
    mask = np.zeros((9, 5, 5), bool)
    mask[numbers, 2, 2] = True
    with pytest.raises(VolumeError) as caught:
        interpolate_slices(mask, 0, (1, 1, 1))
    assert caught.value.code == "TOO_FEW_SLICES"
