"""How the annotation tools behave."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.settings_bounds import check_bounds

METHODS = ("edges", "intensities")


@dataclass(frozen=True)
class LiveWireSettings:
    """How a line finds edges on a slice.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    smoothing: float = field(
        default=1.0,
        metadata={
            "help": "smooth noise away before edges are looked for, in pixels of the finer axis",
            "min": 0.0,
            "max": 10.0,
        },
    )
    attraction: float = field(
        default=20.0,
        metadata={"help": "how many times longer a way along an edge may be", "min": 1.0, "max": 1000.0},
    )
    snap_pixels: int = field(
        default=3, metadata={"help": "a click moves to the clearest edge this near", "min": 0, "max": 50}
    )
    reach_pixels: int = field(
        default=160,
        metadata={"help": "edges farther from the last click are not looked at", "min": 8, "max": 1024},
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class GrowSettings:
    """How far a region grows from a click.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    tolerance: float = field(
        default=50.0,
        metadata={
            "help": "how far intensities may lie from those at the click",
            "min": 0.0,
            "max": 1e30,
        },
    )
    radius_mm: float = field(
        default=30.0,
        metadata={"help": "nothing farther from the click is taken", "unit": "mm", "min": 0.0, "max": 1000.0},
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class ScribbleSettings:
    """How strokes become regions.

    Raises:
        SettingsError: `BAD_SETTING`, a value out of its bounds.
    """

    method: str = field(
        default="edges",
        metadata={
            "help": "edges: regions meet where intensities change most; intensities: every voxel goes to "
            "the strokes that look like it",
            "choices": METHODS,
        },
    )
    smoothing: float = field(
        default=1.0,
        metadata={
            "help": "smooth noise away first, in voxels of the finest axis",
            "min": 0.0,
            "max": 10.0,
        },
    )

    def __post_init__(self) -> None:
        check_bounds(self)
