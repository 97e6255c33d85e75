"""`medseg fetch`: what a DICOMweb service holds, and its series into folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table, progress_bar, say

PASSWORD_VARIABLE = "MEDSEG_DICOMWEB_PASSWORD"  # noqa: S105  the name of a variable, not a password


def password(user: str) -> str:
    """The password of a DICOMweb user, from the environment; empty where there is no user."""
    return os.environ.get(PASSWORD_VARIABLE, "") if user else ""


def fetch(
    url: str,
    /,
    *,
    study: str = "",
    series: str = "",
    modality: str = "",
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    user: str = "",
    json: Json = False,
) -> None:
    """List the series of a DICOMweb service; with -o, fetch them, a numbered folder for each.

    Args:
        url: such as http://host:8042/dicom-web.
        study: only this study UID.
        series: only this series UID.
        modality: only this modality, such as CT.
        output: folder to fetch into; only listed if not given.
        user: of the service; its password is taken from MEDSEG_DICOMWEB_PASSWORD.
        json: print one JSON object on standard output.
    """
    from medseg.batch.dicomweb import connected, fetch_series, find_series
    from medseg.result import plain_data

    wanted = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "Modality": modality}
    client = connected(url, user, password(user))
    found = find_series(client, {name: value for name, value in wanted.items() if value})
    if output is not None:
        with progress_bar() as report:
            for n, one in enumerate(found, start=1):
                fetch_series(client, one, output / f"series-{n:04}", progress=report)
    if json:
        print_json({"series": plain_data(found), "output": str(output) if output else None})
        return
    rows = [[o.series_uid, o.modality, "?" if o.instances is None else str(o.instances)] for o in found]
    print_table("Series", ["series", "modality", "objects"], rows)
    if output is not None:
        say(f"fetched: {len(found)} series into {output}")
