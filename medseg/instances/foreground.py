"""Where anything bright is, without a model: Otsu's threshold of a smoothed image."""

from __future__ import annotations

import numpy as np

from medseg.errors import VolumeError
from medseg.labels import LabelSet
from medseg.volume import LabelVolume, Volume


def bright_foreground(image: Volume, *, sigma_mm: float = 0.0, name: str = "bright") -> LabelVolume:
    """A label map with one class: voxels above Otsu's threshold.

    The threshold parts the histogram of 4096 bins so that the variance between both sides is largest
    (Otsu, IEEE Trans. SMC 1979). Give the result and the image to `separate` with the height `intensity`
    for the recipe that is known as Voronoi-Otsu labelling.

    Args:
        image: intensities.
        sigma_mm: standard deviation of a Gaussian smoothing before, against noise.
        name: of the class; its id is 1.

    Raises:
        VolumeError: the image holds voxels that are not finite, or one value only.
    """
    from medseg.instances.fields import smooth

    field = np.array(image.array, dtype=np.float32, order="C")
    low, high = float(field.min()), float(field.max())
    if not (np.isfinite(low) and np.isfinite(high)) or low == high:
        raise VolumeError(
            "NO_CONTRAST", "expected finite intensities of more than one value, got others; check the image"
        )
    smooth(field, image.geometry.spacing_mm, sigma_mm)
    counts, edges = np.histogram(field, bins=4096, range=(low, high))
    weight = np.cumsum(counts) / counts.sum()
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts * centres) / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (below[-1] * weight - below) ** 2 / (weight * (1 - weight))
    threshold = edges[1 + int(np.nanargmax(np.where(np.isfinite(between), between, -1.0)))]
    array = (field > threshold).astype(np.uint8)
    return LabelVolume(array, image.geometry, LabelSet.from_names({1: name}))
