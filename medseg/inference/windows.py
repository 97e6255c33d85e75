"""Where the sliding window stops: integers only.

An image smaller than a window is padded on both sides. The same positions as
`monai.inferers.sliding_window_inference` (the step is a whole part of the window, the last window is
moved back inside), or those of nnU-Net (as many steps, of about equal length).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from medseg.models.card import Placement

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class WindowGrid:
    """All positions of a window on a grid.

    Attributes:
        image_shape: voxels of the image.
        size: voxels of a window.
        before: voxels of padding before the image along each axis.
        padded_shape: voxels of the image with padding.
        starts: first index of the windows along each axis, ascending, on the padded image.
    """

    image_shape: Triple
    size: Triple
    before: Triple
    padded_shape: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.starts[0]) * len(self.starts[1]) * len(self.starts[2])

    @property
    def after(self) -> Triple:
        """Voxels of padding after the image along each axis."""
        i, j, k = (
            p - b - n for p, b, n in zip(self.padded_shape, self.before, self.image_shape, strict=True)
        )
        return i, j, k

    @property
    def thinnest_axis(self) -> int:
        """The axis along which a slab of one window's height has the fewest voxels; k where equal."""
        return min((2, 1, 0), key=lambda axis: self.size[axis] / self.padded_shape[axis])

    def layers(self, axis: int = 2) -> Iterator[tuple[int, int, tuple[Triple, ...]]]:
        """Windows in the order of work: one layer after another along an axis.

        Args:
            axis: along which the work goes on.

        Yields:
            First index of the layer's windows along the axis, first index that the next layer may still
            change (the end of the padded image after the last layer), and the first voxel of each window.
        """
        ends = (*self.starts[axis][1:], self.padded_shape[axis])
        for start, end in zip(self.starts[axis], ends, strict=True):
            along = [(start,) if a == axis else self.starts[a] for a in range(3)]
            yield start, end, tuple((i, j, k) for i, j, k in itertools.product(*along))


def place_windows(
    image_shape: Triple,
    size: Triple,
    overlap_fraction: float | tuple[float, float, float],
    placement: Placement = "clamped",
) -> WindowGrid:
    """Positions of all windows.

    Args:
        image_shape: voxels of the image.
        size: voxels of a window.
        overlap_fraction: part that neighbours share, 0 <= f < 1; one for all axes or one for each.
        placement: whole steps, the last one shortened, or steps that are about equal.
    """
    place = _even_starts if placement == "even" else _starts
    overlaps = overlap_fraction if isinstance(overlap_fraction, tuple) else (overlap_fraction,) * 3
    padding = [max(0, w - n) for w, n in zip(size, image_shape, strict=True)]
    before = [p // 2 for p in padding]
    padded = [max(w, n) for w, n in zip(size, image_shape, strict=True)]
    starts = [place(n, w, overlap) for n, w, overlap in zip(padded, size, overlaps, strict=True)]
    return WindowGrid(
        image_shape,
        size,
        (before[0], before[1], before[2]),
        (padded[0], padded[1], padded[2]),
        (starts[0], starts[1], starts[2]),
    )


def _starts(length: int, size: int, overlap_fraction: float) -> tuple[int, ...]:
    if length == size:
        return (0,)
    step = max(1, int(size * (1 - overlap_fraction)))
    starts = []
    for start in range(0, length, step):
        starts.append(min(start, length - size))
        if start + size >= length:
            break
    return tuple(starts)


def _even_starts(length: int, size: int, overlap_fraction: float) -> tuple[int, ...]:
    last = length - size
    steps = math.ceil(last / (size * (1 - overlap_fraction)))
    return tuple(round(last / steps * step) for step in range(steps + 1)) if steps else (0,)
