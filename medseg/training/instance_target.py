"""What a network learns about objects: where they are, and how deep inside each a voxel lies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

CHANNELS = ("distance", "foreground")
"""Outputs of the network, each through a sigmoid; where both are thresholded, the last one decides."""


def normalised_distance(
    labels: npt.NDArray[np.integer], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> npt.NDArray[np.float32]:
    """Depth of a voxel below its object's surface, in parts of the object's greatest depth.

    Args:
        labels: `(i, j, k)` object ids, 0 for background.
        spacing_mm: size of a voxel along each axis.

    Returns:
        `(i, j, k)` float32, 0 in the background, 1 in the middle of every object. A border of the
        volume is no surface: what is cut off may go on.
    """
    import edt

    ids = np.ascontiguousarray(labels, dtype=np.uint32)
    depth = edt.edt(ids, anisotropy=spacing_mm, black_border=False)
    inside = ids > 0
    # An object that fills the volume has no surface, and edt answers infinity.
    depth[~np.isfinite(depth)] = 1.0
    deepest = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.float32)
    np.maximum.at(deepest, ids[inside], depth[inside])
    depth[inside] /= deepest[ids[inside]]
    depth[~inside] = 0.0
    return np.asarray(depth, dtype=np.float32)


def mean_diameter_mm(volumes_mm3: npt.NDArray[np.floating]) -> float:
    """Mean diameter of the balls with the objects' volumes, weighted by volume; 0 where there is none.

    Specks and objects that the border cuts off count little.
    """
    if not volumes_mm3.size:
        return 0.0
    return float(np.average(np.cbrt(6 / np.pi * volumes_mm3), weights=volumes_mm3))


def foreground_and_distance(logits: Tensor, foreground: Tensor, distance: Tensor, known: Tensor) -> Tensor:
    """Cross entropy and soft Dice of the foreground, cross entropy and mean error of the distance.

    Cross entropy with a soft target is least where the sigmoid equals the target, as StarDist
    trains its object probability (Schmidt et al., MICCAI 2018).

    Args:
        logits: `(batch, 2, i, j, k)` in the order of `CHANNELS`.
        foreground: `(batch, i, j, k)` 0 or 1.
        distance: `(batch, i, j, k)` from `normalised_distance`.
        known: `(batch, i, j, k)` 1 where the truth is known, 0 where it does not count.

    Returns:
        Scalar.
    """
    depth, where = logits[:, 0].float(), logits[:, 1].float()
    total = known.sum().clamp(min=1)
    entropy = F.binary_cross_entropy_with_logits(where, foreground, known, reduction="sum") / total
    p = where.sigmoid() * known
    dice = (2 * (p * foreground).sum() + 1) / (p.sum() + (foreground * known).sum() + 1)
    soft = F.binary_cross_entropy_with_logits(depth, distance, known, reduction="sum") / total
    inside = foreground * known
    error = ((depth.sigmoid() - distance).abs() * inside).sum() / inside.sum().clamp(min=1)
    return entropy + (1 - dice) + 2 * soft + 2 * error
