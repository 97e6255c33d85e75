"""`medseg convert`: any readable to any writable image."""

from __future__ import annotations

from pathlib import Path

from medseg.cli.options import Json
from medseg.cli.screen import print_json, say


def convert(source: Path, target: Path, /, *, labels: bool = False, json: Json = False) -> None:
    """Write an image in another format; voxels and their place in the world stay.

    Args:
        source: a file, or a folder with one series.
        target: file to write; its ending names the format.
        labels: it is a label map: integers and the names of classes are kept.
        json: print one JSON object on standard output.
    """
    from medseg.io.formats import read_labels, read_volume, write_labels, write_volume

    if labels:
        label_map = read_labels(source)
        written, geometry = write_labels(label_map, target), label_map.geometry
    else:
        volume = read_volume(source)
        written, geometry = write_volume(volume, target), volume.geometry
    if json:
        print_json(
            {"output": str(written), "shape": list(geometry.shape), "spacing_mm": list(geometry.spacing_mm)}
        )
    else:
        say(f"written: {written}")
