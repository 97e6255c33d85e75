"""The block `medseg` of a bundle's metadata: what medseg's own models say beyond MONAI's words.

A detector names the network that draws objects in their boxes, and when boxes count (fields of
`Detection`):

    "medseg": {"detection": {"masks": {"_target_": "UNet", …, "weights_file": "models/masks.pt"},
                             "score_threshold": 0.3, "most_overlap": 0.3}}

A model that learned to tell touching objects apart says how its depth is read (fields of
`LearnedDistance`):

    "medseg": {"separation": {"height": "learned-distance", "diameter_voxels": 12, "persistence": 0.1}}

A model of several networks of one kind, such as the folds of a cross-validation, names the weights of the
others beside `models/model.pt`; their answers are averaged:

    "medseg": {"members": ["models/fold_1.pt", "models/fold_2.pt"]}

A model whose labels start the fit of an atlas names its file:

    "medseg": {"atlas": "models/atlas.npz"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

from medseg.errors import ModelError
from medseg.models.bundle_config import plain
from medseg.models.bundle_metadata import mapping
from medseg.models.card import Detection, LearnedDistance, NetworkRecipe
from medseg.models.networks import network_target


def detection_of(metadata: Mapping[str, Any]) -> Detection | None:
    """What the `medseg` block says of boxes and masks, or None where the model is no detector.

    Raises:
        ModelError: `BAD_BUNDLE`, an incomplete block; `UNKNOWN_NETWORK`.
    """
    stated = mapping(mapping(metadata.get("medseg")).get("detection"))
    if not stated:
        return None
    masks = mapping(stated.get("masks"))
    file = masks.get("weights_file")
    numbers = {key: value for key, value in stated.items() if key not in ("masks", "merge_touching")}
    merges = stated.get("merge_touching", False)
    known = {item.name for item in fields(Detection)} - {"masks"}
    if not isinstance(masks.get("_target_"), str) or not is_inside(file) or not set(numbers) <= known:
        raise ModelError(
            "BAD_BUNDLE",
            "expected a detection block with masks::_target_, masks::weights_file inside the bundle and "
            f"some of {', '.join(sorted(known))}; repair metadata.json",
        )
    strange = [
        key
        for key, value in numbers.items()
        if isinstance(value, bool) or not isinstance(value, (int, float))
    ]
    if not isinstance(merges, bool):
        raise ModelError(
            "BAD_BUNDLE", f"expected true or false as merge_touching, got {merges!r}; repair metadata.json"
        )
    if strange:
        raise ModelError(
            "BAD_BUNDLE", f"expected numbers in the detection block, got {strange[0]!r}; repair it"
        )
    arguments = {key: plain(value) for key, value in masks.items() if key not in ("_target_", "weights_file")}
    target = network_target(masks["_target_"])
    stated_numbers = {key: float(value) for key, value in numbers.items()}
    return Detection(NetworkRecipe(target, arguments, str(file)), merge_touching=merges, **stated_numbers)


def separation_of(metadata: Mapping[str, Any]) -> LearnedDistance | None:
    """What the `medseg` block says of a learned depth, or None where the model learned none.

    Raises:
        ModelError: `BAD_BUNDLE`, another height, or something that is no number.
    """
    stated = dict(mapping(mapping(metadata.get("medseg")).get("separation")))
    if not stated:
        return None
    height = stated.pop("height", None)
    known = {item.name for item in fields(LearnedDistance)}
    is_number = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in stated.values()]
    if height != "learned-distance" or not set(stated) <= known or not all(is_number):
        raise ModelError(
            "BAD_BUNDLE",
            "expected a separation block with the height learned-distance and numbers for some of "
            f"{', '.join(sorted(known))}; repair metadata.json",
        )
    return LearnedDistance(**{key: float(value) for key, value in stated.items()})


def members_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights of further networks that the `medseg` block names; mostly none.

    Raises:
        ModelError: `BAD_BUNDLE`, something that is no list of files inside the bundle.
    """
    stated = mapping(metadata.get("medseg")).get("members", [])
    if not isinstance(stated, list) or not all(is_inside(file) for file in stated):
        raise ModelError("BAD_BUNDLE", "expected files inside the bundle as members; repair metadata.json")
    return tuple(stated)


def atlas_of(metadata: Mapping[str, Any]) -> str:
    """The file of an atlas that the `medseg` block names; mostly none.

    Raises:
        ModelError: `BAD_BUNDLE`, something that is no file inside the bundle.
    """
    stated = mapping(metadata.get("medseg")).get("atlas", "")
    if stated != "" and not is_inside(stated):
        raise ModelError("BAD_BUNDLE", "expected a file inside the bundle as atlas; repair metadata.json")
    return str(stated)


def is_inside(file: Any) -> bool:
    """Whether a file's name stays in the bundle's folder."""
    return (
        isinstance(file, str)
        and not PurePosixPath(file).is_absolute()
        and ".." not in PurePosixPath(file).parts
    )
