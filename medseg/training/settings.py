"""What a user may choose about training; nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.settings_bounds import check_bounds


@dataclass(frozen=True)
class FineTuneSettings:
    """Choices of one fine-tuning.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    steps: int = field(
        default=400, metadata={"help": "steps of the optimiser, four windows each", "min": 1, "max": 100_000}
    )
    learning_rate: float = field(default=1.5e-3, metadata={"help": "at its highest", "min": 1e-6, "max": 0.1})
    synthetic_windows: int = field(
        default=1,
        metadata={
            "help": "of the four windows, how many are synthetic, so that little is forgotten",
            "min": 0,
            "max": 3,
        },
    )
    seed: int = field(default=0, metadata={"help": "start of every random choice", "min": 0, "max": 2**31})
    threads: int = field(
        default=0, metadata={"help": "processor threads; 0 leaves the choice to torch", "min": 0, "max": 1024}
    )

    def __post_init__(self) -> None:
        check_bounds(self)
