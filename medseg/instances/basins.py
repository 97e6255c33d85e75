"""Basins of one block of a height map: which maximum each voxel climbs to, and where basins meet.

Voxels are ordered by height, equal heights by global index (the smaller stands higher). Of its 26
neighbours that stand higher, each voxel points to the one with the steepest way up, in height per
mm (the earliest of equals); following pointers ends at a local maximum, the basin's root. A pointer
that leaves the block ends there for now: the basin's end is then a voxel of another block.
Steepest, not highest: on 4:1 voxels the highest neighbour is a slice away and often across a border.

Which neighbour a voxel climbs to decides where borders run. Which maxima exist, and at what
saddle two of them meet, it does not decide: a chain of basins is joined at level t exactly where
the set of voxels of height t or more is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.instances.compiled import compiled
from medseg.instances.fields import Float32Array
from medseg.instances.grid import Block, Triple

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FaceKey = tuple[int, int]
"""(axis, 0 for the low or 1 for the high side) of a block's face."""

BACKGROUND = np.float32(-np.inf)
"""Height of what is no object."""

_FORWARD = np.array(
    [(di, dj, dk) for di in (0, 1) for dj in (-1, 0, 1) for dk in (-1, 0, 1) if (di, dj, dk) > (0, 0, 0)],
    dtype=np.int64,
)
_RUN = 32
_SELF = 13


@dataclass(frozen=True)
class BlockBasins:
    """What remains known of a block: its size grows with its basins and faces, not its voxels.

    Local basins are numbered from 1; row n of the arrays is basin n + 1.

    Attributes:
        end: `(n,)` int64 global index where the basin's climb ends, ascending.
        is_root: `(n,)` whether that is a maximum; otherwise it is a voxel of another block.
        top: `(n,)` float32 height there.
        voxels: `(n,)` int64 number of voxels in this block.
        first: `(n,)` int64 smallest global index in this block.
        pairs: `(m, 2)` int32 local basins that touch inside the block, the smaller first.
        saddles: `(m,)` float32 height of the best crossing: the largest minimum of two neighbours.
        face_basins: by face, `(a, b)` int32 local basins of its voxels, 0 for background.
        face_heights: by face, `(a, b)` float32 heights of its voxels.
    """

    end: Int64Array
    is_root: BoolArray
    top: Float32Array
    voxels: Int64Array
    first: Int64Array
    pairs: Int32Array
    saddles: Float32Array
    face_basins: dict[FaceKey, Int32Array]
    face_heights: dict[FaceKey, Float32Array]


def find_basins(
    heights: Float32Array, spacing_mm: Sequence[float], region: Block, block: Block, shape: Triple
) -> tuple[BlockBasins, Int32Array]:
    """Basins of one block.

    Args:
        heights: `region.shape` float32, minus infinity where there is no object; no NaN.
        spacing_mm: size of a voxel along each axis.
        region: the block grown by one voxel, cut off at the volume's borders.
        block: the block itself.
        shape: voxels of the whole volume.

    Returns:
        What remains known, and `block.shape` int32 local basins, 0 for background.
    """
    low = np.array(block.start) - np.array(region.start)
    basins = np.empty(block.shape, dtype=np.int32)
    origin, whole = np.array(region.start), np.array(shape)
    ends, tops, inside = _point(
        np.ascontiguousarray(heights), inverse_steps(spacing_mm), low, origin, whole, basins
    )
    end, chosen, renumber = np.unique(ends, return_index=True, return_inverse=True)
    local = np.concatenate([[0], renumber.ravel() + 1]).astype(np.int32)
    voxels, first = np.zeros(len(end), np.int64), np.full(len(end), -1, np.int64)
    _follow(basins.reshape(-1), local)
    _count(basins, np.array(block.start), whole, voxels, first)
    core = heights[block.within(region)]
    pairs, saddles = _meet(core, basins, _FORWARD, len(end))
    face_basins, face_heights = {}, {}
    for axis in range(3):
        for side, at_border in ((0, block.start[axis] == 0), (1, block.stop[axis] == shape[axis])):
            if not at_border:
                face_basins[axis, side] = np.take(basins, -side, axis=axis)
                face_heights[axis, side] = np.take(core, -side, axis=axis)
    known = BlockBasins(
        end, inside[chosen], tops[chosen], voxels, first, pairs, saddles, face_basins, face_heights
    )
    return known, basins


def inverse_steps(spacing_mm: Sequence[float]) -> Float32Array:
    """`(27,)` one over the distance to each voxel of the 3x3x3 around one, 0 for itself."""
    steps = np.stack(np.meshgrid(*[[-w, 0.0, w] for w in spacing_mm], indexing="ij"), axis=-1).reshape(27, 3)
    lengths = np.linalg.norm(steps, axis=1)
    lengths[13] = np.inf
    return np.asarray(1 / lengths, dtype=np.float32)


@compiled
def _point(
    heights: Float32Array,
    inverse: Float32Array,
    low: Int64Array,
    origin: Int64Array,
    whole: Int64Array,
    out: Int32Array,
) -> tuple[Int64Array, Float32Array, BoolArray]:
    """Write each voxel's pointer; return where climbs end, how high that is, and whether it is a root.

    `out` holds 0 for background, index + 1 of the voxel pointed to, or -n for the end number n - 1.
    """
    n0, n1, n2 = out.shape
    m0, m1, m2 = heights.shape
    flat = heights.reshape(-1)
    ends, tops = np.empty(1024, dtype=np.int64), np.empty(1024, dtype=np.float32)
    roots = np.empty(1024, dtype=np.bool_)
    count = 0
    for i in range(n0):
        for j in range(n1):
            for k in range(n2):
                x, y, z = i + low[0], j + low[1], k + low[2]
                if not heights[x, y, z] > -np.inf:
                    out[i, j, k] = 0
                    continue
                if 0 < x < m0 - 1 and 0 < y < m1 - 1 and 0 < z < m2 - 1:
                    step = _steepest_inside(flat, (x * m1 + y) * m2 + z, m1 * m2, m2, inverse)
                else:
                    step = _steepest_at_border(heights, x, y, z, inverse)
                a, b, c = i + step // 9 - 1, j + step // 3 % 3 - 1, k + step % 3 - 1
                inside = 0 <= a < n0 and 0 <= b < n1 and 0 <= c < n2
                if inside and step != _SELF:
                    out[i, j, k] = (a * n1 + b) * n2 + c + 1
                    continue
                if count == len(ends):
                    ends = np.concatenate((ends, np.empty_like(ends)))
                    tops = np.concatenate((tops, np.empty_like(tops)))
                    roots = np.concatenate((roots, np.empty_like(roots)))
                p, q, r = a + low[0] + origin[0], b + low[1] + origin[1], c + low[2] + origin[2]
                ends[count] = (p * whole[1] + q) * whole[2] + r
                tops[count], roots[count] = heights[a + low[0], b + low[1], c + low[2]], inside
                count += 1
                out[i, j, k] = -count
    return ends[:count], tops[:count], roots[:count]


@compiled
def _steepest_inside(flat: Float32Array, place: int, layer: int, row: int, inverse: Float32Array) -> int:
    """Which of the 27 voxels around a place to climb to; the place has all its neighbours."""
    height = flat[place]
    best, choice = np.float32(-1), _SELF
    step = 0
    for plane in (place - layer, place, place + layer):
        for line in (plane - row, plane, plane + row):
            for at in (line - 1, line, line + 1):
                rise = flat[at] - height
                # Only what stands higher counts; of equal height, that is what comes earlier.
                if rise > 0 or (rise == 0 and step < _SELF):
                    slope = rise * inverse[step]
                    if slope > best:
                        best, choice = slope, step
                step += 1
    return choice


@compiled
def _steepest_at_border(heights: Float32Array, x: int, y: int, z: int, inverse: Float32Array) -> int:
    """The same where some neighbours lie beyond the array."""
    m0, m1, m2 = heights.shape
    best, choice = np.float32(-1), _SELF
    for step in range(27):
        a, b, c = x + step // 9 - 1, y + step // 3 % 3 - 1, z + step % 3 - 1
        if a < 0 or a >= m0 or b < 0 or b >= m1 or c < 0 or c >= m2:
            continue
        rise = heights[a, b, c] - heights[x, y, z]
        if rise > 0 or (rise == 0 and step < _SELF):
            slope = rise * inverse[step]
            if slope > best:
                best, choice = slope, step
    return choice


@compiled
def _follow(out: Int32Array, renumber: Int32Array) -> None:
    """Replace every pointer by the local basin that it leads to."""
    for start in range(len(out)):
        place = start
        while out[place] > 0:
            place = out[place] - 1
        end = out[place]
        place = start
        while out[place] > 0:
            ahead = out[place] - 1
            out[place] = end
            place = ahead
    for place in range(len(out)):
        out[place] = renumber[-out[place]]


@compiled
def _count(
    basins: Int32Array, start: Int64Array, whole: Int64Array, voxels: Int64Array, first: Int64Array
) -> None:
    """Voxels and smallest global index of every local basin."""
    n0, n1, n2 = basins.shape
    for i in range(n0):
        for j in range(n1):
            row = ((start[0] + i) * whole[1] + start[1] + j) * whole[2] + start[2]
            for k in range(n2):
                basin = basins[i, j, k]
                if basin > 0:
                    if voxels[basin - 1] == 0:
                        first[basin - 1] = row + k
                    voxels[basin - 1] += 1


@compiled
def keep_largest(keys: Int64Array, values: Float32Array, key: int, value: float) -> int:
    """Put a value into a hash table that keeps the largest of each key; 1 if the key is new.

    `keys` is filled with -1 where free; its length is a power of two and must exceed its load.
    """
    mask = len(keys) - 1
    # Fibonacci hashing: the golden ratio of 2^64 spreads neighbouring keys.
    slot = ((key * -7046029254386353131) >> 20) & mask
    while True:
        if keys[slot] == key:
            values[slot] = max(values[slot], value)
            return 0
        if keys[slot] < 0:
            keys[slot], values[slot] = key, value
            return 1
        slot = (slot + 1) & mask


@compiled
def enlarged(keys: Int64Array, values: Float32Array) -> tuple[Int64Array, Float32Array]:
    """The same hash table with twice the room."""
    more_keys = np.full(2 * len(keys), -1, dtype=np.int64)
    more_values = np.empty(2 * len(keys), dtype=np.float32)
    for slot in range(len(keys)):
        if keys[slot] >= 0:
            keep_largest(more_keys, more_values, keys[slot], values[slot])
    return more_keys, more_values


@compiled
def _meet(
    heights: Float32Array, basins: Int32Array, forward: Int64Array, count: int
) -> tuple[Int32Array, Float32Array]:
    """Pairs of local basins that touch, ascending, and their saddles.

    Rows are compared a run of voxels at a time: most runs lie inside one basin and are passed over.
    """
    n0, n1, n2 = basins.shape
    keys, values = np.full(1024, -1, dtype=np.int64), np.empty(1024, dtype=np.float32)
    load = 0
    for i in range(n0):
        for j in range(n1):
            here = basins[i, j]
            for n in range(len(forward)):
                a, b, shift = i + forward[n, 0], j + forward[n, 1], forward[n, 2]
                if a >= n0 or b < 0 or b >= n1:
                    continue
                there = basins[a, b]
                last = min(n2, n2 - shift)
                for left in range(max(0, -shift), last, _RUN):
                    right = min(left + _RUN, last)
                    if not _differ(here[left:right], there[left + shift : right + shift]):
                        continue
                    for k in range(left, right):
                        one, other = here[k], there[k + shift]
                        if one == other or not one or not other:
                            continue
                        key = np.int64(min(one, other)) * (count + 1) + max(one, other)
                        saddle = min(heights[i, j, k], heights[a, b, k + shift])
                        load += keep_largest(keys, values, key, saddle)
                        if 2 * load > len(keys):
                            keys, values = enlarged(keys, values)
    order = np.argsort(keys)[len(keys) - load :]
    pairs, saddles = np.empty((load, 2), dtype=np.int32), np.empty(load, dtype=np.float32)
    for n in range(load):
        pairs[n, 0], pairs[n, 1] = keys[order[n]] // (count + 1), keys[order[n]] % (count + 1)
        saddles[n] = values[order[n]]
    return pairs, saddles


@compiled
def _differ(one: Int32Array, other: Int32Array) -> bool:
    """Whether two different basins stand face to face somewhere along two runs."""
    found = 0
    for n in range(len(one)):
        found |= (one[n] != other[n]) & (one[n] != 0) & (other[n] != 0)
    return found != 0
