"""A Gaussian over place and brightness of millions of voxels, by a coarse grid of both.

Chen, Paris, Durand, "Real-time edge-aware image processing with the bilateral grid", SIGGRAPH 2007:
values are splatted into cells of place and brightness about one standard deviation wide, the cells are
blurred axis by axis, and the answer is read between them. Time grows with the voxels, not with the square
of their number, and memory with the cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.instances.compiled import compiled

Float32Array = npt.NDArray[np.float32]

ALIGNED_BELOW = 1.5
"""A Gaussian narrower than this many voxels gets cells of the voxels' own size, which is exact."""

TENTS = 1 / 3
"""Variance, in cells, that linear splatting and reading add on the average."""

REACH = 3.0
"""Standard deviations after which a Gaussian ends."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Attributes:
        step: cells from one sample to the next (voxels; or 1 for brightness, given in cells).
        cells: how many there are.
        variance: of the blur, in cells.
    """

    step: float
    cells: int
    variance: float

    @property
    def kernel(self) -> Float32Array:
        """Weights of the blur, `(2 r + 1,)`; their sum does not matter."""
        radius = max(1, math.ceil(REACH * math.sqrt(self.variance)))
        offsets = np.arange(-radius, radius + 1, dtype=np.float64)
        return np.exp(-(offsets**2) / (2 * self.variance)).astype(np.float32)


def place_axis(length: int, spacing_mm: float, sigma_mm: float) -> Axis:
    """An axis of place.

    Args:
        length: voxels.
        spacing_mm: from one to the next.
        sigma_mm: of the Gaussian.
    """
    sigma = sigma_mm / spacing_mm
    if sigma < ALIGNED_BELOW:
        return Axis(1.0, length, sigma**2)
    return Axis(1 / sigma, math.ceil((length - 1) / sigma) + 2, 1 - TENTS)


def brightness_axis(highest: float) -> Axis:
    """An axis of brightness that is given in standard deviations, from 0 to `highest`."""
    return Axis(1.0, math.ceil(highest) + 2, 1 - TENTS)


NO_BRIGHTNESS = Axis(0.0, 1, 1e-6)
"""In place of an axis of brightness, for a Gaussian over place alone."""


def empty_grid(axes: Sequence[Axis], channels: int) -> Float32Array:
    """Cells `(i, j, k, brightness, channels)`, all 0."""
    return np.zeros((*(axis.cells for axis in axes), channels), dtype=np.float32)


def blur(grid: Float32Array, axes: Sequence[Axis]) -> Float32Array:
    """The grid after a Gaussian along every axis but the channels'; may write into it."""
    from scipy.ndimage import correlate1d

    other = np.empty_like(grid)
    for number, axis in enumerate(axes):
        if axis.cells > 1:
            correlate1d(grid, axis.kernel, axis=number, output=other, mode="constant")
            grid, other = other, grid
    return grid


CORNERS = np.array(list(itertools.product((0, 1), repeat=4)), dtype=np.int64)
"""Of a cell: which of two neighbours along each axis."""


@compiled
def _weight(at: Float32Array, corner: npt.NDArray[np.int64]) -> np.float32:
    """How much of a point belongs to a corner of its cell; linear along every axis."""
    weight = np.float32(1)
    for axis in range(4):
        part = at[axis] - np.floor(at[axis])
        weight *= part if corner[axis] else np.float32(1) - part
    return weight


@compiled
def _cell(at: Float32Array, corner: npt.NDArray[np.int64]) -> tuple[int, int, int, int]:
    """The cell of that corner."""
    return int(at[0]) + corner[0], int(at[1]) + corner[1], int(at[2]) + corner[2], int(at[3]) + corner[3]


@compiled
def read(grid: Float32Array, at: Float32Array, answer: Float32Array) -> None:
    """Add what the grid holds at a point.

    Args:
        grid: cells.
        at: `(4,)` the point, in cells.
        answer: `(channels,)`; written into.
    """
    for corner in range(len(CORNERS)):
        weight = _weight(at, CORNERS[corner])
        if weight > 0:
            a, b, c, d = _cell(at, CORNERS[corner])
            for channel in range(len(answer)):
                answer[channel] += weight * grid[a, b, c, d, channel]


@compiled
def splat(grid: Float32Array, at: Float32Array, values: Float32Array) -> None:
    """Add values to the cells about a point.

    Args:
        grid: cells; written into.
        at: `(4,)` the point, in cells.
        values: `(channels,)`.
    """
    for corner in range(len(CORNERS)):
        weight = _weight(at, CORNERS[corner])
        if weight > 0:
            a, b, c, d = _cell(at, CORNERS[corner])
            for channel in range(len(values)):
                grid[a, b, c, d, channel] += weight * values[channel]
