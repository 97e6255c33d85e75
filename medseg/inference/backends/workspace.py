"""Memory that a backend needs to answer one window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.inference.memory import activation_bytes

if TYPE_CHECKING:
    from torch import nn

    from medseg.inference.backends.choose import BackendChoice


def answer_bytes(
    module: nn.Module, in_channels: int, window: tuple[int, int, int], device: str, choice: BackendChoice
) -> int:
    """Bytes beyond the module itself while it answers a window.

    Args:
        module: the network, or its part before the head.
        in_channels: of its input.
        window: voxels of its input.
        device: where it runs.
        choice: what runs it.

    Raises:
        RuntimeError: the module does not take such windows.
        ValueError: likewise.
        TypeError: likewise.
    """
    del choice
    return activation_bytes(module, in_channels, window, reordered=device == "cpu")
