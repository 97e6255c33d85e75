"""Scores brought home by linear interpolation, a few planes at a time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.inference.home import (
    AxisMaps,
    Contest,
    Decision,
    LabelArray,
    LabelsHome,
    LargestHome,
    WayHome,
    chunks,
    home_maps,
)
from medseg.models.card import Card
from medseg.resample import AxisMap

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_VOXELS = 16
"""Side of the blocks, in voxels of the card's grid, in which classes are dropped."""

_BOUND_SLACK = 1e-5
"""Rounding must not drop a class that could win; relative to the scores."""


def way_home(
    grid: Geometry,
    target: Geometry,
    card: Card,
    decision: Decision,
    axis: int = 2,
    contest: Contest | None = None,
) -> WayHome:
    """The way that a card asks for.

    Args:
        grid: the card's grid.
        target: the source's grid, reoriented to the card's axes.
        card: gives the order.
        decision: what makes labels of answers.
        axis: of work.
        contest: in which this part of a model takes part (`medseg.inference.turns`).

    Raises:
        GeometryError: `GRID_MISMATCH`, axes are not parallel.
    """
    maps = home_maps(grid, target, card)
    if card.keep_largest:
        return LargestHome(maps, decision, card.keep_largest, axis)
    if card.home == "labels-nearest" or grid.is_close(target, 1e-4):
        return LabelsHome(maps, decision, axis, contest)
    decision = decision.before_activation if card.home == "logits-linear" else decision
    return ScoresHome(maps, decision, axis, contest)


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


class _Carry:
    """Hands out the target planes that lie between the planes known so far; keeps the last one.

    Args:
        maps: from the card's grid to the target, per axis.
        axis: of work.
    """

    def __init__(self, maps: AxisMaps, axis: int) -> None:
        self.axis = axis
        self._along = maps[axis]
        self._last_plane: Tensor | None = None
        self._next = 0

    def ready(self, values: Tensor, start: int) -> tuple[Tensor, slice, _Stretch] | None:
        """Take planes.

        Args:
            values: `(channels, i, j, k)`, planes along the axis of work.
            start: the first of them.

        Returns:
            Planes with the one carried before them, which of them matter, and the target planes that
            they decide; None where there are none yet.
        """
        import torch

        dim = self.axis + 1
        stop = start + values.shape[dim]
        if self._last_plane is not None:
            values = torch.cat((self._last_plane, values), dim=dim)
            start -= 1
        self._last_plane = values.narrow(dim, values.shape[dim] - 1, 1).clone()
        first, self._next = self._next, int(np.searchsorted(self._along.upper, stop, side="left"))
        if self._next <= first:
            self._next = first
            return None
        stretch = _stretch(self._along, first, self._next, values.device)
        return values, slice(stretch.grid.start - start, stretch.grid.stop - start), stretch


class ScoresHome:
    """Interpolate scores linearly, then decide.

    One class at a time with a running maximum, in blocks; a class is left out of a block where its
    highest score lies below the lowest of another, since linear interpolation stays between its
    corners. A block where no wanted class can win is not interpolated at all. Features become scores
    block by block. One plane is carried from call to call.

    Args:
        maps: from the card's grid to the target, per axis.
        decision: what makes labels of answers.
        axis: of work.
        contest: in which this part of a model takes part; None where it is the whole model.
    """

    def __init__(
        self, maps: AxisMaps, decision: Decision, axis: int = 2, contest: Contest | None = None
    ) -> None:
        self._maps = maps
        self._decision = decision
        self._carry = _Carry(maps, axis)
        self._contest = contest
        shape = tuple(len(m.lower) for m in maps)
        self._labels = contest.labels if contest is not None else np.zeros(shape, dtype=decision.dtype)
        self._across: tuple[list[_Stretch], list[_Stretch]] | None = None

    def feed(self, values: Tensor, start: int) -> None:
        """Decide the target planes that lie between the planes known now; see `WayHome.feed`."""
        ready = self._carry.ready(values, start)
        if ready is None:
            return
        planes, depth, along = ready
        axis = self._carry.axis
        one, other = (a for a in range(3) if a != axis)
        if self._across is None:
            self._across = self._blocks(one, planes.device), self._blocks(other, planes.device)
        for across in itertools.product(*self._across):
            stretches = list(across)
            stretches.insert(axis, along)
            grid = [s.grid for s in stretches]
            grid[axis] = depth
            block = planes[(slice(None), *grid)]
            place = tuple(s.target for s in stretches)
            labels, scores = self._decided(block, stretches)
            if self._contest is None:
                self._labels[place] = labels
            elif scores is not None:
                self._contest.enter(place, labels, scores)

    def labels(self) -> LabelArray:
        """Labels on the target grid."""
        return self._labels

    def _blocks(self, axis: int, device: Any) -> list[_Stretch]:
        along = self._maps[axis]
        edges = np.searchsorted(along.lower, np.arange(0, along.size + BLOCK_VOXELS, BLOCK_VOXELS))
        pairs = itertools.pairwise(int(edge) for edge in edges)
        return [_stretch(along, a, b, device) for a, b in pairs if b > a]

    def _decided(self, values: Tensor, stretches: list[_Stretch]) -> tuple[Any, Any]:
        """Labels of a block of the target and their scores: arrays, or one label for all voxels and None.

        In a contest that label is background by its own channel, which changes nothing there.
        """
        import torch

        ids, threshold = self._decision.ids, self._decision.threshold
        block = self._decision.activated(values)
        highest = block.amax((1, 2, 3))
        if threshold is None:
            bound = float(block.amin((1, 2, 3)).max())
            bound -= _BOUND_SLACK * abs(bound)
        else:
            bound = threshold
        able = torch.nonzero(highest >= bound).flatten().tolist()
        if threshold is not None:
            able.sort(key=self._decision.order.index)
        possible = {ids[channel] for channel in able} | ({0} if threshold is not None else set())
        is_settled = len(possible) == 1 if self._contest is None else able == [0]
        if is_settled:
            return possible.pop(), None
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
        return winner.cpu().numpy(), None if best is None else best.cpu().numpy()


def _interpolated(values: Tensor, stretches: list[_Stretch]) -> Tensor:
    """Linear interpolation of a block `(i, j, k)` along each axis in turn."""
    for axis in (2, 1, 0):
        along = stretches[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        low = values.index_select(axis, along.lower)
        high = values.index_select(axis, along.upper)
        values = low.lerp_(high, along.weight.reshape(shape))
    return values


class EntropyHome:
    """How unsure the averaged answer is, 0 (sure) to 1, brought home by linear interpolation.

    Shannon's entropy of the classes' probabilities over that of an even guess; where channels are
    decided one by one, the highest of their own binary entropies.

    Args:
        maps: from the card's grid to the target, per axis.
        decision: what makes scores of answers.
        axis: of work.
    """

    def __init__(self, maps: AxisMaps, decision: Decision, axis: int = 2) -> None:
        self._maps = maps
        self._decision = decision
        self._carry = _Carry(maps, axis)
        self.values: npt.NDArray[np.float32] = np.zeros(tuple(len(m.lower) for m in maps), dtype=np.float32)

    def feed(self, values: Tensor, start: int) -> None:
        """Take planes; see `WayHome.feed`."""
        axis = self._carry.axis
        entropy = values.new_empty((1, *values.shape[1:]))
        for part in chunks(values, 3 * len(self._decision.ids), axis):
            scores = self._decision.scores(values[(slice(None), *part)])
            entropy[0][part] = self._entropy(scores)
        ready = self._carry.ready(entropy, start)
        if ready is None:
            return
        planes, depth, along = ready
        stretches = [_stretch(m, 0, len(m.lower), planes.device) for m in self._maps]
        stretches[axis] = along
        grid = [s.grid for s in stretches]
        grid[axis] = depth
        home = _interpolated(planes[0][tuple(grid)], stretches)
        self.values[tuple(s.target for s in stretches)] = home.cpu().numpy()

    def _entropy(self, scores: Tensor) -> Tensor:
        import torch

        if self._decision.threshold is None:
            logs = torch.log_softmax(scores, 0)
            return -(logs.exp() * logs).sum(0).div_(math.log(len(scores)))
        chance = scores.clamp(0, 1) if self._decision.activation == "none" else scores.sigmoid()
        both: Tensor = torch.special.entr(chance) + torch.special.entr(1 - chance)
        return both.amax(0).div_(math.log(2))
