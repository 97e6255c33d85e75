"""Settings hold themselves to the bounds that their fields name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from medseg.errors import SettingsError
from medseg.settings_bounds import check_bounds


@dataclass(frozen=True)
class Choices:
    share: float = field(default=0.5, metadata={"min": 0.0, "max": 1.0})
    least: float | None = field(default=None, metadata={"min": 2})
    corner: tuple[float, ...] = field(default=(), metadata={"min": -1.0, "max": 1.0})
    word: str = field(default="a", metadata={"choices": ("a", "b")})
    free: str = field(default="anything", metadata={"help": "no bounds"})

    def __post_init__(self) -> None:
        check_bounds(self)


@pytest.mark.parametrize(
    "inside",
    [{}, {"share": 0}, {"share": 1.0}, {"least": 2}, {"least": 1e9}, {"corner": (-1, 1)}, {"word": "b"}],
)
def test_inside(inside: dict[str, Any]) -> None:
    Choices(**inside)


@pytest.mark.parametrize(
    "outside",
    [
        {"share": 1.01},
        {"share": float("nan")},
        {"share": "0.5"},
        {"share": None},
        {"least": 1},
        {"least": float("inf")},
        {"corner": (0, 2)},
        {"corner": (0, float("nan"))},
        {"word": "c"},
    ],
)
def test_outside_is_told_with_the_name(outside: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(outside))) as caught:
        Choices(**outside)
    assert caught.value.code == "BAD_SETTING"
