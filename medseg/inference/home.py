"""From scores on the card's grid to labels on the source's, plane by plane.

Two orders of published recipes: scores interpolated linearly and then decided
(`scores-linear`), or decided and then brought home by the nearest voxel (`labels-nearest`).
Source voxels beyond the outermost centres of the card's grid take the value at its border.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.models.card import Activation, Card
from medseg.resample import AxisMap, axis_maps

if TYPE_CHECKING:
    from torch import Tensor

LabelArray = npt.NDArray[Any]

BLOCK_VOXELS = 16
"""Side of the blocks, in voxels of the card's grid, in which classes are dropped."""

_BOUND_SLACK = 1e-5
"""Rounding must not drop a class that could win; relative to the scores."""


class WayHome(Protocol):
    """Takes finished planes in order and holds the labels that follow from them."""

    def feed(self, scores: Tensor, start: int) -> None:
        """Take averaged scores `(channels, i, j, planes)` from plane `start` of the card's grid on."""

    def labels(self) -> LabelArray:
        """Labels on the target grid, after the last plane was fed."""


def activated(scores: Tensor, activation: Activation) -> Tensor:
    """Scores `(channels, …)` after the card's activation; written into the same memory."""
    if activation == "softmax":
        scores -= scores.amax(0, keepdim=True)
        scores.exp_()
        scores /= scores.sum(0, keepdim=True)
    elif activation == "sigmoid":
        scores.sigmoid_()
    return scores


def label_type(card: Card) -> np.dtype[Any]:
    """The smallest integer type that holds every label of a card."""
    most = max(card.output_ids)
    return np.dtype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else np.int32)


def way_home(grid: Geometry, target: Geometry, card: Card) -> WayHome:
    """The way that a card asks for.

    Args:
        grid: the card's grid.
        target: the source's grid, reoriented to the card's axes.
        card: gives channels, activation, decision, order.

    Raises:
        GeometryError: `GRID_MISMATCH`, axes are not parallel.
    """
    maps = axis_maps(grid, target)
    if maps is None:
        raise GeometryError("GRID_MISMATCH", "expected parallel grids, got others; use predict")
    if card.home == "scores-linear" and not grid.is_close(target, 1e-4):
        return ScoresHome(maps, card)
    return LabelsHome(grid.shape, maps, card)


class LabelsHome:
    """Decide on the card's grid, then take the nearest voxel.

    Args:
        grid_shape: voxels of the card's grid.
        maps: from the card's grid to the target, per axis.
        card: gives channels, activation and decision.
    """

    def __init__(self, grid_shape: tuple[int, int, int], maps: tuple[AxisMap, ...], card: Card) -> None:
        self._maps = maps
        self._card = card
        self._decided = np.zeros(grid_shape, dtype=label_type(card))
        self._ids = np.array(card.output_ids, dtype=self._decided.dtype)

    def feed(self, scores: Tensor, start: int) -> None:
        """Decide planes; see `WayHome.feed`."""
        stop = start + scores.shape[3]
        if self._card.threshold is None:  # softmax and sigmoid keep the order of scores
            decided = self._ids[scores.argmax(0).cpu().numpy()]
        else:
            is_claimed = activated(scores, self._card.activation) > self._card.threshold
            decided = np.zeros(tuple(scores.shape[1:]), dtype=self._ids.dtype)
            for channel, claimed in zip(self._ids, is_claimed.cpu().numpy(), strict=True):
                decided[claimed] = channel
        self._decided[:, :, start:stop] = decided

    def labels(self) -> LabelArray:
        """Labels on the target grid."""
        return self._decided[np.ix_(*(m.nearest for m in self._maps))]


@dataclass(frozen=True)
class _Stretch:
    """Target voxels along one axis whose neighbours lie within a few voxels of the card's grid."""

    grid: slice
    target: slice
    lower: Tensor
    upper: Tensor
    weight: Tensor


def _stretch(along: AxisMap, first: int, last: int, device: Any) -> _Stretch:
    """Target voxels `first` to `last` (not included) of an axis, and what they need."""
    import torch

    lower, upper = along.lower[first:last], along.upper[first:last]
    start, stop = int(lower[0]), int(upper[-1]) + 1
    return _Stretch(
        slice(start, stop),
        slice(first, last),
        torch.from_numpy(lower - start).to(device),
        torch.from_numpy(upper - start).to(device),
        torch.from_numpy(along.weight[first:last]).to(device),
    )


class ScoresHome:
    """Interpolate scores linearly, then decide.

    One class at a time with a running maximum, in blocks; a class is left out of a block where its
    highest score lies below the lowest of another, since linear interpolation stays between its
    corners. One plane is carried from call to call.

    Args:
        maps: from the card's grid to the target, per axis.
        card: gives channels, activation and decision.
    """

    def __init__(self, maps: tuple[AxisMap, AxisMap, AxisMap], card: Card) -> None:
        self._maps = maps
        self._card = card
        shape = tuple(len(m.lower) for m in maps)
        self._labels = np.zeros(shape, dtype=label_type(card))
        self._carry: Tensor | None = None
        self._next = 0
        self._stretches: tuple[list[_Stretch], list[_Stretch]] | None = None

    def feed(self, scores: Tensor, start: int) -> None:
        """Decide the target planes that lie between the planes known now; see `WayHome.feed`."""
        import torch

        stop = start + scores.shape[3]
        planes = activated(scores, self._card.activation)
        if self._carry is not None:
            planes = torch.cat((self._carry, planes), dim=3)
            start -= 1
        along = self._maps[2]
        last = int(np.searchsorted(along.upper, stop, side="left"))
        if last > self._next:
            self._decide(planes, start, last)
        self._carry = planes[..., -1:].clone()

    def labels(self) -> LabelArray:
        """Labels on the target grid."""
        return self._labels

    def _decide(self, planes: Tensor, start: int, last: int) -> None:
        """Decide target planes `self._next` to `last` from grid planes `start` on."""
        if self._stretches is None:
            self._stretches = self._blocks(0, planes.device), self._blocks(1, planes.device)
        along_k = _stretch(self._maps[2], self._next, last, planes.device)
        depth = slice(along_k.grid.start - start, along_k.grid.stop - start)
        for along_i in self._stretches[0]:
            for along_j in self._stretches[1]:
                block = planes[:, along_i.grid, along_j.grid, depth]
                labels = self._decide_block(block, (along_i, along_j, along_k))
                self._labels[along_i.target, along_j.target, along_k.target] = labels
        self._next = last

    def _blocks(self, axis: int, device: Any) -> list[_Stretch]:
        along = self._maps[axis]
        edges = np.searchsorted(along.lower, np.arange(0, along.size + BLOCK_VOXELS, BLOCK_VOXELS))
        pairs = itertools.pairwise(int(edge) for edge in edges)
        return [_stretch(along, a, b, device) for a, b in pairs if b > a]

    def _decide_block(self, block: Tensor, stretches: tuple[_Stretch, ...]) -> Any:
        import torch

        ids, threshold = self._card.output_ids, self._card.threshold
        highest = block.amax((1, 2, 3))
        if threshold is None:
            bound = float(block.amin((1, 2, 3)).max())
            bound -= _BOUND_SLACK * abs(bound)
        else:
            bound = threshold
        able = torch.nonzero(highest >= bound).flatten().tolist()
        if threshold is None and len(able) == 1:
            return ids[able[0]]
        shape = tuple(len(s.lower) for s in stretches)
        winner = torch.zeros(shape, dtype=torch.int32, device=block.device)
        best: Tensor | None = None
        for channel in able:
            score = _interpolated(block[channel], stretches)
            if threshold is not None:
                winner.masked_fill_(score > threshold, ids[channel])
            elif best is None:
                best = score
                winner.fill_(ids[channel])
            else:
                winner.masked_fill_(score > best, ids[channel])
                torch.maximum(best, score, out=best)
        return winner.cpu().numpy()


def _interpolated(values: Tensor, stretches: tuple[_Stretch, ...]) -> Tensor:
    """Linear interpolation of a block `(i, j, k)` along each axis in turn."""
    for axis in (2, 1, 0):
        along = stretches[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        low = values.index_select(axis, along.lower)
        high = values.index_select(axis, along.upper)
        values = low.lerp_(high, along.weight.reshape(shape))
    return values
