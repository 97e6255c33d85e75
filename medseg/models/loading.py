"""A model ready to run: card, network with weights, device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError, SettingsError
from medseg.models.bundle import read_bundle
from medseg.models.card import Card
from medseg.models.networks import build_network
from medseg.models.registry import find_model
from medseg.models.weights import file_sha256, load_into, read_weights

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
    """

    card: Card
    network: nn.Module
    device: str = "cpu"
    weights_sha256: str = ""
    members: tuple[nn.Module, ...] = ()


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


def load_model(name_or_path: str | Path, *, device: str = "auto") -> Model:
    """Read a model and put its network on a device.

    Args:
        name_or_path: name of a bundled or installed model, or the path of a bundle folder.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: it is damaged, refused, or its weights do not fit.
        SettingsError: this machine has no such device.
    """
    folder = find_model(name_or_path)
    card = read_bundle(folder)
    weights_file = folder / card.network.weights_file
    weights = read_weights(weights_file)
    where = choose_device(device)
    network, dropped = build_network(card.network.target, card.network.arguments)
    load_into(network, weights)
    network.requires_grad_(requires_grad=False)
    card = replace(card, notes=card.notes + dropped)
    _check_channels(network, card)
    return Model(card, network.eval().to(where), where, file_sha256(weights_file))


def _check_channels(network: nn.Module, card: Card) -> None:
    """Return if some tensor of the network has as many channels as the card has outputs."""
    shapes = [tuple(tensor.shape) for tensor in network.state_dict().values() if tensor.ndim >= 1]
    if not any(card.out_channels in shape[:2] for shape in shapes):
        raise ModelError(
            "LABELS_MISMATCH",
            f"expected a network of {card.out_channels} output channels, got another; repair metadata.json",
        )
