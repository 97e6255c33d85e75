"""Where in the field of view the body is.

A scan of a wide field of view is mostly air. Windows over air cost as much as others; a crop to the
body leaves them out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.preprocess.region import IndexBox, whole
from medseg.volume import Volume

CT_AIR_HU = -500.0
"""Half-way between air and water."""

DARK_FRACTION = 0.5
"""Without a unit: of the way from the darkest percent to Otsu's threshold, below which there is air."""

_BINS = 256

SMALLEST_PART = 0.01
"""Pieces smaller than this part of the largest are no limbs: table, cables, noise."""

MARGIN_MM = 10.0
"""Air that stays around the body."""

_MOST_PROBES = 160
"""Voxels along each axis that are looked at."""


def body_box(volume: Volume, modality: str) -> IndexBox:
    """A box around what is not air, with a margin.

    Looked at on every n-th voxel; the box is a step larger than what was seen.

    Args:
        volume: any scan.
        modality: of the card; `"CT"` means Hounsfield units.

    Returns:
        On the volume's grid; the whole of it where nothing stands out.
    """
    from scipy import ndimage

    shape = volume.geometry.shape
    steps = [max(1, -(-n // _MOST_PROBES)) for n in shape]
    probe = volume.array[:: steps[0], :: steps[1], :: steps[2]].astype(np.float32)
    probe = np.where(np.isfinite(probe), probe, np.nanmin(np.where(np.isfinite(probe), probe, np.nan)))
    in_hounsfield = modality == "CT" and float(probe.min()) < CT_AIR_HU
    threshold = CT_AIR_HU if in_hounsfield else _dark(probe)
    parts, count = ndimage.label(probe > threshold)
    if count == 0:
        return whole(volume.geometry)
    sizes = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(sizes >= SMALLEST_PART * sizes.max()) + 1
    found = np.argwhere(np.isin(parts, large))
    low_index, high_index = found.min(axis=0), found.max(axis=0)
    start = [max(0, (int(a) - 1) * step + 1) for a, step in zip(low_index, steps, strict=True)]
    stop = [min(n, (int(b) + 1) * step) for b, n, step in zip(high_index, shape, steps, strict=True)]
    margin = [int(np.ceil(MARGIN_MM / s)) for s in volume.geometry.spacing_mm]
    box = IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return box.grown(margin, shape)


def _dark(probe: npt.NDArray[np.float32]) -> float:
    """What is certainly no body, from the values alone (Otsu, IEEE Trans. Syst. Man Cybern. 1979)."""
    low, high = np.percentile(probe, (1, 99))
    counts, edges = np.histogram(np.clip(probe, low, high), bins=_BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    mean_below = total / np.maximum(below, 1)
    mean_above = (total[-1] - total) / np.maximum(above, 1)
    between = below * above * (mean_below - mean_above) ** 2.0
    return float(low + DARK_FRACTION * (middles[int(np.argmax(between))] - low))
