"""How a batch runs; nothing here changes what comes out of a case."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.settings_bounds import check_bounds

NAMES = ("pseudonym", "plain")


@dataclass(frozen=True)
class BatchSettings:
    """Choices of one batch run.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    workers: int = field(
        default=1,
        metadata={"help": "cases at the same time, each in a process of its own", "min": 1, "max": 256},
    )
    timeout_s: float = field(
        default=3600.0,
        metadata={
            "help": "give a case up after this time; loading the model and waiting for the GPU not counted",
            "unit": "s",
            "min": 0.1,
            "max": 1e6,
        },
    )
    memory_gb: float | None = field(
        default=None,
        metadata={
            "help": "stop a case that takes more memory; an equal share of what is free if not given",
            "unit": "GB",
            "min": 0.05,
            "max": 65536.0,
        },
    )
    recycle_after: int = field(
        default=50,
        metadata={
            "help": "replace a worker after so many cases, so that leaks end",
            "min": 1,
            "max": 1_000_000,
        },
    )
    retry_failed: bool = field(
        default=False, metadata={"help": "run cases again that failed in an earlier run"}
    )
    names: str = field(
        default="pseudonym",
        metadata={
            "help": "names of the case folders; plain only where file names hold no patient",
            "choices": NAMES,
        },
    )

    def __post_init__(self) -> None:
        check_bounds(self)
