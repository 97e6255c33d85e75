"""A card written down: one JSON object with the fields of `Card`, for networks that bring no recipe.

    {"name": "liver", "modality": "CT", "labels": {"1": "liver"}, "output_ids": [0, 1], "in_channels": 1,
     "orientation": "RAS", "spacing_mm": [1.5, 1.5, 2.0],
     "intensity": [{"step": "FixedRange", "input_min": -57, "input_max": 164, "clip": true}],
     "window": {"size": [96, 96, 96], "overlap_fraction": 0.5, "blend": "gaussian"},
     "activation": "softmax", "home": "scores-linear"}

`name`, `labels`, `output_ids`, `window` are required; the rest has the defaults that stand in
`card_from_json`, or those of the field. Fields are as `Card` and its parts describe them; an unknown one is
refused, so that a slip of the pen is seen. A label is a name, or a table of `name`, `colour` (red, green,
blue) and `code` (`scheme`, `value`, `meaning`). A detector's second network is another TorchScript file of
the same folder: `"detection": {"masks": {"target": "torchscript", "arguments": {}, "weights_file": "NAME"}}`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from medseg.errors import ModelError, VolumeError
from medseg.labels import Label, LabelSet, colour_of_id
from medseg.models.card import Card, NetworkRecipe
from medseg.models.intensity_steps import IntensityStep

_DEFAULTS: Mapping[str, Any] = {
    "version": "", "description": "", "licence": "", "modality": "", "in_channels": 1, "orientation": None,
    "spacing_mm": None, "intensity": [], "activation": "softmax", "home": "scores-linear",
}  # fmt: skip
_NOT_WRITTEN = frozenset({"network", "notes"})
_STEPS: Mapping[str, type[Any]] = {step.__name__: step for step in typing.get_args(IntensityStep)}


def card_from_json(content: Mapping[str, Any], network: NetworkRecipe) -> Card:
    """The card of an object.

    Args:
        content: as the module describes it.
        network: what the card is of.

    Raises:
        ModelError: `BAD_CARD`, an unknown field, one that lacks, or a value that cannot be.
    """
    hints = typing.get_type_hints(Card)
    known = {field.name for field in dataclasses.fields(Card)} - _NOT_WRITTEN
    given = {**_DEFAULTS, **content}
    strange = sorted(set(given) - known)
    missing = sorted({"name", "labels", "output_ids", "window"} - set(given))
    if strange or missing:
        raise _bad(
            f"the fields of a card, {', '.join(sorted(known))}", f"{strange[:8]} beside, {missing} not"
        )
    values: dict[str, Any] = {
        key: _labels(value) if key == "labels" else _value(value, hints[key], key)
        for key, value in given.items()
    }
    return Card(**values, network=network)


def card_to_json(card: Card) -> dict[str, Any]:
    """What `card_from_json` reads as the same card; fields that have their default are left out.

    Args:
        card: of any model.
    """
    content = {
        field.name: _plain(getattr(card, field.name))
        for field in dataclasses.fields(card)
        if field.name not in _NOT_WRITTEN and getattr(card, field.name) != field.default
    }
    return content | {"labels": {str(label.id): _label_to_json(label) for label in card.labels}}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    table = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    is_step = type(value).__name__ in _STEPS
    return {"step": type(value).__name__, **table} if is_step else table


def _label_to_json(label: Label) -> Any:
    if label.code is None and label.colour == colour_of_id(label.id):
        return label.name
    code = {} if label.code is None else {"code": dataclasses.asdict(label.code)}
    return {"name": label.name, "colour": list(label.colour), **code}


def _bad(expected: str, got: object) -> ModelError:
    return ModelError("BAD_CARD", f"expected {expected}, got {got}; repair the card")


def _labels(value: Any) -> LabelSet:
    if not isinstance(value, Mapping) or not all(str(key).isdigit() for key in value):
        raise _bad("labels as a table of ids and names", type(value).__name__)
    try:
        return LabelSet(tuple(_label(int(key), told) for key, told in value.items()))
    except VolumeError as error:
        raise ModelError("BAD_CARD", str(error)) from error


def _label(label_id: int, told: Any) -> Label:
    if not isinstance(told, Mapping):
        return Label(label_id, str(told), colour_of_id(label_id))
    label: Label = _part({"colour": list(colour_of_id(label_id)), **told, "id": label_id}, Label, "labels")
    return label


def _value(value: Any, hint: Any, where: str) -> Any:  # noqa: PLR0911  one branch per kind of field
    """A JSON value as the type of its field wants it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint == IntensityStep:
        return _step(value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(value, next(kind for kind in arguments if kind is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            raise _bad(f"a list in {where!r}", repr(value)[:80])
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_value(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    if origin is typing.Literal:
        if value not in arguments:
            raise _bad(f"one of {arguments} in {where!r}", repr(value)[:80])
        return value
    if dataclasses.is_dataclass(hint):
        return _part(value, hint, where)
    if origin is Mapping and isinstance(value, dict):
        return value
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise _bad(f"{getattr(hint, '__name__', hint)} in {where!r}", repr(value)[:80])
    return value


def _step(value: Any, where: str) -> Any:
    name = str(value.get("step")) if isinstance(value, Mapping) else ""
    if name not in _STEPS:
        raise _bad(f"a step of {', '.join(_STEPS)} in {where!r}", repr(name)[:80])
    return _part({key: item for key, item in value.items() if key != "step"}, _STEPS[name], where)


def _part(value: Any, kind: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    if not isinstance(value, Mapping) or not set(value) <= set(hints):
        raise _bad(f"some of {', '.join(hints)} in {where!r}", repr(value)[:80])
    needed = {
        field.name for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }  # fmt: skip
    if not needed <= set(value):
        raise _bad(f"{', '.join(sorted(needed))} in {where!r}", f"none of {sorted(needed - set(value))}")
    return kind(**{key: _value(item, hints[key], f"{where}.{key}") for key, item in value.items()})
