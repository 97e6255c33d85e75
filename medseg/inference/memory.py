"""How much memory a network and a run need, known before the start."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.inference.shapes import is_convolution, run_on_shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

CHANNEL_BLOCK = 16
"""Channels that oneDNN keeps together on processors with AVX-512; on others, fewer."""


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; the highest so far where only that is told; or 0."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    pages = Path("/proc/self/statm")
    if pages.is_file():
        return int(pages.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def activation_bytes(
    network: nn.Module, in_channels: int, window: tuple[int, int, int], *, reordered: bool = True
) -> int:
    """Most bytes of intermediate tensors that live at once while a network answers one window.

    The network is run on shapes alone (`medseg.inference.shapes`). What an operation gives counts from
    when it is made until nothing refers to it any more. The input window counts, the weights do not.

    Args:
        network: in evaluation mode.
        in_channels: channels of the input.
        window: voxels of the input.
        reordered: whether convolutions work on copies of what they read and write in blocks of 16
            channels, as oneDNN does on a CPU.

    The network's own errors pass: it does not take the window.
    """
    ledger = _Ledger()

    def count(name: str, args: Sequence[Any], made: Sequence[Tensor]) -> None:
        for tensor in made:
            ledger.enter(tensor)
        if reordered and is_convolution(name):
            ledger.look(sum(_blocked_bytes(tensor) for tensor in (args[0], *made)))

    run_on_shapes(network, in_channels, window, count)
    return ledger.most


class _Ledger:
    """Bytes of tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        self.most = 0
        self._live = 0
        self._seen: set[int] = set()

    def enter(self, tensor: Tensor) -> None:
        """Count what a tensor's values take until nothing refers to them, once."""
        values = tensor.untyped_storage()
        key, size = id(values), values.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(values, self._leave, key, size)
        self._live += size
        self.look()

    def look(self, passing: int = 0) -> None:
        """Note the bytes alive now, and some that pass at once."""
        self.most = max(self.most, self._live + passing)

    def _leave(self, key: int, size: int) -> None:
        self._live -= size
        self._seen.discard(key)


def _blocked_bytes(tensor: Tensor) -> int:
    """Bytes of `(1, channels, i, j, k)` with the channels rounded up to whole blocks."""
    channels = tensor.shape[1]
    return tensor.numel() // channels * -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK * tensor.element_size()
