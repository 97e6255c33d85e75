"""Sums of overlapping windows, kept only for the planes that some window may still change.

A slab is as high as one window. Planes live in a ring along the axis of work: plane p at place p
modulo height, so nothing is moved when the slab goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Span = tuple[slice, ...]


class Slab:
    """Weighted sums of answers, and of the weights, over one slab of planes.

    Args:
        channels: numbers per voxel.
        padded_shape: voxels `(i, j, k)` of the padded image.
        weight: `(i, j, k)` float32 importance map of a window; its device is the slab's.
        axis: of work, 0, 1 or 2; a plane is one index along it.
        channels_last: keep the sums of a voxel side by side. To add answers that lie the other way takes
            five times as long.
    """

    def __init__(
        self,
        channels: int,
        padded_shape: tuple[int, int, int],
        weight: Tensor,
        axis: int = 2,
        *,
        channels_last: bool = False,
    ) -> None:
        self.axis = axis
        self._weight = weight
        self._height = int(weight.shape[axis])
        shape = list(padded_shape)
        shape[axis] = self._height
        self._channels_last = channels_last
        self._sums = self._empty(channels, shape, weight).zero_()
        self._weights = weight.new_zeros(shape)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._sums.device

    def move(self, device: Any) -> None:
        """Go on elsewhere with the same sums."""
        self._sums, self._weights = self._sums.to(device), self._weights.to(device)
        self._weight = self._weight.to(device)

    def add(self, answer: Tensor, corner: tuple[int, int, int]) -> None:
        """Add one window, or leave the slab as it was if memory is short.

        Args:
            answer: `(channels, i, j, k)` of the window, of a floating type; left as it is.
            corner: its first voxel on the padded image.
        """
        import torch

        answer = answer.to(self.device, torch.float32)
        at = corner[self.axis]
        for ring, part in self._pieces(at, at + self._height):
            place = tuple(
                ring if axis == self.axis else slice(first, first + self._weight.shape[axis])
                for axis, first in enumerate(corner)
            )
            inside = self._planes(part)
            weight = self._weight[inside]
            self._sums[(slice(None), *place)].addcmul_(answer[(slice(None), *inside)], weight)
            self._weights[place] += weight

    def take(self, start: int, stop: int) -> Tensor:
        """Averages of finished planes; their places are free afterwards.

        Args:
            start: first plane; no window will touch it or the following ones up to `stop`.
            stop: one past the last, at most a window's height after `start`.

        Returns:
            `(channels, i, j, k)` float32 with `stop - start` planes along the axis of work, a new tensor.
        """
        shape = list(self._weights.shape)
        shape[self.axis] = stop - start
        result = self._empty(len(self._sums), shape, self._weights)
        for ring, part in self._pieces(start, stop):
            here, there = self._planes(ring), self._planes(part)
            weights, sums = self._weights[here], self._sums[(slice(None), *here)]
            result[(slice(None), *there)] = sums
            result[(slice(None), *there)] /= weights
            sums.zero_()
            weights.zero_()
        return result

    def _empty(self, channels: int, shape: list[int], like: Tensor) -> Tensor:
        """Memory for `(channels, i, j, k)`, in the order of the sums."""
        if self._channels_last:
            return like.new_empty((*shape, channels)).movedim(-1, 0)
        return like.new_empty((channels, *shape))

    def _planes(self, span: slice) -> Span:
        """Some planes of `(i, j, k)`."""
        return tuple(span if axis == self.axis else slice(None) for axis in range(3))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Where planes `start` to `stop` stand in the ring, and in a stack of their own."""
        at = start
        while at < stop:
            ring = at % self._height
            length = min(stop - at, self._height - ring)
            yield slice(ring, ring + length), slice(at - start, at - start + length)
            at += length
