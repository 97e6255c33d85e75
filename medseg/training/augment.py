"""A patch of a case as it might have looked: turned, scaled, mirrored, brighter, noisier.

Kinds and ranges of the changes are nnU-Net's (Isensee et al. 2021, supplementary note 4), rotations half as
wide. Everything runs on the device of the network; chance comes from one generator, which the step seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Augmentation:
    """How much patches are changed.

    Attributes:
        spacing_mm: of the grid; turning is in the world, not in voxels.
        mirror_axes: along which a patch may be mirrored.
        spatial_share: of patches that are turned and scaled.
        largest_angle: in degrees, about each axis.
        scales: least and greatest.
        intensity_share: of patches on which each of the intensity changes acts.
    """

    spacing_mm: tuple[float, float, float]
    mirror_axes: tuple[int, ...] = ()
    spatial_share: float = 0.3
    largest_angle: float = 15.0
    scales: tuple[float, float] = (0.8, 1.25)
    intensity_share: float = 0.15


def random_matrix(how: Augmentation, chance: np.random.Generator) -> FloatArray:
    """Offsets from a patch's middle, in voxels, to offsets in the case: 3x3.

    Where an axis is three times coarser than the others, patches turn about it alone.

    Args:
        how: ranges.
        chance: advanced by the same number of draws whatever comes out.
    """
    angles = np.radians(chance.uniform(-how.largest_angle, how.largest_angle, 3))
    scale = math.exp(chance.uniform(*np.log(how.scales)))
    if chance.random() >= how.spatial_share:
        return np.eye(3)
    spacing = np.array(how.spacing_mm)
    coarse = int(np.argmax(spacing))
    is_flat = spacing[coarse] > 3 * np.delete(spacing, coarse).max()
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        if is_flat and axis != coarse:
            continue
        a, b = (other for other in range(3) if other != axis)
        step = np.eye(3)
        step[[a, a, b, b], [a, b, a, b]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        turned = turned @ step
    factors = np.full(3, scale)
    if is_flat:
        factors[coarse] = 1.0
    return np.diag(1 / spacing) @ turned @ np.diag(spacing * factors)


def cut(
    array: npt.NDArray[np.generic], middle: Sequence[int], matrix: FloatArray, shape: Sequence[int]
) -> tuple[npt.NDArray[np.generic], FloatArray]:
    """The part of a case that a patch may touch, and where the patch's middle lies in it.

    Args:
        array: `(…, i, j, k)`; outside stands 0.
        middle: voxel of the case in the middle of the patch.
        matrix: of `random_matrix`.
        shape: voxels of the patch.
    """
    half = (np.array(shape) - 1) / 2
    is_plain = bool(np.array_equal(matrix, np.eye(3)))
    reach = np.abs(matrix) @ half + (0 if is_plain else 1)
    first = np.floor(np.array(middle) - reach + (0.5 if is_plain else 0)).astype(int)
    size = np.array(shape) if is_plain else np.ceil(2 * reach + 2).astype(int)
    low, high = np.maximum(first, 0), np.minimum(first + size, array.shape[-3:])
    i, j, k = (slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
    part = np.asarray(array[..., i, j, k])
    widths = [(int(a - f), int(f + n - max(a, b))) for a, b, f, n in zip(low, high, first, size, strict=True)]
    padded = np.pad(part, [(0, 0)] * (array.ndim - 3) + widths)
    return padded, half if is_plain else np.array(middle) - first


def resampled(
    part: Tensor, middle: FloatArray, matrix: FloatArray, shape: Sequence[int], mode: str
) -> Tensor:
    """A patch out of a part of a case.

    Args:
        part: `(channels, i, j, k)`.
        middle: of the patch, in voxels of the part.
        matrix: of `random_matrix`.
        shape: voxels of the patch.
        mode: `"bilinear"` or `"nearest"`.
    """
    if np.array_equal(matrix, np.eye(3)) and tuple(part.shape[1:]) == tuple(shape):
        return part
    axes = [torch.arange(n, dtype=torch.float32, device=part.device) - (n - 1) / 2 for n in shape]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    places = offsets @ torch.tensor(matrix.T, dtype=torch.float32, device=part.device)
    places = places + torch.tensor(middle, dtype=torch.float32, device=part.device)
    sizes = torch.tensor(part.shape[1:], dtype=torch.float32, device=part.device)
    unit = 2 * places / (sizes - 1).clamp(min=1) - 1
    return F.grid_sample(part[None].float(), unit.flip(-1)[None], mode=mode, align_corners=True)[0]


def changed_intensities(image: Tensor, how: Augmentation, chance: np.random.Generator) -> Tensor:
    """An image with noise, brightness, contrast, sharpness and gamma that another scan might have.

    Args:
        image: `(channels, i, j, k)`.
        how: how often.
        chance: advanced by the same number of draws whatever comes out.
    """
    wanted = chance.random(5) < how.intensity_share
    sigma, factor, contrast, zoom, gamma = chance.uniform(
        (0, 0.75, 0.75, 0.5, 0.7), (0.15, 1.25, 1.25, 1, 1.5)
    )
    seed = int(chance.integers(2**31))
    if wanted[0]:
        generator = torch.Generator().manual_seed(seed)
        image = image + sigma * torch.randn(image.shape, generator=generator).to(image.device)
    if wanted[1]:
        image = image * factor
    if wanted[2]:
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        image = (image - mean) * contrast + mean
    if wanted[3]:
        small = F.interpolate(image[None], scale_factor=float(zoom), mode="nearest-exact")
        image = F.interpolate(small, size=image.shape[1:], mode="trilinear")[0]
    if wanted[4]:
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        width = (high - low).clamp(min=1e-6)
        image = ((image - low) / width).pow(gamma) * width + low
    return image
