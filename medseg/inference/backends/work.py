"""How much arithmetic a network's answer takes, without running it."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from medseg.inference.memory import run_on_shapes

if TYPE_CHECKING:
    from torch import nn

_KNOWN: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], float]] = weakref.WeakKeyDictionary()


def answer_flops(module: nn.Module, in_channels: int, window: tuple[int, int, int]) -> float:
    """Floating-point operations of the convolutions and linear layers for one window.

    The module is run on shapes alone (torch's `meta` device). A multiplication and an addition count
    as two, as in the literature.

    Args:
        module: in evaluation mode.
        in_channels: channels of the input.
        window: voxels of the input.

    Returns:
        Infinity where the module cannot be run so.
    """
    known = _KNOWN.setdefault(module, {})
    if window not in known:
        known[window] = _counted(module, in_channels, window)
    return known[window]


def _counted(module: nn.Module, in_channels: int, window: tuple[int, int, int]) -> float:
    import torch

    total = 0.0

    def count(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2 or not isinstance(output, torch.Tensor):
            return
        # Each weight meets each voxel once: of the output, or of the input where that is spread out.
        spread = getattr(layer, "transposed", False)
        side, channels = (inputs[0], weight.shape[0]) if spread else (output, weight.shape[0])
        total += 2.0 * weight.numel() * side.numel() / channels

    image = torch.empty((1, in_channels, *window), device="meta")
    try:
        handles = [one.register_forward_hook(count) for one in module.modules()]
        try:
            run_on_shapes(module, image)
        finally:
            for handle in handles:
                handle.remove()
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return math.inf
    return total
