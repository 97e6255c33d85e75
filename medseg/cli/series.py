"""`medseg series`: what a folder, DICOMDIR or zip holds, and what of it can be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table, progress_bar, say

if TYPE_CHECKING:
    from medseg.io.dicom_series import SeriesInfo

JSON_FIELDS = (
    "study_uid",
    "series_uid",
    "modality",
    "files",
    "shape",
    "spacing_mm",
    "geometry",
    "readable",
    "code",
    "reason",
)


def series(path: Path, /, *, json: Json = False) -> None:
    """List the DICOM series of a place by their headers: how slices lie, what is readable, why not.

    Args:
        path: folder tree, DICOMDIR, zip, or one DICOM file.
        json: print one JSON object on standard output.
    """
    from medseg.io.dicom_series import list_series

    if json:
        print_json({"series": [_plain(info) for info in list_series(path)]})
        return
    with progress_bar() as progress:
        found = list_series(path, progress=progress)
    heads = ["series", "", "files", "size", "spacing mm", "geometry", "readable"]
    print_table("DICOM series", heads, [_cells(info) for info in found], numbers=(2,))
    for info in found:
        for note in info.notes:
            say(f"note [{note.partition(':')[0]}]{note.partition(':')[2]} (series {info.series_uid})")
        if not info.readable:
            say(f"not read [{info.code}]: {info.reason} (series {info.series_uid})")
    readable = sum(info.readable for info in found)
    say(f"{readable} of {len(found)} readable")


def _plain(info: SeriesInfo) -> dict[str, object]:
    return {name: getattr(info, name) for name in JSON_FIELDS}


def _cells(info: SeriesInfo) -> list[str]:
    size = " x ".join(str(n) for n in info.shape)
    spacing = " x ".join(f"{x:.3g}" for x in info.spacing_mm)
    fate = "yes" if info.readable else info.code
    return [info.series_uid, info.modality, str(info.files), size, spacing, info.geometry, fate]
