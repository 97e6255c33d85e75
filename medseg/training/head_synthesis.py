"""Images of any contrast made from head label maps, so that a network learns shape, not contrast.

The method is that of Billot et al., "SynthSeg: segmentation of brain MRI scans of any contrast
and resolution without retraining", Medical Image Analysis 86 (2023): deform a label map, draw
one Gaussian per tissue, then spoil the image as scanners do. Two things are added here: an
anatomical prior on the contrast, which makes the start of training easy, and a window that
lies anywhere on the head, since the network later sees windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.training.brain_labels import HeadLabels, HeadMap

_T1_INTENSITY = {
    2: 0.95, 3: 0.60, 4: 0.18, 5: 0.20, 7: 0.92, 8: 0.60, 10: 0.80, 11: 0.64, 12: 0.70, 13: 0.85,
    14: 0.18, 15: 0.18, 16: 0.85, 17: 0.60, 18: 0.60, 24: 0.15, 25: 0.80, 26: 0.64, 28: 0.84,
    30: 0.40, 72: 0.18, 85: 0.80, 136: 0.35, 137: 0.35,
}  # fmt: skip
"""Relative T1-weighted intensity of every tissue of the brain, white matter near 1."""

_WHITE_FRACTION = {
    2: 1.0, 3: 0.0, 7: 1.0, 8: 0.0, 10: 0.6, 11: 0.1, 12: 0.25, 13: 0.75, 16: 0.8, 17: 0.05,
    18: 0.05, 25: 0.5, 26: 0.1, 28: 0.75, 30: 0.3, 85: 0.6, 136: 0.2, 137: 0.2,
}  # fmt: skip
"""Share of white matter in the look of a tissue; tissues not named look like fluid."""


@dataclass(frozen=True)
class SynthesisSettings:
    """How wide the random choices are. Lengths are mm, angles degrees.

    Attributes:
        shape: voxels of the training window, R, A, S.
        spacing_mm: edge of its cubic voxels.
        contrast_width: 0 draws T1-like contrasts only, 1 all contrasts.
        spoil: 0 gives clean images, 1 full blur, bias, thick slices and noise.
    """

    shape: tuple[int, int, int] = (96, 112, 96)
    spacing_mm: float = 2.0
    contrast_width: float = 1.0
    spoil: float = 1.0
    rotation_deg: float = 20.0
    scaling: float = 0.18
    shearing: float = 0.04
    elastic_mm: float = 3.5
    shift_mm: float = 20.0


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def smooth_field(rng: np.random.Generator, channels: int, knots: int, shape: tuple[int, int, int]) -> Tensor:
    """A smooth random field of unit deviation at its knots.

    Args:
        rng: source of chance.
        channels: independent fields.
        knots: along each axis; more are rougher.
        shape: voxels.

    Returns:
        `(channels, *shape)` float32.
    """
    coarse = torch.from_numpy(rng.standard_normal((1, channels, knots, knots, knots)).astype(np.float32))
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


def sampling_points(
    head: HeadMap, rng: np.random.Generator, settings: SynthesisSettings
) -> tuple[Tensor, np.ndarray]:
    """Where each voxel of a randomly turned, scaled and bent window lies in the map.

    Returns:
        `(3, *shape)` indices of the map, and the 3x3 step of a voxel in them.
    """
    angles = np.deg2rad(rng.uniform(-settings.rotation_deg, settings.rotation_deg, 3))
    matrix = np.diag(1 + rng.uniform(-settings.scaling, settings.scaling, 3))
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    matrix = matrix @ (np.eye(3) + rng.uniform(-settings.shearing, settings.shearing, (3, 3)))
    step = np.linalg.inv(head.affine[:3, :3]) @ matrix * settings.spacing_mm

    occupied = np.argwhere(head.source[::8, ::8, ::8] > 0) * 8
    middle = (occupied.min(0) + occupied.max(0)) / 2
    # The window is shorter than the head: it slides along it, mostly about the brain.
    middle[2] += _uniform(rng, -10, 40)
    middle = middle + rng.uniform(-settings.shift_mm, settings.shift_mm, 3)
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in settings.shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    points = torch.einsum("ij,jxyz->ixyz", torch.from_numpy(step.astype(np.float32)), grid)
    points += torch.from_numpy(middle.astype(np.float32))[:, None, None, None]
    amplitude = _uniform(rng, 0, settings.elastic_mm)
    return points + amplitude * smooth_field(rng, 3, int(rng.integers(5, 10)), settings.shape), step


def look_up(source: Tensor, points: Tensor) -> Tensor:
    """Nearest label at every point; 0 outside the map.

    Args:
        source: `(i, j, k)` labels.
        points: `(3, *shape)` indices.
    """
    nx, ny, nz = source.shape
    x, y, z = points.round().long()
    inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (z >= 0) & (z < nz)
    flat = (x.clamp(0, nx - 1) * ny + y.clamp(0, ny - 1)) * nz + z.clamp(0, nz - 1)
    return torch.where(inside, source.reshape(-1)[flat], 0)


def draw_contrast(
    labels: HeadLabels, rng: np.random.Generator, settings: SynthesisSettings
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the intensity of every dense label, both `(labels,)`."""
    tissues = int(labels.tissue.max()) + 1
    free = rng.uniform(0.02, 1.0, tissues)
    prior = rng.uniform(0.02, 1.0, tissues)
    of_tissue = {int(t): int(i) for i, t in zip(labels.source_ids[::-1], labels.tissue[::-1], strict=True)}
    white, grey, fluid = rng.uniform(0.05, 1.0, 3)
    is_t1 = rng.random() > settings.contrast_width * 0.6
    for tissue, label in of_tissue.items():
        if label in _T1_INTENSITY:
            if is_t1:
                prior[tissue] = _T1_INTENSITY[label] * (1 + rng.normal(0, 0.06))
            elif label in _WHITE_FRACTION:
                share = np.clip(_WHITE_FRACTION[label] + rng.normal(0, 0.1), 0, 1)
                prior[tissue] = share * white + (1 - share) * grey + rng.normal(0, 0.03)
            else:
                prior[tissue] = fluid + rng.normal(0, 0.03)
    # A third stays near the prior even at full width: those are the scans that people have.
    blend = settings.contrast_width * (1.0 if rng.random() < 0.67 else _uniform(rng, 0, 0.3))
    mean = np.clip(blend * free + (1 - blend) * prior, 0, 1.2)
    air = labels.tissue[labels.source_ids == 0]
    mean[air] = 0.0 if rng.random() < 0.9 else _uniform(rng, 0, 0.3)
    deviation = rng.uniform(0.01, 0.03 + 0.06 * settings.contrast_width, tissues)
    deviation[air] = _uniform(rng, 0, 0.02)
    as_tensor = [torch.from_numpy(v[labels.tissue].astype(np.float32)) for v in (mean, deviation)]
    return as_tensor[0], as_tensor[1]


def _thick_slices(image: Tensor, rng: np.random.Generator, spacing_mm: float) -> Tensor:
    """Average along one axis to slices of up to 8 mm, then interpolate back; `(*shape)`."""
    axis = int(rng.integers(3))
    factor = _uniform(rng, 1.0, 4.0 * 2.0 / spacing_mm)
    size = [max(2, round(n / factor)) if a == axis else n for a, n in enumerate(image.shape)]
    thick = F.adaptive_avg_pool3d(image[None, None], (size[0], size[1], size[2]))
    return F.interpolate(thick, size=image.shape, mode="trilinear", align_corners=False)[0, 0]


def _blur(image: Tensor, rng: np.random.Generator, strength: float) -> Tensor:
    """Separable Gaussian of a random width per axis, up to one voxel; `(*shape)`."""
    out = image[None, None]
    offsets = torch.tensor([-1.0, 0.0, 1.0])
    for axis in range(3):
        sigma = _uniform(rng, 0.05, 0.2 + 0.8 * strength)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = 3, 1
        out = F.conv3d(out, (kernel / kernel.sum()).reshape(shape), padding=padding)
    return out[0, 0]


def strip_skull(image: Tensor, source: Tensor, labels: HeadLabels, rng: np.random.Generator) -> Tensor:
    """Blank everything outside the brain, with or without its outer fluid, cut a bit too wide.

    Args:
        image: `(*shape)` intensities.
        source: `(*shape)` dense labels.
        labels: their tables.
        rng: source of chance.
    """
    outer = torch.from_numpy(labels.is_outer.copy())
    if rng.random() < 0.5:
        outer |= torch.from_numpy(labels.source_ids == 24)
    inside = (~outer[source]).float()[None, None]
    for _ in range(int(rng.integers(0, 3))):
        inside = F.max_pool3d(inside, 3, stride=1, padding=1)
    return image * inside[0, 0]


def rescale_by_percentiles(image: Tensor, lower: float = 0.5, upper: float = 99.5) -> Tensor:
    """Intensities between two percentiles to 0..1, the rest clipped; any shape."""
    sample = image.reshape(-1)[:: max(1, image.numel() // 200_000)]
    low, high = torch.quantile(sample, torch.tensor([lower / 100, upper / 100]))
    scaled: Tensor = (image - low) / (high - low).clamp_min(1e-6)
    return scaled.clamp(0, 1)


def synthesise(
    head: HeadMap, labels: HeadLabels, rng: np.random.Generator, settings: SynthesisSettings
) -> tuple[Tensor, Tensor]:
    """Make one training pair.

    Args:
        head: label map to start from.
        labels: tables of its labels.
        rng: the only source of chance, so that a seed gives the same pair again.
        settings: width of the choices.

    Returns:
        Image `(R, A, S)` float32 in 0..1 and channel index `(R, A, S)` int64.
    """
    points, step = sampling_points(head, rng, settings)
    image, dense = paint(head, labels, rng, settings, (points, step))

    if rng.random() < 0.5:
        mirrored = torch.from_numpy(labels.mirrored)
        image, dense = image.flip(0), mirrored[dense.flip(0)]
    if rng.random() < 0.25:
        image = strip_skull(image, dense, labels, rng)
    image = spoil(image, rng, settings)
    return rescale_by_percentiles(image), torch.from_numpy(labels.channel)[dense]


def paint(
    head: HeadMap,
    labels: HeadLabels,
    rng: np.random.Generator,
    settings: SynthesisSettings,
    where: tuple[Tensor, np.ndarray],
) -> tuple[Tensor, Tensor]:
    """Draw one Gaussian per tissue at the points of a window.

    Args:
        head: label map.
        labels: its tables.
        rng: source of chance.
        settings: width of contrasts, shape of the window.
        where: points and step of `sampling_points`.

    Returns:
        Image and dense labels, both `(*shape)`.
    """
    points, step = where
    source = torch.from_numpy(head.source)
    dense = look_up(source, points).long()
    mean, deviation = draw_contrast(labels, rng, settings)

    # Partial volume: a voxel is the mean of a few points inside it.
    parts = int(rng.choice([1, 2, 4]))
    image = torch.zeros(settings.shape)
    noise = torch.from_numpy(rng.standard_normal(settings.shape, dtype=np.float32))
    for part in range(parts):
        offset = rng.uniform(-0.5, 0.5, 3) if parts > 1 else np.zeros(3)
        shift = torch.from_numpy((step @ offset).astype(np.float32))[:, None, None, None]
        here = dense if part == 0 and parts == 1 else look_up(source, points + shift).long()
        image += mean[here] / parts
    image += deviation[dense] * noise
    return image, dense


def spoil(image: Tensor, rng: np.random.Generator, settings: SynthesisSettings) -> Tensor:
    """Blur, bias field, thick slices, noise and gamma, as scanners and protocols add them; `(*shape)`."""
    if rng.random() < 0.7:
        image = _blur(image, rng, settings.spoil)
    bias = _uniform(rng, 0, 0.45 * settings.spoil)
    image = image * torch.exp(bias * smooth_field(rng, 1, int(rng.integers(2, 6)), settings.shape)[0])
    if rng.random() < 0.4 * settings.spoil:
        image = _thick_slices(image, rng, settings.spacing_mm)
    level = _uniform(rng, 0, 0.06) * settings.spoil
    image = image + level * torch.from_numpy(rng.standard_normal(settings.shape, dtype=np.float32))
    gamma = float(np.exp(rng.normal(0, 0.25 * settings.spoil)))
    return image.clamp_min(0) ** gamma
