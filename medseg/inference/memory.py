"""How much memory a network and a run need, known before the start."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    The network is run on shapes alone (torch's `meta` device): no memory, no arithmetic. Every
    module's output counts from when it is made until nothing refers to it any more. Its input
    window counts, its weights do not.

    Args:
        network: in evaluation mode.
        in_channels: channels of the input.
        window: voxels of the input.
        reordered: whether convolutions work on copies of what they read and write in blocks of 16
            channels, as oneDNN does on a CPU.
    """
    import torch

    ledger = _Ledger()

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        made = [t for t in _as_list(output) if isinstance(t, torch.Tensor)]
        for tensor in made:
            ledger.enter(tensor)
        is_convolution = hasattr(module, "kernel_size") and hasattr(module, "weight")
        if reordered and is_convolution:
            ledger.look(sum(_blocked_bytes(t) for t in (*inputs, *made) if isinstance(t, torch.Tensor)))

    image = torch.empty((1, in_channels, *window), device="meta")
    ledger.enter(image)
    handles = [module.register_forward_hook(count) for module in network.modules()]
    try:
        run_on_shapes(network, image)
    finally:
        for handle in handles:
            handle.remove()
    return ledger.most


def run_on_shapes(network: nn.Module, image: Tensor) -> None:
    """Run a network on torch's `meta` device: no memory, no arithmetic.

    Every module gives up its weights once, even where several names lead to it, as in MONAI's DynUNet:
    `functional_call` would otherwise leave such a module without its own weights.

    Args:
        network: in evaluation mode; unchanged afterwards.
        image: `(1, in_channels, i, j, k)` on that device.
    """
    import torch

    shapes = {
        f"{path}.{name}".lstrip("."): torch.empty_like(tensor, device="meta")
        for path, module in network.named_modules()
        for name, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        )
    }
    with torch.inference_mode():
        torch.func.functional_call(network, shapes, (image,), tie_weights=False)


class _Ledger:
    """Bytes of tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        self.most = 0
        self._live = 0
        self._seen: set[int] = set()

    def enter(self, tensor: Tensor) -> None:
        """Count a tensor until it dies, once."""
        key, size = id(tensor), tensor.numel() * tensor.element_size()
        if key in self._seen:
            return
        self._seen.add(key)
        weakref.finalize(tensor, self._leave, key, size)
        self._live += size
        self.look()

    def look(self, passing: int = 0) -> None:
        """Note the bytes alive now, and some that pass at once."""
        self.most = max(self.most, self._live + passing)

    def _leave(self, key: int, size: int) -> None:
        self._live -= size
        self._seen.discard(key)


def _as_list(output: Any) -> list[Any]:
    return list(output) if isinstance(output, (list, tuple)) else [output]


def _blocked_bytes(tensor: Tensor) -> int:
    """Bytes of `(1, channels, i, j, k)` with the channels rounded up to whole blocks."""
    channels = tensor.shape[1]
    return tensor.numel() // channels * -(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK * tensor.element_size()
