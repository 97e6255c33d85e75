"""What a trained network knows, into a network that answers other classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOST_NAMED = 6


@dataclass(frozen=True)
class Transfer:
    """Which tensors of the old network went where.

    Attributes:
        kept: names of tensors taken over whole.
        widened: names of tensors that grew by the new classes; what they held is in front.
        dropped: names of old tensors that have no place in the new network.
        fresh: names of tensors of the new network that start by chance.
    """

    kept: tuple[str, ...]
    widened: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """A sentence that names what was not kept."""
        parts = [f"kept {len(self.kept)} tensors of the model"]
        for what, names in (("widened", self.widened), ("dropped", self.dropped), ("new", self.fresh)):
            if names:
                more = f", … ({len(names)})" if len(names) > MOST_NAMED else ""
                parts.append(f"{what}: {', '.join(names[:MOST_NAMED])}{more}")
        return "; ".join(parts)


@torch.no_grad()
def transfer_weights(
    old: Mapping[str, Tensor], network: nn.Module, channels: tuple[int, int] | None = None
) -> Transfer:
    """Give a network the weights of another one as far as their layers match by name and shape.

    Where a side of a tensor is as long as the old network's answer and the new one's is as long as its own,
    the tensor is widened: the old channels come first and in their order, and do not hear of the new ones
    (weights from new channels to old ones are 0), so that the old answers stay exactly what they were.

    Args:
        old: state dict.
        network: written into; what is not taken over stays as it is.
        channels: answers of the old and of the new network, where classes were added; None widens nothing.
    """
    own = network.state_dict()
    kept, widened, dropped = [], [], []
    for name, value in old.items():
        place = own.get(name)
        if place is None:
            dropped.append(name)
        elif place.shape == value.shape:
            place.copy_(value)
            kept.append(name)
        elif channels is not None and _grows(value, place, channels):
            _widen(value, place, is_transposed=_is_transposed(network, name))
            widened.append(name)
        else:
            dropped.append(name)
    fresh = [name for name in own if name not in {*kept, *widened}]
    return Transfer(tuple(kept), tuple(widened), tuple(dropped), tuple(fresh))


def _grows(old: Tensor, new: Tensor, channels: tuple[int, int]) -> bool:
    """Whether shapes differ by the number of classes alone."""
    pairs = list(zip(old.shape, new.shape, strict=False))
    return old.ndim == new.ndim and all(a == b or (a, b) == channels for a, b in pairs)


def _widen(old: Tensor, new: Tensor, *, is_transposed: bool) -> None:
    """Put the old tensor in front; what leads from new channels to old answers becomes 0."""
    answers, sources = (1, 0) if is_transposed else (0, 1)
    if new.ndim > 1 and new.shape[sources] > old.shape[sources]:
        first = [slice(None)] * new.ndim
        first[answers], first[sources] = slice(old.shape[answers]), slice(old.shape[sources], None)
        new[tuple(first)] = 0
    new[tuple(slice(n) for n in old.shape)] = old


def _is_transposed(network: nn.Module, name: str) -> bool:
    """Whether a tensor is the kernel of a transposed convolution, whose first side is its input."""
    module = network.get_submodule(name.rpartition(".")[0])
    return bool(getattr(module, "transposed", False))
