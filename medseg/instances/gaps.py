"""Components that lie close to each other belong together: satellites of a lesion.

Two components are joined where a voxel of one reaches a voxel of the other by one of a fixed set
of offsets. For a gap in mm these are all offsets up to that length. For BraTS' rule, by which
components join if their n-fold dilations (18 neighbours) touch (26 neighbours), they are the
offsets that two dilations and one step can bridge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medseg.instances.basins import Int32Array, Int64Array, enlarged, keep_largest
from medseg.instances.compiled import compiled
from medseg.instances.fields import Float32Array
from medseg.instances.graph import BasinGraph, components, find_parent


def joining_offsets(
    spacing_mm: Sequence[float], gap_mm: float, dilation_voxels: int
) -> tuple[Int64Array, Float32Array]:
    """Offsets that join two components, half of them (the other half are their opposites).

    Args:
        spacing_mm: size of a voxel along each axis; axes are at right angles.
        gap_mm: offsets up to this length join; 0 for none.
        dilation_voxels: n of the dilation rule; 0 for none.

    Returns:
        `(n, 3)` int64 offsets, `(n,)` float32 lengths in mm. Neighbours (26) are left out: they are
        one component already.
    """
    gap_mm = gap_mm * (1 + 1e-9)
    least = 2 * dilation_voxels + 1 if dilation_voxels else 0
    axes = [np.arange(-r, r + 1) for r in (max(least, math.floor(gap_mm / w)) for w in spacing_mm)]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    offsets = offsets[len(offsets) // 2 + 1 :]
    lengths = np.linalg.norm(offsets * np.array(spacing_mm), axis=1)
    joins = lengths <= gap_mm
    if dilation_voxels:
        beyond = np.maximum(np.abs(offsets) - 1, 0)
        # n steps of 18 neighbours reach |d|_max <= n and |d|_1 <= 2n; here two such walks and one step.
        joins |= (beyond.max(axis=1) <= 2 * dilation_voxels) & (beyond.sum(axis=1) <= 4 * dilation_voxels)
    joins &= np.abs(offsets).max(axis=1, initial=0) > 1
    return offsets[joins].astype(np.int64), lengths[joins].astype(np.float32)


def find_gaps(
    basins: Int32Array,
    component_of: Int64Array,
    core: tuple[slice, slice, slice],
    offsets: tuple[Int64Array, Float32Array],
) -> tuple[Int64Array, Float32Array]:
    """Pairs of basins of different components that an offset joins.

    Args:
        basins: a region's basins, plus one; 0 for background.
        component_of: `(n + 1,)` component of every basin, plus one.
        core: part of the region from which offsets start.
        offsets: from `joining_offsets`.

    Returns:
        `(m, 2)` int64 basins, plus one, the smaller first; `(m,)` float32 shortest length in mm.
    """
    low = np.array([part.start for part in core])
    high = np.array([part.stop for part in core])
    pairs, nearness = _find_gaps(basins, component_of, low, high, *offsets)
    return pairs, -nearness


@compiled
def _find_gaps(
    basins: Int32Array,
    component_of: Int64Array,
    low: Int64Array,
    high: Int64Array,
    offsets: Int64Array,
    lengths: Float32Array,
) -> tuple[Int64Array, Float32Array]:
    n0, n1, n2 = basins.shape
    count = len(component_of)
    keys, values = np.full(1024, -1, dtype=np.int64), np.empty(1024, dtype=np.float32)
    load = 0
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            for k in range(low[2], high[2]):
                here = basins[i, j, k]
                if not here or not _at_surface(basins, i, j, k):
                    continue
                for n in range(len(offsets)):
                    a, b, c = i + offsets[n, 0], j + offsets[n, 1], k + offsets[n, 2]
                    if a < 0 or a >= n0 or b < 0 or b >= n1 or c < 0 or c >= n2:
                        continue
                    there = basins[a, b, c]
                    if not there or component_of[there] == component_of[here]:
                        continue
                    key = np.int64(min(here, there)) * count + max(here, there)
                    load += keep_largest(keys, values, key, -lengths[n])
                    if 2 * load > len(keys):
                        keys, values = enlarged(keys, values)
    pairs, nearness = np.empty((load, 2), dtype=np.int64), np.empty(load, dtype=np.float32)
    n = 0
    for slot in range(len(keys)):
        if keys[slot] >= 0:
            pairs[n, 0], pairs[n, 1], nearness[n] = keys[slot] // count, keys[slot] % count, values[slot]
            n += 1
    return pairs, nearness


@compiled
def _at_surface(basins: Int32Array, i: int, j: int, k: int) -> bool:
    """Whether background is among the 6 neighbours: the nearest voxels of two components are such."""
    n0, n1, n2 = basins.shape
    return (
        (i > 0 and not basins[i - 1, j, k])
        or (i + 1 < n0 and not basins[i + 1, j, k])
        or (j > 0 and not basins[i, j - 1, k])
        or (j + 1 < n1 and not basins[i, j + 1, k])
        or (k > 0 and not basins[i, j, k - 1])
        or (k + 1 < n2 and not basins[i, j, k + 1])
    )


def join_across_gaps(
    graph: BasinGraph, object_of: Int64Array, pairs: Int64Array, lengths: Float32Array
) -> Int64Array:
    """Objects after components were joined by their shortest gaps.

    Gaps are taken from the shortest up (equal ones by basin numbers). One that links two groups of
    components for the first time makes one object of the two objects that it touches; so a satellite
    joins the part of a split lesion that is nearest, and does not glue the parts together.

    Args:
        graph: basins.
        object_of: `(n,)` representative basin of every basin's object.
        pairs: `(m, 2)` basins that a gap links; numbers of the graph.
        lengths: `(m,)` in mm.

    Returns:
        `(n,)` representative basin of every basin's object.
    """
    low, high = pairs.min(axis=1, initial=len(object_of)), pairs.max(axis=1, initial=0)
    order = np.lexsort((high, low, lengths))
    group_of, joined = components(graph), np.arange(len(object_of))
    _join(pairs[order], group_of, object_of, joined)
    return joined[object_of]


@compiled
def _join(pairs: Int64Array, group_of: Int64Array, object_of: Int64Array, joined: Int64Array) -> None:
    for n in range(len(pairs)):
        one, other = find_parent(group_of, pairs[n, 0]), find_parent(group_of, pairs[n, 1])
        if one != other:
            group_of[max(one, other)] = min(one, other)
            a, b = find_parent(joined, object_of[pairs[n, 0]]), find_parent(joined, object_of[pairs[n, 1]])
            joined[max(a, b)] = min(a, b)
    for node in range(len(joined)):
        joined[node] = find_parent(joined, node)
