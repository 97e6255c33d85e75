"""Overlapping masks become one image by score, whatever their order; crops are drawn where they lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.instances.flatten import AxisScale, ObjectMask, flatten_masks, mask_on_grid, merge_touching

SHAPE = (9, 8, 7)


def random_masks(rng: np.random.Generator, count: int) -> list[ObjectMask]:
    masks = []
    for _ in range(count):
        start = [int(rng.integers(0, n - 1)) for n in SHAPE]
        sizes = [int(rng.integers(1, n - a + 1)) for n, a in zip(SHAPE, start, strict=True)]
        drawn = rng.random(sizes) < 0.7
        score = int(rng.integers(1, 4)) / 4
        masks.append(ObjectMask((start[0], start[1], start[2]), drawn, score, 1, np.zeros((2, 3))))
    return masks


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_every_voxel_belongs_to_the_best_mask_that_claims_it(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, count)
    ids, kept = flatten_masks(masks, SHAPE)
    assert [m.score for m in kept] == sorted((m.score for m in kept), reverse=True)
    claims = np.zeros(SHAPE)
    for mask in masks:
        claims[mask.place] = np.maximum(claims[mask.place], mask.mask * mask.score)
    scores = np.array([0.0, *(m.score for m in kept)])
    assert np.array_equal(scores[ids], claims)
    assert sorted(np.unique(ids[ids > 0])) == list(range(1, len(kept) + 1))
    again, _ = flatten_masks([masks[n] for n in rng.permutation(count)], SHAPE)
    assert np.array_equal(ids, again)


def test_a_remnant_that_is_too_small_leaves_its_voxels_to_the_next() -> None:
    def mask(i: int, stop: int, score: float) -> ObjectMask:
        return ObjectMask((i, 0, 0), np.ones((stop - i, 1, 1), dtype=bool), score, 1, np.zeros((2, 3)))

    ids, kept = flatten_masks([mask(0, 4, 0.9), mask(2, 5, 0.8), mask(3, 9, 0.7)], SHAPE, min_voxels=2)
    assert ids[:, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [m.score for m in kept] == [0.9, 0.7]


def test_no_masks_make_an_empty_image() -> None:
    ids, kept = flatten_masks([], SHAPE)
    assert not ids.any()
    assert kept == ()


def test_a_ball_in_a_crop_is_drawn_with_its_volume_and_middle_on_any_spacing() -> None:
    cells = (np.arange(32) + 0.5) / 32 * 2 - 1
    x, y, z = np.meshgrid(cells, cells, cells, indexing="ij")
    logits = (0.6 - np.sqrt(x**2 + y**2 + z**2)).astype(np.float32) * 8
    middle, half = np.array([20.3, 18.1, 22.7]), np.array([10.0, 10.0, 10.0])
    for scale, shift in (((1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), ((0.25, 0.5, 2.0), (1.5, -3.0, 0.5))):
        grid = AxisScale(scale, shift)
        shape = tuple(int(45 / s) for s in scale)
        start, mask = mask_on_grid(logits, (middle, half), (grid, (shape[0], shape[1], shape[2])), 0.0)
        where = (np.argwhere(mask) + start) * scale + shift
        volume = mask.sum() * np.prod(scale)
        assert abs(volume / (4 / 3 * np.pi * 6.0**3) - 1) < 0.06
        assert np.abs(where.mean(axis=0) - middle).max() < 0.15


def test_a_crop_beyond_the_grid_is_cut_and_one_outside_is_empty() -> None:
    logits = np.ones((32, 32, 32), dtype=np.float32)
    unit = AxisScale((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    start, mask = mask_on_grid(logits, (np.array([0.0, 5, 5]), np.full(3, 3.0)), (unit, (8, 8, 8)), 0.0)
    assert start == (0, 2, 2)
    assert mask.shape == (4, 6, 6)
    _, nothing = mask_on_grid(logits, (np.array([-9.0, 5, 5]), np.full(3, 3.0)), (unit, (8, 8, 8)), 0.0)
    assert nothing.size == 0


def test_objects_of_a_class_that_touch_become_the_surest_of_them() -> None:
    def cube(start: tuple[int, int, int], score: float, class_id: int = 1) -> ObjectMask:
        return ObjectMask(start, np.ones((2, 2, 2), bool), score, class_id, np.zeros((2, 3)))

    masks = [
        cube((0, 0, 0), 0.4),
        cube((2, 2, 2), 0.9),  # touches the first by a corner
        cube((2, 0, 0), 0.8, class_id=2),  # touches both, of another class
        cube((6, 5, 4), 0.7),
    ]
    ids, kept = merge_touching(*flatten_masks(masks, SHAPE))
    assert [mask.score for mask in kept] == [0.9, 0.8, 0.7]
    assert ids[0, 0, 0] == ids[3, 3, 3] == 1
    assert ids[3, 1, 1] == 2
    assert ids[7, 6, 5] == 3
    assert np.count_nonzero(ids) == 4 * 8


def test_no_objects_stay_none_when_merged() -> None:
    ids, kept = merge_touching(*flatten_masks([], SHAPE))
    assert not ids.any()
    assert kept == ()
