"""A settings dataclass becomes flags: name, help, unit, bounds and default from its fields alone."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, get_origin, get_type_hints

from cyclopts import Parameter

Verb = TypeVar("Verb", bound=Callable[..., Any])

Json = Annotated[
    bool,
    Parameter(
        name="--json", negative=(), show_default=False, help="print one JSON object on standard output"
    ),
]

HEADINGS = {
    "InferenceSettings": "How the model runs",
    "SeparationSettings": "How objects are told apart",
    "SeparationFlags": "How objects are told apart",
    "RefinementSettings": "How labels attract each other",
    "ExportSettings": "What is written",
    "TrainFlags": "How it learns",
    "SourceFlags": "Parameters",
    "SegmentFlags": "Parameters",
    "BatchFlags": "Parameters",
    "ReceiveFlags": "Parameters",
}
"""What the help calls the flags of a settings class."""

OTHER_FLAGS = {"overlap_fraction": "--overlap", "kinds": "--export"}
"""Fields whose flag other programs know by another name; their own works too."""


def flag_of(field: dataclasses.Field[Any], hint: Any, group: str) -> inspect.Parameter:
    """One keyword parameter that cyclopts reads as a flag.

    Args:
        field: of a settings dataclass; metadata `help`, `unit`, `min`, `max`, `choices`.
        hint: its resolved type.
        group: heading in the help.
    """
    rule = field.metadata
    if "choices" in rule and get_origin(hint) is not tuple:
        hint = Literal[tuple(rule["choices"])]
    long_flag = "--" + field.name.replace("_", "-")
    parameter = Parameter(
        name=[OTHER_FLAGS[field.name], long_flag] if field.name in OTHER_FLAGS else long_flag,
        help=help_of(field),
        group=group,
        negative=(),
        show_default=field.default not in (None, "", False, dataclasses.MISSING)
        and get_origin(hint) is not tuple,
        validator=_bounds(rule.get("min", -math.inf), rule.get("max", math.inf)),
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
        annotation=Annotated[hint, parameter],
    )


def help_of(field: dataclasses.Field[Any]) -> str:
    """Help, unit and bounds of one field in a line."""
    rule = field.metadata
    low, high = rule.get("min"), rule.get("max")
    span = ""
    if low is not None and high is not None:
        span = f"{low:g} to {high:g}"
    elif low is not None:
        span = f"at least {low:g}"
    elif high is not None:
        span = f"at most {high:g}"
    if "choices" in rule and isinstance(field.default, tuple):
        span = " | ".join(rule["choices"])
    extra = ", ".join(word for word in (rule.get("unit", ""), span) if word)
    return f"{rule.get('help', '')} ({extra})" if extra else str(rule.get("help", ""))


def _bounds(low: float, high: float) -> Callable[[Any, Any], None]:
    def check(_hint: Any, value: Any) -> None:
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise ValueError(f"Expected {low:g} to {high:g}.")

    return check


def takes_settings(**groups: type[Any]) -> Callable[[Verb], Callable[..., Any]]:
    """Give a verb one flag per field of each settings class.

    Args:
        groups: name of the verb's parameter -> settings dataclass that is made from the flags.
    """

    def decorate(verb: Verb) -> Callable[..., Any]:
        kinds = {name: {f.name for f in dataclasses.fields(kind)} for name, kind in groups.items()}

        def command(*args: Any, **flags: Any) -> Any:
            for name, kind in groups.items():
                given = {key: flags.pop(key) for key in kinds[name] & flags.keys()}
                flags[name] = kind(**given)
            return verb(*args, **flags)

        hints = get_type_hints(verb, include_extras=True)
        signature = inspect.signature(verb)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in signature.parameters.items()
            if name not in groups
        ]
        flags = [
            flag_of(field, get_type_hints(kind)[field.name], HEADINGS.get(kind.__name__, kind.__name__))
            for kind in groups.values()
            for field in dataclasses.fields(kind)
        ]
        command.__name__, command.__doc__, command.__module__ = verb.__name__, verb.__doc__, verb.__module__
        command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]  # PEP 362
        command.__annotations__ = {p.name: p.annotation for p in [*own, *flags]}
        return command

    return decorate
