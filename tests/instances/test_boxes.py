"""Boxes: read from maps the same in any blocks, thinned out as a slow oracle does, in a total order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.instances.boxes import (
    CENTRE,
    CHANNELS,
    OFFSET,
    OFFSET_UNIT_MM,
    SIZE,
    SIZE_UNIT_MM,
    Boxes,
    box_overlaps,
    decode_boxes,
    gather,
    no_boxes,
    suppress,
)

SHAPE = (11, 13, 9)


def random_maps(seed: int, levels: int = 5) -> np.ndarray:
    """Maps with few distinct centre values, so that plateaus and ties are everywhere."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(0, 0.5, (CHANNELS, *SHAPE)).astype(np.float32)
    maps[CENTRE] = rng.integers(-levels, levels, SHAPE).astype(np.float32) / 2
    return maps


def random_boxes(rng: np.random.Generator, count: int) -> Boxes:
    start = rng.uniform(0, 20, (count, 3))
    score = rng.integers(1, 6, count) / 6  # ties
    return Boxes(
        start, start + rng.uniform(1, 12, (count, 3)), score, rng.permutation(count).astype(np.int64)
    )


def same(one: Boxes, other: Boxes) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("start", "stop", "score", "place")
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(1, 13)] * 3))
def test_boxes_are_the_same_in_any_blocks(seed: int, size: tuple[int, int, int]) -> None:
    maps, spacing = random_maps(seed), (2.0, 1.0, 3.0)
    whole = decode_boxes(maps, spacing, 0.3)
    parts = []
    for corner in itertools.product(*(range(0, n, s) for n, s in zip(SHAPE, size, strict=True))):
        stop = [min(c + s, n) for c, s, n in zip(corner, size, SHAPE, strict=True)]
        low = [max(0, c - 1) for c in corner]
        high = [min(n, e + 1) for n, e in zip(SHAPE, stop, strict=True)]
        block = maps[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
        i, j, k = (slice(c - a, e - a) for c, e, a in zip(corner, stop, low, strict=True))
        parts.append(
            decode_boxes(
                block, spacing, 0.3, origin=(low[0], low[1], low[2]), core=(i, j, k), grid_shape=SHAPE
            )
        )
    assert same(gather(parts), whole)
    assert same(suppress(gather(parts), 0.3), suppress(whole, 0.3))


def test_a_box_is_where_its_maps_say() -> None:
    maps = np.full((CHANNELS, *SHAPE), -9, dtype=np.float32)
    maps[CENTRE, 5, 6, 4] = 2.0
    maps[SIZE, 5, 6, 4] = np.log(np.array([24.0, 12.0, 6.0]) / SIZE_UNIT_MM)
    maps[OFFSET, 5, 6, 4] = np.array([2.0, -1.0, 0.5]) / OFFSET_UNIT_MM
    found = decode_boxes(maps, (2.0, 1.0, 0.5), 0.5)
    assert len(found) == 1
    assert found.score[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert (found.start[0] + found.stop[0]) / 2 == pytest.approx([6.0, 5.0, 5.0])
    assert found.stop[0] - found.start[0] == pytest.approx([12.0, 12.0, 12.0])


def test_a_plateau_has_one_voter_and_low_scores_none() -> None:
    maps = np.zeros((CHANNELS, *SHAPE), dtype=np.float32)
    maps[CENTRE] = 1.0
    assert decode_boxes(maps, (1.0, 1.0, 1.0), 0.5).place.tolist() == [0]
    assert len(decode_boxes(maps, (1.0, 1.0, 1.0), 0.9)) == 0


def slow_suppression(boxes: Boxes, most_overlap: float) -> list[int]:
    """Places of the boxes that stay: pair by pair, number by number."""
    order = sorted(range(len(boxes)), key=lambda n: (-boxes.score[n], boxes.place[n]))
    stays: list[int] = []
    for n in order:
        worst = 0.0
        for m in stays:
            sides = [
                max(0.0, min(boxes.stop[n][a], boxes.stop[m][a]) - max(boxes.start[n][a], boxes.start[m][a]))
                for a in range(3)
            ]
            shared = sides[0] * sides[1] * sides[2]
            sizes = [np.prod(boxes.stop[k] - boxes.start[k]) for k in (n, m)]
            worst = max(worst, shared / (sizes[0] + sizes[1] - shared))
        if worst <= most_overlap:
            stays.append(n)
    return [int(boxes.place[n]) for n in stays]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 25), st.sampled_from([0.05, 0.3, 0.7]))
def test_suppression_is_the_slow_rule_whatever_the_order(seed: int, count: int, most: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, count)
    expected = slow_suppression(boxes, most)
    shuffled = boxes.take(rng.permutation(count))
    assert suppress(boxes, most).place.tolist() == expected
    assert suppress(shuffled, most).place.tolist() == expected


def test_overlaps_and_suppression_agree_with_monai() -> None:
    box_utils = pytest.importorskip("monai.data.box_utils")
    torch = pytest.importorskip("torch")
    boxes = random_boxes(np.random.default_rng(3), 40)
    corners = np.concatenate([boxes.start, boxes.stop], axis=1)
    overlaps = box_overlaps(boxes.start, boxes.stop, boxes.start, boxes.stop)
    assert overlaps == pytest.approx(box_utils.box_iou(corners, corners), abs=1e-6)
    ranked = boxes.take(np.argsort(boxes.place)).in_order()
    strict = Boxes(ranked.start, ranked.stop, np.linspace(1, 0.1, 40), np.arange(40))
    kept = box_utils.non_max_suppression(
        torch.from_numpy(np.concatenate([strict.start, strict.stop], axis=1)),
        torch.from_numpy(strict.score),
        nms_thresh=0.2,
    )
    assert suppress(strict, 0.2).place.tolist() == kept.tolist()


def test_no_boxes_stay_no_boxes() -> None:
    assert len(suppress(no_boxes(), 0.5)) == len(gather([])) == 0
    nothing = np.full((CHANNELS, 3, 4, 5), -20, dtype=np.float32)
    assert len(decode_boxes(nothing, (1.0, 1.0, 1.0), 0.1)) == 0
