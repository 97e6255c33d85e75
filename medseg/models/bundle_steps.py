"""MONAI's transforms and inferers, read as data.

Each function takes what a recipe says of one thing and gives what a card says of it, or refuses
what it cannot carry out exactly, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medseg.errors import ModelError
from medseg.models.bundle_config import plain
from medseg.models.card import Activation, Home, SlidingWindow
from medseg.models.intensity_steps import FixedRange, IntensityStep, MinMax, PercentileRange, ZScore

_NO_EFFECT_BEFORE = frozenset({
    "LoadImage", "EnsureChannelFirst", "AddChannel", "AsChannelFirst", "EnsureType", "CastToType",
    "ToTensor", "ToDevice", "ToMetaTensor", "SelectItems", "Identity", "DataStats",
})  # fmt: skip
_NO_EFFECT_AFTER = frozenset({
    "SaveImage", "EnsureType", "ToTensor", "ToDevice", "CastToType", "SelectItems", "Identity", "DataStats",
    "DeleteItems", "CopyItems",
})  # fmt: skip

_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Preprocessing:
    """What happens before the network."""

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    intensity: tuple[IntensityStep, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Postprocessing:
    """What happens after the network."""

    activation: Activation = "none"
    home: Home = "labels-nearest"
    threshold: float | None = None


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


def lower_preprocessing(value: Any) -> Preprocessing:
    """What a bundle's `preprocessing` asks for.

    Raises:
        ModelError: `UNSUPPORTED_RECIPE` naming a transform, or `BAD_BUNDLE`.
    """
    result = Preprocessing()
    for name, step in step_list(value, "preprocessing"):
        if name in _NO_EFFECT_BEFORE:
            continue
        if name == "Orientation":
            codes = plain(step.get("axcodes"))
            if not isinstance(codes, (str, list)) or len(codes) != 3:
                raise ModelError("BAD_BUNDLE", f"expected axcodes such as RAS, got {codes!r}; repair them")
            result = replace(result, orientation="".join(str(code) for code in codes))
        elif name == "Spacing":
            result = _with_spacing(result, step)
        else:
            result = replace(result, intensity=(*result.intensity, _intensity_step(name, step)))
    return result


def _with_spacing(before: Preprocessing, step: Mapping[str, Any]) -> Preprocessing:
    mode = plain(step.get("mode", "bilinear"))
    if (mode if isinstance(mode, str) else mode[0]) not in ("bilinear", "trilinear", 1):
        raise unsupported(f"Spacing with mode {mode!r}", "preprocessing")
    note = "intensity steps before Spacing are carried out after it"
    notes = (*before.notes, note) if before.intensity else before.notes
    return replace(before, spacing_mm=triple(step.get("pixdim"), "pixdim"), notes=notes)


def _intensity_step(name: str, step: Mapping[str, Any]) -> IntensityStep:
    if name == "ScaleIntensityRange":
        return FixedRange(
            number(step, "a_min"),
            number(step, "a_max"),
            number(step, "b_min", 0.0),
            number(step, "b_max", 1.0),
            truth(step.get("clip", False)),
        )
    if name == "ScaleIntensityRangePercentiles" and not truth(step.get("relative", False)):
        return PercentileRange(
            number(step, "lower"),
            number(step, "upper"),
            number(step, "b_min", 0.0),
            number(step, "b_max", 1.0),
            truth(step.get("clip", False)),
        )
    if name == "NormalizeIntensity" and step.get("subtrahend") is None and step.get("divisor") is None:
        return ZScore(nonzero=truth(step.get("nonzero", False)))
    if name == "ScaleIntensity" and step.get("factor") is None:
        return MinMax(number(step, "minv", 0.0), number(step, "maxv", 1.0))
    raise unsupported(str(step.get("_target_")), "preprocessing")


def lower_postprocessing(value: Any) -> Postprocessing:
    """What a bundle's `postprocessing` asks for.

    Raises:
        ModelError: `UNSUPPORTED_RECIPE` naming a transform, or `BAD_BUNDLE`.
    """
    result = Postprocessing()
    is_decided = False
    for name, step in step_list(value, "postprocessing"):
        if name in _NO_EFFECT_AFTER:
            continue
        if name == "Activations":
            for activation in ("softmax", "sigmoid"):
                if truth(step.get(activation, False)):
                    result = replace(result, activation=activation)
        elif name == "Invert":
            is_linear = not is_decided and not truth(step.get("nearest_interp", True))
            result = replace(result, home="scores-linear" if is_linear else "labels-nearest")
        elif name == "AsDiscrete":
            is_decided = True
            if step.get("threshold") is not None and not truth(step.get("argmax", False)):
                result = replace(result, threshold=number(step, "threshold"))
        else:
            raise unsupported(str(step.get("_target_")), "postprocessing")
    return result


def lower_inferer(value: Any) -> SlidingWindow:
    """What a bundle's `inferer` asks for.

    Raises:
        ModelError: `UNSUPPORTED_RECIPE` for anything but a sliding window, or `BAD_BUNDLE`.
    """
    target = str(value.get("_target_", "")) if isinstance(value, Mapping) else ""
    if target.rpartition(".")[2] not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt"):
        raise unsupported(target or "no inferer", "inferer")
    size = triple(value.get("roi_size"), "roi_size")
    if any(s < 1 or s != int(s) for s in size):
        raise unsupported(f"roi_size {size}", "inferer")
    mode = str(plain(value.get("mode", "constant"))).lower()
    padding = str(plain(value.get("padding_mode", "constant"))).lower()
    if mode not in ("constant", "gaussian"):
        raise unsupported(f"mode {mode!r}", "inferer")
    if padding not in ("constant", "reflect", "replicate", "circular"):
        raise unsupported(f"padding_mode {padding!r}", "inferer")
    overlaps = triple(value.get("overlap", 0.25), "overlap")
    if len(set(overlaps)) > 1:
        raise unsupported("another overlap on each axis", "inferer")
    return SlidingWindow(
        size=(int(size[0]), int(size[1]), int(size[2])),
        overlap_fraction=overlaps[0],
        blend="gaussian" if mode == "gaussian" else "constant",
        sigma_scale=number(value, "sigma_scale", 0.125),
        padding_mode=padding,  # type: ignore[arg-type]  # checked above
        padding_value=number(value, "cval", 0.0),
    )
