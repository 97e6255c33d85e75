"""Strokes that become regions: every voxel of a box goes to one of the scribbled labels.

Two ways. `edges` is the seeded watershed on edge strength (Meyer 1991): regions flood from the strokes
and meet on the ridges. `intensities` is Fisher's linear discriminant (1936): the strokes of each
label give the mean of a few filters, all together their spread; a voxel takes the label under which it is
most likely, and what is not joined to a stroke of its label goes to its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.segmentation import watershed

from medseg.annotate.intensities import FloatImage, as_finite, edge_strength, smoothed
from medseg.annotate.proposal import Proposal
from medseg.annotate.settings import ScribbleSettings
from medseg.errors import VolumeError
from medseg.instances.grid import triple

LARGEST_BOX = 2**25
"""More voxels than this would take longer than anybody waits for a preview."""

_BACKGROUND = 1
"""Background among the renumbered strokes; labels follow."""

_STEADYING = 0.01
"""Part of the box's own variance that is added to that of the strokes: few strokes say little of spread."""


def grow_scribbles(
    image: npt.NDArray[Any],
    scribbles: npt.NDArray[Any],
    background: int,
    spacing_mm: Sequence[float],
    settings: ScribbleSettings | None = None,
    start: Sequence[int] | None = None,
) -> Proposal:
    """Divide a box among the labels that were scribbled in it.

    Args:
        image: intensities of the box.
        scribbles: strokes in the box: labels, `background`, or 0 where nothing was drawn.
        background: what stands for background among the strokes.
        spacing_mm: size of a voxel along each axis.
        settings: the way.
        start: first voxel of the box in the whole image; zeros if not given.

    Returns:
        A label for every voxel, `Proposal.ERASE` for background, which removes the scribbled labels alone.

    Raises:
        VolumeError: `GRID_MISMATCH`, image and strokes differ in shape; `NO_SCRIBBLES`, fewer than two
            kinds of stroke; `BOX_TOO_LARGE`.
    """
    settings = settings or ScribbleSettings()
    if image.shape != scribbles.shape:
        raise VolumeError("GRID_MISMATCH", "expected strokes on the image's grid, got others; draw anew")
    if image.size > LARGEST_BOX:
        raise VolumeError(
            "BOX_TOO_LARGE",
            f"expected at most {LARGEST_BOX} voxels at once, got {image.size}; zoom in",
        )
    kinds = [int(n) for n in np.unique(scribbles) if n != 0]
    labels = [n for n in kinds if n != background]
    if not labels or len(kinds) < 2:
        raise VolumeError(
            "NO_SCRIBBLES",
            "expected strokes of a class and strokes of background or another class in the visible box, got "
            f"{len(kinds)} kind(s); draw both",
        )
    seeds = np.zeros(scribbles.shape, np.int32)
    for number, label_id in enumerate(labels, start=_BACKGROUND + 1):
        seeds[scribbles == label_id] = number
    seeds[scribbles == background] = _BACKGROUND
    finite = as_finite(image)
    if settings.method == "edges":
        found = watershed(edge_strength(finite, spacing_mm, settings.smoothing), seeds)
    else:
        found = _most_alike(filters_of(finite, spacing_mm, settings.smoothing), seeds)
    back = np.array([0, Proposal.ERASE, *labels], dtype=np.int32)
    return Proposal(triple(start or (0, 0, 0)), back[found], frozenset(labels))


def filters_of(image: FloatImage, spacing_mm: Sequence[float], smoothing: float) -> FloatImage:
    """`(2, …)` what a classifier sees of each voxel: its intensity, and that around it."""
    return np.stack([image, smoothed(image, spacing_mm, smoothing)])


def _most_alike(filters: FloatImage, seeds: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The most likely stroke for each voxel; pieces without a stroke of their own are flooded."""
    values = filters.reshape(len(filters), -1).astype(np.float64)
    spread = values.std(axis=1, keepdims=True)
    values = (values - values.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    numbers = [n for n in range(1, int(seeds.max()) + 1) if (seeds == n).any()]
    strokes = {n: values[:, seeds.ravel() == n] for n in numbers}
    means = {n: own.mean(axis=1, keepdims=True) for n, own in strokes.items()}
    away = np.concatenate([own - means[n] for n, own in strokes.items()], axis=1)
    covariance = away @ away.T / away.shape[1] + _STEADYING * np.eye(len(values))
    weights = np.linalg.inv(covariance)
    likely = np.stack([mean.T @ weights @ (values - mean / 2) for mean in means.values()])[:, 0]
    found = np.array(numbers, np.int32)[likely.argmax(axis=0)]
    classes = np.where(seeds > 0, seeds, found.reshape(seeds.shape))
    sure = np.zeros(seeds.shape, np.int32)
    for number in numbers:
        pieces, _ = ndimage.label(classes == number)
        touched = np.unique(pieces[seeds == number])
        sure[np.isin(pieces, touched[touched > 0])] = number
    flooded: npt.NDArray[np.int32] = watershed(np.zeros(seeds.shape, np.uint8), sure)
    return flooded
