"""`medseg refine`: borders of a label map, moved to where the image has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, progress_bar, say
from medseg.refine.settings import RefinementSettings


@takes_settings(settings=RefinementSettings)
def refine(
    labels: Path,
    /,
    *,
    image: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    settings: RefinementSettings,
    json: Json = False,
) -> None:
    """Refine a label map by the scan that it was made from (fully connected conditional random field).

    Args:
        labels: the label map.
        image: intensities on the same grid.
        output: label map to write; its ending names the format.
        settings: how labels attract each other.
        json: print one JSON object on standard output.
    """
    from medseg.io.formats import read_labels, read_volume, write_labels
    from medseg.refine.labels import refine_labels

    before = read_labels(labels)
    with progress_bar() as report:
        after = refine_labels(before, read_volume(image), settings, progress=report)
    changed = int((before.array != after.array).sum())
    written = write_labels(after, output)
    if json:
        print_json({"output": str(written), "changed_voxels": changed})
    else:
        say(f"{changed} voxels changed their label")
        say(f"written: {written}")
