"""How a head lies, seen from where its structures are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from medseg.models.atlas import Atlas
from medseg.volume import LabelVolume

Doubles = npt.NDArray[np.float64]

FEWEST_CENTRES = 12
"""An affine map has as many numbers as four centres give; more are asked for so that some may be wrong."""

FEWEST_VOXELS = 30
"""Of a structure whose centre counts."""

MOST_COUNTED = 1000
"""Larger structures do not count more than one of so many voxels."""

ROUNDS = 3
TYPICAL_MISS_MM = 6.0
"""Centres that miss by more than this count less: Geman-McClure weights."""


def centres_of(labels: LabelVolume, wanted: Mapping[int, Doubles]) -> dict[int, tuple[Doubles, int]]:
    """Centre in mm, and voxels, of every wanted structure that does not touch the image's end."""
    from scipy import ndimage

    found = {}
    for label, box in enumerate(ndimage.find_objects(labels.array), start=1):
        if box is None or label not in wanted:
            continue
        is_cut = any(one.start == 0 or one.stop == n for one, n in zip(box, labels.array.shape, strict=True))
        voxels = np.argwhere(labels.array[box] == label)
        if not is_cut and len(voxels) >= FEWEST_VOXELS:
            centre = voxels.mean(0) + [one.start for one in box]
            found[label] = (labels.geometry.affine[:3] @ [*centre, 1.0], len(voxels))
    return found


def lie_of(labels: LabelVolume, atlas: Atlas) -> tuple[Doubles, float] | None:
    """The affine map from an image to an atlas that brings structures nearest to their typical places.

    Args:
        labels: of the image.
        atlas: gives the typical places.

    Returns:
        4x4, mm of the image -> mm of the atlas, and the mean distance in mm by which centres miss; None where
        too few structures are seen whole.
    """
    seen = centres_of(labels, atlas.centres)
    if len(seen) < FEWEST_CENTRES:
        return None
    here = np.array([[*centre, 1.0] for centre, _ in seen.values()])
    there = np.array([atlas.centres[label] for label in seen])
    weight = np.sqrt([[min(voxels, MOST_COUNTED)] for _, voxels in seen.values()])
    miss: Doubles = np.zeros((len(seen), 1))
    matrix: Doubles = np.zeros((4, 3))
    for _ in range(ROUNDS):
        trusted = weight / (1 + (miss / TYPICAL_MISS_MM) ** 2)
        matrix = np.asarray(np.linalg.lstsq(here * trusted, there * trusted, rcond=None)[0], np.float64)
        miss = np.asarray(np.linalg.norm(here @ matrix - there, axis=1, keepdims=True), np.float64)
    return np.vstack([matrix.T, [0, 0, 0, 1]]), float(miss.mean())
