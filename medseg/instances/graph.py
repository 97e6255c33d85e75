"""The basins of all blocks as one graph: who climbs to which maximum, and who meets whom at what height."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.instances.basins import BlockBasins, Int32Array, Int64Array, enlarged, keep_largest
from medseg.instances.compiled import compiled
from medseg.instances.fields import Float32Array
from medseg.instances.grid import BlockGrid


@dataclass(frozen=True)
class BasinGraph:
    """All maxima of a height map, numbered by global index, and the saddles between their basins.

    It is the same whatever blocks the volume was cut into.

    Attributes:
        roots: `(n,)` int64 global index of every maximum, ascending.
        tops: `(n,)` float32 height of every maximum.
        voxels: `(n,)` int64 size of every basin.
        first: `(n,)` int64 smallest global index of every basin.
        pairs: `(m, 2)` int64 basins that touch, the smaller first, ascending, each pair once.
        saddles: `(m,)` float32 height of the best crossing.
        basin_of: for every block, `(k + 1,)` int64 number in this graph, plus one, of its local basins;
            0 stays 0.
    """

    roots: Int64Array
    tops: Float32Array
    voxels: Int64Array
    first: Int64Array
    pairs: Int64Array
    saddles: Float32Array
    basin_of: tuple[Int64Array, ...]


def build_graph(known: Sequence[BlockBasins], grid: BlockGrid) -> BasinGraph:
    """Join what is known of all blocks.

    Args:
        known: of every block, in the order of `grid.blocks`.
        grid: how the volume was cut.
    """
    ends = np.unique(np.concatenate([part.end for part in known]))
    is_root = np.zeros(len(ends), dtype=np.bool_)
    tops = np.zeros(len(ends), dtype=np.float32)
    numbers = []
    for part in known:
        number = np.searchsorted(ends, part.end)
        is_root[number[part.is_root]] = True
        tops[number[part.is_root]] = part.top[part.is_root]
        numbers.append(number)
    leads_to = np.arange(len(ends))
    pairs = [number[part.pairs.astype(np.int64) - 1] for part, number in zip(known, numbers, strict=True)]
    saddles = [part.saddles for part in known]
    exits = np.flatnonzero(~is_root)
    places = np.stack(np.unravel_index(ends[exits], grid.shape), axis=1)
    for axis in range(3):
        for cut in range(1, grid.counts[axis]):
            low = _plane(known, numbers, grid, (axis, cut - 1, 1))
            high = _plane(known, numbers, grid, (axis, cut, 0))
            at = cut * grid.block[axis]
            for position, plane in ((at - 1, low[0]), (at, high[0])):
                here = places[:, axis] == position
                a, b = np.delete(places[here], axis, axis=1).T
                leads_to[exits[here]] = plane[a, b] - 1
            across, heights = _meet_across(*low, *high, len(ends))
            pairs.append(across - 1)
            saddles.append(heights)
    _lead_to_roots(leads_to)
    node = np.cumsum(is_root) - 1
    nodes = [node[leads_to[number]] for number in numbers]
    return _graph(
        ends[is_root],
        tops[is_root],
        known,
        nodes,
        _distinct(node[leads_to[np.concatenate(pairs)]], np.concatenate(saddles)),
    )


def _graph(
    roots: Int64Array,
    tops: Float32Array,
    known: Sequence[BlockBasins],
    nodes: list[Int64Array],
    edges: tuple[Int64Array, Float32Array],
) -> BasinGraph:
    voxels = np.zeros(len(roots), dtype=np.int64)
    first = np.full(len(roots), np.iinfo(np.int64).max)
    for part, node in zip(known, nodes, strict=True):
        np.add.at(voxels, node, part.voxels)
        np.minimum.at(first, node, part.first)
    basin_of = tuple(np.concatenate([[0], node + 1]) for node in nodes)
    return BasinGraph(roots, tops, voxels, first, *edges, basin_of)


def _plane(
    known: Sequence[BlockBasins], numbers: list[Int64Array], grid: BlockGrid, face: tuple[int, int, int]
) -> tuple[Int64Array, Float32Array]:
    """One side of a cut through the volume: numbers (plus one, 0 for background) and heights of its voxels.

    Args:
        known: of every block.
        numbers: of every block, what its local basins are called.
        grid: how the volume was cut.
        face: (axis, blocks that are this number along it, 0 for their low or 1 for their high side).
    """
    axis, number, side = face
    size = np.delete(np.array(grid.shape), axis)
    plane = np.zeros(size, dtype=np.int64)
    heights = np.full(size, -np.inf, dtype=np.float32)
    for position in grid.layer(axis, number):
        slices = tuple(part for a, part in enumerate(grid.blocks[position].slices) if a != axis)
        names = np.concatenate([[0], numbers[position] + 1])
        part = known[position]
        plane[slices] = names[part.face_basins[axis, side]]
        heights[slices] = part.face_heights[axis, side]
    return plane, heights


@compiled
def _meet_across(
    low: Int64Array, low_heights: Float32Array, high: Int64Array, high_heights: Float32Array, count: int
) -> tuple[Int64Array, Float32Array]:
    """Pairs of basins that touch across a cut, and their saddles."""
    rows, size = low.shape
    keys, values = np.full(1024, -1, dtype=np.int64), np.empty(1024, dtype=np.float32)
    load = 0
    for j in range(rows):
        for k in range(size):
            here = low[j, k]
            if here == 0:
                continue
            for b in range(max(0, j - 1), min(rows, j + 2)):
                for c in range(max(0, k - 1), min(size, k + 2)):
                    there = high[b, c]
                    if not there or there == here:
                        continue
                    key = min(here, there) * (count + 1) + max(here, there)
                    load += keep_largest(keys, values, key, min(low_heights[j, k], high_heights[b, c]))
                    if 2 * load > len(keys):
                        keys, values = enlarged(keys, values)
    pairs, saddles = np.empty((load, 2), dtype=np.int64), np.empty(load, dtype=np.float32)
    n = 0
    for slot in range(len(keys)):
        if keys[slot] >= 0:
            pairs[n, 0], pairs[n, 1] = keys[slot] // (count + 1), keys[slot] % (count + 1)
            saddles[n] = values[slot]
            n += 1
    return pairs, saddles


def _lead_to_roots(leads_to: Int64Array) -> None:
    """Let every end lead to the maximum at the end of its chain, in place.

    Every step goes to a voxel of higher order, so chains have no circles; their length halves per turn.
    """
    while True:
        further = leads_to[leads_to]
        if np.array_equal(further, leads_to):
            return
        leads_to[:] = further


def _distinct(pairs: Int64Array, saddles: Float32Array) -> tuple[Int64Array, Float32Array]:
    """Every pair of different basins once, ascending, with its largest saddle."""
    pairs = np.sort(pairs, axis=1)
    different = pairs[:, 0] != pairs[:, 1]
    pairs, saddles = pairs[different], saddles[different]
    order = np.lexsort((-saddles, pairs[:, 1], pairs[:, 0]))
    pairs, saddles = pairs[order], saddles[order]
    new = np.ones(len(pairs), dtype=np.bool_)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[new], saddles[new]


# ---------------------------------------------------------------------- merging


def merge_by_persistence(graph: BasinGraph, h: float) -> Int64Array:
    """Which object every basin belongs to: basins of low persistence join the one across their saddle.

    Saddles are taken from the highest down (equal ones by basin numbers). At each, the side with the
    lower maximum is the younger (equal ones: the larger global index); it joins if it rises less than
    `h` above the saddle, or not at all (Edelsbrunner, Letscher & Zomorodian 2002: the elder rule).

    Args:
        graph: basins and saddles.
        h: least rise above the saddle that makes an object of its own, in the height's unit.

    Returns:
        `(n,)` int64: the number of each object's highest basin.
    """
    order = np.lexsort((graph.pairs[:, 1], graph.pairs[:, 0], -graph.saddles))
    parent = np.arange(len(graph.roots))
    _merge(graph.pairs[order], graph.saddles[order], graph.tops, float(h), parent)
    return parent


def components(graph: BasinGraph) -> Int64Array:
    """Which connected component every basin belongs to: `(n,)` int64, its first basin's number."""
    parent = np.arange(len(graph.roots))
    _merge(graph.pairs, graph.saddles, np.zeros_like(graph.tops), np.inf, parent)
    return parent


@compiled
def find_parent(parent: Int64Array, node: int) -> int:
    """Representative of a node's set; paths are halved on the way."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _merge(
    pairs: Int64Array, saddles: Float32Array, tops: Float32Array, h: float, parent: Int64Array
) -> None:
    """Union by the elder rule, in the order of the pairs; at the end every basin names its object."""
    for n in range(len(pairs)):
        elder, younger = find_parent(parent, pairs[n, 0]), find_parent(parent, pairs[n, 1])
        if elder == younger:
            continue
        if tops[younger] > tops[elder] or (tops[younger] == tops[elder] and younger < elder):
            elder, younger = younger, elder
        rise = np.float64(tops[younger]) - np.float64(saddles[n])
        if rise < h or rise == 0:
            parent[younger] = elder
    for node in range(len(parent)):
        parent[node] = find_parent(parent, node)


# ---------------------------------------------------------------------- numbers


@dataclass(frozen=True)
class Objects:
    """The objects that came out.

    Attributes:
        id_of_basin: `(n + 1,)` int64 object id of every basin, plus one; 0 where dropped, and for 0.
        voxels: `(k,)` int64 size of object 1, 2, …
        first: `(k,)` int64 smallest global index of each.
        tops: `(k,)` float32 greatest height of each.
    """

    id_of_basin: Int64Array
    voxels: Int64Array
    first: Int64Array
    tops: Float32Array


def number_objects(
    graph: BasinGraph,
    object_of: npt.NDArray[np.int64],
    min_voxels: float,
    *,
    by_volume: bool,
    least_top: float = -math.inf,
) -> Objects:
    """Give ids 1, 2, … without gaps.

    Args:
        graph: basins.
        object_of: `(n,)` representative basin of every basin's object.
        min_voxels: smaller objects are dropped.
        by_volume: the largest first, equal ones by smallest global index; otherwise all by that.
        least_top: objects whose highest voxel is lower are dropped.
    """
    representatives, place = np.unique(object_of, return_inverse=True)
    voxels = np.zeros(len(representatives), dtype=np.int64)
    first = np.full(len(representatives), np.iinfo(np.int64).max)
    np.add.at(voxels, place, graph.voxels)
    np.minimum.at(first, place, graph.first)
    tops = np.full(len(representatives), -np.inf, dtype=np.float32)
    np.maximum.at(tops, place, graph.tops)
    order = np.lexsort((first, -voxels)) if by_volume else np.argsort(first)
    order = order[(voxels[order] >= min_voxels) & (tops[order] >= least_top)]
    ids = np.zeros(len(representatives), dtype=np.int64)
    ids[order] = np.arange(1, len(order) + 1)
    return Objects(np.concatenate([[0], ids[place]]), voxels[order], first[order], tops[order])


def take_labels(basins: Int32Array, id_of_local: Int64Array, out: npt.NDArray[np.unsignedinteger]) -> None:
    """Write object ids for local basins; `out` may be `basins` seen as unsigned.

    Args:
        basins: local basins of a block.
        id_of_local: object id of every local basin, 0 included.
        out: array of the block's shape, wide enough for the ids.
    """
    _take(basins.reshape(-1), id_of_local, out.reshape(-1))


@compiled
def _take(basins: Int32Array, id_of_local: Int64Array, out: npt.NDArray[np.unsignedinteger]) -> None:
    for n in range(len(basins)):
        out[n] = id_of_local[basins[n]]
