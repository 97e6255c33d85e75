"""How to run a model, beyond what its card says."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from medseg.errors import SettingsError
from medseg.models.loading import DEVICES


@dataclass(frozen=True)
class InferenceSettings:
    """Choices of one run.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    device: str = field(
        default="auto",
        metadata={"help": "where the network runs; auto takes the fastest there is", "choices": DEVICES},
    )
    overlap_fraction: float | None = field(
        default=None,
        metadata={
            "help": "part of a window that the next one shares; the model's own if not given",
            "min": 0.0,
            "max": 0.95,
        },
    )
    max_memory_gb: float | None = field(
        default=None,
        metadata={
            "help": "refuse to start a run that is planned to need more memory",
            "unit": "GB",
            "min": 0.1,
            "max": 4096.0,
        },
    )
    threads: int = field(
        default=0,
        metadata={"help": "processor threads; 0 leaves the choice to torch", "min": 0, "max": 1024},
    )

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise SettingsError(
                "BAD_DEVICE", f"expected one of {', '.join(DEVICES)}, got {self.device!r}; choose one"
            )
        for name in ("overlap_fraction", "max_memory_gb", "threads"):
            _check_bounds(name, getattr(self, name))


def _check_bounds(name: str, value: float | None) -> None:
    bounds = InferenceSettings.__dataclass_fields__[name].metadata
    if value is None:
        return
    if not math.isfinite(value) or not bounds["min"] <= value <= bounds["max"]:
        raise SettingsError(
            "BAD_SETTING",
            f"expected {name} from {bounds['min']} to {bounds['max']}, got {value}; choose one inside",
        )
