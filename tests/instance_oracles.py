"""Slow and obvious: what the decoder must answer, in plain Python on tiny volumes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Place = tuple[int, ...]

STEPS = [s for s in itertools.product((-1, 0, 1), repeat=3) if s != (0, 0, 0)]


def neighbours(place: Place, shape: Place) -> list[Place]:
    """The up to 26 voxels around one."""
    around = [tuple(p + s for p, s in zip(place, step, strict=True)) for step in STEPS]
    return [q for q in around if all(0 <= c < n for c, n in zip(q, shape, strict=True))]


def nearest_background(mask: Array, spacing: tuple[float, ...], cap: float) -> Array:
    """Distance to the nearest background voxel by looking at all of them, in the float32 of the decoder."""
    out = np.zeros(mask.shape, np.float32)
    background = np.argwhere(~mask)
    limit = np.float32(cap * cap)
    for place in np.argwhere(mask):
        steps = np.abs(background - place) * np.array(spacing)
        a, b, c = (steps**2).astype(np.float32).T
        out[tuple(place)] = np.sqrt(min([*((c + b) + a), limit]))
    return out


def climb(heights: Array, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> dict[Place, Place]:
    """The maximum that every voxel climbs to, always by the steepest way up."""

    def order(place: Place) -> tuple[float, int]:
        return float(heights[place]), -int(np.ravel_multi_index(place, heights.shape))

    def slope(place: Place, other: Place) -> np.float32:
        length = np.linalg.norm(np.subtract(other, place) * np.array(spacing))
        return np.float32(heights[other] - heights[place]) * np.float32(1 / length)

    places = [tuple(int(c) for c in p) for p in np.argwhere(heights > -np.inf)]
    upward = {}
    for place in places:
        higher = [q for q in neighbours(place, heights.shape) if order(q) > order(place)]
        upward[place] = min(higher, key=lambda q: (-slope(place, q), q), default=place)
    ends = {}
    for place in places:
        end = place
        while upward[end] != end:
            end = upward[end]
        ends[place] = end
    return ends


def decode_slowly(heights: Array, h: float, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Array:
    """Objects numbered by their first voxel: basins, saddles, then one merge at a time."""
    ends = climb(heights, spacing)
    index = {p: int(np.ravel_multi_index(p, heights.shape)) for p in ends}
    saddles: dict[tuple[Place, Place], float] = {}
    for place, end in ends.items():
        for other in neighbours(place, heights.shape):
            if other in ends and ends[other] != end:
                key = (min(end, ends[other]), max(end, ends[other]))
                saddles[key] = max(saddles.get(key, -np.inf), float(min(heights[place], heights[other])))
    object_of = {end: end for end in ends.values()}
    for one, other in sorted(saddles, key=lambda k: (-saddles[k], k)):
        a, b = object_of[one], object_of[other]
        if a == b:
            continue
        elder, younger = sorted((a, b), key=lambda p: (-float(heights[p]), index[p]))
        rise = float(heights[younger]) - saddles[one, other]
        if rise < h or rise == 0:
            object_of = {p: elder if o == younger else o for p, o in object_of.items()}
    out = np.zeros(heights.shape, np.int64)
    numbers: dict[Place, int] = {}
    for place in sorted(ends):
        out[place] = numbers.setdefault(object_of[ends[place]], len(numbers) + 1)
    return out


def persistent_maxima(heights: Array, h: float) -> int:
    """Maxima that outlive `h`, from the merge tree of superlevel sets: voxels are added one by one."""
    places = sorted(
        (tuple(int(c) for c in p) for p in np.argwhere(heights > -np.inf)), key=lambda p: -float(heights[p])
    )
    set_of: dict[Place, Place] = {}
    survivors = 0
    for place in places:
        level = float(heights[place])
        meets = {set_of[q] for q in neighbours(place, heights.shape) if q in set_of}
        oldest = max(meets, key=lambda p: float(heights[p]), default=place)
        for other in meets - {oldest}:
            survivors += not (float(heights[other]) - level < h or float(heights[other]) == level)
        merged = meets | {place}
        set_of = {p: oldest if s in merged else s for p, s in set_of.items()}
        set_of[place] = oldest
    return survivors + len(set(set_of.values()))


def same_partition(one: Array, other: Array) -> bool:
    """Whether two label images tell the same voxels apart, whatever their numbers."""
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return (
        len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        and (one == 0).tolist() == (other == 0).tolist()
    )
