"""The formats that models are published in: one table, from what lies on a disk to a `Card`.

Whoever adds a format writes a module of its own and one line in `FORMATS`; nothing else asks which
format a model has. `tests/models/test_format_contract.py` holds every line to the same contract.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError
from medseg.models.auto3dseg import (
    auto3dseg_weights,
    build_auto3dseg,
    is_auto3dseg,
    read_auto3dseg,
)
from medseg.models.bundle import build_bundle, bundle_weights, is_bundle, read_bundle
from medseg.models.nnunet import build_nnunet, is_nnunet, nnunet_weights, read_nnunet
from medseg.models.parts_folder import PartsFolder, is_parts
from medseg.models.torchscript import (
    build_torchscript,
    is_torchscript,
    read_torchscript,
    torchscript_weights,
)

if TYPE_CHECKING:
    from medseg.models.card import Card
    from medseg.models.weights import BuiltNetwork


@dataclass(frozen=True)
class ModelFormat:
    """One way in which models are published.

    Attributes:
        name: one word, such as `"monai-bundle"`.
        description: what of it is read, for people.
        is_it: whether a path holds this format; cheap, runs nothing of it, imports nothing heavy,
            raises nothing.
        read: the card of a path; loads no weights. The flag says whether the user trusts the model's
            own code; where it is false nothing of the model is executed.
        weights: the files that hold the weights of a card; they need not exist.
        build: the network of a card with its weights, on the CPU.
    """

    name: str
    description: str
    is_it: Callable[[Path], bool]
    read: Callable[[Path, bool], Card]
    weights: Callable[[Path, Card], tuple[Path, ...]]
    build: Callable[[Path, Card, bool], BuiltNetwork]


def format_of(path: Path) -> ModelFormat | None:
    """The format of a folder or file, or None where it is no model."""
    return next((known for known in FORMATS if known.is_it(path)), None)


_PARTS = PartsFolder(format_of)

FORMATS: tuple[ModelFormat, ...] = (
    ModelFormat("monai-bundle", "MONAI bundle folder", is_bundle, read_bundle, bundle_weights, build_bundle),
    ModelFormat(
        "parts",
        "folder with parts.json that joins models",
        is_parts,
        _PARTS.read,
        _PARTS.weights,
        _PARTS.build,
    ),
    ModelFormat(
        "nnunet", "folder that nnU-Net v2 trained", is_nnunet, read_nnunet, nnunet_weights, build_nnunet
    ),
    ModelFormat(
        "torchscript",
        "TorchScript file of a bundle, or with a .card.json beside it",
        is_torchscript,
        read_torchscript,
        torchscript_weights,
        build_torchscript,
    ),
    ModelFormat(
        "auto3dseg",
        "SegResNet checkpoint of MONAI Auto3DSeg",
        is_auto3dseg,
        read_auto3dseg,
        auto3dseg_weights,
        build_auto3dseg,
    ),
)
"""Every format, the most telling sign first."""

DEEPEST_FOLDERS = 4
"""Folders below the top of an archive that are searched for a model."""


def model_root(place: Path) -> Path:
    """The topmost model at or below a folder.

    Raises:
        ModelError: `NO_MODEL_INSIDE`.
    """
    level = [place]
    for _ in range(DEEPEST_FOLDERS):
        found = [path for path in level if format_of(path) is not None]
        if found:
            return found[0]
        level = [path for folder in level if folder.is_dir() for path in sorted(folder.iterdir())]
    raise ModelError(
        "NO_MODEL_INSIDE",
        "expected a model of a known format inside the zip, got none; see docs/model-formats.md",
    )
