"""From scores on the card's grid to labels on the source's, plane by plane.

Two orders of published recipes: scores interpolated linearly and then decided
(`scores-linear`), or decided and then brought home by the nearest voxel (`labels-nearest`).
Source voxels beyond the outermost centres of the card's grid take the value at its border.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.models.card import Activation, Card
from medseg.resample import AxisMap, axis_maps, coarse_axis

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.inference.hoist import Head

LabelArray = npt.NDArray[Any]
AxisMaps = tuple[AxisMap, AxisMap, AxisMap]

CHUNK_BYTES = 32_000_000
"""Scores that are decided together, so that all of them never exist at once."""


class PlaneTaker(Protocol):
    """Takes finished planes in order and holds what follows from them."""

    def feed(self, values: Tensor, start: int) -> None:
        """Take averaged answers `(channels, i, j, k)` from plane `start` of the card's grid on.

        Planes lie along the axis of work. The values are left as they are.
        """


class WayHome(PlaneTaker, Protocol):
    """Holds the labels that follow from the planes."""

    def labels(self) -> LabelArray:
        """Labels on the target grid, after the last plane was fed."""


@dataclass(frozen=True, eq=False)
class Decision:
    """How an averaged answer becomes labels.

    Attributes:
        ids: label of each channel; 0 for background and for classes that nobody wants.
        activation: what turns averaged answers into scores.
        threshold: as in `Card`.
        head: what makes class scores of features; None where the answers are scores.
        dtype: of the labels.
        order: with a threshold: channels in the order in which they claim voxels, the last one winning.
    """

    ids: tuple[int, ...]
    activation: Activation
    threshold: float | None
    head: Head | None
    dtype: np.dtype[Any]
    order: tuple[int, ...]

    @classmethod
    def of(cls, card: Card, head: Head | None = None, wanted: frozenset[int] | None = None) -> Decision:
        """The decision of a card.

        Args:
            card: gives channels, activation, threshold.
            head: last layer that was taken off the network.
            wanted: labels to keep; None keeps all.
        """
        ids = tuple(i if wanted is None or i in wanted else 0 for i in card.output_ids)
        return cls(ids, card.activation, card.threshold, head, label_type(card), card.claims)

    @property
    def before_activation(self) -> Decision:
        """The same decision of scores that are not activated: both activations keep the order of scores."""
        threshold = self.threshold
        if threshold is not None and self.activation == "sigmoid":
            threshold = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.inf * threshold
        return replace(self, activation="none", threshold=threshold)

    def scores(self, values: Tensor) -> Tensor:
        """Class scores `(channels, …)` before the activation; a new tensor only with a head."""
        return values if self.head is None else self.head(values)

    def activated(self, values: Tensor) -> Tensor:
        """Class scores after the activation, in a new tensor."""
        scores = values.clone() if self.head is None else self.head(values)
        return activated(scores, self.activation)

    def winners(self, values: Tensor) -> tuple[LabelArray, npt.NDArray[np.float32]]:
        """Labels of averaged answers without a threshold, voxel by voxel, and the scores that won."""
        best = self.scores(values).max(0)  # three times as quick as argmax on a CPU
        return np.array(self.ids, dtype=self.dtype)[best.indices.cpu().numpy()], best.values.cpu().numpy()

    def labels(self, values: Tensor) -> LabelArray:
        """Labels of averaged answers, voxel by voxel."""
        if self.threshold is None:  # softmax and sigmoid keep the order of scores
            return self.winners(values)[0]
        ids = np.array(self.ids, dtype=self.dtype)
        is_claimed = (self.activated(values) > self.threshold).cpu().numpy()
        result = np.zeros(is_claimed.shape[1:], dtype=self.dtype)
        for channel in self.order:
            result[is_claimed[channel]] = ids[channel]
        return result


@dataclass(frozen=True, eq=False)
class Contest:
    """Parts of a model that compete for voxels one after another, where all at once take too much memory.

    Attributes:
        labels: on the target grid; of the best part so far.
        best: its score, float32; starts as that of background, 0.
    """

    labels: LabelArray
    best: npt.NDArray[np.float32]

    @classmethod
    def of(cls, shape: Sequence[int], dtype: np.dtype[Any]) -> Contest:
        """Nobody has won yet."""
        return cls(np.zeros(shape, dtype=dtype), np.zeros(shape, dtype=np.float32))

    def enter(self, place: tuple[slice, ...], labels: LabelArray, scores: npt.NDArray[np.float32]) -> None:
        """Labels of the next part, and their scores; where they are equal, an earlier part's stay."""
        is_better = scores > self.best[place]
        np.copyto(self.labels[place], labels, where=is_better, casting="unsafe")
        np.copyto(self.best[place], scores, where=is_better)


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


def parallel_maps(grid: Geometry, target: Geometry) -> AxisMaps:
    """How to go from one grid to another axis by axis.

    Raises:
        GeometryError: `GRID_MISMATCH`, axes are not parallel.
    """
    maps = axis_maps(grid, target)
    if maps is None:
        raise GeometryError("GRID_MISMATCH", "expected parallel grids, got others; use predict")
    return maps


def home_maps(grid: Geometry, target: Geometry, card: Card) -> AxisMaps:
    """How answers go from the card's grid to the source's, as the card asks for it.

    Raises:
        GeometryError: `GRID_MISMATCH`, axes are not parallel.
    """
    maps = list(parallel_maps(grid, target))
    if card.resampling.anisotropic == "nearest" and card.home != "labels-nearest":
        axis = coarse_axis(card.spacing_mm or grid.spacing_mm, target.spacing_mm)
        if axis is not None:
            maps[axis] = maps[axis].snapped
    return maps[0], maps[1], maps[2]


def chunks(values: Tensor, channels: int, axis: int) -> Iterator[tuple[slice, ...]]:
    """Parts of planes whose scores are few enough.

    Args:
        values: `(features, i, j, k)`.
        channels: scores per voxel.
        axis: of work; the parts are taken along another.

    Yields:
        Slices of `(i, j, k)`.
    """
    along = 0 if axis != 0 else 1
    length = values.shape[along + 1]
    row_bytes = channels * 4 * (values[0].numel() // length)
    step = max(1, CHUNK_BYTES // max(1, row_bytes))
    for first in range(0, length, step):
        part = [slice(None)] * 3
        part[along] = slice(first, min(first + step, length))
        yield tuple(part)


class LabelsHome:
    """Decide on the card's grid, then take the nearest voxel.

    Args:
        maps: from the card's grid to the target, per axis.
        decision: what makes labels of answers.
        axis: of work.
        contest: in which this part of a model takes part; None where it is the whole model.
    """

    def __init__(
        self, maps: AxisMaps, decision: Decision, axis: int = 2, contest: Contest | None = None
    ) -> None:
        self._nearest = [m.nearest for m in maps]
        self._decision = decision
        self._axis = axis
        self._contest = contest
        shape = [len(n) for n in self._nearest]
        self._labels = contest.labels if contest is not None else np.zeros(shape, dtype=decision.dtype)

    def feed(self, values: Tensor, start: int) -> None:
        """Decide planes; see `WayHome.feed`."""
        stop = start + values.shape[self._axis + 1]
        along = self._nearest[self._axis]
        first, last = (int(n) for n in np.searchsorted(along, (start, stop)))
        if first == last:
            return
        source, target = list(self._nearest), [slice(None)] * 3
        source[self._axis] = along[first:last] - start
        target[self._axis] = slice(first, last)
        decided = np.empty(tuple(values.shape[1:]), dtype=self._decision.dtype)
        if self._contest is None:
            for part in chunks(values, len(self._decision.ids), self._axis):
                decided[part] = self._decision.labels(values[(slice(None), *part)])
            self._labels[tuple(target)] = decided[np.ix_(*source)]
            return
        scores = np.empty(decided.shape, dtype=np.float32)
        for part in chunks(values, len(self._decision.ids), self._axis):
            decided[part], scores[part] = self._decision.winners(values[(slice(None), *part)])
        self._contest.enter(tuple(target), decided[np.ix_(*source)], scores[np.ix_(*source)])

    def labels(self) -> LabelArray:
        """Labels on the target grid."""
        return self._labels


class LargestHome:
    """Decide on the card's grid, keep the largest piece of some labels there, take the nearest voxel.

    Args:
        maps: from the card's grid to the target, per axis.
        decision: what makes labels of answers.
        kept: labels of which only the largest piece stays; pieces touch over 26 neighbours.
        axis: of work.
    """

    def __init__(self, maps: AxisMaps, decision: Decision, kept: tuple[int, ...], axis: int = 2) -> None:
        itself = [np.arange(m.size) for m in maps]
        none = [np.zeros(m.size, dtype=np.float32) for m in maps]
        ever = [np.ones(m.size, dtype=bool) for m in maps]
        i, j, k = (AxisMap(a, b, c, m.size) for a, b, c, m in zip(itself, none, ever, maps, strict=True))
        self._on_grid = LabelsHome((i, j, k), decision, axis)
        self._nearest = [m.nearest for m in maps]
        self._kept = kept

    def feed(self, values: Tensor, start: int) -> None:
        """Decide planes; see `WayHome.feed`."""
        self._on_grid.feed(values, start)

    def labels(self) -> LabelArray:
        """Labels on the target grid."""
        import cc3d

        labels = self._on_grid.labels()
        for label in self._kept:
            pieces = cc3d.connected_components(labels == label, connectivity=26)
            sizes = np.bincount(pieces.ravel())
            if len(sizes) > 2:
                labels[(pieces != 0) & (pieces != 1 + sizes[1:].argmax())] = 0
        return np.ascontiguousarray(labels[np.ix_(*self._nearest)])
