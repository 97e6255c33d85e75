"""Sums of overlapping windows, kept only for the planes that some window may still change.

A slab is as high as one window. Planes live in a ring along k: plane p at place p modulo height,
so nothing is moved when the slab goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Slab:
    """Weighted sums of scores, and of the weights, over one slab of planes.

    Args:
        channels: scores per voxel.
        plane_shape: voxels of the padded image along i and j.
        weight: `(i, j, k)` importance map of a window; its k is the slab's height.
    """

    def __init__(self, channels: int, plane_shape: tuple[int, int], weight: Tensor) -> None:
        self._weight = weight
        self._height = int(weight.shape[2])
        self._sums = weight.new_zeros((channels, *plane_shape, self._height))
        self._weights = weight.new_zeros((*plane_shape, self._height))

    def add(self, scores: Tensor, corner: tuple[int, int, int]) -> None:
        """Add one window.

        Args:
            scores: `(channels, i, j, k)` float32 of the window; left as it is.
            corner: its first voxel on the padded image.
        """
        i, j, k = corner
        rows = slice(i, i + self._weight.shape[0])
        columns = slice(j, j + self._weight.shape[1])
        for ring, window in self._pieces(k, k + self._height):
            weight = self._weight[:, :, window]
            self._sums[:, rows, columns, ring].addcmul_(scores[..., window], weight)
            self._weights[rows, columns, ring] += weight

    def take(self, start: int, stop: int) -> Tensor:
        """Averages of finished planes; their places are free afterwards.

        Args:
            start: first plane; no window will touch it or the following ones up to `stop`.
            stop: one past the last, at most a window's height after `start`.

        Returns:
            `(channels, i, j, stop - start)` float32, a new tensor.
        """
        result = self._sums.new_empty((*self._sums.shape[:3], stop - start))
        for ring, place in self._pieces(start, stop):
            weights = self._weights[..., ring]
            result[..., place] = self._sums[..., ring] / weights
            self._sums[..., ring] = 0
            weights.zero_()
        return result

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Where planes `start` to `stop` stand in the ring, and in a stack of their own."""
        at = start
        while at < stop:
            ring = at % self._height
            length = min(stop - at, self._height - ring)
            yield slice(ring, ring + length), slice(at - start, at - start + length)
            at += length
