"""A MONAI bundle folder as a card.

Read: `configs/metadata.json`, `configs/inference.json`, the name of the weights. Names of classes
stand in `channel_def` of the network's output. Labels whose ids differ from the channels stand in a
block `medseg` of the metadata, which MONAI ignores; every part of it may be left out:

    "medseg": {"label_ids": {"1": 2}, "colours": {"2": [245, 245, 245]},
               "codes": {"2": {"scheme": "SCT", "value": "…", "meaning": "…"}}}

`label_ids` maps channel to id; `colours` and `codes` are by id.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import ModelError, VolumeError
from medseg.labels import Code, Label, LabelSet, colour_of_id
from medseg.models.bundle_config import BundleConfig, plain, read_json, refuse_hostile_code
from medseg.models.bundle_steps import lower_inferer, lower_postprocessing, lower_preprocessing
from medseg.models.card import Card, NetworkRecipe
from medseg.models.networks import build_network, network_name
from medseg.models.weights import BuiltNetwork, load_into, read_weights

METADATA = Path("configs") / "metadata.json"
INFERENCE = Path("configs") / "inference.json"
_WEIGHTS = ("models/model.safetensors", "models/model.pt")
_BACKGROUND_NAMES = ("background", "bg", "0")
_MODALITIES = {"MRI": "MR", "MR": "MR", "CT": "CT", "PET": "PT", "PT": "PT", "US": "US"}


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    return (folder / METADATA).is_file()


def read_bundle(folder: Path, _trust_code: bool = False) -> Card:
    """Lower a bundle to a card; nothing of it is executed.

    Args:
        folder: the bundle's folder.
        _trust_code: whether the user trusts the bundle's own Python.

    Raises:
        ModelError: `BUNDLE_INCOMPLETE`, `BAD_BUNDLE`, `CODE_REFUSED`, `UNSUPPORTED_RECIPE`,
            `UNKNOWN_NETWORK`, `LABELS_MISMATCH` or `BAD_CARD`, each with a sentence.
    """
    metadata = read_json(folder / METADATA)
    content = read_json(folder / INFERENCE)
    refuse_hostile_code(content)
    refuse_hostile_code(metadata)
    config = BundleConfig(content, folder / INFERENCE.parent)
    before = lower_preprocessing(config.value("preprocessing"))
    after = lower_postprocessing(config.value("postprocessing"))
    network = _network(config, folder)
    labels, output_ids = _outputs(
        metadata, network.arguments.get("out_channels"), has_background=after.threshold is None
    )
    image = _first_format(metadata, "inputs")
    channels = network.arguments.get("in_channels", image.get("num_channels", 1))
    return Card(
        name=_name(metadata, folder),
        version=str(metadata.get("version", "")),
        description=str(metadata.get("description", "")),
        licence=_licence(metadata, folder),
        modality=_modality(str(image.get("modality", ""))),
        labels=labels,
        output_ids=output_ids,
        in_channels=channels if isinstance(channels, int) else 1,
        orientation=before.orientation,
        spacing_mm=before.spacing_mm,
        intensity=before.intensity,
        window=lower_inferer(config.value("inferer")),
        activation=after.activation,
        home=after.home,
        network=network,
        threshold=after.threshold,
        channel_names=_input_names(image, channels),
        notes=before.notes,
    )


def bundle_weights(folder: Path, card: Card) -> tuple[Path, ...]:
    """The file that holds a bundle's weights."""
    return (folder / card.network.weights_file,)


def build_bundle(folder: Path, card: Card, _trust_code: bool = False) -> BuiltNetwork:
    """The network of a bundle's card with its weights.

    Args:
        folder: the bundle's folder.
        card: as `read_bundle` gave it.
        _trust_code: whether the user trusts the bundle's own Python.

    Raises:
        ModelError: the weights are missing, damaged, refused or those of another network.
    """
    weights = read_weights(folder / card.network.weights_file)
    network, dropped = build_network(card.network.target, card.network.arguments)
    load_into(network, weights)
    return BuiltNetwork(network, notes=dropped)


def _network(config: BundleConfig, folder: Path) -> NetworkRecipe:
    key = "network_def" if config.has("network_def") else "network"
    definition = plain(config.value(key))
    if not isinstance(definition, Mapping) or not isinstance(definition.get("_target_"), str):
        raise ModelError("BAD_BUNDLE", f"expected a _target_ in {key!r}, got {type(definition).__name__}")
    arguments = {name: value for name, value in definition.items() if not name.startswith("_")}
    weights = next((name for name in _WEIGHTS if (folder / name).is_file()), _WEIGHTS[-1])
    return NetworkRecipe(
        "monai.networks.nets." + network_name(definition["_target_"]), arguments, weights_file=weights
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first_format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """The network's first input or output of `network_data_format`."""
    formats = _mapping(_mapping(metadata.get("network_data_format")).get(side))
    return _mapping(next(iter(formats.values()), None))


def _input_names(image: Mapping[str, Any], channels: Any) -> tuple[str, ...]:
    """What each of several input images is, where the metadata name all of them."""
    definition = {str(key): str(name).strip() for key, name in _mapping(image.get("channel_def")).items()}
    names = tuple(definition.get(str(c), "") for c in range(channels if isinstance(channels, int) else 1))
    is_whole = len(names) > 1 and all(names) and len({name.lower() for name in names}) == len(names)
    return names if is_whole else ()


def _modality(words: str) -> str:
    return _MODALITIES.get(words.strip().upper(), words.strip())


def _name(metadata: Mapping[str, Any], folder: Path) -> str:
    """The metadata's name where it can be typed as one word, else the folder's."""
    stated = str(metadata.get("name", "")).strip()
    return stated if stated and not any(c.isspace() or c in "/\\" for c in stated) else folder.resolve().name


def _licence(metadata: Mapping[str, Any], folder: Path) -> str:
    if stated := metadata.get("license"):
        return str(stated)
    file = folder / "LICENSE"
    if not file.is_file():
        return ""
    lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((line for line in lines if line), "")


def _outputs(
    metadata: Mapping[str, Any], out_channels: Any, *, has_background: bool
) -> tuple[LabelSet, tuple[int, ...]]:
    """The classes, and the label id of every channel.

    Where the highest score decides, channel 0 is background; where each channel claims voxels by
    itself, it is so only by name.
    """
    names = _channel_names(metadata)
    channels = out_channels if isinstance(out_channels, int) else max(names, default=0) + 1
    strange = [c for c in names if not 0 <= c < channels]
    unnamed = [c for c in range(1, channels) if c not in names]
    if strange or unnamed:
        raise ModelError(
            "LABELS_MISMATCH",
            f"expected names for the network's channels 0 to {channels - 1}, got some for {strange[:8]} and "
            f"none for {unnamed[:8]}; repair channel_def in metadata.json",
        )
    own = _mapping(metadata.get("medseg"))
    ids = _mapping(own.get("label_ids"))
    named_background = channels > 1 and names.get(0, "background").strip().lower() in _BACKGROUND_NAMES
    first_is_class = not has_background and not named_background
    output_ids = []
    for channel in range(channels):
        default = channel + 1 if first_is_class else channel
        output_ids.append(_whole(ids.get(str(channel), default), "label_ids"))
    try:
        labels = [_label(i, names.get(c, f"label {i}"), own) for c, i in enumerate(output_ids) if i != 0]
        return LabelSet(tuple(labels)), tuple(output_ids)
    except VolumeError as error:
        raise ModelError("LABELS_MISMATCH", f"{error} (in metadata.json)") from error


def _label(label_id: int, name: str, own: Mapping[str, Any]) -> Label:
    """One class with the colour and code that the `medseg` block gives it."""
    colour = _mapping(own.get("colours")).get(str(label_id), list(colour_of_id(label_id)))
    if not isinstance(colour, list) or len(colour) != 3:
        raise ModelError("BAD_BUNDLE", f"expected red, green, blue in colours, got {colour!r}; repair it")
    red, green, blue = (_whole(part, "colours") for part in colour)
    code = _mapping(_mapping(own.get("codes")).get(str(label_id)))
    words = [str(code.get(key, "")) for key in ("scheme", "value", "meaning")]
    return Label(label_id, name, (red, green, blue), Code(*words) if code else None)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError("BAD_BUNDLE", f"expected whole numbers in {where!r}, got {value!r}; repair it")
    return value


def _channel_names(metadata: Mapping[str, Any]) -> dict[int, str]:
    definition = _mapping(_first_format(metadata, "outputs").get("channel_def"))
    if any(not str(key).isdigit() for key in definition):
        raise ModelError("BAD_BUNDLE", f"expected channel numbers in channel_def, got {list(definition)[:8]}")
    return {int(key): str(name) for key, name in definition.items()}
