"""What the detector of lesions and the network inside its boxes are judged by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.instances.boxes import CENTRE, INSIDE, OFFSET, OFFSET_UNIT_MM, SIZE, SIZE_UNIT_MM

CENTRE_WIDTH_MM = (2.0, 3.5)
"""Least and greatest standard deviation of the spot about a centre."""

VOTERS = 0.2
"""Voxels whose spot is at least this high learn size and offset."""


def detection_targets(
    boxes: npt.NDArray[np.int64], shape: tuple[int, int, int], spacing_mm: float
) -> tuple[Tensor, Tensor]:
    """Spots about the centres, and size and offset where they are learned.

    Args:
        boxes: `(n, 6)` first voxel and one past the last.
        shape: of the window.
        spacing_mm: edge of its cubic voxels.

    Returns:
        Spots `(*shape)`, 1 at a centre; sizes and offsets `(6, *shape)` in the detector's units.
    """
    spots = torch.zeros(shape)
    votes = torch.zeros((6, *shape))
    for box in boxes:
        sides = torch.from_numpy((box[3:] - box[:3]).astype(np.float32))
        middle = (box[:3] + box[3:] - 1) / 2
        width = float(np.clip(0.1 * float(sides.mean()) * spacing_mm, *CENTRE_WIDTH_MM)) / spacing_mm
        reach = int(np.ceil(4 * width))
        part = [
            slice(max(0, int(m) - reach), min(n, int(m) + reach + 2))
            for m, n in zip(middle, shape, strict=True)
        ]
        axes = [torch.arange(s.start, s.stop, dtype=torch.float32) for s in part]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        way = torch.from_numpy(middle.astype(np.float32))[:, None, None, None] - grid
        spot = torch.exp(-way.square().sum(0) / (2 * width**2))
        wins = spot > spots[tuple(part)]
        values = torch.cat(
            [
                (sides * spacing_mm / SIZE_UNIT_MM).log()[:, None, None, None].expand_as(way),
                way * spacing_mm / OFFSET_UNIT_MM,
            ]
        )
        here = votes[(slice(None), *part)]
        votes[(slice(None), *part)] = torch.where(wins, values, here)
        spots[tuple(part)] = torch.maximum(spots[tuple(part)], spot)
    return spots, votes


def detection_loss(maps: Tensor, objects: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
    """Quality focal loss of the centres, L1 of sizes and offsets, focal loss and Dice inside.

    Lesions fill a thousandth of a head: a plain cross entropy learns to answer nothing at all. Quality
    focal loss: Li et al., NeurIPS 2020.

    Args:
        maps: `(8, i, j, k)` answers.
        objects: `(i, j, k)`, 0 outside objects.
        targets: of `detection_targets`.
    """
    spots, votes = targets
    centre = _focal(maps[CENTRE], spots) / (spots.sum() + 10)
    weight = torch.where(spots > VOTERS, spots, 0.0)
    norm = weight.sum() + 1
    size = ((maps[SIZE] - votes[:3]).abs().sum(0) * weight).sum() / norm
    offset = ((maps[OFFSET] - votes[3:]).abs().sum(0) * weight).sum() / norm
    truth = (objects > 0).float()
    p = maps[INSIDE].sigmoid()
    dice = (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    inside = _focal(maps[INSIDE], truth) / (truth.sum() + 100) + 1 - dice
    return 2 * centre + 0.3 * size + 0.3 * offset + inside


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Sum of cross entropies, each weighted by the square of how wrong its voxel is."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * (logits.sigmoid() - wanted).square()).sum()


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross entropy plus soft Dice per item; Dice counts only where there is a mask.

    Args:
        logits: `(n, …)`.
        truth: `(n, …)`, 0 or 1.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    axes = tuple(range(1, logits.ndim))
    p = logits.sigmoid()
    size = truth.sum(axes)
    dice = (2 * (p * truth).sum(axes) + 1) / (p.sum(axes) + size + 1)
    there = size > 0
    rest = (1 - dice[there]).mean() if bool(there.any()) else logits.new_zeros(())
    return 2 * entropy + rest
