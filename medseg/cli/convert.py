"""`medseg convert`: any readable to any writable image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, say
from medseg.cli.source import SourceFlags, read_source


@takes_settings(flags=SourceFlags)
def convert(
    source: Path,
    target: Path,
    /,
    *,
    labels: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    flags: SourceFlags,
    json: Json = False,
) -> None:
    """Write an image in another format; voxels and their place in the world stay.

    Args:
        source: a file, or a folder with one series.
        target: file to write; its ending names the format.
        labels: it is a label map: integers and the names of classes are kept.
        flags: which series.
        json: print one JSON object on standard output.
    """
    from medseg.io.formats import read_labels, write_labels, write_volume

    if labels:
        label_map = read_labels(source)
        written, geometry = write_labels(label_map, target), label_map.geometry
    else:
        volume = read_source(source, flags)
        written, geometry = write_volume(volume, target), volume.geometry
    if json:
        print_json(
            {"output": str(written), "shape": list(geometry.shape), "spacing_mm": list(geometry.spacing_mm)}
        )
    else:
        say(f"written: {written}")
