"""nnU-Net's `plans.json` and `dataset.json`, lowered to data.

nnU-Net's arrays are (z, y, x), and its plans may turn them once more (`transpose_forward`). Here that
order ends: every size, spacing, kernel and axis of what leaves this module is along (i, j, k) as
stored, and `turn` says how to turn the weights' own axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.errors import ModelError, VolumeError
from medseg.labels import LabelSet
from medseg.models.card import Resampling
from medseg.models.intensity_steps import FixedRange, IntensityStep, MinMax, ZScore

Table = Mapping[str, Any]
Triple = tuple[int, int, int]

_READERS = {
    "SimpleITKIO": None, "NibabelIO": None, "Tiff3DIO": None,
    "SimpleITKIOWithReorient": "RAS", "NibabelIOWithReorient": "RAS",
}  # fmt: skip
"""nnU-Net's readers of 3D images, and the orientation that they bring images into."""

_SMALLEST_STD = 1e-8
_LARGEST_NUMBER = 1e30
_MOST_INHERITANCE = 16

_MODALITIES = {
    "ct": "CT", "cect": "CT", "pet": "PT", "pt": "PT", "suv": "PT", "us": "US",
    "mr": "MR", "mri": "MR", "t1": "MR", "t1c": "MR", "t1ce": "MR", "t1n": "MR", "t1w": "MR", "t2": "MR",
    "t2w": "MR", "t2f": "MR", "flair": "MR", "adc": "MR", "dwi": "MR",
}  # fmt: skip


def bad_plans(expected: str, got: object, where: str = "plans.json") -> ModelError:
    """The error for plans that contradict the format."""
    return ModelError(
        "BAD_NNUNET", f"expected {expected} in {where}, got {got!r:.80}; export the model again"
    )


def refused(what: str) -> ModelError:
    """The error for something that nnU-Net can and medseg does not do."""
    return ModelError(
        "UNSUPPORTED_RECIPE", f"expected a 3D model of one stage that medseg carries out exactly, got {what}"
    )


def whole(value: Any, what: str, least: int = 1, most: int = 1 << 16) -> int:
    """A whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise bad_plans(f"a whole number from {least} to {most} for {what}", value)
    return value


def number(value: Any, what: str) -> float:
    """A finite number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or abs(value) > _LARGEST_NUMBER:
        raise bad_plans(f"a number for {what}", value)
    return float(value)


def table(value: Any, what: str) -> Table:
    """A table of names."""
    if not isinstance(value, Mapping):
        raise bad_plans(f"a table of {what}", value)
    return value


def listed(value: Any, what: str, length: int | None = None) -> Sequence[Any]:
    """A list, of a length where given."""
    if not isinstance(value, (list, tuple)) or (length is not None and len(value) != length):
        raise bad_plans(f"a list of {'' if length is None else f'{length} '}{what}", value)
    return value


@dataclass(frozen=True)
class Axes:
    """Which of the network's axes is which of the stored image's.

    Attributes:
        turn: for i, j and k the axis of the network (0 to 2) that runs along it.
    """

    turn: Triple

    def stored(self, values: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Three values along the network's axes, in the order i, j, k."""
        return values[self.turn[0]], values[self.turn[1]], values[self.turn[2]]

    def triple(self, value: Any, what: str) -> Triple:
        """Three whole numbers in the order i, j, k; a single one counts for all axes."""
        values = [value] * 3 if isinstance(value, int) else listed(value, what, 3)
        i, j, k = self.stored([whole(v, what) for v in values])
        return i, j, k


def read_axes(plans: Table) -> Axes:
    """The order of axes that plans ask for: (z, y, x), then `transpose_forward`."""
    forward = _permutation(plans.get("transpose_forward", [0, 1, 2]))
    backward = _permutation(plans.get("transpose_backward", [0, 1, 2]))
    if [forward[axis] for axis in backward] != [0, 1, 2]:
        raise bad_plans("a transpose_backward that undoes transpose_forward", (forward, backward))
    along = [2 - axis for axis in forward]
    return Axes((along.index(0), along.index(1), along.index(2)))


def _permutation(value: Any) -> list[int]:
    axes = [whole(axis, "an axis", 0, 2) for axis in listed(value, "axes", 3)]
    if len(set(axes)) != 3:
        raise bad_plans("three axes, each once", axes)
    return axes


def read_configuration(plans: Table, name: str) -> Table:
    """A configuration with what it inherits.

    Raises:
        ModelError: `BAD_NNUNET`; `UNSUPPORTED_RECIPE` for a cascade, for 2D and for steps of others.
    """
    every = table(plans.get("configurations"), "configurations")
    merged: dict[str, Any] = {}
    wanted: Any = name
    for _ in range(_MOST_INHERITANCE):
        if wanted not in every:
            raise bad_plans(f"one of the configurations {', '.join(sorted(every))[:200]}", wanted)
        own = table(every[wanted], f"configuration {wanted}")
        merged = {**own, **merged}
        if "inherits_from" not in own:
            break
        wanted = str(own["inherits_from"])
    else:
        raise bad_plans("configurations that inherit without a circle", name)
    if merged.get("previous_stage"):
        raise refused(
            f"the second stage of a cascade, which wants the answer of {merged['previous_stage']!r:.40} "
            "as input; use 3d_fullres or 3d_lowres"
        )
    if len(listed(merged.get("patch_size"), "window sizes")) != 3:
        raise refused("a 2D configuration; use 3d_fullres or 3d_lowres")
    for key, known in (("preprocessor_name", "DefaultPreprocessor"), ("label_manager", "LabelManager")):
        value = merged.get(key, plans.get(key, known))
        if value != known:
            raise refused(f"{key} {value!r:.60} instead of {known}")
    return merged


def read_orientation(plans: Table) -> str | None:
    """The orientation that the plans' reader of images brings them into; None leaves them as stored."""
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in _READERS:
        raise refused(f"the image reader {reader!r:.60}")
    return _READERS[reader]


def read_resampling(configuration: Table) -> Resampling:
    """How images and scores are resampled; both by one rule for anisotropic voxels."""
    image_order, image_rule = _resampler(configuration, "data")
    score_order, score_rule = _resampler(configuration, "probabilities")
    if score_order != 1 or image_rule != score_rule:
        raise refused("scores that are resampled by another rule than linearly, or than the images")
    return Resampling(
        order=3 if image_order == 3 else 1,
        fit="extent",
        anisotropic="same" if image_rule is False else "nearest",
        intensity_first=True,
    )


def _resampler(configuration: Table, what: str) -> tuple[int, bool | None]:
    """Order of interpolation, and whether the coarse axis is taken apart (None: where anisotropic)."""
    key = f"resampling_fn_{what}"
    name = configuration.get(key, "resample_data_or_seg_to_shape")
    own = table(configuration.get(f"{key}_kwargs", {}), f"{key}_kwargs")
    apart = own.get("force_separate_z", False if name == "resample_data_or_seg_to_shape" else None)
    if name == "resample_data_or_seg_to_shape":
        order, fits = own.get("order", 3), own.get("order_z", 0) == 0
    else:
        fits = name in ("resample_torch_fornnunet", "resample_torch_simple")
        fits = fits and own.get("mode", "linear") == "linear"
        fits = fits and own.get("aniso_axis_mode", "nearest-exact") == "nearest-exact"
        order, apart = 1, False if name == "resample_torch_simple" else apart
    if not fits or order not in (1, 3) or apart not in (None, False) or own.get("is_seg", False):
        raise refused(f"{key} {name!r:.60} with {dict(own)!r:.120}")
    if own.get("separate_z_anisotropy_threshold", 3) != 3:
        raise refused(f"{key} with another threshold of anisotropy than 3")
    return order, apart


def read_channels(dataset: Table) -> tuple[str, ...]:
    """Names of the input images in their order."""
    named = dataset.get("channel_names", dataset.get("modality"))
    names = table(named, "channel_names")
    if not names or any(str(i) not in names for i in range(len(names))):
        raise bad_plans("channel_names numbered from 0", list(names)[:8], "dataset.json")
    return tuple(str(names[str(i)]) for i in range(len(names)))


def modality_of(channels: Sequence[str]) -> str:
    """DICOM's word for what all images are, or empty."""
    found = {_MODALITIES.get(name.strip().lower().split("_")[0].split("-")[0], "") for name in channels}
    return found.pop() if len(found) == 1 else ""


def read_intensity(
    plans: Table, configuration: Table, channels: int
) -> tuple[tuple[IntensityStep, ...], ...]:
    """Intensity steps of every input image."""
    names = listed(configuration.get("normalization_schemes"), "normalization schemes", channels)
    masks = listed(configuration.get("use_mask_for_norm"), "use_mask_for_norm", channels)
    seen = plans.get("foreground_intensity_properties_per_channel")
    seen = plans.get("foreground_intensity_properties_by_modality", {}) if seen is None else seen
    every = table(seen, "foreground intensities")
    return tuple(
        _scheme(str(name), bool(mask), every.get(str(i)))
        for i, (name, mask) in enumerate(zip(names, masks, strict=True))
    )


def _scheme(name: str, masked: bool, properties: Any) -> tuple[IntensityStep, ...]:
    if name == "ZScoreNormalization":
        return (ZScore(nonzero=masked, filled=masked),)
    if name == "RescaleTo01Normalization":
        return (MinMax(0.0, 1.0),)
    if name == "RGBTo01Normalization":
        return (FixedRange(0.0, 255.0, 0.0, 1.0),)
    if name == "NoNormalization":
        return ()
    if name != "CTNormalization":
        raise refused(f"the normalisation {name!r:.60}")
    known = table(properties, "foreground intensities of each channel")
    low, high = (number(known.get(key), key) for key in ("percentile_00_5", "percentile_99_5"))
    mean = number(known.get("mean"), "mean")
    std = max(number(known.get("std"), "std"), _SMALLEST_STD)
    if low >= high:
        raise bad_plans("percentile_00_5 below percentile_99_5", (low, high))
    return (FixedRange(low, high, (low - mean) / std, (high - mean) / std, clip=True),)


@dataclass(frozen=True)
class Outputs:
    """What the network's channels mean.

    Attributes:
        labels: classes of the result.
        output_ids: label id of every channel.
        has_regions: whether channels claim voxels one by one, and later ones win.
    """

    labels: LabelSet
    output_ids: tuple[int, ...]
    has_regions: bool


def read_outputs(dataset: Table) -> Outputs:
    """Classes, or regions in the order in which they are written.

    Raises:
        ModelError: `LABELS_MISMATCH`, labels that contradict each other or leave gaps.
    """
    given = {str(name): _ids(value) for name, value in table(dataset.get("labels"), "labels").items()}
    given.pop("ignore", None)
    if given.get("background") != (0,):
        raise _mismatch("a label background of 0", given.get("background"))
    try:
        if any(len(ids) > 1 for ids in given.values()):
            return _regions(given, dataset.get("regions_class_order"))
        ids = sorted(ids[0] for ids in given.values())
        if ids != list(range(len(ids))) or len(ids) < 2:
            raise _mismatch("label ids 0, 1, 2, … without gaps", ids[:12])
        return Outputs(LabelSet.from_names({i[0]: name for name, i in given.items()}), tuple(ids), False)
    except VolumeError as error:
        raise ModelError("LABELS_MISMATCH", f"{error} (in dataset.json)") from error


def _regions(given: Mapping[str, tuple[int, ...]], order: Any) -> Outputs:
    names = [name for name, ids in given.items() if set(ids) != {0}]
    if not isinstance(order, (list, tuple)) or len(order) != len(names):
        raise _mismatch(f"a regions_class_order of {len(names)} numbers", order)
    ids = tuple(whole(i, "regions_class_order", least=0) for i in order)
    if len(set(ids)) != len(ids):
        raise _mismatch("regions_class_order with every number once", ids)
    return Outputs(LabelSet.from_names(dict(zip(ids, names, strict=True))), ids, True)


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, (list, tuple)) and value else [value]
    if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
        raise _mismatch("whole numbers as labels", value)
    return tuple(values)


def _mismatch(expected: str, got: object) -> ModelError:
    return ModelError(
        "LABELS_MISMATCH", f"expected {expected} in dataset.json, got {got!r:.80}; repair dataset.json"
    )
