"""How much arithmetic a network's answer takes, without running it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medseg.inference.shapes import is_convolution, run_on_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

_KNOWN: weakref.WeakKeyDictionary[Any, dict[tuple[int, ...], float]] = weakref.WeakKeyDictionary()


def answer_flops(module: nn.Module, in_channels: int, window: tuple[int, int, int]) -> float:
    """Floating-point operations of the convolutions and linear layers for one window.

    The module is run on shapes alone (`medseg.inference.shapes`). A multiplication and an addition count
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
    total = 0.0

    def count(name: str, args: Sequence[Any], made: Sequence[Tensor]) -> None:
        nonlocal total
        if is_convolution(name):
            # Each weight meets each voxel once: of the output, or of the input where that is spread out.
            image, weight, is_spread = args[0], args[1], args[6]
            side = image if is_spread else made[0]
            total += 2.0 * weight.numel() * side.numel() / weight.shape[0]
        elif name in ("mm", "addmm", "bmm"):
            total += 2.0 * args[-1].shape[-2] * made[0].numel()

    try:
        run_on_shapes(module, in_channels, window, count)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return math.inf
    return total
