"""What a user may choose about separating objects."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.errors import SettingsError
from medseg.settings_bounds import check_bounds

HEIGHTS = ("distance", "intensity")
NUMBERINGS = ("volume", "position")

H_PER_DIAMETER = 0.055
"""Persistence that tells two touching round objects from one rough one, in parts of their diameter."""


@dataclass(frozen=True)
class SeparationSettings:
    """How one class becomes objects.

    Objects begin as the connected components (26 neighbours) of the class. Where `split_h_mm` or
    `diameter_mm` is above 0, or the height is intensity, components are split at necks; where
    `merge_gap_mm` or `merge_dilation_voxels` is above 0, separate components are joined.

    Raises:
        SettingsError: a value out of its bounds, or values that contradict each other.
    """

    height: str = field(
        default="distance",
        metadata={
            "help": "what tells touching objects apart: depth below the surface, or brightness",
            "choices": HEIGHTS,
        },
    )
    diameter_mm: float = field(
        default=0.0,
        metadata={
            "help": "expected diameter of an object; 0 where objects have no typical size",
            "unit": "mm",
            "min": 0.0,
        },
    )
    split_h_mm: float = field(
        default=0.0,
        metadata={
            "help": "split where a neck is this much less deep than both sides; 0 splits nothing, "
            f"or {H_PER_DIAMETER} of the expected diameter if that is given",
            "unit": "mm",
            "min": 0.0,
        },
    )
    split_contrast: float = field(
        default=0.04,
        metadata={
            "help": "split where brightness drops by this part of its range in the class (height intensity)",
            "min": 0.0,
            "max": 1.0,
        },
    )
    smoothing_fraction: float = field(
        default=0.07,
        metadata={
            "help": "standard deviation of the height's smoothing in parts of the expected diameter",
            "min": 0.0,
            "max": 1.0,
        },
    )
    merge_gap_mm: float = field(
        default=0.0,
        metadata={
            "help": "join components whose nearest voxel centres are at most this far apart",
            "unit": "mm",
            "min": 0.0,
        },
    )
    merge_dilation_voxels: int = field(
        default=0,
        metadata={
            "help": "join components whose dilations by this many steps touch (the rule of BraTS)",
            "unit": "voxels",
            "min": 0,
            "max": 20,
        },
    )
    min_volume_mm3: float = field(
        default=0.0,
        metadata={"help": "drop objects below this volume", "unit": "mm3", "min": 0.0},
    )
    numbering: str = field(
        default="volume",
        metadata={
            "help": "object 1 is the largest, or the first in the array",
            "choices": NUMBERINGS,
        },
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.height == "intensity" and self.diameter_mm == 0:
            raise SettingsError(
                "DIAMETER_NEEDED",
                "expected diameter_mm with height intensity, got 0; give the diameter of a typical object",
            )

    @property
    def splits(self) -> bool:
        """Whether touching objects are told apart."""
        return self.height == "intensity" or self.persistence > 0

    @property
    def persistence(self) -> float:
        """Least drop between two maxima of one height map that makes them two objects.

        In mm for the height `distance`, in parts of the brightness range for `intensity`.
        """
        if self.height == "intensity":
            return self.split_contrast
        return self.split_h_mm if self.split_h_mm > 0 else H_PER_DIAMETER * self.diameter_mm

    @property
    def smoothing_mm(self) -> float:
        """Standard deviation of the height map's Gaussian smoothing."""
        return self.smoothing_fraction * self.diameter_mm


PRESETS = {
    "lesions": SeparationSettings(min_volume_mm3=3.0),
    "brats-gli": SeparationSettings(merge_dilation_voxels=3, min_volume_mm3=51.0),
    "brats-ssa": SeparationSettings(merge_dilation_voxels=3, min_volume_mm3=51.0),
    "brats-ped": SeparationSettings(merge_dilation_voxels=3, min_volume_mm3=51.0),
    "brats-men": SeparationSettings(merge_dilation_voxels=1, min_volume_mm3=51.0),
    "brats-met": SeparationSettings(merge_dilation_voxels=1, min_volume_mm3=3.0),
}
"""Settings by name. The `brats-*` ones are the lesion rules of the BraTS 2023 challenges on their 1 mm
grid: satellites within a dilation of 3 or 1 steps belong to their lesion, and lesions of at most 50
voxels (metastases: 2) do not count (github.com/rachitsaluja/BraTS-2023-Metrics)."""


def separation_preset(name: str) -> SeparationSettings:
    """The preset of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in PRESETS:
        raise SettingsError("UNKNOWN_PRESET", f"expected one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
