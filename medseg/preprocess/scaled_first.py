"""nnU-Net's order of preparation: crop to what is not 0, scale intensities, then resample.

The intensities of the scan itself are scaled, so statistics are those of its own voxels, and the grid
fills the extent of the crop edge to edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.models.card import Card
from medseg.models.intensity_steps import ZScore
from medseg.preprocess.intensity import FloatArray, apply_intensity
from medseg.preprocess.region import IndexBox
from medseg.resample import coarse_axis, resize
from medseg.volume import Volume

Mask = npt.NDArray[np.bool_]


def content_mask(volumes: Sequence[Volume]) -> Mask:
    """Voxels that are a number other than 0 in at least one image.

    Args:
        volumes: the images of a case, on one grid.
    """
    mask = np.zeros(volumes[0].geometry.shape, dtype=bool)
    for volume in volumes:
        for index, plane in enumerate(volume.array):
            mask[index] |= (plane != 0) & ~np.isnan(plane)
    return mask


def content_box(volumes: Sequence[Volume]) -> IndexBox | None:
    """The smallest box around all voxels that are not 0; None where it is the whole grid, or empty.

    Args:
        volumes: the images of a case, on one grid.
    """
    mask = content_mask(volumes)
    ends = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(found):
            return None
        ends.append((int(found[0]), int(found[-1]) + 1))
    (i, end_i), (j, end_j), (k, end_k) = ends
    box = IndexBox((i, j, k), (end_i, end_j, end_k))
    return None if box.shape == mask.shape else box


def without_holes(mask: Mask) -> Mask:
    """A mask with its holes: what is not connected to the border over faces belongs to it."""
    import cc3d

    outside = np.pad(~mask, 1, constant_values=True)
    parts = cc3d.connected_components(outside, connectivity=6)
    filled: Mask = parts[1:-1, 1:-1, 1:-1] != parts[0, 0, 0]
    return filled


def prepare_scaled(volumes: Sequence[Volume], grid: Geometry, card: Card) -> FloatArray:
    """Scale every image, then bring it onto the card's grid.

    Args:
        volumes: in the order of the card's channels, on one grid of right angles, all finite.
        grid: the card's grid, over the same extent.
        card: gives orientation, intensity steps and resampling.

    Returns:
        `(channels, i, j, k)` float32 on `grid`.
    """
    if card.orientation is not None:
        volumes = [volume.reorient(card.orientation) for volume in volumes]
    steps = [card.steps(channel) for channel in range(len(volumes))]
    is_masked = any(isinstance(step, ZScore) and step.filled for own in steps for step in own)
    counted = without_holes(content_mask(volumes)) if is_masked else None
    source = volumes[0].geometry
    axis = None
    if card.resampling.anisotropic == "nearest":
        axis = coarse_axis(source.spacing_mm, card.spacing_mm or source.spacing_mm)
    result = np.empty((len(volumes), *grid.shape), dtype=np.float32)
    for channel, (volume, own) in enumerate(zip(volumes, steps, strict=True)):
        scaled = apply_intensity(volume.array, own, counted)
        result[channel] = resize(scaled, grid.shape, order=card.resampling.order, nearest_axis=axis)
    return result
