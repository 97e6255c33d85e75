"""A TorchScript file as a model: a MONAI bundle's (recipe in its `extra/` files), or with a card beside it.

A TorchScript file is a zip of a compiled network. MONAI's `ckpt_export` puts `metadata.json` and the recipe
into its folder `extra/`. Any other TorchScript network needs a card (see `card_json`): the file of the same
name that ends in `.card.json` instead of `.ts` or `.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import ModelError
from medseg.files import data_file_beside
from medseg.models.atlas import read_atlas
from medseg.models.bundle import lower_card
from medseg.models.bundle_config import BundleConfig, parse_content, read_json, refuse_hostile_code
from medseg.models.bundle_metadata import first_format
from medseg.models.card import Card, NetworkRecipe
from medseg.models.card_json import card_from_json
from medseg.models.scripted import extra_files, is_torchscript, load_scripted
from medseg.models.weights import BuiltNetwork

__all__ = ["build_torchscript", "is_torchscript", "read_torchscript", "torchscript_weights"]

TORCHSCRIPT_TARGET = "torchscript"
"""Stands for a network that is its own definition."""

CARD_SUFFIX = ".card.json"

_METADATA = "metadata.json"
_RECIPES = ("inference.json", "inference.yaml", "inference.yml")


def read_torchscript(path: Path, _trust_code: bool = False) -> Card:
    """The card of a TorchScript file.

    Args:
        path: of the file.
        _trust_code: there is no Python to trust.

    Raises:
        ModelError: `CARD_MISSING`, neither a card beside it nor a bundle's files in it; otherwise as
            `read_bundle` and `card_from_json`.
    """
    beside = card_path(path)
    if beside.is_file():
        return card_from_json(read_json(beside), NetworkRecipe(TORCHSCRIPT_TARGET, {}, path.name))
    extra = extra_files(path)
    recipe = next((name for name in _RECIPES if name in extra), None)
    if _METADATA not in extra or recipe is None:
        raise ModelError(
            "CARD_MISSING",
            f"expected a bundle's files in {path.name} (extra/{_METADATA}, extra/{_RECIPES[0]}) or a card "
            f"{beside.name} beside it, got neither; write the card",
        )
    metadata, root = parse_content(extra[_METADATA], _METADATA), parse_content(extra[recipe], recipe)
    for content in (metadata, root):
        refuse_hostile_code(content)
    network = NetworkRecipe(TORCHSCRIPT_TARGET, _channels(metadata), path.name)
    config = BundleConfig(root | {"bundle_root": "."}, None)
    return lower_card(metadata, config, network, (path.stem, str(metadata.get("license", ""))))


def card_path(path: Path) -> Path:
    """Where the card of a TorchScript file stands."""
    return path.with_name(path.name.removesuffix(path.suffix) + CARD_SUFFIX)


def _channels(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The channels that the metadata state, under the names of a network's arguments."""
    found = {
        name: first_format(metadata, side).get("num_channels")
        for name, side in (("in_channels", "inputs"), ("out_channels", "outputs"))
    }
    return {name: count for name, count in found.items() if type(count) is int}


def torchscript_weights(path: Path, card: Card) -> tuple[Path, ...]:
    """The file itself, that of a detector's masks, and an atlas; all beside the first one.

    Raises:
        ReadError: `DETACHED_DATA_REFUSED`, a name that leads elsewhere; `FILE_NOT_FOUND`.
    """
    masks = "" if card.detection is None else card.detection.masks.weights_file
    return (path, *(data_file_beside(path, name) for name in (masks, card.atlas_file) if name))


def build_torchscript(path: Path, card: Card, trust_code: bool = False) -> BuiltNetwork:
    """The network of a TorchScript file, on the CPU wherever it was saved.

    Args:
        path: of the file.
        card: as `read_torchscript` gave it.
        trust_code: load it even if it uses operators that reach outside.

    Raises:
        ModelError: `WEIGHTS_CORRUPTED`; `CODE_REFUSED`, it uses an operator that could reach files;
            `DAMAGED_ATLAS`.
        ReadError: the masks of a detector, or the atlas, are missing.
    """
    files = list(torchscript_weights(path, card))
    atlas = read_atlas(files.pop()) if card.atlas_file else None
    networks = [load_scripted(file, trust_code=trust_code) for file in files]
    return BuiltNetwork(networks[0], masks=networks[1] if card.detection is not None else None, atlas=atlas)
