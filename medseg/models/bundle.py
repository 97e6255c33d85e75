"""A MONAI bundle folder as a card.

Read: `configs/metadata.json` (`bundle_metadata`, `bundle_medseg`), the recipe `configs/inference.json` or
`.yaml` (`bundle_config`, `bundle_steps`, `bundle_outputs`), the names of the weights. Nothing of it is
executed, unless the user trusts its code (`trusted`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError
from medseg.models.atlas import read_atlas
from medseg.models.bundle_config import (
    BundleConfig,
    find_recipe,
    plain,
    read_json,
    refuse_hostile_code,
    refused,
)
from medseg.models.bundle_medseg import atlas_of, detection_of, is_inside, members_of, separation_of
from medseg.models.bundle_metadata import first_format, input_names, lower_outputs, modality_of
from medseg.models.bundle_outputs import Postprocessing, lower_inferer, lower_postprocessing
from medseg.models.bundle_steps import Preprocessing, lower_preprocessing, unsupported
from medseg.models.card import Card, NetworkRecipe
from medseg.models.networks import build_network, network_target, without_devices
from medseg.models.scripted import load_scripted
from medseg.models.trusted import TrustedRecipe
from medseg.models.weights import BuiltNetwork, load_into, read_arrays, read_weights

if TYPE_CHECKING:
    from torch import nn

METADATA = Path("configs") / "metadata.json"
_WEIGHTS = ("models/model.safetensors", "models/model.pt")
TRUSTED_TARGET = "trusted:"
"""Stands before the key of a network that only the bundle's own code can make."""


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    return (folder / METADATA).is_file()


def read_bundle(folder: Path, trust_code: bool = False) -> Card:
    """Lower a bundle to a card; nothing of it is executed, unless its code is trusted.

    Args:
        folder: the bundle's folder.
        trust_code: whether the user trusts the bundle's own Python (see `trusted`).

    Raises:
        ModelError: `BUNDLE_INCOMPLETE`, `BAD_BUNDLE`, `CODE_REFUSED`, `UNSUPPORTED_RECIPE`,
            `UNKNOWN_NETWORK`, `LABELS_MISMATCH`, `BAD_CARD` or `TRUSTED_CODE_FAILED`, each with a sentence.
    """
    metadata = read_json(folder / METADATA)
    config = _config(folder, trust_code=trust_code)
    if not trust_code:
        refuse_hostile_code(metadata)
    network = replace(_network(config, folder), member_files=members_of(metadata))
    named = str(metadata.get("name", "")).strip()
    is_word = bool(named) and not any(c.isspace() or c in "/\\" for c in named)
    name = named if is_word else folder.resolve().name
    return lower_card(metadata, config, network, (name, _licence(metadata, folder)))


def lower_card(
    metadata: Mapping[str, Any], config: BundleConfig, network: NetworkRecipe, words: tuple[str, str]
) -> Card:
    """The card of a bundle's parts, wherever they lie.

    Args:
        metadata: content of `metadata.json`.
        config: the recipe.
        network: what answers; its arguments tell the channels where they stand there.
        words: name and licence.

    Raises:
        ModelError: as `read_bundle`.
    """
    before = lower_preprocessing(config.value("preprocessing")) if config.has("preprocessing") else None
    after = lower_postprocessing(config.value("postprocessing")) if config.has("postprocessing") else None
    missing = [f"the recipe has no {name}: none is done" for name, got in
               (("preprocessing", before), ("postprocessing", after)) if got is None]  # fmt: skip
    before, after = before or Preprocessing(), after or Postprocessing()
    out_channels = network.arguments.get("out_channels", network.arguments.get("num_classes"))
    ids = {str(channel): label for channel, label in after.regions}
    labels, output_ids = lower_outputs(
        metadata, out_channels, has_background=after.threshold is None, region_ids=ids
    )
    if sorted(ids) not in ([], sorted(str(channel) for channel in range(len(output_ids)))):
        raise unsupported(f"a choice among channels {sorted(ids)} of {len(output_ids)}", "postprocessing")
    image = first_format(metadata, "inputs")
    channels = network.arguments.get("in_channels", image.get("num_channels", 1))
    channels = channels if isinstance(channels, int) else 1
    if channels > 1 and before.joint:
        raise unsupported(f"{before.joint[0]} of all channels together (channel_wise)", "preprocessing")
    names = before.channel_keys if len(before.channel_keys) == channels > 1 else input_names(image, channels)
    return Card(
        name=words[0],
        version=str(metadata.get("version", "")),
        description=str(metadata.get("description", "")),
        licence=words[1],
        modality=modality_of(image),
        labels=labels,
        output_ids=output_ids,
        in_channels=channels,
        orientation=before.orientation,
        spacing_mm=before.spacing_mm,
        intensity=before.intensity,
        window=lower_inferer(config.value("inferer")),
        activation=after.activation,
        home=after.home,
        network=network,
        threshold=after.threshold,
        detection=detection_of(metadata),
        separation=separation_of(metadata),
        channel_names=names,
        resampling=before.resampling,
        claim_order=tuple(channel for channel, _ in after.regions),
        keep_largest=_largest(after, output_ids),
        foreground=before.foreground,
        atlas_file=atlas_of(metadata),
        notes=(*before.notes, *after.notes, *missing),
    )


def _largest(after: Postprocessing, output_ids: tuple[int, ...]) -> tuple[int, ...]:
    """Label ids of which the largest piece stays."""
    if after.keep_largest is None:
        return ()
    strange = [channel for channel in after.keep_largest if not 0 <= channel < len(output_ids)]
    if strange:
        raise ModelError("BAD_BUNDLE", f"expected channels in applied_labels, got {strange}; repair them")
    chosen = after.keep_largest or range(len(output_ids))
    return tuple(output_ids[channel] for channel in chosen if output_ids[channel] != 0)


def bundle_weights(folder: Path, card: Card) -> tuple[Path, ...]:
    """The files that hold a bundle's weights, and its atlas."""
    names = (card.network.weights_file, *card.network.member_files, card.atlas_file)
    own = tuple(folder / name for name in names if name)
    return own if card.detection is None else (*own, folder / card.detection.masks.weights_file)


def build_bundle(folder: Path, card: Card, trust_code: bool = False) -> BuiltNetwork:
    """The network of a bundle's card with its weights.

    Args:
        folder: the bundle's folder.
        card: as `read_bundle` gave it.
        trust_code: whether the user trusts the bundle's own Python.

    Raises:
        ModelError: the weights are missing, damaged, refused or those of another network.
    """
    network, dropped = _built(folder, card.network, trust_code=trust_code)
    if card.detection is None:
        others = (replace(card.network, weights_file=file) for file in card.network.member_files)
        members = tuple(_built(folder, other, trust_code=trust_code)[0] for other in others)
        atlas = read_atlas(folder / card.atlas_file) if card.atlas_file else None
        return BuiltNetwork(network, members, notes=dropped, atlas=atlas)
    masks, more_dropped = _built(folder, card.detection.masks)
    return BuiltNetwork(network, masks=masks, notes=dropped + more_dropped)


def _built(
    folder: Path, recipe: NetworkRecipe, *, trust_code: bool = False
) -> tuple[nn.Module, tuple[str, ...]]:
    """A network with its weights, and what was left out."""
    if recipe.weights_file.endswith(".ts"):
        return load_scripted(folder / recipe.weights_file, trust_code=trust_code), ()
    weights = read_weights(folder / recipe.weights_file)
    if recipe.target.startswith(TRUSTED_TARGET):
        network = _trusted_network(folder, recipe, trust_code=trust_code)
        load_into(network, weights)
        return network, ()
    network, dropped = build_network(recipe.target, recipe.arguments)
    load_into(network, weights)
    return network, dropped


def _trusted_network(folder: Path, recipe: NetworkRecipe, *, trust_code: bool) -> nn.Module:
    from torch import nn

    key = recipe.target.removeprefix(TRUSTED_TARGET)
    if not trust_code:
        raise refused(key, "a network of the bundle's own code")
    made = TrustedRecipe(folder, read_json(find_recipe(folder / METADATA.parent))).value(key)
    if not isinstance(made, nn.Module):
        raise ModelError("BAD_NETWORK", f"expected a network at {key!r}, got {type(made).__name__}")
    return made


def _config(folder: Path, *, trust_code: bool) -> BundleConfig:
    path = find_recipe(folder / METADATA.parent)
    root = read_json(path)
    trusted = TrustedRecipe(folder, root).value if trust_code else None
    if trusted is None:
        refuse_hostile_code(root)
    return BundleConfig(
        root | {"bundle_root": "."}, path.parent, trusted, lambda name: read_arrays(_inside(folder, name))
    )


def _inside(folder: Path, name: str) -> Path:
    """A file of the bundle that a recipe names, wherever the bundle lay when it was written.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE`.
    """
    parts = PurePosixPath(name).parts
    short = PurePosixPath(*parts[-2:])
    for tried in (PurePosixPath(name), short):
        if is_inside(str(tried)) and (folder / tried).is_file():
            return folder / tried
    raise ModelError("BUNDLE_INCOMPLETE", f"expected {short} in the bundle, got no such file")


def _network(config: BundleConfig, folder: Path) -> NetworkRecipe:
    key = "network_def" if config.has("network_def") else "network"
    weights = _weights_file(config, folder)
    definition = without_devices(config.raw(key))
    target = definition.get("_target_") if isinstance(definition, Mapping) else None
    if config.trusted is not None and not _is_known(target):
        arguments = definition if isinstance(definition, Mapping) else {}
        plain_ones = {k: v for k, v in arguments.items() if isinstance(v, (int, float, str, list))}
        return NetworkRecipe(TRUSTED_TARGET + key, plain_ones, weights)
    definition = plain(definition)
    if not isinstance(definition, Mapping) or not isinstance(target, str):
        raise ModelError("BAD_BUNDLE", f"expected a _target_ in {key!r}, got {type(definition).__name__}")
    arguments = {name: value for name, value in definition.items() if not name.startswith("_")}
    return NetworkRecipe(network_target(target), arguments, weights)


def _is_known(target: Any) -> bool:
    try:
        return bool(network_target(target)) if isinstance(target, str) else False
    except ModelError:
        return False


def _weights_file(config: BundleConfig, folder: Path) -> str:
    """Path of the weights below the bundle's folder: what the recipe loads, else the usual names.

    Safetensors of the same name come first.
    """
    loaders = [config.raw("checkpointloader")] if config.has("checkpointloader") else []
    handlers = config.raw("handlers") if config.has("handlers") else []
    loaders += handlers if isinstance(handlers, list) else []
    stated = [
        str(PurePosixPath(loader["load_path"]))
        for loader in loaders
        if isinstance(loader, Mapping) and isinstance(loader.get("load_path"), str)
    ]
    names = [short for name in stated for short in (name, "/".join(PurePosixPath(name).parts[-2:]))]
    names = [name for name in names if is_inside(name)]
    tried = [str(PurePosixPath(name).with_suffix(".safetensors")) for name in names] + names
    tried += [*_WEIGHTS, "models/model.ts"]
    return next((name for name in tried if (folder / name).is_file()), (names or [_WEIGHTS[-1]])[0])


def _licence(metadata: Mapping[str, Any], folder: Path) -> str:
    if stated := metadata.get("license"):
        return str(stated)
    file = folder / "LICENSE"
    if not file.is_file():
        return ""
    lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((line for line in lines if line), "")
