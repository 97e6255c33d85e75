"""A settings dataclass is the single source of flags, help, units and bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from cyclopts import App, CycloptsError

from medseg.cli.options import Json, help_of, takes_settings
from medseg.inference.settings import InferenceSettings
from medseg.instances.settings import SeparationSettings


@dataclasses.dataclass(frozen=True)
class Cut:
    """Settings of a test."""

    depth_mm: float = dataclasses.field(
        default=1.5, metadata={"help": "how deep", "unit": "mm", "min": 0, "max": 9}
    )
    side: str = dataclasses.field(default="left", metadata={"help": "where", "choices": ("left", "right")})
    passes: int | None = dataclasses.field(default=None, metadata={"help": "how often", "min": 1})
    overlap_fraction: float = dataclasses.field(default=0.5, metadata={"help": "shared", "max": 1})


@takes_settings(cut=Cut)
def carve(name: str, /, *, cut: Cut, json: Json = False) -> tuple[str, Cut, bool]:
    """Carve.

    Args:
        name: of the piece.
        cut: how.
        json: for machines.
    """
    return name, cut, json


def parsed(*words: str) -> Any:
    app = App(default_command=carve)
    return app(list(words), result_action="return_value", exit_on_error=False, print_error=False)


def test_flags_become_settings_and_others_keep_their_default() -> None:
    assert parsed("a") == ("a", Cut(), False)
    assert parsed("a", "--depth-mm", "2.5", "--side", "right", "--json") == ("a", Cut(2.5, "right"), True)
    assert parsed("a", "--passes", "3") == ("a", Cut(passes=3), False)
    assert parsed("a", "--overlap", "0.25") == parsed("a", "--overlap-fraction", "0.25")


@pytest.mark.parametrize(
    "words",
    [
        ("--depth-mm", "-1"),
        ("--depth-mm", "9.1"),
        ("--depth-mm", "nan"),
        ("--depth-mm", "deep"),
        ("--side", "top"),
        ("--passes", "0"),
        ("--overlap", "2"),
        ("--no-json",),
        ("--depth", "1"),
    ],
)
def test_what_is_out_of_bounds_is_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(CycloptsError) as caught:
        parsed("a", *words)
    assert str(caught.value)


def test_the_help_line_names_unit_and_bounds() -> None:
    lines = {field.name: help_of(field) for field in dataclasses.fields(Cut)}
    assert lines == {
        "depth_mm": "how deep (mm, 0 to 9)",
        "side": "where",
        "passes": "how often (at least 1)",
        "overlap_fraction": "shared (at most 1)",
    }


@pytest.mark.parametrize("settings", [InferenceSettings, SeparationSettings])
def test_every_setting_says_what_it_is(settings: type[Any]) -> None:
    for field in dataclasses.fields(settings):
        assert field.metadata.get("help"), field.name
        if field.name.endswith(("_mm", "_mm3")):
            assert field.metadata.get("unit") in ("mm", "mm3"), field.name
