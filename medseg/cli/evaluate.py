"""`medseg evaluate`: a label map against a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table
from medseg.errors import SettingsError

if TYPE_CHECKING:
    from medseg.measure.evaluate import InstanceScore, LabelScore

COLUMNS = {
    "dice": "Dice",
    "iou": "IoU",
    "volume_error_mm3": "volume error mm3",
    "hausdorff95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "nsd": "NSD",
}
"""Fields of a score that are shown and averaged, and their heads."""


def evaluate(
    prediction: Path,
    reference: Path,
    /,
    *,
    tolerance_mm: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 1.0,
    instances: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    scores: Path | None = None,
    json: Json = False,
) -> None:
    """Compare a label map with a reference on the same grid, class by class.

    Args:
        prediction: label map to judge.
        reference: label map held to be true; classes are the same by id.
        tolerance_mm: distance within which surfaces agree, for the normalised surface Dice NSD (mm).
        instances: ids are objects: score which were found, cut apart, lumped together.
        scores: the regions.csv beside predicted objects; its scores rank their boxes (AP and FROC).
        json: print one JSON object on standard output.

    Raises:
        SettingsError: `SCORES_OF_OBJECTS`, scores where no objects are judged.
    """
    from medseg.export.tables import read_scores
    from medseg.io.formats import read_labels
    from medseg.measure.evaluate import evaluate_instances, evaluate_labels
    from medseg.result import plain_data

    if scores is not None and not instances:
        raise SettingsError("SCORES_OF_OBJECTS", "expected --instances with --scores, got none; add it")
    known = None if scores is None else read_scores(scores)
    maps = read_labels(prediction), read_labels(reference)
    if instances:
        objects = evaluate_instances(*maps, scores=known)
        if json:
            print_json(instance_data(objects))
        else:
            print_instances(objects)
        return
    classes = evaluate_labels(*maps, tolerance_mm)
    means = {name: mean([getattr(score, name) for score in classes]) for name in COLUMNS}
    if json:
        print_json({"tolerance_mm": tolerance_mm, "labels": plain_data(classes), "mean": means})
    else:
        print_labels(classes, means)


def print_labels(scores: Sequence[LabelScore], means: dict[str, float]) -> None:
    """A row per class, and the means."""
    rows = [[str(s.id), s.name, *(figure(getattr(s, name)) for name in COLUMNS)] for s in scores]
    rows.append(["", "mean", *map(figure, means.values())])
    print_table("Agreement", ["id", "name", *COLUMNS.values()], rows, numbers=(0, *range(2, 8)))


def instance_data(score: InstanceScore) -> dict[str, Any]:
    """What `--instances --json` prints: numbers, without the list of matched pairs."""
    from medseg.result import plain_data

    thresholds = [
        {
            "iou_threshold": one.iou_threshold,
            "true_positives": one.true_positives,
            "false_positives": one.false_positives,
            "false_negatives": one.false_negatives,
            "f1": one.f1,
            "average_precision": one.average_precision,
            "panoptic_quality": one.panoptic_quality,
        }
        for one in score.by_threshold
    ]
    return {
        "reference_objects": score.reference_objects,
        "predicted_objects": score.predicted_objects,
        "thresholds": thresholds,
        "mean_average_precision": score.mean_average_precision,
        "divisions": plain_data(score.divisions),
        "boxes": plain_data(score.boxes),
        "lesion_wise": {"dice": score.lesions.dice, "hd95_mm": score.lesions.hd95_mm},
    }


def print_instances(score: InstanceScore) -> None:
    """A row per threshold, and the counts."""
    data = instance_data(score)
    heads = ["IoU above", "found", "false", "missed", "F1", "AP", "PQ"]
    rows = [[figure(value) for value in row.values()] for row in data["thresholds"]]
    print_table("Objects", heads, rows, numbers=range(7))
    print(f"objects: {score.predicted_objects} predicted, {score.reference_objects} true")
    print(f"cut apart: {score.divisions.oversegmented}, lumped together: {score.divisions.undersegmented}")
    boxes = score.boxes
    print(
        f"boxes at IoU {boxes.iou_threshold:g}: AP {figure(boxes.average_precision)}, "
        f"FROC {figure(boxes.cpm)} (mean sensitivity at 1/8 to 8 false positives)"
    )
    print(f"lesion-wise: Dice {figure(score.lesions.dice)}, HD95 {figure(score.lesions.hd95_mm)} mm")


def mean(values: Sequence[float]) -> float:
    """Mean of what is not NaN; infinite where one class was missed altogether."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def figure(value: float) -> str:
    """Three decimals; a dash where there is nothing to measure."""
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"
