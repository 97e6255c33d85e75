"""MONAI's transforms before the network, read as data.

Each function takes what a recipe says of one thing and gives what a card says of it, or refuses
what it cannot carry out exactly, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medseg.errors import ModelError
from medseg.models.bundle_config import PythonCode, plain
from medseg.models.card import Resampling
from medseg.models.foreground import ForegroundCrop
from medseg.models.intensity_steps import (
    FixedRange,
    IntensityStep,
    MinMax,
    PercentileRange,
    Shift,
    Threshold,
    ZScore,
)

_NO_EFFECT = frozenset({
    "LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "CastToType",
    "ToTensor", "ToDevice", "ToMetaTensor", "SelectItems", "DeleteItems", "CopyItems", "Identity",
    "DataStats",
})  # fmt: skip
_NOT_IMAGES = frozenset({"label", "labels", "mask", "gt"})
_LINEAR = ("bilinear", "trilinear", 1)

_AS_MONAI = Resampling(fit="first-voxel")
_LARGEST_NUMBER = 1e30
_ABOVE = re.compile(r"lambda (\w+): \1 > (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Preprocessing:
    """What happens before the network.

    Attributes:
        orientation: axis codes, or None.
        spacing_mm: or None.
        intensity: steps in order.
        resampling: how voxels come onto the grid.
        foreground: crop, or None.
        joint: steps that measure all channels together.
        channel_keys: names of the images that are joined, in order; empty where one entry holds them all.
        notes: sentences.
    """

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    intensity: tuple[IntensityStep, ...] = ()
    resampling: Resampling = _AS_MONAI
    foreground: ForegroundCrop | None = None
    joint: tuple[str, ...] = ()
    channel_keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def unsupported(what: str, where: str) -> ModelError:
    """The error for a recipe that asks for something this engine would not do exactly."""
    return ModelError(
        "UNSUPPORTED_RECIPE", f"expected steps that medseg carries out exactly, got {what} in {where}"
    )


def step_list(value: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(short class name, arguments) of every enabled transform of a `Compose` or a plain list.

    The `d` of dictionary transforms is left off: `Spacingd`, `SpacingD` and `Spacing` are one.

    Raises:
        ModelError: `BAD_BUNDLE`, not a list of transforms; `CODE_REFUSED`, code in its place.
    """
    if isinstance(value, Mapping):
        value = value.get("transforms", [])
    if isinstance(value, PythonCode):
        value = plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ModelError("BAD_BUNDLE", f"expected a list of transforms in {where!r}, got another value")
    steps = []
    for item in value:
        target = plain(item.get("_target_")) if isinstance(item, Mapping) else plain(item)
        target = target if isinstance(item, Mapping) else None
        if not isinstance(target, str):
            raise ModelError("BAD_BUNDLE", f"expected a _target_ for each transform in {where!r}, got none")
        if truth(item.get("_disabled_", False)):
            continue
        name = target.rpartition(".")[2]
        for suffix in ("Dict", "d", "D"):
            if name.endswith(suffix):
                name = name.removesuffix(suffix)
                break
        steps.append((name, item))
    return steps


def truth(value: Any) -> bool:
    """A yes or no, also where a recipe spells it as the words `"True"` and `"False"`.

    Raises:
        ModelError: `BAD_BUNDLE`, another value; `CODE_REFUSED`, code in its place.
    """
    value = plain(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) >= 1:
        return truth(value[0])
    if isinstance(value, (bool, int)):
        return bool(value)
    raise ModelError("BAD_BUNDLE", f"expected true or false, got {value!r}; repair the recipe")


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number of a size that floats hold; JSON of Python knows NaN and 10^400."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST_NUMBER


def number(step: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number of a transform's arguments.

    Raises:
        ModelError: `BAD_BUNDLE`, another value; `CODE_REFUSED`, code in its place.
    """
    value = plain(step.get(key, default))
    if not _is_number(value):
        raise ModelError(
            "BAD_BUNDLE", f"expected a number for {key!r} of {step.get('_target_')}, got {value!r}; repair it"
        )
    return float(value)


def triple(value: Any, what: str) -> tuple[float, float, float]:
    """Three numbers; a single one counts for all axes.

    Raises:
        ModelError: `BAD_BUNDLE`, another value; `CODE_REFUSED`, code in its place.
    """
    value = plain(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value] * 3
    is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 3
    if not is_list or not all(_is_number(v) for v in value):
        raise ModelError("BAD_BUNDLE", f"expected three numbers for {what}, got {value!r}; repair the recipe")
    return float(value[0]), float(value[1]), float(value[2])


def step_keys(step: Mapping[str, Any]) -> tuple[str, ...]:
    """The entries that a transform works on."""
    keys = plain(step.get("keys", ()))
    return (keys,) if isinstance(keys, str) else tuple(str(key) for key in keys)


def lower_preprocessing(value: Any) -> Preprocessing:
    """What a bundle's `preprocessing` asks for.

    Raises:
        ModelError: `UNSUPPORTED_RECIPE` naming a transform, or `BAD_BUNDLE`.
    """
    result = Preprocessing()
    early: set[tuple[str, ...]] = set()
    for name, step in step_list(value, "preprocessing"):
        keys = step_keys(step)
        if name in _NO_EFFECT or (keys and set(keys) <= _NOT_IMAGES):
            continue
        if name == "ConcatItems":
            if any(sorted(seen) != sorted(keys) for seen in early):
                raise unsupported("images that are treated differently before ConcatItems", "preprocessing")
            result = replace(result, channel_keys=keys, joint=())
            continue
        early.add(tuple(key for key in keys if key not in _NOT_IMAGES))
        result = _with_step(result, name, step)
    return result


def _with_step(before: Preprocessing, name: str, step: Mapping[str, Any]) -> Preprocessing:
    if name == "Orientation":
        codes = plain(step.get("axcodes"))
        if not isinstance(codes, (str, list)) or len(codes) != 3:
            raise ModelError("BAD_BUNDLE", f"expected axcodes such as RAS, got {codes!r}; repair them")
        if before.spacing_mm is not None and len(set(before.spacing_mm)) > 1:
            raise unsupported("Spacing of several lengths before Orientation", "preprocessing")
        return replace(before, orientation="".join(str(code) for code in codes))
    if name == "Spacing":
        return _with_spacing(before, step)
    if name == "CropForeground":
        return _with_crop(before, step)
    if before.foreground is not None and before.foreground.stage == "grid":
        raise unsupported(f"{step.get('_target_')} after CropForeground", "preprocessing")
    if before.resampling.intensity_first:
        raise unsupported("intensity steps before and after Spacing", "preprocessing")
    joint = before.joint
    if name in ("NormalizeIntensity", "ScaleIntensity", "ScaleIntensityRangePercentiles"):
        joint = joint if truth(step.get("channel_wise", False)) else (*joint, name)
    return replace(before, intensity=(*before.intensity, _intensity_step(name, step)), joint=joint)


def _with_spacing(before: Preprocessing, step: Mapping[str, Any]) -> Preprocessing:
    mode = plain(step.get("mode", "bilinear"))
    if (mode if isinstance(mode, (str, int)) else mode[0]) not in _LINEAR:
        raise unsupported(f"Spacing with mode {mode!r}", "preprocessing")
    padding = plain(step.get("padding_mode", "border"))
    if (padding if isinstance(padding, str) else padding[0]) != "border":
        raise unsupported(f"Spacing with padding_mode {padding!r}", "preprocessing")
    for key in ("diagonal", "scale_extent", "min_pixdim", "max_pixdim"):
        if plain(step.get(key)) not in (None, False):
            raise unsupported(f"Spacing with {key}", "preprocessing")
    if before.spacing_mm is not None or (before.foreground and before.foreground.stage == "grid"):
        raise unsupported("Spacing after Spacing or CropForeground", "preprocessing")
    resampling = replace(before.resampling, intensity_first=bool(before.intensity))
    return replace(before, spacing_mm=triple(step.get("pixdim"), "pixdim"), resampling=resampling)


def _with_crop(before: Preprocessing, step: Mapping[str, Any]) -> Preprocessing:
    """A crop after everything else, on the grid; or before all but Orientation, on the source."""
    margin = plain(step.get("margin", 0))
    if isinstance(margin, Sequence) and not isinstance(margin, str) and len(set(margin)) == 1:
        margin = margin[0]
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 0:
        raise ModelError("BAD_BUNDLE", f"expected a margin of voxels, got {margin!r}; repair the recipe")
    if margin and not truth(step.get("allow_smaller", False)):
        raise unsupported(
            "CropForeground with a margin that may reach outside (allow_smaller)", "preprocessing"
        )
    for key, default in (("k_divisible", 1), ("channel_indices", None), ("return_coords", False)):
        if plain(step.get(key, default)) != default:
            raise unsupported(f"CropForeground with {key}", "preprocessing")
    if before.foreground is not None:
        raise unsupported("CropForeground twice", "preprocessing")
    is_first = not before.intensity and before.spacing_mm is None
    crop = ForegroundCrop(_crop_threshold(step), margin, "source" if is_first else "grid")
    return replace(before, foreground=crop)


def _crop_threshold(step: Mapping[str, Any]) -> float:
    select = step.get("select_fn")
    if select is None:
        return 0.0
    found = _ABOVE.fullmatch(select.expression.strip()) if isinstance(select, PythonCode) else None
    if found is None:
        raise unsupported("CropForeground with a select_fn of its own", "preprocessing")
    return float(found.group(2))


def _intensity_step(name: str, step: Mapping[str, Any]) -> IntensityStep:
    if name == "ScaleIntensityRange":
        return FixedRange(
            number(step, "a_min"), number(step, "a_max"), *_outer_ends(step), truth(step.get("clip", False))
        )
    if name == "ScaleIntensityRangePercentiles" and not truth(step.get("relative", False)):
        return PercentileRange(
            number(step, "lower"), number(step, "upper"), *_outer_ends(step), truth(step.get("clip", False))
        )
    if name == "NormalizeIntensity":
        return _standardising(step)
    if name == "ScaleIntensity" and plain(step.get("factor")) is None:
        return MinMax(number(step, "minv", 0.0), number(step, "maxv", 1.0))
    if name == "ShiftIntensity" and not truth(step.get("safe", False)):
        return Shift(-number(step, "offset"), 1.0)
    if name == "ThresholdIntensity":
        return Threshold(number(step, "threshold"), truth(step.get("above", True)), number(step, "cval", 0.0))
    raise unsupported(str(step.get("_target_")), "preprocessing")


def _outer_ends(step: Mapping[str, Any]) -> tuple[float, float]:
    """`b_min` and `b_max`; null means 0 and 1, as in MONAI."""
    low, high = (None if plain(step.get(key)) is None else number(step, key) for key in ("b_min", "b_max"))
    return 0.0 if low is None else low, 1.0 if high is None else high


def _standardising(step: Mapping[str, Any]) -> IntensityStep:
    subtrahend, divisor = plain(step.get("subtrahend")), plain(step.get("divisor"))
    nonzero = truth(step.get("nonzero", False))
    if subtrahend is None and divisor is None:
        return ZScore(nonzero=nonzero)
    numbers = [
        value[0] if isinstance(value, list) and len(value) == 1 else value for value in (subtrahend, divisor)
    ]
    if nonzero or not all(_is_number(value) for value in numbers):
        raise unsupported("NormalizeIntensity with a subtrahend or divisor of another form", "preprocessing")
    return Shift(float(numbers[0]), float(numbers[1]) if not math.isclose(numbers[1], 0) else 1.0)
