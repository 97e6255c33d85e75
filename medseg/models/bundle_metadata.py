"""What a bundle's `configs/metadata.json` says: names, licence, images, classes.

Names of classes stand in `channel_def` (some bundles write `label_def`) of the network's output. Labels
whose ids differ from the channels stand in a block `medseg`, which MONAI ignores; every part of it may
be left out:

    "medseg": {"label_ids": {"1": 2}, "colours": {"2": [245, 245, 245]},
               "codes": {"2": {"scheme": "SCT", "value": "…", "meaning": "…"}}}

`label_ids` maps channel to id; `colours` and `codes` are by id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.errors import ModelError, VolumeError
from medseg.labels import Code, Label, LabelSet, colour_of_id

_BACKGROUND_NAMES = ("background", "bg", "0")
_MODALITIES = {"MRI": "MR", "MR": "MR", "CT": "CT", "PET": "PT", "PT": "PT", "US": "US"}


def mapping(value: Any) -> Mapping[str, Any]:
    """The table itself; an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def first_format(metadata: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    """The network's first input or output of `network_data_format`."""
    formats = mapping(mapping(metadata.get("network_data_format")).get(side))
    return mapping(next(iter(formats.values()), None))


def input_names(image: Mapping[str, Any], channels: Any) -> tuple[str, ...]:
    """What each of several input images is, where the metadata name all of them."""
    definition = {str(key): str(name).strip() for key, name in mapping(image.get("channel_def")).items()}
    names = tuple(definition.get(str(c), "") for c in range(channels if isinstance(channels, int) else 1))
    is_whole = len(names) > 1 and all(names) and len({name.lower() for name in names}) == len(names)
    return names if is_whole else ()


def modality_of(image: Mapping[str, Any]) -> str:
    """The modality of an input as in DICOM; empty where nothing is said."""
    words = str(image.get("modality", ""))
    return _MODALITIES.get(words.strip().upper(), words.strip())


def lower_outputs(
    metadata: Mapping[str, Any],
    out_channels: Any,
    *,
    has_background: bool,
    region_ids: Mapping[str, int] | None = None,
) -> tuple[LabelSet, tuple[int, ...]]:
    """The classes, and the label id of every channel.

    Where the highest score decides, channel 0 is background; where each channel claims voxels by
    itself, it is so only by name.

    Args:
        metadata: content of `metadata.json`.
        out_channels: of the network, where its recipe says so.
        has_background: whether the highest score decides.
        region_ids: channel to label id, where the recipe itself gives ids.

    Raises:
        ModelError: `LABELS_MISMATCH` or `BAD_BUNDLE`.
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
    own = mapping(metadata.get("medseg"))
    ids = {**(region_ids or {}), **mapping(own.get("label_ids"))}
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
    colour = mapping(own.get("colours")).get(str(label_id), list(colour_of_id(label_id)))
    if not isinstance(colour, list) or len(colour) != 3:
        raise ModelError("BAD_BUNDLE", f"expected red, green, blue in colours, got {colour!r}; repair it")
    red, green, blue = (_whole(part, "colours") for part in colour)
    code = mapping(mapping(own.get("codes")).get(str(label_id)))
    words = [str(code.get(key, "")) for key in ("scheme", "value", "meaning")]
    return Label(label_id, name, (red, green, blue), Code(*words) if code else None)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError("BAD_BUNDLE", f"expected whole numbers in {where!r}, got {value!r}; repair it")
    return value


def _channel_names(metadata: Mapping[str, Any]) -> dict[int, str]:
    output = first_format(metadata, "outputs")
    definition = mapping(output.get("channel_def") or output.get("label_def"))
    if any(not str(key).isdigit() for key in definition):
        raise ModelError("BAD_BUNDLE", f"expected channel numbers in channel_def, got {list(definition)[:8]}")
    return {int(key): str(name).strip() for key, name in definition.items()}
