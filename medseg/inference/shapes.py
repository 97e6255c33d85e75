"""A network run on shapes alone: no memory, no arithmetic.

Tensors on torch's `meta` device have shape and type but no content. torch's own functions for them are
written in Python, and the first call loads its compiler (two seconds, 100 MB), so the few operations
that segmentation networks are made of get their shapes here; all others go to torch.
"""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

Seen = Callable[[str, Sequence[Any], Sequence["Tensor"]], None]
"""Told of every operation: its name in torch's `aten`, its arguments, the tensors that it gave."""

_POINTWISE = frozenset({
    "add", "sub", "mul", "div", "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "elu", "mish",
    "hardtanh", "hardswish", "softplus", "_prelu_kernel", "_softmax", "clone", "roll",
})  # fmt: skip
_NORMS = frozenset({
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "native_group_norm", "native_layer_norm",
})  # fmt: skip


def is_convolution(name: str) -> bool:
    """Whether an operation is a convolution: of image, weight, bias, ..."""
    return name in ("convolution", "_convolution")


def run_on_shapes(network: nn.Module, in_channels: int, window: tuple[int, int, int], seen: Seen) -> None:
    """Let a copy of a network without content answer a window without content.

    Compiled networks (TorchScript) that make tensors on a device of their own run for real instead.

    Args:
        network: in evaluation mode; neither it nor its weights are touched.
        in_channels: channels of its input.
        window: voxels of its input.
        seen: told of every operation, the first time with the input alone.

    The network's own errors pass: it does not take the window.
    """
    import torch

    size = (1, in_channels, *window)
    with torch.no_grad():  # in inference mode, composed operations would come in one piece
        if not isinstance(network, torch.jit.ScriptModule):
            _run(_hollow(network), torch.empty(size, device="meta"), seen)
            return
        try:
            _run(_hollow_script(network), torch.empty(size, device="meta"), seen)
        except (RuntimeError, NotImplementedError):
            device = next(itertools.chain(network.parameters(), network.buffers()), torch.empty(0)).device
            _run(network, torch.zeros(size, device=device), seen)


def _hollow(network: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers have no content.

    A copy, because to exchange them in the network itself (`torch.func.functional_call`) leaves those
    without content behind where a layer stands in the network under two names.
    """
    from torch import nn

    stand_ins: dict[int, Any] = {
        id(one): nn.Parameter(one.detach().to("meta"), requires_grad=False) for one in network.parameters()
    }
    stand_ins |= {id(one): one.detach().to("meta") for one in network.buffers()}
    hollow: nn.Module = copy.deepcopy(network, stand_ins)
    return hollow


def _hollow_script(network: Any) -> Any:
    import torch

    written = io.BytesIO()
    with warnings.catch_warnings():  # torch advises against TorchScript; models are published as such
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(network, written)
        written.seek(0)
        return torch.jit.load(written, map_location="meta")  # type: ignore[no-untyped-call]  # torch.jit


def _run(network: nn.Module, image: Tensor, seen: Seen) -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook on subclasses
        """Stands between torch and its operations."""

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # or torch loads its compiler only to leave this alone

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            name = func.overloadpacket.__name__
            result = _quick(name, args) if not kwargs else None
            if result is None:
                result = func(*args, **(kwargs or {}))
            made = result if isinstance(result, (list, tuple)) else [result]
            seen(name, args, [one for one in made if isinstance(one, torch.Tensor)])
            return result

    seen("", (), [image])
    with Watch():  # type: ignore[no-untyped-call]  # as above
        network(image)


def _quick(name: str, args: Sequence[Any]) -> Any:
    """The result of a common operation of float tensors without content; None leaves it to torch."""
    import torch

    first = args[0] if args else None
    given = first if name == "cat" and isinstance(first, (list, tuple)) else args
    tensors = [one for one in given if isinstance(one, torch.Tensor)]
    if not tensors or not all(one.is_meta and one.dtype == torch.float32 for one in tensors):
        return None
    if name.endswith("_") and name.removesuffix("_") in _POINTWISE:
        return first
    shape = _shape(name, args, tensors)
    if shape is None:
        return None
    made = tensors[0].new_empty(shape)
    return (made, made.new_empty(0), made.new_empty(0)) if name in _NORMS else made


def _shape(name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    if name in _POINTWISE:
        return np.broadcast_shapes(*(tuple(one.shape) for one in tensors))
    if name in _NORMS:
        return tuple(tensors[0].shape)
    if is_convolution(name):
        return _convolved(args[0], args[1], args[3:9])
    if name == "cat":
        axis = args[1] if len(args) > 1 else 0
        shape = list(tensors[0].shape)
        shape[axis] = sum(one.shape[axis] for one in tensors)
        others = {(*one.shape[:axis], *one.shape[axis + 1 :]) for one in tensors}
        return tuple(shape) if axis >= 0 and len(others) == 1 else None
    if name.startswith("upsample_") and name.endswith("3d"):
        return (*tensors[0].shape[:2], *args[1])
    return None


def _convolved(image: Tensor, weight: Tensor, settings: Sequence[Any]) -> tuple[int, ...] | None:
    """Shape after a convolution, as torch documents it; None where it is refused."""
    stride, padding, dilation, is_transposed, output_padding, groups = settings
    axes = zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True)
    if is_transposed:
        sides = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + more for n, k, s, p, d, more in axes]
        fits, channels = image.shape[1] == weight.shape[0], weight.shape[1] * groups
    else:
        sides = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in axes]
        fits, channels = image.shape[1] == weight.shape[1] * groups, weight.shape[0]
    return (image.shape[0], channels, *sides) if fits and min(sides) > 0 else None
