"""A model ready to run: card, network with weights, device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError, SettingsError
from medseg.models.atlas import Atlas
from medseg.models.card import Card
from medseg.models.formats import format_of
from medseg.models.registry import find_model, not_a_model
from medseg.models.weights import fingerprint

if TYPE_CHECKING:
    from torch import nn

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True, eq=False)
class Model:
    """A card and its network, loaded once and used for any number of volumes.

    Attributes:
        card: what the model says of itself.
        network: `(1, in_channels, i, j, k)` float32 to `(1, out_channels, i, j, k)`; evaluation mode.
        device: `"cpu"`, `"cuda"` or `"mps"`, where the network is.
        weights_sha256: fingerprint of the weights file; empty for a network made in memory.
        members: further networks of the same card (folds of a cross-validation), whose answers are
            averaged with `network`'s before the activation.
        masks: of a detector: the network that draws objects in their boxes, on the same device.
        atlas: what is fitted to the image after the network; None for most models.
    """

    card: Card
    network: nn.Module
    device: str = "cpu"
    weights_sha256: str = ""
    members: tuple[nn.Module, ...] = ()
    masks: nn.Module | None = None
    atlas: Atlas | None = None


def choose_device(device: str = "auto") -> str:
    """The device that a wish means on this machine.

    Args:
        device: `"auto"` takes the fastest there is.

    Raises:
        SettingsError: `BAD_DEVICE` for another word, `NO_DEVICE` where this machine lacks it.
    """
    if device not in DEVICES:
        raise SettingsError("BAD_DEVICE", f"expected one of {', '.join(DEVICES)}, got {device!r}; choose one")
    if device == "cpu":
        return device
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        raise SettingsError(
            "NO_DEVICE", f"expected a {device} device, got none that torch can use here; choose cpu"
        )
    return device


def load_model(name_or_path: str | Path, *, device: str = "auto", trust_code: bool = False) -> Model:
    """Read a model and put its network on a device.

    Args:
        name_or_path: name of a bundled or installed model, or the path of one in any of
            `medseg.models.formats.FORMATS`.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.
        trust_code: let the model's own Python run; otherwise a model that needs it is refused.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: it is damaged, refused, or its weights do not fit.
        SettingsError: this machine has no such device.
    """
    path = find_model(name_or_path)
    known = format_of(path)
    if known is None:
        raise not_a_model(path)
    card = known.read(path, trust_code)
    where = choose_device(device)
    built = known.build(path, card, trust_code)
    networks = [network.eval().to(where) for network in (built.network, *built.members)]
    masks = None if built.masks is None else built.masks.eval().to(where)
    for network in networks if masks is None else [*networks, masks]:
        for parameter in network.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad = False
    _check_channels(networks[0], card)
    card = replace(card, notes=card.notes + built.notes)
    weights = fingerprint(known.weights(path, card))
    return Model(card, networks[0], where, weights, tuple(networks[1:]), masks, built.atlas)


def _check_channels(network: nn.Module, card: Card) -> None:
    """Return if some tensor of the network has as many channels as the card has outputs."""
    shapes = [tuple(tensor.shape) for tensor in network.state_dict().values() if tensor.ndim >= 1]
    if not any(card.out_channels in shape[:2] for shape in shapes):
        raise ModelError(
            "LABELS_MISMATCH",
            f"expected a network of {card.out_channels} output channels, got another; repair metadata.json",
        )
