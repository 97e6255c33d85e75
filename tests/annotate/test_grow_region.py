"""A click grows into exactly what a patient walker over faces would reach."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.annotate.grow import grow_region
from medseg.annotate.proposal import Proposal
from medseg.annotate.settings import GrowSettings
from medseg.errors import SettingsError, VolumeError

FAST = settings(deadline=None, max_examples=40)
MM = (2.0, 1.0, 0.5)


def whole(found: Proposal, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    box = tuple(slice(a, a + n) for a, n in zip(found.start, found.ids.shape, strict=True))
    mask[box] = found.ids > 0
    return mask


def walked(image: np.ndarray, seed: tuple[int, ...], rule: GrowSettings) -> np.ndarray:
    """The definition, one voxel after another."""
    around = image[tuple(slice(max(0, p - 1), p + 2) for p in seed)]
    wanted = np.median(around.astype(np.float32))
    reached = np.zeros(image.shape, bool)
    reached[seed] = True
    line = deque([seed])
    while line:
        here = line.popleft()
        for axis in range(3):
            for step in (-1, 1):
                there = tuple(p + step * (a == axis) for a, p in enumerate(here))
                if any(not 0 <= p < n for p, n in zip(there, image.shape, strict=True)) or reached[there]:
                    continue
                away = np.sqrt(sum(((p - q) * mm) ** 2 for p, q, mm in zip(there, seed, MM, strict=True)))
                if abs(image[there] - wanted) <= rule.tolerance and away <= rule.radius_mm:
                    reached[there] = True
                    line.append(there)
    return reached


cases = st.tuples(
    st.integers(0, 2**32 - 1), st.tuples(st.integers(0, 6), st.integers(0, 7), st.integers(0, 8))
)


@FAST
@given(cases, st.integers(0, 5), st.integers(0, 8))
def test_it_is_what_a_walker_reaches(
    case: tuple[int, tuple[int, int, int]], tolerance: int, radius_mm: int
) -> None:
    image = np.random.default_rng(case[0]).integers(0, 9, (7, 8, 9)).astype(np.float32)
    rule = GrowSettings(tolerance=tolerance, radius_mm=radius_mm)
    found = whole(grow_region(image, case[1], MM, rule), image.shape)
    assert np.array_equal(found, walked(image, case[1], rule))


@FAST
@given(cases, st.integers(0, 4), st.integers(0, 6))
def test_more_tolerance_and_more_radius_never_take_less(
    case: tuple[int, tuple[int, int, int]], tolerance: int, radius_mm: int
) -> None:
    image = np.random.default_rng(case[0]).normal(0, 3, (7, 8, 9))
    little = whole(grow_region(image, case[1], MM, GrowSettings(tolerance, radius_mm)), image.shape)
    more = whole(grow_region(image, case[1], MM, GrowSettings(tolerance + 1, radius_mm + 1)), image.shape)
    assert not (little & ~more).any()


@FAST
@given(cases, st.permutations(range(3)))
def test_the_order_of_axes_is_only_an_order(case: tuple[int, tuple[int, int, int]], axes: list[int]) -> None:
    image = np.random.default_rng(case[0]).integers(0, 9, (7, 8, 9)).astype(np.float32)
    rule = GrowSettings(tolerance=3, radius_mm=5)
    plain = whole(grow_region(image, case[1], MM, rule), image.shape)
    turned = image.transpose(axes)
    seed, mm = [case[1][a] for a in axes], [MM[a] for a in axes]
    assert np.array_equal(whole(grow_region(turned, seed, mm, rule), turned.shape), plain.transpose(axes))


def test_a_leak_ends_at_the_radius() -> None:
    image = np.zeros((40, 40, 40), np.int16)
    found = whole(grow_region(image, (20, 20, 20), (1, 1, 1), GrowSettings(0, radius_mm=10)), image.shape)
    assert found.sum() == pytest.approx(4 / 3 * np.pi * 10**3, rel=0.02)


def test_intensities_that_are_not_finite_do_no_harm() -> None:
    image = np.full((9, 9, 9), np.nan)
    assert whole(grow_region(image, (4, 4, 4), (1, 1, 1), GrowSettings(1, 2)), image.shape).any()


@pytest.mark.parametrize("seed", [(9, 0, 0), (-1, 0, 0), (1, 1)])
def test_a_seed_beside_the_image_is_refused(seed: tuple[int, ...]) -> None:
    with pytest.raises(VolumeError) as caught:
        grow_region(np.zeros((9, 9, 9)), seed, (1, 1, 1))
    assert caught.value.code == "OUTSIDE_IMAGE"


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(SettingsError):
        GrowSettings(tolerance=-1)
