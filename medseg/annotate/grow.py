"""A click that grows into the connected region that looks like it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.annotate.intensities import as_finite
from medseg.annotate.proposal import Proposal
from medseg.annotate.settings import GrowSettings
from medseg.errors import VolumeError
from medseg.instances.grid import Block, triple


def grow_region(
    image: npt.NDArray[Any],
    seed: Sequence[int],
    spacing_mm: Sequence[float],
    settings: GrowSettings | None = None,
    label_id: int = 1,
) -> Proposal:
    """The voxels that are joined to a seed by faces through voxels that look like it.

    A voxel looks like the seed where its intensity lies within the tolerance of the median of the
    seed's 26 neighbours and itself; the seed always belongs. Nothing beyond the radius is looked at, so
    that a leak stays small and the work is bounded.

    Args:
        image: three axes.
        seed: voxel that was clicked.
        spacing_mm: size of a voxel along each axis.
        settings: tolerance and radius.
        label_id: what the region becomes.

    Returns:
        The region in the box around the sphere.

    Raises:
        VolumeError: `OUTSIDE_IMAGE`, the seed.
    """
    settings = settings or GrowSettings()
    place = [int(n) for n in seed]
    if not len(place) == image.ndim == 3 or any(
        not 0 <= p < n for p, n in zip(place, image.shape, strict=True)
    ):
        raise VolumeError("OUTSIDE_IMAGE", "expected a voxel of the image, got another; click inside")
    reach = [math.floor(settings.radius_mm / step) for step in spacing_mm]
    clicked = Block(triple(place), triple([p + 1 for p in place]))
    box = clicked.grown(reach, image.shape)
    around = tuple(slice(max(0, p - 1), p + 2) for p in place)
    wanted = float(np.median(as_finite(image[around])))
    part = as_finite(image[box.slices])
    allowed = np.abs(part - np.float32(wanted)) <= settings.tolerance
    allowed &= _squared_mm(place, box, spacing_mm) <= settings.radius_mm**2
    own = clicked.within(box)
    allowed[own] = True
    pieces, _ = ndimage.label(allowed)
    ids = np.where(pieces == pieces[own].item(), np.int32(label_id), np.int32(0))
    return Proposal(box.start, ids)


def _squared_mm(place: Sequence[int], box: Block, spacing_mm: Sequence[float]) -> npt.NDArray[np.float64]:
    """Squared distance of every voxel of a box to a voxel."""
    i, j, k = (
        ((np.arange(a, b) - p) * step) ** 2
        for a, b, p, step in zip(box.start, box.stop, place, spacing_mm, strict=True)
    )
    total: npt.NDArray[np.float64] = i[:, None, None] + j[:, None] + k
    return total
