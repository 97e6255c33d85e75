"""`medseg evaluate`: a label map against a reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table

if TYPE_CHECKING:
    from medseg.volume import LabelVolume

COLUMNS = ("dice", "iou", "volume_error_mm3", "hd95_mm", "assd_mm", "nsd")


def evaluate(
    prediction: Path,
    reference: Path,
    /,
    *,
    tolerance_mm: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 1.0,
    json: Json = False,
) -> None:
    """Compare a label map with a reference on the same grid, class by class.

    Args:
        prediction: label map to judge.
        reference: label map held to be true; classes are the same by id.
        tolerance_mm: distance within which surfaces agree, for the normalised surface Dice (mm).
        json: print one JSON object on standard output.
    """
    from medseg.io.formats import read_labels

    rows = compare(read_labels(prediction), read_labels(reference), tolerance_mm)
    means = {name: _mean([row[name] for row in rows]) for name in COLUMNS}
    if json:
        print_json({"tolerance_mm": tolerance_mm, "labels": rows, "mean": means})
        return
    cells = [[str(r["id"]), r["name"], *(_figure(r[c]) for c in COLUMNS)] for r in rows]
    cells.append(["", "mean", *(_figure(means[c]) for c in COLUMNS)])
    heads = [
        "id",
        "name",
        "Dice",
        "IoU",
        "volume error mm3",
        "HD95 mm",
        "ASSD mm",
        f"NSD {tolerance_mm:g} mm",
    ]
    print_table("Agreement", heads, cells, numbers=(0, *range(2, 8)))


def compare(prediction: LabelVolume, reference: LabelVolume, tolerance_mm: float) -> list[dict[str, Any]]:
    """Overlap and surface metrics of every class that occurs in one of two maps.

    Raises:
        GeometryError: the maps lie on two grids.
    """
    from medseg.measure.overlap import label_overlaps
    from medseg.measure.surface import assd_mm, hausdorff_mm, nsd, surface_distances

    names = prediction.labels.names | reference.labels.names
    rows = []
    for label_id, overlap in label_overlaps(prediction, reference).items():
        distances = surface_distances(
            prediction.array == label_id, reference.array == label_id, reference.geometry
        )
        rows.append(
            {
                "id": label_id,
                "name": names.get(label_id, f"label {label_id}"),
                "dice": overlap.dice,
                "iou": overlap.iou,
                "volume_error_mm3": overlap.volume_error_mm3,
                "hd95_mm": hausdorff_mm(distances),
                "assd_mm": assd_mm(distances),
                "nsd": nsd(distances, tolerance_mm),
            }
        )
    return rows


def _mean(values: list[float]) -> float:
    """Mean of what is not NaN; infinite where one class was missed altogether."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
