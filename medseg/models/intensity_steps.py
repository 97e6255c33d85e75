"""Intensity steps of published recipes, as data; `medseg.preprocess.intensity` carries them out."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from medseg.errors import ModelError


def _require_finite(step: object, names: tuple[str, ...]) -> None:
    values = [getattr(step, name) for name in names]
    if not all(math.isfinite(value) for value in values):
        raise ModelError(
            "BAD_CARD", f"expected finite numbers in {type(step).__name__}, got {values}; repair the recipe"
        )


@dataclass(frozen=True)
class FixedRange:
    """Map `[input_min, input_max]` linearly to `[output_min, output_max]`.

    Attributes:
        input_min: value that becomes `output_min`.
        input_max: value that becomes `output_max`.
        output_min: lower end afterwards.
        output_max: upper end afterwards.
        clip: whether values beyond the ends are set to them.
    """

    input_min: float
    input_max: float
    output_min: float = 0.0
    output_max: float = 1.0
    clip: bool = False

    def __post_init__(self) -> None:
        _require_finite(self, tuple(f.name for f in fields(self) if f.name != "clip"))
        if self.input_min >= self.input_max:
            raise ModelError(
                "BAD_CARD",
                f"expected input_min below input_max, got {self.input_min} and {self.input_max}; swap them",
            )


@dataclass(frozen=True)
class PercentileRange:
    """Map the volume's own percentiles linearly to `[output_min, output_max]`.

    Attributes:
        lower_percent: percentile that becomes `output_min`, 0..100.
        upper_percent: percentile that becomes `output_max`, 0..100.
        output_min: lower end afterwards.
        output_max: upper end afterwards.
        clip: whether values beyond the ends are set to them.
    """

    lower_percent: float
    upper_percent: float
    output_min: float = 0.0
    output_max: float = 1.0
    clip: bool = False

    def __post_init__(self) -> None:
        _require_finite(self, ("lower_percent", "upper_percent", "output_min", "output_max"))
        if not 0 <= self.lower_percent < self.upper_percent <= 100:
            raise ModelError(
                "BAD_CARD",
                f"expected percentiles with 0 <= lower < upper <= 100, got {self.lower_percent} and "
                f"{self.upper_percent}; repair the recipe",
            )


@dataclass(frozen=True)
class ZScore:
    """Subtract the mean, divide by the standard deviation.

    Attributes:
        nonzero: whether only voxels other than 0 count and change.
        filled: with `nonzero`: voxels that are 0 in this image count too where another image of the case
            is not 0, or where other such voxels enclose them on all six sides.
    """

    nonzero: bool = False
    filled: bool = False


@dataclass(frozen=True)
class MinMax:
    """Map the volume's own lowest and highest value to `output_min` and `output_max`."""

    output_min: float = 0.0
    output_max: float = 1.0

    def __post_init__(self) -> None:
        _require_finite(self, ("output_min", "output_max"))


@dataclass(frozen=True)
class Shift:
    """Subtract one fixed number, divide by another."""

    subtract: float = 0.0
    divide: float = 1.0

    def __post_init__(self) -> None:
        _require_finite(self, ("subtract", "divide"))
        if self.divide == 0:
            raise ModelError("BAD_CARD", "expected a divisor other than 0, got 0; repair the recipe")


@dataclass(frozen=True)
class Threshold:
    """Set voxels to `value` that lie at or below `limit` (with `keep_above`), or at or above it (without)."""

    limit: float
    keep_above: bool = True
    value: float = 0.0

    def __post_init__(self) -> None:
        _require_finite(self, ("limit", "value"))


@dataclass(frozen=True)
class FromLowest:
    """Subtract the volume's lowest value, divide by its standard deviation (of a sample, n - 1)."""


@dataclass(frozen=True)
class Sigmoid:
    """The logistic function of every voxel: from 0 to 1."""


@dataclass(frozen=True)
class SoftLimit:
    """`limit * tanh(x / limit)`: little changed near 0, never beyond the limit."""

    limit: float = 3.0

    def __post_init__(self) -> None:
        _require_finite(self, ("limit",))
        if self.limit <= 0:
            raise ModelError("BAD_CARD", f"expected a limit above 0, got {self.limit}; repair the recipe")


IntensityStep = (
    FixedRange | PercentileRange | ZScore | MinMax | Shift | Threshold | FromLowest | Sigmoid | SoftLimit
)
"""Any step; a card holds them in the order in which they are carried out."""
