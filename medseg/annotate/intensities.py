"""Intensities as the annotation tools take them: finite, float32, with their edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatImage = npt.NDArray[np.float32]


def as_finite(image: npt.NDArray[Any]) -> FloatImage:
    """Intensities as float32; what is not finite becomes the middle of the finite ones, or 0."""
    values = np.asarray(image, dtype=np.float32)
    is_finite = np.isfinite(values)
    if is_finite.all():
        return values
    middle = np.float32(np.median(values[is_finite])) if is_finite.any() else np.float32(0)
    return np.where(is_finite, values, middle).astype(np.float32)


def smoothed(image: FloatImage, spacing_mm: Sequence[float], smoothing: float) -> FloatImage:
    """Gaussian smoothing, equally wide in mm along every axis.

    Args:
        image: any number of axes.
        spacing_mm: size of a voxel along each.
        smoothing: standard deviation in voxels of the finest axis; 0 leaves the image as it is.
    """
    if smoothing <= 0:
        return image
    finest = min(spacing_mm)
    sigmas = [smoothing * finest / step for step in spacing_mm]
    blurred: FloatImage = ndimage.gaussian_filter(image, sigmas, mode="nearest")
    return blurred


def edge_strength(image: FloatImage, spacing_mm: Sequence[float], smoothing: float) -> FloatImage:
    """Magnitude of the gradient per mm; axes of a single voxel have none."""
    blurred = smoothed(image, spacing_mm, smoothing)
    squares = np.zeros(image.shape, np.float32)
    for axis, step in enumerate(spacing_mm):
        if image.shape[axis] > 1:
            squares += np.gradient(blurred, step, axis=axis).astype(np.float32) ** 2
    strength: FloatImage = np.sqrt(squares)
    return strength
