"""How much memory a network and a run need, known before the start."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


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


def activation_bytes(network: nn.Module, in_channels: int, window: tuple[int, int, int]) -> int:
    """Most bytes of intermediate tensors that live at once while a network answers one window.

    The network is run on shapes alone (torch's `meta` device): no memory, no arithmetic. Every
    module's output counts from when it is made until nothing refers to it any more. Its input
    window counts, its weights do not.

    Args:
        network: in evaluation mode.
        in_channels: channels of the input.
        window: voxels of the input.
    """
    import torch

    live = 0
    most = 0
    seen: set[int] = set()

    def free(key: int, size: int) -> None:
        nonlocal live
        live -= size
        seen.discard(key)

    def count(_module: Any, _inputs: Any, output: Any) -> None:
        nonlocal live, most
        for tensor in output if isinstance(output, (list, tuple)) else (output,):
            if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
                size = tensor.numel() * tensor.element_size()
                seen.add(id(tensor))
                weakref.finalize(tensor, free, id(tensor), size)
                live += size
                most = max(most, live)

    table: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in table.items()}
    image = torch.empty((1, in_channels, *window), device="meta")
    handles = [module.register_forward_hook(count) for module in network.modules()]
    try:
        with torch.inference_mode():
            torch.func.functional_call(network, shapes, (image,))
    finally:
        for handle in handles:
            handle.remove()
    return most + image.numel() * image.element_size()
