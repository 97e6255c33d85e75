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

RETURNED_BYTES = 2**25
"""What C's `malloc` surely gives back to the system when it is freed: glibc's largest threshold."""


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
    """Most bytes that intermediate tensors take at once while a network answers one window.

    The network is run on shapes alone (`medseg.inference.shapes`). What an operation gives counts from
    when it is made until nothing refers to it any more; small tensors count as the most of them that ever
    lived, for their memory is kept. The input window counts, the weights do not.

    Args:
        network: in evaluation mode.
        in_channels: channels of the input.
        window: voxels of the input.
        reordered: whether convolutions work on copies of what they read and write, as oneDNN does on a CPU.

    The network's own errors pass: it does not take the window.
    """
    ledger = _Ledger()

    def count(name: str, args: Sequence[Any], made: Sequence[Tensor]) -> None:
        for tensor in made:
            ledger.enter(tensor)
        if reordered and is_convolution(name):
            ledger.look(_copied_bytes(args, made[0]))

    run_on_shapes(network, in_channels, window, count)
    return ledger.most


class _Ledger:
    """Bytes that tensors take, and the most that they ever took."""

    def __init__(self) -> None:
        self.most = 0
        self._large, self._small, self._kept = 0, 0, 0
        self._seen: set[int] = set()

    def enter(self, tensor: Tensor) -> None:
        """Count what a tensor's values take until nothing refers to them, once."""
        values = tensor.untyped_storage()
        key, size = id(values), values.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(values, self._leave, key, size)
        self._add(size)
        self.look(0)

    def look(self, passing: int) -> None:
        """Note the bytes taken now, and some that pass at once."""
        small, large = (passing, 0) if passing < RETURNED_BYTES else (0, passing)
        self._kept = max(self._kept, self._small + small)
        self.most = max(self.most, self._large + large + self._kept)

    def _add(self, size: int) -> None:
        if abs(size) < RETURNED_BYTES:
            self._small += size
        else:
            self._large += size

    def _leave(self, key: int, size: int) -> None:
        self._add(-size)
        self._seen.discard(key)


def _copied_bytes(args: Sequence[Any], answer: Tensor) -> int:
    """Most bytes of oneDNN's copies that live at once beside what a convolution reads and gives.

    Measured with torch 2.13 for 3D convolutions of every kind that networks use, exact to 1 %: the copies of
    image and answer live together before the answer is there, that of the answer also after; those of
    single channels live all three together; the reverse of a convolution makes its answer three times.

    Args:
        args: of `aten::convolution`: image, weight, bias, stride, padding, dilation, transposed, output
            padding, groups.
        answer: what it gave, counted already.
    """
    image, weight, is_transposed, groups = args[0], args[1], args[6], args[8]
    given = answer.numel() * answer.element_size()
    if is_transposed:
        return 2 * given
    copies = _blocked_bytes(image) + _blocked_bytes(answer)
    is_of_single_channels = groups > 1 and weight.shape[1] == 1
    return copies if is_of_single_channels else max(copies - given, _blocked_bytes(answer))


def _blocked_bytes(tensor: Tensor) -> int:
    """Bytes of `(1, channels, i, j, k)` with the channels rounded up to whole blocks."""
    channels = tensor.shape[1]
    return tensor.numel() // channels * -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK * tensor.element_size()
