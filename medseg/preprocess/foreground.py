"""The box around what is not background, as a card's `ForegroundCrop` asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.models.foreground import ForegroundCrop
from medseg.preprocess.region import IndexBox, box_on_grid


def foreground_box(images: Sequence[npt.NDArray[np.generic]], crop: ForegroundCrop) -> IndexBox | None:
    """The box of `monai.transforms.CropForeground` with `allow_smaller`.

    Args:
        images: arrays `(i, j, k)` of one shape.
        crop: what counts, and the margin.

    Returns:
        None where nothing counts, or the box is the whole grid.
    """
    ends = [np.zeros(n, dtype=bool) for n in images[0].shape]
    for image in images:
        for index, plane in enumerate(image):
            bright = plane > crop.above
            ends[0][index] |= bool(bright.any())
            ends[1] |= bright.any(axis=1)
            ends[2] |= bright.any(axis=0)
    if not ends[0].any():
        return None
    found = [np.flatnonzero(along) for along in ends]
    shape = (len(ends[0]), len(ends[1]), len(ends[2]))
    start = [int(at[0]) for at in found]
    stop = [int(at[-1]) + 1 for at in found]
    box = IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    box = box.grown([crop.margin] * 3, shape)
    return None if box.shape == shape else box


def decided_region(
    box: IndexBox, grid: Geometry, target: Geometry, source: Geometry, *, nearest: bool
) -> IndexBox | None:
    """The voxels of the source whose label a crop of the card's grid decides; the rest is background.

    Outside of the crop stand zeros: a score that is interpolated between a voxel and zero has its winner
    still, and a label goes as far as its voxel is the nearest. At the grid's own border nothing ends.

    Args:
        box: the crop, on `grid`.
        grid: the card's grid.
        target: the source's grid, reoriented to the card's axes.
        source: the source's grid.
        nearest: whether labels go home, not scores.

    Returns:
        On `source`; None where there is no such voxel.
    """
    matrix = np.linalg.inv(grid.affine) @ target.affine
    reach = 0.5 if nearest else 1.0
    start, stop = [], []
    for axis in range(3):
        at = np.round(matrix[axis, axis] * np.arange(target.shape[axis]) + matrix[axis, 3], 6)
        inside = np.ones(len(at), dtype=bool)
        if box.start[axis] > 0:
            inside &= at > box.start[axis] - reach
        if box.stop[axis] < grid.shape[axis]:
            inside &= at < box.stop[axis] - 1 + reach
        kept = np.flatnonzero(inside)
        if not len(kept):
            return None
        start.append(int(kept[0]))
        stop.append(int(kept[-1]) + 1)
    chosen = IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return box_on_grid(chosen, target, source)
