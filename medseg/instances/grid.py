"""A volume cut into blocks: integers only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from medseg.errors import SettingsError

Triple = tuple[int, int, int]

MAX_BLOCK_VOXELS = 2**30
"""Voxels of a block are counted in 32 bits, with room for its halo."""


def triple(values: Sequence[int]) -> Triple:
    """Three plain integers."""
    i, j, k = (int(v) for v in values)
    return i, j, k


@dataclass(frozen=True)
class Block:
    """A part of a volume: from `start` up to, not including, `stop`."""

    start: Triple
    stop: Triple

    @property
    def shape(self) -> Triple:
        """Voxels along each axis."""
        return triple([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the whole volume."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    def grown(self, margin: Sequence[int], shape: Sequence[int]) -> Block:
        """The block with a margin on all sides, cut off at the volume's borders."""
        return Block(
            triple([max(0, a - m) for a, m in zip(self.start, margin, strict=True)]),
            triple([min(n, b + m) for b, m, n in zip(self.stop, margin, shape, strict=True)]),
        )

    def within(self, outer: Block) -> tuple[slice, slice, slice]:
        """For indexing an array that holds `outer`."""
        i, j, k = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return i, j, k


@dataclass(frozen=True)
class BlockGrid:
    """A volume and the block that it is cut into; the last block of an axis may be smaller.

    Raises:
        SettingsError: a block without voxels, or with more than 2^30.
    """

    shape: Triple
    block: Triple

    def __post_init__(self) -> None:
        block = triple([min(b, n) for b, n in zip(self.block, self.shape, strict=True)])
        if min(block) < 1 or math.prod(block) > MAX_BLOCK_VOXELS:
            raise SettingsError(
                "BAD_BLOCK", f"expected blocks of 1 to 2^30 voxels, got {self.block}; choose another size"
            )
        object.__setattr__(self, "block", block)

    @cached_property
    def counts(self) -> Triple:
        """Blocks along each axis."""
        return triple([-(-n // b) for n, b in zip(self.shape, self.block, strict=True)])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, the last axis fastest."""
        return tuple(self.at(triple(at)) for at in itertools.product(*map(range, self.counts)))

    def at(self, place: Triple) -> Block:
        """The block that is number `place` along each axis."""
        start = triple([p * b for p, b in zip(place, self.block, strict=True)])
        stop = triple([min(n, a + b) for a, b, n in zip(start, self.block, self.shape, strict=True)])
        return Block(start, stop)

    def number(self, place: Sequence[int]) -> int:
        """Position in `blocks` of the block that is number `place` along each axis."""
        return (place[0] * self.counts[1] + place[1]) * self.counts[2] + place[2]

    def layer(self, axis: int, number: int) -> list[int]:
        """Positions in `blocks` of all blocks that are number `number` along one axis."""
        ranges = [range(n) for n in self.counts]
        ranges[axis] = range(number, number + 1)
        return [self.number(place) for place in itertools.product(*ranges)]

    def meeting(self, region: Block) -> list[int]:
        """Positions in `blocks` of all blocks that share a voxel with a region."""
        ranges = [
            range(a // b, -(-z // b)) for a, z, b in zip(region.start, region.stop, self.block, strict=True)
        ]
        return [self.number(place) for place in itertools.product(*ranges)]


def default_grid(shape: Sequence[int], max_voxels: int = 2**25) -> BlockGrid:
    """The volume whole, or its longest axes halved until a block has at most `max_voxels`."""
    block = list(shape)
    while math.prod(block) > max_voxels:
        axis = max(range(3), key=lambda a: block[a])
        block[axis] = -(-block[axis] // 2)
    return BlockGrid(triple(shape), triple(block))
