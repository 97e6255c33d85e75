"""`medseg measure`: one row per class of a label map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table, say


def measure(
    labels: Path,
    /,
    *,
    image: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    json: Json = False,
) -> None:
    """Measure every class of a label map: voxels, volume, centroid, extent, intensities.

    Args:
        labels: the label map.
        image: intensities on the same grid.
        output: CSV file to write.
        json: print one JSON object on standard output.
    """
    from medseg.export.tables import write_regions_csv
    from medseg.io.formats import read_labels, read_volume
    from medseg.measure.regions import measure_regions
    from medseg.result import plain_data

    regions = measure_regions(read_labels(labels), read_volume(image) if image else None)
    if output is not None:
        write_regions_csv(regions, output)
    if json:
        print_json({"output": str(output) if output else None, "regions": plain_data(regions)})
        return
    rows = [[str(r.id), r.name, str(r.voxels), f"{r.volume_ml:.3f}"] for r in regions]
    print_table("Structures", ["id", "name", "voxels", "ml"], rows, numbers=(0, 2, 3))
    if output is not None:
        say(f"written: {output}")
