"""What a user may choose about refining a label map."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.settings_bounds import check_bounds


@dataclass(frozen=True)
class RefinementSettings:
    """How labels of a fully connected conditional random field attract each other.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    confidence: float = field(
        default=0.7,
        metadata={"help": "how sure every label is to begin with", "min": 0.01, "max": 0.999},
    )
    appearance_weight: float = field(
        default=3.0,
        metadata={"help": "pull of voxels that are near and look alike", "min": 0.0, "max": 100.0},
    )
    appearance_mm: float = field(
        default=6.0,
        metadata={"help": "how near: standard deviation", "unit": "mm", "min": 1e-6, "max": 1000.0},
    )
    contrast_fraction: float = field(
        default=0.1,
        metadata={
            "help": "how alike: standard deviation in parts of the image's contrast (1st to 99th percentile)",
            "min": 0.02,
            "max": 10.0,
        },
    )
    smoothness_weight: float = field(
        default=1.0,
        metadata={"help": "pull of voxels that are near, whatever they look like", "min": 0.0, "max": 100.0},
    )
    smoothness_mm: float = field(
        default=2.0,
        metadata={"help": "how near: standard deviation", "unit": "mm", "min": 1e-6, "max": 1000.0},
    )
    iterations: int = field(
        default=5, metadata={"help": "rounds in which labels hear of each other", "min": 1, "max": 100}
    )

    def __post_init__(self) -> None:
        check_bounds(self)
