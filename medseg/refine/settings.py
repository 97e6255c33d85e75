"""What a user may choose about refining a label map."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from medseg.settings_bounds import check_bounds

USUAL_CONFIDENCE = 0.7
FEW_CLASSES = 3
USUAL_APPEARANCE, USUAL_SMOOTHNESS = 3.0, 1.0
"""Weights for up to `FEW_CLASSES`."""


def odds_to_overcome(classes: int, confidence: float) -> float:
    """Pull beyond which neighbours that all agree change a label: its first belief over that of another.

    Doubt is shared among all other classes (as in Krähenbühl's example and `unary_from_labels` of
    pydensecrf), so each starts the less likely the more there are.
    """
    return math.log(confidence * (classes - 1) / (1 - confidence))


@dataclass(frozen=True)
class RefinementSettings:
    """How labels of a fully connected conditional random field attract each other.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    confidence: float = field(
        default=USUAL_CONFIDENCE,
        metadata={"help": "how sure every label is to begin with", "min": 0.01, "max": 0.999},
    )
    appearance_weight: float | None = field(
        default=None,
        metadata={
            "help": "pull of voxels that are near and look alike; 3 for up to three classes, more for more "
            "if left out",
            "min": 0.0,
            "max": 100.0,
        },
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
    smoothness_weight: float | None = field(
        default=None,
        metadata={
            "help": "pull of voxels that are near, whatever they look like; 1 for up to three classes, more "
            "for more if left out",
            "min": 0.0,
            "max": 100.0,
        },
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

    def weights(self, classes: int) -> tuple[float, float]:
        """Pulls of appearance and smoothness.

        What is left out grows with the odds to overcome at the usual confidence, so the share of neighbours
        that must agree to change a label stays what it is for three classes. For 21 classes that is 7.5 and
        2.5; Krähenbühl's example takes 10 and 3.

        Args:
            classes: that stand in the label map, background among them; 2 or more.
        """
        few, many = FEW_CLASSES, max(classes, FEW_CLASSES)
        growth = odds_to_overcome(many, USUAL_CONFIDENCE) / odds_to_overcome(few, USUAL_CONFIDENCE)
        appearance, smoothness = self.appearance_weight, self.smoothness_weight
        return (
            growth * USUAL_APPEARANCE if appearance is None else appearance,
            growth * USUAL_SMOOTHNESS if smoothness is None else smoothness,
        )
