"""The bounds that settings dataclasses name in their fields' metadata, held in one place."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from medseg.errors import SettingsError


def check_bounds(settings: Any) -> None:
    """Return if every field of a settings dataclass lies in the bounds of its own metadata.

    `min` and `max` bound numbers, one or several; `choices` lists what text may be. None is always
    allowed where it is the default.

    Args:
        settings: an instance; called at the end of its making.

    Raises:
        SettingsError: `BAD_SETTING`, naming field, bounds and value.
    """
    for field in dataclasses.fields(settings):
        value, rule = getattr(settings, field.name), field.metadata
        if value is None and field.default is None:
            continue
        for one in value if isinstance(value, tuple) else (value,):
            if "choices" in rule:
                _check_choice(field.name, one, rule["choices"])
            elif "min" in rule or "max" in rule:
                _check_number(field.name, one, rule.get("min", -math.inf), rule.get("max", math.inf))


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(
            "BAD_SETTING", f"expected {name} to be one of {', '.join(choices)}, got {value!r}; choose one"
        )


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise SettingsError(
            "BAD_SETTING", f"expected {name} from {low:g} to {high:g}, got {value!r}; choose one inside"
        )
