"""The last layer of a network, done once per voxel instead of once per window.

Most networks end in a pointwise linear layer (a 1x1x1 convolution) from a few features to many
classes. Overlapping windows are averaged, and the average of linear answers is the linear answer to
the average: it is enough to sum the features, and to apply the layer to their mean. With 105
classes of 16 features that saves six parts in seven of the memory and most of the time beside the
network.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

TRIAL_VOXELS = (32, 64)
"""Sides of the windows on which a split is tried first; networks that refuse them get a whole one, which for
many classes takes more memory than the run itself."""

TOLERANCE = 1e-5
"""Relative to the largest score: what rounding may differ."""

_KNOWN: weakref.WeakKeyDictionary[Any, Split | None] = weakref.WeakKeyDictionary()
"""Networks that were looked at."""


@dataclass(frozen=True, eq=False)
class Head:
    """A pointwise linear layer.

    Attributes:
        weight: `(channels, features)` float32.
        bias: `(channels,)` float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores `(channels, …)` of averaged features `(features, …)`."""
        import torch

        if features.stride(0) == 1:  # the features of a voxel lie side by side: so will its scores
            return torch.nn.functional.linear(features.movedim(0, -1), self.weight, self.bias).movedim(-1, 0)
        flat = features.reshape(features.shape[0], -1)
        return self.bias[:, None].addmm(self.weight, flat).reshape(-1, *features.shape[1:])

    def to(self, device: Any) -> Head:
        """The same layer elsewhere."""
        return Head(self.weight.to(device), self.bias.to(device))


@dataclass(frozen=True, eq=False)
class Split:
    """A network in two parts.

    Attributes:
        body: the network up to its last layer; shares the network's weights.
        layer: its last layer, the network's own.
    """

    body: nn.Module
    layer: nn.Conv3d

    @property
    def head(self) -> Head:
        """The last layer as it is now, wherever the network was moved and whatever it learned since."""
        weight = self.layer.weight.detach().flatten(1)
        bias = self.layer.bias
        return Head(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach())

    @property
    def features(self) -> int:
        """Channels between body and head."""
        return self.layer.in_channels


def split_head(network: nn.Module, in_channels: int, window: tuple[int, int, int]) -> Split | None:
    """Take the last layer off, if it is pointwise and linear and nothing comes after it.

    The parts are tried on a random window: head after body must answer as the network does.

    Args:
        network: in evaluation mode.
        in_channels: channels of its input.
        window: voxels of its input.

    Returns:
        Both parts, or None where the network ends otherwise.
    """
    if network not in _KNOWN:
        _KNOWN[network] = _split(network, in_channels, window)
    return _KNOWN[network]


def _split(network: nn.Module, in_channels: int, window: tuple[int, int, int]) -> Split | None:
    import torch

    heads = {name: module for name, module in network.named_modules() if _is_pointwise(module)}
    if not heads:
        return None
    i, j, k = window
    trials = [(min(side, i), min(side, j), min(side, k)) for side in TRIAL_VOXELS]
    device = next(network.parameters()).device
    noise = torch.Generator().manual_seed(0)
    for size in dict.fromkeys((*trials, window)):
        image = torch.randn((1, in_channels, *size), generator=noise).to(device)
        try:
            with torch.inference_mode():
                name, expected = _last_called(network, heads, image)
        except (RuntimeError, ValueError, TypeError):  # too small for its down-samplings, or unfit
            continue
        return _checked(network, name, image, expected) if name is not None else None
    return None


def _is_pointwise(module: nn.Module) -> bool:
    import torch

    return (
        isinstance(module, torch.nn.Conv3d)
        and set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and set(module.padding) == {0}
        and module.groups == 1
        and module.weight.dtype == torch.float32
    )


def _last_called(network: nn.Module, heads: dict[str, Any], image: Tensor) -> tuple[str | None, Tensor]:
    """Name of the layer whose output is the network's, called once; and that output."""
    made: list[tuple[str, Any]] = []
    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: made.append((name, output)))
        for name, module in heads.items()
    ]
    try:
        output = network(image.clone())
    finally:
        for handle in handles:
            handle.remove()
    answer = output[0] if isinstance(output, (list, tuple)) else output
    names = [name for name, one in made if one is answer]
    calls = [name for name, _ in made]
    return (names[0] if len(names) == 1 and calls.count(names[0]) == 1 else None), answer


def _checked(network: nn.Module, name: str, image: Tensor, expected: Tensor) -> Split | None:
    import torch

    shared: dict[int, Any] = {
        id(tensor): tensor for tensor in itertools.chain(network.parameters(), network.buffers())
    }
    body: nn.Module = copy.deepcopy(network, shared)
    layer: Any = network.get_submodule(name)
    if name:
        parent, _, child = name.rpartition(".")
        setattr(body.get_submodule(parent), child, torch.nn.Identity())
    else:
        body = torch.nn.Identity()
    split = Split(body.eval(), layer)
    with torch.inference_mode():
        output = body(image)
        answer = split.head((output[0] if isinstance(output, (list, tuple)) else output)[0])
        if answer.shape != expected.shape[1:]:
            return None
        largest = max(float(expected.max()), -float(expected.min()))
        answer -= expected[0]  # in place: with many classes each copy is large
        error = max(float(answer.max()), -float(answer.min()))
    return split if error <= TOLERANCE * largest else None


def joined(splits: Sequence[Split]) -> Head:
    """One head for the features of several networks side by side, whose answers are averaged."""
    import torch

    weight = torch.cat([split.head.weight for split in splits], dim=1) / len(splits)
    return Head(weight, torch.stack([split.head.bias for split in splits]).mean(0))
