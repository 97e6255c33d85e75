"""Slices between those that were drawn, by their shape.

Raya & Udupa 1990 (doi:10.1109/42.52980): the signed distance to the outline is interpolated linearly
from slice to slice, and a pixel belongs where it is not negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.annotate.proposal import Proposal
from medseg.errors import VolumeError
from medseg.instances.separate import bounding_box

BoolArray = npt.NDArray[np.bool_]


def interpolate_slices(
    mask: npt.NDArray[np.bool_], axis: int, spacing_mm: Sequence[float], label_id: int = 1
) -> Proposal:
    """Fill the empty slices between drawn ones.

    A slice is drawn where it holds any voxel; drawn slices stay as they are, and nothing is added
    beyond the first and the last. Of two drawn slices of which one lies within the other, those between
    grow from the smaller to the larger. Shapes that do not overlap when seen along the axis do not join.

    Args:
        mask: `(i, j, k)`, one object or class.
        axis: along which slices are counted.
        spacing_mm: size of a voxel along each axis.
        label_id: what the new voxels become.

    Returns:
        The new voxels alone, in the box from the first to the last drawn slice.

    Raises:
        VolumeError: `TOO_FEW_SLICES`, fewer than two are drawn, or no slice lies between them.
    """
    box = bounding_box(mask)
    others = tuple(other for other in range(3) if other != axis)
    part = np.moveaxis(mask if box is None else mask[box.slices], axis, 0)
    drawn = [int(n) for n in np.flatnonzero(part.any(axis=(1, 2)))]
    if box is None or len(drawn) == len(part):
        raise VolumeError(
            "TOO_FEW_SLICES",
            f"expected two drawn slices with empty ones between, got {len(drawn)} drawn; draw another",
        )
    in_plane = [spacing_mm[other] for other in others]
    filled = np.zeros(part.shape, np.int32)
    for low, high in pairwise(drawn):
        if high - low > 1:
            below, above = (signed_distance(part[n], in_plane) for n in (low, high))
            for between in range(low + 1, high):
                share = (between - low) / (high - low)
                filled[between][(1 - share) * below + share * above >= 0] = label_id
    return Proposal(box.start, np.moveaxis(filled, 0, axis))


def signed_distance(mask: BoolArray, spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    """Distance in mm from each pixel's centre to the outline, above 0 inside; beyond the array is outside.

    The outline runs half way between neighbouring centres: the distance is that to the nearest centre
    on the other side, less half a pixel of the finest axis.

    Args:
        mask: any number of axes, not empty.
        spacing_mm: size of a pixel along each axis.
    """
    half = min(spacing_mm) / 2
    wide = np.pad(mask, 1)
    inside = ndimage.distance_transform_edt(wide, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~wide, sampling=spacing_mm)
    signed = np.where(wide, inside - half, half - outside)
    own: npt.NDArray[np.float64] = signed[(slice(1, -1),) * mask.ndim]
    return own
