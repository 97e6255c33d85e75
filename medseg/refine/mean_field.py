"""Mean field of a fully connected conditional random field over the voxels of a volume.

Krähenbühl, Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials", NIPS 2011,
as Arnab et al., "Conditional random fields meet deep neural networks for semantic segmentation", IEEE
Signal Processing Magazine 35, 2018 describe it: every voxel hears from all others what they believe,
weighted by a Gaussian of place and brightness and by one of place alone; both are divided by the sum of
their weights, the voxel's own among them. Labels of another class repel each other alike (Potts).

The beliefs are never stored: those of a round follow from the two grids of the round before, voxel by voxel.
So memory is two pairs of coarse grids beside image and labels, not classes x volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.instances.compiled import compiled
from medseg.refine.bilateral_grid import (
    NO_BRIGHTNESS,
    Axis,
    Float32Array,
    blur,
    brightness_axis,
    empty_grid,
    place_axis,
    read,
    splat,
)
from medseg.refine.settings import RefinementSettings

Grids = tuple[Float32Array, Float32Array]
"""Appearance and smoothness."""

Space = tuple[Float32Array, Float32Array, Float32Array]
"""Belief, work space and place of one voxel."""

COPIES = 6
"""Grids that exist at once: old and new ones of each kind, and a spare one while they are blurred."""


@dataclass(frozen=True, eq=False)
class Field:
    """What is to be refined.

    Attributes:
        brightness: `(i, j, k)` float32 in standard deviations of likeness, 0 or more.
        labels: `(i, j, k)` uint16 class numbers from 0 on.
        classes: how many there are.
        spacing_mm: of the voxels.
        settings: how.
    """

    brightness: Float32Array
    labels: npt.NDArray[np.uint16]
    classes: int
    spacing_mm: tuple[float, float, float]
    settings: RefinementSettings

    @property
    def axes(self) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """Of the grids of appearance and of smoothness."""
        sides = tuple(zip(self.labels.shape, self.spacing_mm, strict=True))
        near, nearer = self.settings.appearance_mm, self.settings.smoothness_mm
        return (
            (*(place_axis(*side, near) for side in sides), brightness_axis(float(self.brightness.max()))),
            (*(place_axis(*side, nearer) for side in sides), NO_BRIGHTNESS),
        )

    @property
    def weights(self) -> tuple[float, float]:
        """Pulls of appearance and smoothness."""
        return self.settings.weights(self.classes)

    @property
    def needed_bytes(self) -> int:
        """Memory of the grids."""
        cells = [int(np.prod([axis.cells for axis in axes])) for axes in self.axes]
        return max(cells) * (self.classes + 1) * 4 * COPIES


def rounds(field: Field) -> Iterator[npt.NDArray[np.uint16] | None]:
    """Let the voxels hear of each other, round after round.

    Yields:
        None after every round but the last; then the class of the highest belief of every voxel.
    """
    axes = field.axes
    settings, shape = field.settings, field.labels.shape
    channels = field.classes + 1  # the last one counts voxels
    steps = np.array([[axis.step for axis in grid] for grid in axes], dtype=np.float32)
    weights = np.array(field.weights, dtype=np.float32)
    start = first_beliefs(field.classes, settings.confidence)
    grids: Grids = (empty_grid(axes[0], channels), empty_grid(axes[1], channels))
    for _ in range(settings.iterations):
        heard: Grids = (empty_grid(axes[0], channels), empty_grid(axes[1], channels))
        _sweep((field.brightness, field.labels), steps, start, weights, grids, heard)
        grids = blur(heard[0], axes[0]), blur(heard[1], axes[1])
        yield None
    decided = np.empty(shape, dtype=np.uint16)
    _decide((field.brightness, field.labels), steps, start, weights, grids, decided)
    yield decided


def first_beliefs(classes: int, confidence: float) -> Float32Array:
    """Logarithms of what a voxel of each class (row) believes of every class (column) to begin with."""
    chance = np.full((classes, classes), (1 - confidence) / max(classes - 1, 1))
    np.fill_diagonal(chance, confidence)
    logarithms: Float32Array = np.log(chance).astype(np.float32)
    return logarithms


@compiled
def _locate(at: Float32Array, steps: Float32Array, voxel: tuple[int, int, int], brightness: float) -> None:
    """Where a voxel lies in both grids, `(2, 4)`; written into `at`."""
    for grid in range(2):
        for axis in range(3):
            at[grid, axis] = voxel[axis] * steps[grid, axis]
        at[grid, 3] = brightness * steps[grid, 3]


@compiled
def _listen(
    belief: Float32Array, heard: Float32Array, grid: Float32Array, at: Float32Array, weight: float
) -> None:
    """Add what one grid tells at a place to a belief; `heard` is work space."""
    classes = len(belief) - 1
    heard[:] = 0
    read(grid, at, heard)
    if heard[classes] > 0:
        for n in range(classes):
            belief[n] += weight * heard[n] / heard[classes]


@compiled
def _space(classes: int) -> Space:
    """Belief, work space and place of one voxel."""
    belief, heard = np.empty(classes + 1, np.float32), np.empty(classes + 1, np.float32)
    return belief, heard, np.empty((2, 4), np.float32)


@compiled
def _believe(
    space: Space,
    voxel: tuple[int, int, int],
    brightness: float,
    first: Float32Array,
    steps: Float32Array,
    weights: Float32Array,
    grids: Grids,
) -> None:
    """The logarithms of a voxel's first belief and of what it hears from all others.

    Args:
        space: `_space`; belief and place are written into.
        voxel: its index.
        brightness: of it.
        first: `(classes,)` its first belief.
        steps: of both grids.
        weights: of both grids.
        grids: of the round before.
    """
    belief, heard, at = space
    _locate(at, steps, voxel, brightness)
    belief[: len(first)] = first
    _listen(belief, heard, grids[0], at[0], weights[0])
    _listen(belief, heard, grids[1], at[1], weights[1])


@compiled
def _sweep(
    voxels: tuple[Float32Array, npt.NDArray[np.uint16]],
    steps: Float32Array,
    start: Float32Array,
    weights: Float32Array,
    grids: Grids,
    heard: Grids,
) -> None:
    """One round: beliefs from the grids of the round before, into those of the next one."""
    brightness, labels = voxels
    classes = len(start)
    space = _space(classes)
    belief, _, at = space
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                _believe(space, (i, j, k), brightness[i, j, k], start[labels[i, j, k]], steps, weights, grids)
                highest = belief[:classes].max()
                total = np.float32(0)
                for n in range(classes):
                    belief[n] = np.exp(belief[n] - highest)
                    total += belief[n]
                for n in range(classes):
                    belief[n] /= total
                belief[classes] = 1
                splat(heard[0], at[0], belief)
                splat(heard[1], at[1], belief)


@compiled
def _decide(
    voxels: tuple[Float32Array, npt.NDArray[np.uint16]],
    steps: Float32Array,
    start: Float32Array,
    weights: Float32Array,
    grids: Grids,
    decided: npt.NDArray[np.uint16],
) -> None:
    """The class of the highest belief; of equals the voxel's first one, then the smallest."""
    brightness, labels = voxels
    classes = len(start)
    space = _space(classes)
    belief = space[0]
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                _believe(space, (i, j, k), brightness[i, j, k], start[labels[i, j, k]], steps, weights, grids)
                best = int(labels[i, j, k])
                for n in range(classes):
                    if belief[n] > belief[best]:
                        best = n
                decided[i, j, k] = best
