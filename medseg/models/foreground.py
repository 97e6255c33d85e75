"""A crop to what is not background, as data; `medseg.preprocess.foreground` finds the box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from medseg.errors import ModelError


@dataclass(frozen=True)
class ForegroundCrop:
    """Only a box around the bright voxels is looked at; outside of it stands background.

    Attributes:
        above: voxels that exceed this count, in any image of the case.
        margin: voxels that the box is larger on every side, where the grid has them.
        stage: `"source"`: found on the source's grid before anything else, and everything after sees
            only the box. `"grid"`: found on the card's grid after the intensity steps.

    Raises:
        ModelError: `BAD_CARD`.
    """

    above: float = 0.0
    margin: int = 0
    stage: Literal["source", "grid"] = "grid"

    def __post_init__(self) -> None:
        if not math.isfinite(self.above) or self.margin < 0 or self.stage not in ("source", "grid"):
            raise ModelError(
                "BAD_CARD",
                f"expected a finite threshold, a margin of 0 or more and a stage, got {self}; repair it",
            )
