"""What the mask network sees of one object: the surroundings of its box on a small cube of fixed size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

CROP_VOXELS = 32
"""Voxels of a crop along each axis."""

CROP_MARGIN = 1.5
"""A crop is this much larger than its box."""

LEAST_CROP_MM = 16.0
"""No side of a crop is shorter."""

INSIDE_LIMIT = 6.0
"""Logits of lying in any object are cut to this, then scaled to -1..1."""

Corners = npt.NDArray[np.float64]


def crop_frames(
    start: Corners, stop: Corners, spacing_mm: tuple[float, float, float]
) -> tuple[Corners, Corners]:
    """Middle and half sides of the crops about some boxes, both `(n, 3)` in voxels.

    Args:
        start: `(n, 3)` lower corners of the boxes in voxels.
        stop: `(n, 3)` upper corners.
        spacing_mm: of the grid.
    """
    half = np.maximum(CROP_MARGIN * (stop - start), LEAST_CROP_MM / np.array(spacing_mm)) / 2
    return (start + stop) / 2, half


def sample_crops(volume: Tensor, middle: Corners, half: Corners, *, nearest: bool = False) -> Tensor:
    """Values of volumes on the cubes about some boxes.

    Args:
        volume: `(channels, i, j, k)`; beyond it lie zeros.
        middle: `(n, 3)` of the crops in voxels.
        half: `(n, 3)` half their sides in voxels.
        nearest: take the nearest voxel instead of interpolating.

    Returns:
        `(n, channels, s, s, s)` with s = `CROP_VOXELS`, sampled at the middles of its cells.
    """
    import torch

    shape = np.array(volume.shape[1:])
    steps = (np.arange(CROP_VOXELS) + 0.5) / CROP_VOXELS * 2 - 1
    crops = []
    for centre, reach in zip(middle, half, strict=True):
        at = centre[:, None] + reach[:, None] * steps  # (3, s) in voxels
        scaled = torch.from_numpy(((at + 0.5) / shape[:, None] * 2 - 1).astype(np.float32))
        x, y, z = torch.meshgrid(scaled[0], scaled[1], scaled[2], indexing="ij")
        grid = torch.stack([z, y, x], dim=-1)[None]  # torch counts axes from the last
        mode = "nearest" if nearest else "bilinear"
        crops.append(torch.nn.functional.grid_sample(volume[None], grid, mode=mode, align_corners=False)[0])
    return torch.stack(crops)


def crop_inputs(
    image: Tensor, inside: Tensor, start: Corners, stop: Corners, spacing_mm: tuple[float, float, float]
) -> Tensor:
    """What the mask network wants to see of some boxes.

    Args:
        image: `(i, j, k)` as the detector saw it.
        inside: `(i, j, k)` logits of lying in any object.
        start: `(n, 3)` lower corners in voxels.
        stop: `(n, 3)` upper corners in voxels.
        spacing_mm: of the grid.

    Returns:
        `(n, 3, s, s, s)`: image, scaled logits, 1 inside the box and -1 outside.
    """
    import torch

    middle, half = crop_frames(start, stop, spacing_mm)
    scaled = inside.clamp(-INSIDE_LIMIT, INSIDE_LIMIT) / INSIDE_LIMIT
    crops = sample_crops(torch.stack([image, scaled]), middle, half)
    steps = np.abs((np.arange(CROP_VOXELS) + 0.5) / CROP_VOXELS * 2 - 1)
    shares = (stop - start) / 2 / half  # box in parts of the crop
    near = torch.from_numpy(steps[None, None] <= shares[..., None])  # (n, 3, s)
    box = near[:, 0, :, None, None] & near[:, 1, None, :, None] & near[:, 2, None, None, :]
    return torch.cat([crops, 2 * box[:, None].to(crops.dtype) - 1], dim=1)


def crop_truth(
    objects: Tensor,
    owners: npt.NDArray[np.int64],
    start: Corners,
    stop: Corners,
    spacing_mm: tuple[float, float, float],
) -> Tensor:
    """Masks that the network should answer, `(n, s, s, s)` of 0 and 1.

    Args:
        objects: `(i, j, k)` ids.
        owners: `(n,)` id of each box's object; 0 for an empty mask.
        start: `(n, 3)` lower corners in voxels.
        stop: `(n, 3)` upper corners in voxels.
        spacing_mm: of the grid.
    """
    import torch

    middle, half = crop_frames(start, stop, spacing_mm)
    ids = sample_crops(objects[None].float(), middle, half, nearest=True)[:, 0].round().long()
    wanted = torch.from_numpy(owners)[:, None, None, None]
    return ((ids == wanted) & (wanted > 0)).float()
