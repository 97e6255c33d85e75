"""Boxes about objects, read from the maps of an anchor-free detector and thinned out.

The detector answers eight numbers at every voxel (Zhou et al., "Objects as Points", 2019, in 3D and mm):

| channel | meaning |
|---|---|
| 0 | logit of being the centre of an object's box |
| 1-3 | logarithm of the box's sides along i, j, k in parts of `SIZE_UNIT_MM` |
| 4-6 | way from the voxel to the box's centre along i, j, k in parts of `OFFSET_UNIT_MM` |
| 7 | logit of lying in any object |

A voxel whose centre score no neighbour exceeds is a candidate. Everything is decided by a total order
(score, then place), so the boxes of a volume are the same in whatever blocks its maps are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]

CHANNELS = 8
"""Maps of a detector."""

CENTRE, SIZE, OFFSET, INSIDE = 0, slice(1, 4), slice(4, 7), 7
"""Which channels are what."""

SIZE_UNIT_MM = 12.0
"""Side of a box whose logarithmic size is 0."""

OFFSET_UNIT_MM = 4.0
"""Way whose offset is 1."""

LOG_SIZE_LIMIT = 3.0
"""Sizes are taken from e^-3 to e^3 units (0.6 to 241 mm), whatever a network answers."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Scored boxes on one grid, the best first.

    Attributes:
        start: `(n, 3)` lower corners, in voxels; a voxel reaches from its index - 0.5 to + 0.5.
        stop: `(n, 3)` upper corners, in voxels.
        score: `(n,)` 0..1.
        place: `(n,)` int64 index of the voxel that voted, in C order of the whole grid.
    """

    start: Floats
    stop: Floats
    score: Floats
    place: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.score)

    def take(self, which: npt.NDArray[Any] | slice) -> Boxes:
        """Some of the boxes."""
        return Boxes(self.start[which], self.stop[which], self.score[which], self.place[which])

    def in_order(self) -> Boxes:
        """The same boxes by falling score, then by place."""
        return self.take(np.lexsort((self.place, -self.score)))


def no_boxes() -> Boxes:
    """No box at all."""
    return Boxes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0, dtype=np.int64))


def gather(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of all blocks, in order."""
    names = ("start", "stop", "score", "place")
    together = [np.concatenate([getattr(part, name) for part in (no_boxes(), *parts)]) for name in names]
    return Boxes(*together).in_order()


def decode_boxes(
    maps: npt.NDArray[np.float32],
    spacing_mm: Spacing,
    threshold: float,
    *,
    origin: Triple = (0, 0, 0),
    core: tuple[slice, slice, slice] | None = None,
    grid_shape: Triple | None = None,
) -> Boxes:
    """Boxes whose voting voxel lies in the core of a block.

    A candidate's centre logit is above that of `threshold` and is not exceeded by any of its 26
    neighbours; of equal neighbours the first in the array votes.

    Args:
        maps: `(8, i, j, k)` answers on a block with a rim of at least one voxel about its core, where
            the grid goes on there.
        spacing_mm: of the grid.
        threshold: least score, 0 < t < 1.
        origin: first voxel of the block on the whole grid.
        core: the part of the block whose voxels may vote; all of it if left out.
        grid_shape: voxels of the whole grid; that of the block if left out.

    Returns:
        Boxes on the whole grid, in order; not yet thinned out.
    """
    shape = maps.shape[1:]
    core = core or (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    whole = grid_shape or (shape[0], shape[1], shape[2])
    centre = maps[CENTRE]
    first = np.array([part.start for part in core])
    found = np.argwhere(centre[core] > np.float32(np.log(threshold / (1 - threshold)))) + first
    found = found[_is_peak(centre, found)]
    i, j, k = found.T
    size = SIZE_UNIT_MM * np.exp(
        np.clip(maps[SIZE, i, j, k].T.astype(float), -LOG_SIZE_LIMIT, LOG_SIZE_LIMIT)
    )
    offset = OFFSET_UNIT_MM * maps[OFFSET, i, j, k].T.astype(float)
    places = found + np.array(origin)
    middle = places + offset / spacing_mm
    half = size / spacing_mm / 2
    with np.errstate(over="ignore"):
        score = 1 / (1 + np.exp(-centre[i, j, k].astype(float)))
    index = np.ravel_multi_index(tuple(places.T), whole).astype(np.int64)
    return Boxes(middle - half, middle + half, score, index).in_order()


def _is_peak(values: npt.NDArray[np.float32], where: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether no neighbour is higher, and no earlier neighbour as high; `(n,)`."""
    padded = np.pad(values, 1, constant_values=-np.inf)
    i, j, k = where.T + 1
    own = padded[i, j, k]
    peak = np.ones(len(where), dtype=bool)
    for n, (a, b, c) in enumerate(np.ndindex(3, 3, 3)):
        other = padded[i + a - 1, j + b - 1, k + c - 1]
        peak &= (own > other) if n < 13 else (own >= other)
    return peak


def box_overlaps(start: Floats, stop: Floats, other_start: Floats, other_stop: Floats) -> Floats:
    """Intersection over union of every box of one list with every box of another, `(n, m)`."""
    low = np.maximum(start[:, None], other_start[None])
    high = np.minimum(stop[:, None], other_stop[None])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    sizes = np.prod(stop - start, axis=1)[:, None] + np.prod(other_stop - other_start, axis=1)[None]
    return np.asarray(shared / np.maximum(sizes - shared, 1e-12))


def suppress(boxes: Boxes, most_overlap: float) -> Boxes:
    """Greedy non-maximum suppression: a box that overlaps a better one too much falls.

    Args:
        boxes: all of a volume, from all blocks.
        most_overlap: highest allowed intersection over union with a better box.

    Returns:
        The boxes that stay, in order.
    """
    ranked = boxes.in_order()
    stays: list[int] = []
    for n in range(len(ranked)):
        here = slice(n, n + 1)
        overlap = box_overlaps(ranked.start[here], ranked.stop[here], ranked.start[stays], ranked.stop[stays])
        if not (overlap > most_overlap).any():
            stays.append(n)
    return ranked.take(np.array(stays, dtype=np.int64))
