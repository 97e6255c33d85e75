"""Labels of a network, made again from a fitted atlas and the image itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medseg.models.atlas import Atlas
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.refine.atlas_fit import FitSettings, decide, fit_atlas
from medseg.refine.lie import lie_of
from medseg.volume import LabelVolume, Volume

PERCENTILES = (0.5, 99.5)
"""Of the image, between which intensities go from 0 to 1."""

MOST_SAMPLED = 1_000_000
"""Voxels that the percentiles are read from."""

FARTHEST_MISS_MM = 8.0
"""Structures that lie further from their typical places, on the average, are no head that the atlas knows."""

SIZES = (0.4, 2.0)
"""Volume of a head in parts of the atlas's, between which it can be one."""

LEAST_AGREEMENT = 0.6
"""Dice of all structures together, before and after; below, the atlas went astray."""


def refine_by_atlas(
    labels: LabelVolume,
    image: Volume,
    atlas: Atlas,
    settings: FitSettings | None = None,
    *,
    threads: int = 0,
    watchers: tuple[ProgressCallback, CancelToken | None] = (silent, None),
) -> tuple[LabelVolume, tuple[str, ...]]:
    """Fit an atlas to an image, starting from labels, and label every voxel anew.

    The labels stay as they are where they do not look like what the atlas knows, or the fit leads astray.

    Args:
        labels: a network's.
        image: on the same grid.
        atlas: of the same labels.
        settings: how it is fitted.
        threads: at most so many; 0 for as many as there are processors.
        watchers: progress and cancelling.

    Returns:
        Labels on the same grid, and what is to be said where the atlas was of no use.

    Raises:
        CancelledError: a stop was asked for.
    """
    lie = lie_of(labels, atlas)
    if lie is None:
        return labels, (_unused("too few structures of a head are whole in the image"),)
    matrix, miss = lie
    size = abs(np.linalg.det(matrix[:3, :3]))
    if miss > FARTHEST_MISS_MM or not SIZES[0] < size < SIZES[1]:
        return labels, (_unused("structures do not lie as in a head that it knows"),)
    start = labels.reorient("RAS")  # so that the order of sums is the same for every way to store a scan
    scaled, spacing = _scaled(image.reorient("RAS").array), start.geometry.spacing_mm
    affine = np.linalg.inv(atlas.affine) @ matrix @ start.geometry.affine
    fit = fit_atlas(scaled, start.array, affine, atlas, settings, threads=threads, watchers=watchers)
    drawn = decide(scaled, fit, atlas, spacing, settings, threads=threads, watchers=watchers)
    turned = replace(start, array=drawn.astype(labels.array.dtype, copy=False))
    found = np.ascontiguousarray(turned.reorient(labels.geometry.axis_codes).array)
    before, after = np.count_nonzero(labels.array), np.count_nonzero(found)
    both = np.count_nonzero((labels.array != 0) & (found != 0))
    if 2 * both < LEAST_AGREEMENT * (before + after):
        return labels, (_unused("what it found is not where the network found a head"),)
    return replace(labels, array=found), ()


def _unused(why: str) -> str:
    return f"the model's atlas was not used: {why}; borders are the network's alone"


def _scaled(image: npt.NDArray[np.number]) -> npt.NDArray[np.float32]:
    """Intensities 0 to 1; what is no number counts as the lowest."""
    sample = image.flat[:: max(1, image.size // MOST_SAMPLED)].astype(np.float64)
    low, high = np.percentile(sample[np.isfinite(sample)], PERCENTILES)
    scaled = image.astype(np.float32, order="C")  # a copy, and the only one; one order is compiled for
    scaled -= np.float32(low)
    scaled /= np.float32(max(high - low, 1e-12))
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
    result: npt.NDArray[np.float32] = np.clip(scaled, 0, 1, out=scaled)
    return result
