"""A model that nnU-Net v2 trained (hence TotalSegmentator, MOOSE, MRSegmentator) as a card.

Read: `plans.json`, `dataset.json` and the checkpoints of the folds in a folder that is called
`Trainer__Plans__configuration`. Any of these paths names the model: that folder; the folder above it,
where it holds one such model; one of its `fold_*` folders, for that fold alone. Neither nnunetv2 nor a
trainer's class is needed: trainers change the training, and the network stands in the plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import ModelError
from medseg.models.bundle_config import read_json
from medseg.models.card import Card, NetworkRecipe, SlidingWindow
from medseg.models.nnunet_architecture import make_network, read_architecture
from medseg.models.nnunet_checkpoint import CheckpointHeader, read_header
from medseg.models.nnunet_plans import (
    Axes,
    Table,
    bad_plans,
    listed,
    modality_of,
    number,
    read_axes,
    read_channels,
    read_configuration,
    read_intensity,
    read_orientation,
    read_outputs,
    read_resampling,
)
from medseg.models.weights import BuiltNetwork, load_into, read_weights

if TYPE_CHECKING:
    from torch import Tensor

PLANS = "plans.json"
DATASET = "dataset.json"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""File names of a fold's weights, the wanted one first."""

_FOLD = "fold_"
_DEPTH = 3
_MOST_FOLDERS = 200
"""Of a level that are looked into: a folder of models has fewer."""


@dataclass(frozen=True)
class _Place:
    """Where a trained model lies.

    Attributes:
        folder: holds plans, dataset and folds.
        checkpoints: one of each fold.
    """

    folder: Path
    checkpoints: tuple[Path, ...]


def is_nnunet(path: Path) -> bool:
    """Whether a path names a model of nnU-Net v2, whole or damaged."""
    return bool(_model_folders(path))


def _model_folders(path: Path) -> list[Path]:
    """The folders of trained models that a path may mean: itself, the one around a fold, those below."""
    if path.name.startswith(_FOLD) and _looks_trained(path.parent):
        return [path.parent]
    level = [path]
    for _ in range(_DEPTH):
        if found := [folder for folder in level if _looks_trained(folder)]:
            return found
        level = [below for folder in level for below in _folders_in(folder)][:_MOST_FOLDERS]
    return []


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(below for below in folder.iterdir() if below.is_dir())
    except OSError:
        return []


def _looks_trained(folder: Path) -> bool:
    """Two of the three parts: plans, dataset, a fold's weights; no for a folder that is closed to us."""
    try:
        has_files = [(folder / name).is_file() for name in (PLANS, DATASET)]
        return all(has_files) or (any(has_files) and bool(_checkpoints(folder)))
    except OSError:
        return False


def _checkpoints(folder: Path) -> tuple[Path, ...]:
    """A checkpoint of each fold; the fold of all cases only where there is no other."""
    folds = [fold for fold in _folders_in(folder) if fold.name.startswith(_FOLD)]
    for group in ([f for f in folds if f.name != "fold_all"], [f for f in folds if f.name == "fold_all"]):
        for name in CHECKPOINTS:
            if found := tuple(fold / name for fold in group if (fold / name).is_file()):
                return found
    return ()


def _place(path: Path) -> _Place:
    folders = _model_folders(path)
    if len(folders) != 1:
        names = ", ".join(str(folder.relative_to(path)) for folder in folders[:8])
        raise ModelError(
            "AMBIGUOUS_MODEL",
            f"expected one trained model in {path.name}, got {len(folders)} ({names}); name one of them",
        )
    folder = folders[0]
    if path != folder and path.name.startswith(_FOLD):
        checkpoints = tuple(path / name for name in CHECKPOINTS if (path / name).is_file())[:1]
    else:
        checkpoints = _checkpoints(folder)
    if not checkpoints:
        raise ModelError(
            "WEIGHTS_MISSING",
            f"expected {CHECKPOINTS[0]} in a folder fold_0 of {folder.name}, got none; "
            "install the model again",
        )
    return _Place(folder, checkpoints)


def read_nnunet(path: Path, _trust_code: bool = False) -> Card:
    """Lower a trained model to a card; nothing of it is executed.

    Args:
        path: as `is_nnunet` knows it.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE`, `AMBIGUOUS_MODEL`, `BAD_NNUNET`, `UNSUPPORTED_RECIPE`,
            `UNKNOWN_NETWORK`, `LABELS_MISMATCH`, `CODE_REFUSED`, `WEIGHTS_MISSING`,
            `WEIGHTS_CORRUPTED`, `NOT_WEIGHTS` or `BAD_CARD`, each with a sentence.
    """
    place = _place(path)
    plans, dataset = read_json(place.folder / PLANS), read_json(place.folder / DATASET)
    header = read_header(place.checkpoints[0])
    configuration = read_configuration(plans, _configuration_name(place.folder, header))
    axes = read_axes(plans)
    outputs = read_outputs(dataset)
    channels = read_channels(dataset)
    intensity = read_intensity(plans, configuration, len(channels))
    has_names = len({name.strip().lower() for name in channels}) == len(channels)
    return Card(
        name="-".join(str(plans.get("dataset_name") or place.folder.parent.name or "nnunet").split()),
        version=str(dataset.get("version", dataset.get("release", ""))),
        description=str(dataset.get("description", "")),
        licence=str(dataset.get("licence", dataset.get("license", ""))),
        modality=modality_of(channels),
        labels=outputs.labels,
        output_ids=outputs.output_ids,
        in_channels=len(channels),
        orientation=read_orientation(plans),
        spacing_mm=_spacing(configuration, axes),
        intensity=intensity[0],
        channel_intensity=intensity if len(set(intensity)) > 1 else (),
        window=SlidingWindow(
            axes.triple(configuration["patch_size"], "window sizes"),
            overlap_fraction=0.5,
            blend="gaussian-nnunet",
            placement="even",
        ),
        activation="sigmoid" if outputs.has_regions else "softmax",
        threshold=0.5 if outputs.has_regions else None,
        home="logits-linear",
        network=_recipe(configuration, axes, len(channels), len(outputs.output_ids), place),
        mirror_axes=tuple(i for i in range(3) if axes.turn[i] in header.mirror_axes),
        channel_names=channels if has_names else (),
        crop="nonzero",
        resampling=read_resampling(configuration),
        notes=_notes(place, header),
    )


def _configuration_name(folder: Path, header: CheckpointHeader) -> str:
    """The checkpoint's word, as nnU-Net takes it; else the end of the folder's name."""
    name = header.configuration or folder.name.rpartition("__")[2]
    if not name:
        raise bad_plans("a folder called Trainer__Plans__configuration", folder.name, "the model")
    return name


def _spacing(configuration: Table, axes: Axes) -> tuple[float, float, float]:
    values = [number(value, "spacing") for value in listed(configuration.get("spacing"), "spacings", 3)]
    return axes.stored(values)


def _recipe(configuration: Table, axes: Axes, channels: int, classes: int, place: _Place) -> NetworkRecipe:
    target, arguments = read_architecture(configuration, axes)
    files = tuple(f"{checkpoint.parent.name}/{checkpoint.name}" for checkpoint in place.checkpoints)
    return NetworkRecipe(
        target,
        {"in_channels": channels, "classes": classes, **arguments},
        weights_file=files[0],
        member_files=files[1:],
    )


def _notes(place: _Place, header: CheckpointHeader) -> tuple[str, ...]:
    folds = ", ".join(checkpoint.parent.name for checkpoint in place.checkpoints)
    notes = [f"answers of {folds} are averaged"] if len(place.checkpoints) > 1 else []
    if place.checkpoints[0].name != CHECKPOINTS[0]:
        notes.append(f"{CHECKPOINTS[0]} is missing: {CHECKPOINTS[1]} is used")
    if (place.folder / "postprocessing.pkl").exists() and header.trainer:
        notes.append("postprocessing.pkl is not read: components are kept as the network found them")
    return tuple(notes)


def nnunet_weights(path: Path, card: Card) -> tuple[Path, ...]:
    """The checkpoints of the folds."""
    folder = _place(path).folder
    return tuple(folder / name for name in (card.network.weights_file, *card.network.member_files))


def build_nnunet(path: Path, card: Card, _trust_code: bool = False) -> BuiltNetwork:
    """The network of each fold.

    Raises:
        ModelError: as `read_weights` and `load_into`.
    """
    networks = []
    for file in nnunet_weights(path, card):
        network = make_network(card.network.target, card.network.arguments)
        load_into(network, _turned(read_weights(file), card.network.arguments["turn"]))
        networks.append(network)
    return BuiltNetwork(networks[0], tuple(networks[1:]))


def _turned(weights: Mapping[str, Tensor], turn: list[int]) -> dict[str, Tensor]:
    """Weights under one name each, whose kernels run along (i, j, k)."""
    from medseg.models.conv_blocks import single_names

    kernel = [2 + axis for axis in turn]
    result = {}
    for name, tensor in single_names(weights).items():
        turned = tensor.permute(0, 1, *kernel) if tensor.ndim == 5 else tensor
        result[name] = (turned.float() if turned.is_floating_point() else turned).contiguous()
    return result
