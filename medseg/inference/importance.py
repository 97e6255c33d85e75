"""How much each voxel of a window counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.models.card import Blend

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_WEIGHT = 1e-3
"""Weights are not smaller than this, nor than the smallest of the map."""


def importance_map(
    size: tuple[int, int, int], blend: Blend, sigma_scale: float | tuple[float, float, float] = 0.125
) -> Tensor:
    """Weights of a window's voxels, as `monai.data.utils.compute_importance_map` or nnU-Net has them.

    Args:
        size: voxels of a window.
        blend: `"constant"`: all 1. `"gaussian"`: product of one Gaussian per axis, 1 at the
            centre, of standard deviation `sigma_scale * size`. `"gaussian-nnunet"`: the same about
            the voxel `size // 2`, 10 there, rounded to half precision; the smallest that is left
            stands where nothing was.
        sigma_scale: part of the window's size; one for all axes or one for each.

    Returns:
        `(i, j, k)` float32 on the CPU.
    """
    import torch

    if blend == "constant":
        return torch.ones(size)
    scales = sigma_scale if isinstance(sigma_scale, tuple) else (sigma_scale,) * 3
    if blend == "gaussian-nnunet":
        return _nnunet_map(size, scales)
    result = torch.ones(())
    for length, scale in zip(size, scales, strict=True):
        offset = torch.arange(-(length - 1) / 2.0, (length - 1) / 2.0 + 1)
        gaussian = torch.exp(offset**2 / (-2 * (scale * length) ** 2))
        result = result.unsqueeze(-1) * gaussian
    return result.clamp_(min=max(float(result.min()), SMALLEST_WEIGHT))


def _nnunet_map(size: tuple[int, int, int], scales: tuple[float, float, float]) -> Tensor:
    import torch

    result = torch.tensor(10.0, dtype=torch.float64)
    for length, scale in zip(size, scales, strict=True):
        offset = torch.arange(length, dtype=torch.float64) - length // 2
        result = result.unsqueeze(-1) * torch.exp(offset**2 / (-2 * (scale * length) ** 2))
    rounded = result.half().float()
    return rounded.clamp_(min=float(rounded[rounded > 0].min()))
