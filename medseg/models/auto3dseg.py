"""A SegResNet checkpoint of MONAI's Auto3DSeg, as 3D Slicer's MONAIAuto3DSeg publishes them.

One `.pt` file holds weights and recipe: `{"state_dict": …, "config": {"network": {"_target_": …},
"normalize_mode": …, "roi_size": …, …}}`. The steps are those that the models are trained with: orient,
crop to the foreground, resample, scale intensities. As Slicer's program does, the highest score (or the
threshold) decides on the network's grid, and labels go home by the nearest voxel.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import ModelError, VolumeError
from medseg.labels import Label, LabelSet, colour_of_id
from medseg.models.bundle_steps import triple, truth
from medseg.models.card import Card, NetworkRecipe, Resampling, SlidingWindow
from medseg.models.foreground import ForegroundCrop
from medseg.models.intensity_steps import (
    FixedRange,
    FromLowest,
    IntensityStep,
    Sigmoid,
    SoftLimit,
    ZScore,
)
from medseg.models.networks import build_network, network_target, without_devices
from medseg.models.weights import BuiltNetwork, load_into, read_checkpoint, read_weights

CROP_MARGIN_VOXELS = 10
OVERLAP_FRACTION = 0.625
KEEP_RATIO = (0.75, 1.25)
"""An axis whose spacing is within these factors of the wanted one is not resampled."""

_SIGNS = (b"state_dict", b"normalize_mode", b"roi_size")
_MOST_PICKLE_BYTES = 64 * 2**20
_CHECKPOINT_SUFFIXES = (".pt", ".pth")


def is_auto3dseg(path: Path) -> bool:
    """Whether a file looks like an Auto3DSeg checkpoint; only its table of contents is looked at."""
    if path.suffix.lower() not in _CHECKPOINT_SUFFIXES or not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as parts:
            pickles = [part for part in parts.infolist() if part.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLE_BYTES:
                return False
            content = parts.read(pickles[0])
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError):
        return False
    return all(sign in content for sign in _SIGNS)


def read_auto3dseg(path: Path, _trust_code: bool = False) -> Card:
    """The card of a checkpoint.

    Args:
        path: of the `.pt` file.
        _trust_code: there is no code to trust.

    Raises:
        ModelError: `BAD_CHECKPOINT`, `UNSUPPORTED_RECIPE`, `UNKNOWN_NETWORK`, `CODE_REFUSED`,
            `LABELS_MISMATCH`, `WEIGHTS_CORRUPTED` or `BAD_CARD`.
    """
    content = read_checkpoint(path, only_glance=True)
    config = content.get("config") if isinstance(content, Mapping) else None
    if not isinstance(config, Mapping):
        raise _bad("a table 'config' beside the weights", type(config).__name__)
    network = _network(config, path)
    spacing = config.get("resample_resolution")
    has_spacing = spacing is not None and truth(config.get("resample", True))
    is_sigmoid = truth(config.get("sigmoid", False))
    labels, output_ids = _classes(config, network.arguments.get("out_channels"), is_sigmoid=is_sigmoid)
    channels = network.arguments.get("in_channels", 1)
    size = triple(_listed(config.get("roi_size")), "roi_size")
    channels = channels if type(channels) is int else 1
    intensity, extra = _intensity(config), _extra_images(config)
    if extra and len(extra) + 1 != channels:
        raise _bad(f"extra_modalities of {channels - 1} images beside the first", len(extra))
    return Card(
        name=path.stem,
        version=str(config.get("version", "")),
        description=str(config.get("description", "SegResNet of MONAI Auto3DSeg")),
        licence=str(config.get("licence", config.get("license", ""))),
        modality={"ct": "CT", "mri": "MR", "mr": "MR"}.get(str(config.get("modality", "")).lower(), ""),
        labels=labels,
        output_ids=output_ids,
        in_channels=channels,
        orientation="RAS" if truth(config.get("orientation_ras", False)) else None,
        spacing_mm=triple(_listed(spacing), "resample_resolution") if has_spacing else None,
        intensity=intensity,
        window=SlidingWindow((int(size[0]), int(size[1]), int(size[2])), OVERLAP_FRACTION, "gaussian"),
        activation="sigmoid" if is_sigmoid else "softmax",
        home="labels-nearest",
        network=network,
        threshold=0.5 if is_sigmoid else None,
        resampling=Resampling(fit="first-voxel", keep_ratio=KEEP_RATIO),
        foreground=_crop(config),
        channel_names=("first image", *extra) if extra else (),
        channel_intensity=(intensity, *extra.values()) if extra else (),
    )


def auto3dseg_weights(path: Path, _card: Card) -> tuple[Path, ...]:
    """The checkpoint itself."""
    return (path,)


def build_auto3dseg(path: Path, card: Card, _trust_code: bool = False) -> BuiltNetwork:
    """The network of a checkpoint with its weights.

    Args:
        path: of the `.pt` file.
        card: as `read_auto3dseg` gave it.
        _trust_code: there is no code to trust.

    Raises:
        ModelError: the weights are damaged or those of another network.
    """
    network, dropped = build_network(card.network.target, card.network.arguments)
    load_into(network, read_weights(path))
    return BuiltNetwork(network, notes=dropped)


def _bad(expected: str, got: object) -> ModelError:
    return ModelError("BAD_CHECKPOINT", f"expected {expected}, got {got}; take the checkpoint of Auto3DSeg")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _network(config: Mapping[str, Any], path: Path) -> NetworkRecipe:
    definition = without_devices(config.get("network"))
    target = definition.get("_target_") if isinstance(definition, Mapping) else None
    if not isinstance(target, str):
        raise _bad("a network with a _target_ in 'config'", type(definition).__name__)
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    if any(isinstance(value, str) and value.startswith(("$", "@")) for value in arguments.values()):
        raise ModelError("CODE_REFUSED", "expected plain arguments of the network, got code; write them out")
    return NetworkRecipe(network_target(target), arguments, path.name)


def _crop(config: Mapping[str, Any]) -> ForegroundCrop | None:
    if not truth(config.get("crop_foreground", True)):
        return None
    return ForegroundCrop(0.0, CROP_MARGIN_VOXELS, "source")


def _extra_images(config: Mapping[str, Any]) -> dict[str, tuple[IntensityStep, ...]]:
    """Names of further images, and how the intensities of each are scaled."""
    stated = config.get("extra_modalities") or {}
    if not isinstance(stated, Mapping):
        raise _bad("a table extra_modalities", type(stated).__name__)
    return {str(name): _intensity({**config, "normalize_mode": mode}) for name, mode in stated.items()}


def _intensity(config: Mapping[str, Any]) -> tuple[IntensityStep, ...]:
    mode = str(config.get("normalize_mode", "")).lower()
    if mode == "none":
        return ()
    if mode in ("range", "ct"):
        bounds = _listed(config.get("intensity_bounds"))
        if (
            not isinstance(bounds, list)
            or len(bounds) != 2
            or not all(isinstance(b, (int, float)) for b in bounds)
        ):
            raise _bad("two intensity_bounds", bounds)
        return FixedRange(float(bounds[0]), float(bounds[1]), -1.0, 1.0), Sigmoid()
    if mode in ("meanstd", "mri"):
        return (ZScore(nonzero=True),)
    if mode == "meanstdtanh":
        return ZScore(nonzero=True), SoftLimit(3.0)
    if mode == "pet":
        return FromLowest(), Sigmoid()
    raise ModelError(
        "UNSUPPORTED_RECIPE",
        f"expected normalize_mode none, range, ct, meanstd, mri, meanstdtanh or pet, got {mode!r}",
    )


def _classes(
    config: Mapping[str, Any], out_channels: Any, *, is_sigmoid: bool
) -> tuple[LabelSet, tuple[int, ...]]:
    """Classes, and the label id of every channel.

    With softmax channel 0 is background. The names stand in `class_names`, with or without a name for
    background; where there are none, or they are single numbers, classes are named by their ids.
    """
    if type(out_channels) is not int or out_channels < 1:
        raise _bad("out_channels of the network", out_channels)
    foreground = out_channels if is_sigmoid else out_channels - 1
    names = _names(config.get("class_names"))
    if not is_sigmoid and len(names) == out_channels:
        names = names[1:]
    if names and len(names) != foreground:
        raise ModelError(
            "LABELS_MISMATCH",
            f"expected {foreground} class names for {out_channels} channels, got {len(names)}; repair them",
        )
    names = names or [f"class {number}" for number in range(1, foreground + 1)]
    ids = (_nested_ids(config) if is_sigmoid and foreground == 3 else None) or list(range(1, foreground + 1))
    try:
        labels = LabelSet(tuple(Label(i, n, colour_of_id(i)) for i, n in zip(ids, names, strict=True)))
    except VolumeError as error:
        raise ModelError("LABELS_MISMATCH", f"{error} (in class_names)") from error
    return labels, tuple(ids) if is_sigmoid else (0, *ids)


def _names(stated: Any) -> list[str]:
    if isinstance(stated, Mapping):
        stated = list(stated.values())
    if not isinstance(stated, Sequence) or isinstance(stated, str):
        return []
    return [str(item.get("name", "") if isinstance(item, Mapping) else item).strip() for item in stated]


def _nested_ids(config: Mapping[str, Any]) -> list[int] | None:
    """Ids that Slicer's program gives to the nested regions of two challenges, later channels winning.

    KiTS: kidney and masses 1, masses 3, tumour 2. BraTS: whole tumour 2, core 1, enhancing 3.
    """
    root = str(config.get("bundle_root", "")).lower()
    return [1, 3, 2] if "kits" in root else [2, 1, 3] if "brats" in root else None
