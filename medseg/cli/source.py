"""Which scan of a path is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from medseg.volume import Volume

Irregular = Literal["resample", "reject", "fill"]


@dataclass(frozen=True)
class SourceFlags:
    """What a person says of the input beside its path.

    Attributes:
        series: UID of a DICOM series, or empty where the path holds one volume.
        volume: number of a volume in that series, from 1; 0 where it holds one.
        irregular: what to do with DICOM slices that do not lie as a grid.
    """

    series: str = field(
        default="",
        metadata={"help": "UID of the series, where a path holds several (`medseg series` lists them)"},
    )
    volume: int = field(
        default=0,
        metadata={
            "help": "which volume of a series of several (time points, echoes), from 1; 0 where it has one",
            "min": 0,
        },
    )
    irregular: Irregular = field(
        default="resample",
        metadata={
            "help": "tilted or unevenly spaced DICOM slices; fill bridges missing ones too",
            "choices": ("resample", "reject", "fill"),
        },
    )


def read_source(path: Path, flags: SourceFlags) -> Volume:
    """Read the one volume of a path, or the named series of it.

    Raises:
        ReadError: there is no such volume, or it is damaged.
        GeometryError: its grid is none.
    """
    from medseg.io.formats import is_dicom_place, read_volume

    if flags.series or flags.volume or is_dicom_place(path):
        from medseg.io.dicom_series import read_series

        return read_series(path, flags.series or None, volume=flags.volume or None, irregular=flags.irregular)
    return read_volume(path)
