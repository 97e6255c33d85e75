"""Which scan of a path is meant."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.volume import Volume


@dataclass(frozen=True)
class SourceFlags:
    """What a person says of the input beside its path.

    Attributes:
        series: UID of a DICOM series, or empty where the path holds one volume.
    """

    series: str = field(
        default="",
        metadata={"help": "UID of the series, where a path holds several (`medseg series` lists them)"},
    )


def read_source(path: Path, flags: SourceFlags) -> Volume:
    """Read the one volume of a path, or the named series of it.

    Raises:
        ReadError: there is no such volume, or it is damaged.
        GeometryError: its grid is none.
    """
    if flags.series:
        from medseg.io.dicom_series import read_series

        return read_series(path, flags.series)
    from medseg.io.formats import read_volume

    return read_volume(path)
