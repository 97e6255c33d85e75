"""MONAI's inferer and the transforms after the network, read as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from medseg.models.bundle_config import PythonCode, plain, refused
from medseg.models.bundle_steps import number, step_list, triple, truth, unsupported
from medseg.models.card import Activation, Home, SlidingWindow
from medseg.models.expressions import Unreadable, claim_order

_NO_EFFECT = frozenset({
    "SaveImage", "EnsureType", "ToTensor", "ToDevice", "CastToType", "SelectItems", "Identity", "DataStats",
    "DeleteItems", "CopyItems",
    "MeanEnsemble",  # the engine averages the answers of a card's members
})  # fmt: skip


@dataclass(frozen=True)
class Postprocessing:
    """What happens after the network.

    Attributes:
        activation: what turns answers into scores.
        home: what comes back to the source's grid.
        threshold: None where the highest score decides.
        regions: `(channel, label id)` in the order of claims; empty keeps the network's.
        keep_largest: channels of which only the largest piece stays; None where all pieces stay, empty
            where of every class but background one stays.
        notes: sentences.
    """

    activation: Activation = "none"
    home: Home = "labels-nearest"
    threshold: float | None = None
    regions: tuple[tuple[int, int], ...] = ()
    keep_largest: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _State:
    """Where the reading of the steps has come to."""

    result: Postprocessing
    is_decided: bool = False
    is_home: bool = False


def lower_postprocessing(value: Any) -> Postprocessing:
    """What a bundle's `postprocessing` asks for.

    Raises:
        ModelError: `UNSUPPORTED_RECIPE` naming a transform, `CODE_REFUSED`, or `BAD_BUNDLE`.
    """
    state = _State(Postprocessing())
    readers = {
        "Activations": _activation,
        "Invert": _way_home,
        "AsDiscrete": _decision,
        "KeepLargestConnectedComponent": _largest,
        "Lambda": _regions,
    }
    for name, step in step_list(value, "postprocessing"):
        if name in _NO_EFFECT:
            continue
        if name not in readers:
            raise unsupported(str(step.get("_target_")), "postprocessing")
        readers[name](state, step)
    return state.result


def _activation(state: _State, step: Mapping[str, Any]) -> None:
    if state.is_decided or plain(step.get("other")) is not None:
        raise unsupported("an activation of labels, or of another kind", "postprocessing")
    for activation in ("softmax", "sigmoid"):
        if truth(step.get(activation, False)):
            linear = "logits-linear" if state.result.home == "scores-linear" else state.result.home
            state.result = replace(state.result, activation=activation, home=linear)


def _way_home(state: _State, step: Mapping[str, Any]) -> None:
    if state.is_home:
        raise unsupported("Invert twice", "postprocessing")
    state.is_home = True
    nearest = truth(step.get("nearest_interp", True))
    if state.is_decided:
        if not nearest:
            note = "labels go home by the nearest voxel: the recipe would interpolate between label numbers"
            state.result = replace(state.result, notes=(*state.result.notes, note))
    elif nearest:
        note = "scores go home by the nearest voxel, which is to decide first"
        state.result = replace(state.result, notes=(*state.result.notes, note))
    else:
        state.result = replace(state.result, home="scores-linear")


def _decision(state: _State, step: Mapping[str, Any]) -> None:
    state.is_decided = True
    if truth(step.get("argmax", False)):
        return
    threshold = step.get("threshold")
    if isinstance(plain(threshold), bool) or "threshold_values" in step:  # before MONAI 0.9
        wanted = truth(step.get("threshold_values", threshold))
        threshold = number(step, "logit_thresh", 0.5) if wanted else None
        note = "AsDiscrete is written as before MONAI 0.9: read as a threshold"
        state.result = replace(state.result, notes=(*state.result.notes, note))
    elif threshold is not None:
        threshold = number(step, "threshold")
    state.result = replace(state.result, threshold=threshold)


def _largest(state: _State, step: Mapping[str, Any]) -> None:
    wanted = plain(step.get("applied_labels"))
    wanted = [wanted] if isinstance(wanted, int) else wanted or []
    fine = (
        state.is_decided
        and not state.is_home
        and state.result.threshold is None
        and truth(step.get("independent", True))
        and plain(step.get("num_components", 1)) == 1
        and plain(step.get("connectivity")) in (None, 3)
        and all(type(label) is int for label in wanted)
    )
    if not fine:
        raise unsupported("KeepLargestConnectedComponent of another form", "postprocessing")
    state.result = replace(state.result, keep_largest=tuple(wanted))


def _regions(state: _State, step: Mapping[str, Any]) -> None:
    function = step.get("func")
    if not isinstance(function, PythonCode):
        raise unsupported("Lambda", "postprocessing")
    try:
        regions = claim_order(function.expression)
    except Unreadable as error:
        raise refused(function.where, str(error)) from error
    if state.result.threshold is None:
        raise unsupported("Lambda before a threshold", "postprocessing")
    state.result = replace(state.result, regions=regions)


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
