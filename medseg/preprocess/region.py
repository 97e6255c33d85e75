"""Boxes of voxels: where to look, and how a box on one grid stands on another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.errors import GeometryError
from medseg.geometry import Geometry

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class IndexBox:
    """Voxels of a grid from `start` to `stop` (not included) along i, j, k.

    Raises:
        GeometryError: `EMPTY_REGION`, no voxel in it.
    """

    start: Triple
    stop: Triple

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.start) < 0:
            raise GeometryError(
                "EMPTY_REGION",
                f"expected a box of voxels, got one from {self.start} to {self.stop}; check its corners",
            )

    @property
    def shape(self) -> Triple:
        """Voxels along each axis."""
        i, j, k = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For arrays `(i, j, k)`."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    def within(self, other: IndexBox) -> IndexBox | None:
        """What both boxes hold; None where they share no voxel."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            return None
        return IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def grown(self, by: Sequence[int], grid_shape: Triple, least: Triple = (1, 1, 1)) -> IndexBox:
        """A larger box.

        Args:
            by: voxels to add on both sides of each axis.
            grid_shape: the box does not leave this grid.
            least: voxels that it has at the end along each axis, where the grid has so many.
        """
        start, stop = [], []
        for a, b, more, size, fewest in zip(self.start, self.stop, by, grid_shape, least, strict=True):
            low, high = max(0, a - more), min(size, b + more)
            length = max(high - low, min(fewest, size))
            high = min(size, max(0, low - (length - (high - low)) // 2) + length)
            start.append(high - length)
            stop.append(high)
        return IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def whole(geometry: Geometry) -> IndexBox:
    """All voxels of a grid."""
    return IndexBox((0, 0, 0), geometry.shape)


def box_on_grid(box: IndexBox, source: Geometry, target: Geometry) -> IndexBox:
    """The voxels of another grid that touch a box.

    Args:
        box: on `source`.
        source: any grid.
        target: any grid; where its axes are not parallel, the box that encloses all is taken.

    Raises:
        GeometryError: `EMPTY_REGION`, the box lies outside of `target`.
    """
    ends = np.stack((np.array(box.start) - 0.5, np.array(box.stop) - 0.5))
    return _enclosing(source.to_world(_corners(ends)), target)


def box_of_world(region_mm: Sequence[float], geometry: Geometry) -> IndexBox:
    """The voxels of a grid that touch a box in the world.

    Args:
        region_mm: x from, x to, y from, y to, z from, z to; RAS mm.
        geometry: any grid; where it is oblique, the box of voxels that encloses all is taken.

    Raises:
        GeometryError: `EMPTY_REGION`, the box lies outside of the grid.
    """
    ends = np.sort(np.array(region_mm, dtype=float).reshape(3, 2), axis=1).T
    return _enclosing(_corners(ends), geometry)


def _corners(ends: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
    """All corners `(8, 3)` of a box of two opposite ones `(2, 3)`."""
    choose = np.stack(np.meshgrid(*[(0, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.take_along_axis(ends, choose, axis=0)


def _enclosing(world_mm: np.typing.NDArray[np.float64], grid: Geometry) -> IndexBox:
    index = np.round(grid.to_index(world_mm), 6)
    low = np.clip(np.floor(index.min(axis=0) + 0.5), 0, grid.shape).astype(int)
    high = np.clip(np.ceil(index.max(axis=0) + 0.5), 0, grid.shape).astype(int)
    return IndexBox((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
