"""From a height map to objects, block by block; the answer does not depend on the blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medseg.instances.basins import BlockBasins, Int32Array, Int64Array, find_basins
from medseg.instances.fields import Float32Array
from medseg.instances.gaps import find_gaps, join_across_gaps
from medseg.instances.graph import (
    BasinGraph,
    Objects,
    build_graph,
    components,
    merge_by_persistence,
    number_objects,
    take_labels,
)
from medseg.instances.grid import Block, BlockGrid, Triple
from medseg.instances.heights import HeightMap
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

Offsets = tuple[Int64Array, Float32Array]
LabelArray = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class MergeRule:
    """Which basins make one object.

    Attributes:
        h: least rise above a saddle that makes an object of its own, in the height's unit.
        min_voxels: smaller objects are dropped.
        by_volume: object 1 is the largest; otherwise the first in the array.
        joining: offsets that join components; None for none.
        least_top: objects whose highest voxel is lower are dropped.
    """

    h: float = 0.0
    min_voxels: float = 1.0
    by_volume: bool = False
    joining: Offsets | None = None
    least_top: float = -math.inf


class Workbench(Protocol):
    """Where blocks wait between the two passes over a volume."""

    def known(self) -> Sequence[BlockBasins]:
        """What remains known of all blocks, in the order of the grid."""

    def has(self, number: int) -> bool:
        """Whether a block is done already."""

    def keep(self, number: int, known: BlockBasins, basins: Int32Array) -> None:
        """Store a block."""

    def basins(self, number: int) -> Int32Array:
        """Local basins of a block."""


class MemoryBench:
    """A workbench in memory."""

    def __init__(self, count: int) -> None:
        self._known: list[BlockBasins | None] = [None] * count
        self._basins: list[Int32Array | None] = [None] * count

    def known(self) -> list[BlockBasins]:
        """What remains known of all blocks."""
        return [part for part in self._known if part is not None]

    def has(self, number: int) -> bool:
        """Whether a block is done already."""
        return self._known[number] is not None

    def keep(self, number: int, known: BlockBasins, basins: Int32Array) -> None:
        """Store a block."""
        self._known[number], self._basins[number] = known, basins

    def basins(self, number: int) -> Int32Array:
        """Local basins of a block."""
        kept = self._basins[number]
        return np.empty((0, 0, 0), dtype=np.int32) if kept is None else kept

    def release(self, number: int) -> None:
        """Forget a block's voxels."""
        self._basins[number] = None


@dataclass(frozen=True)
class Watch:
    """Who is told, and who may stop the work.

    Attributes:
        progress: told after every block.
        cancel: looked at before every block.
    """

    progress: ProgressCallback = silent
    cancel: CancelToken | None = None

    def step(self, stage: str, done: int, total: int) -> None:
        """Report, then stop if that is wanted.

        Raises:
            CancelledError: a stop was asked for.
        """
        self.progress(Progress(stage, done, total))
        if self.cancel is not None:
            self.cancel.check()


def gather_basins(source: HeightMap, grid: BlockGrid, bench: Workbench, watch: Watch) -> None:
    """First pass: the basins of every block that the workbench lacks."""
    for number, block in enumerate(grid.blocks):
        watch.step("find basins", number, len(grid.blocks))
        if not bench.has(number):
            region = block.grown((1, 1, 1), grid.shape)
            bench.keep(
                number, *find_basins(source.heights(region), source.spacing_mm, region, block, grid.shape)
            )
    watch.step("find basins", len(grid.blocks), len(grid.blocks))


def merge_basins(
    grid: BlockGrid, bench: Workbench, rule: MergeRule, watch: Watch
) -> tuple[BasinGraph, Objects]:
    """Between the passes: all basins as one graph, and its objects."""
    graph = build_graph(bench.known(), grid)
    object_of = merge_by_persistence(graph, rule.h)
    if rule.joining is not None and len(rule.joining[0]) and len(graph.roots):
        pairs, lengths = _all_gaps(grid, bench, graph, rule.joining, watch)
        object_of = join_across_gaps(graph, object_of, pairs, lengths)
    objects = number_objects(
        graph, object_of, rule.min_voxels, by_volume=rule.by_volume, least_top=rule.least_top
    )
    return graph, objects


def _all_gaps(
    grid: BlockGrid, bench: Workbench, graph: BasinGraph, joining: Offsets, watch: Watch
) -> tuple[Int64Array, Float32Array]:
    """Pairs of basins that gaps link anywhere in the volume, and the gaps' lengths."""
    component_of = np.concatenate([[0], components(graph) + 1])
    margin = np.abs(joining[0]).max(axis=0)
    found = []
    for number, block in enumerate(grid.blocks):
        watch.step("join components", number, len(grid.blocks))
        region = block.grown(margin, grid.shape)
        basins = _assemble(grid, bench, graph, region)
        found.append(find_gaps(basins, component_of, block.within(region), joining))
    pairs, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pairs - 1, lengths


def _assemble(grid: BlockGrid, bench: Workbench, graph: BasinGraph, region: Block) -> Int32Array:
    """`region.shape` int32 basins of the whole graph, plus one, from all blocks that meet a region."""
    out = np.empty(region.shape, dtype=np.int32)
    for number in grid.meeting(region):
        block = grid.blocks[number]
        shared = Block(_triple_of(max, block.start, region.start), _triple_of(min, block.stop, region.stop))
        part = bench.basins(number)[shared.within(block)]
        out[shared.within(region)] = graph.basin_of[number].astype(np.int32)[part]
    return out


def _triple_of(choose: Callable[[int, int], int], one: Triple, other: Triple) -> Triple:
    return choose(one[0], other[0]), choose(one[1], other[1]), choose(one[2], other[2])


def label_type(objects: Objects) -> npt.DTypeLike:
    """Smallest type for the ids: uint32, or uint64 where there are more than 2^32 - 1 objects."""
    return np.uint32 if len(objects.voxels) < 2**32 else np.uint64


def decode(
    source: HeightMap, rule: MergeRule, grid: BlockGrid, watch: Watch | None = None
) -> tuple[LabelArray, Objects]:
    """Objects of a height map that fits into memory.

    Args:
        source: the heights.
        rule: which basins make one object.
        grid: how to cut the volume; it changes memory and speed, not the answer.
        watch: who is told, and who may stop the work.

    Returns:
        `source.shape` uint32 ids from 1 without gaps, 0 for background; and the objects.

    Raises:
        CancelledError: a stop was asked for.
    """
    watch = watch or Watch()
    bench = MemoryBench(len(grid.blocks))
    gather_basins(source, grid, bench, watch)
    graph, objects = merge_basins(grid, bench, rule, watch)
    dtype = label_type(objects)
    if len(grid.blocks) == 1 and dtype == np.uint32:
        basins = bench.basins(0)
        labels: LabelArray = basins.view(np.uint32)
        take_labels(basins, objects.id_of_basin[graph.basin_of[0]], labels)
        return labels, objects
    labels = np.empty(grid.shape, dtype=dtype)
    for number, block in enumerate(grid.blocks):
        part = np.empty(block.shape, dtype=dtype)
        take_labels(bench.basins(number), objects.id_of_basin[graph.basin_of[number]], part)
        labels[block.slices] = part
        bench.release(number)
    return labels, objects
