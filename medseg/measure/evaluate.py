"""A prediction against a reference, in one call each for classes and for objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medseg.errors import SettingsError
from medseg.geometry import require_same_grid
from medseg.measure.detection import BoxScore, boxes_of_objects, score_boxes
from medseg.measure.lesions import BRATS_RULES, LesionRules, LesionScore, lesion_score
from medseg.measure.matching import (
    IOU_THRESHOLDS,
    Divisions,
    MatchScore,
    count_divisions,
    match_table,
    mean_average_precision,
    object_pairs,
)
from medseg.measure.overlap import label_overlaps
from medseg.measure.regions import Region, measure_regions
from medseg.measure.surface import assd_mm, hausdorff_mm, nsd, surface_distances
from medseg.volume import InstanceVolume, LabelVolume


@dataclass(frozen=True)
class LabelScore:
    """How well one class was found. Empty cases: see `measure.overlap` and `measure.surface`.

    Attributes:
        id: class.
        name: its name.
        reference_mm3: volume held to be true.
        prediction_mm3: volume predicted.
        dice: 0..1.
        iou: 0..1.
        sensitivity: share of the reference that was found.
        precision: share of the prediction that is right.
        volume_error_mm3: prediction minus reference.
        volume_error_fraction: the same over the reference.
        hausdorff95_mm: robust Hausdorff distance.
        assd_mm: average symmetric surface distance.
        nsd: surface Dice at the tolerance.
        tolerance_mm: that tolerance.
    """

    id: int
    name: str
    reference_mm3: float
    prediction_mm3: float
    dice: float
    iou: float
    sensitivity: float
    precision: float
    volume_error_mm3: float
    volume_error_fraction: float
    hausdorff95_mm: float
    assd_mm: float
    nsd: float
    tolerance_mm: float


@dataclass(frozen=True)
class InstanceScore:
    """How well objects were found.

    Attributes:
        reference_objects: true objects.
        predicted_objects: predicted objects.
        by_threshold: matches at each IoU threshold, in the order asked for.
        mean_average_precision: mean of TP / (TP + FP + FN) over the thresholds.
        divisions: objects cut apart or lumped together.
        lesions: lesion-wise scores of all objects taken together as one mask.
        boxes: how well the objects' boxes were found, ranked by the objects' scores.
    """

    reference_objects: int
    predicted_objects: int
    by_threshold: tuple[MatchScore, ...]
    mean_average_precision: float
    divisions: Divisions
    lesions: LesionScore
    boxes: BoxScore


def evaluate_labels(
    prediction: LabelVolume, reference: LabelVolume, tolerance_mm: float = 1.0
) -> tuple[LabelScore, ...]:
    """Score every class that occurs in a prediction or its reference.

    Classes are the same where their ids are; names are the reference's, or else the prediction's.

    Args:
        prediction: labels to judge.
        reference: labels held to be true, on the same grid.
        tolerance_mm: for the surface Dice.

    Returns:
        One score per class, ascending by id; none where both maps are empty.

    Raises:
        GeometryError: two grids.
        SettingsError: a negative tolerance.
        VolumeError: a negative id.
    """
    overlaps = label_overlaps(prediction, reference)
    boxes = [{r.id: r for r in measure_regions(_as_classes(x))} for x in (prediction, reference)]
    named = [x.labels.names for x in (prediction, reference) if not isinstance(x, InstanceVolume)]
    names = {label_id: name for some in named for label_id, name in some.items()}
    scores = []
    for label_id, overlap in overlaps.items():
        both = [box[label_id] for box in boxes if label_id in box]
        start, stop = _joint_box(both)
        part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        distances = surface_distances(
            prediction.array[part] == label_id,
            reference.array[part] == label_id,
            reference.geometry.crop(start, stop),
        )
        scores.append(
            LabelScore(
                id=label_id,
                name=names.get(label_id, f"label {label_id}"),
                reference_mm3=overlap.reference_voxels * overlap.voxel_volume_mm3,
                prediction_mm3=overlap.prediction_voxels * overlap.voxel_volume_mm3,
                dice=overlap.dice,
                iou=overlap.iou,
                sensitivity=overlap.sensitivity,
                precision=overlap.precision,
                volume_error_mm3=overlap.volume_error_mm3,
                volume_error_fraction=overlap.volume_error_fraction,
                hausdorff95_mm=hausdorff_mm(distances, 95),
                assd_mm=assd_mm(distances),
                nsd=nsd(distances, tolerance_mm),
                tolerance_mm=tolerance_mm,
            )
        )
    return tuple(scores)


def _as_classes(labels: LabelVolume) -> LabelVolume:
    """The ids of a map taken as classes, whatever they are."""
    return LabelVolume(labels.array, labels.geometry, labels.labels)


def _joint_box(regions: Sequence[Region]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and stop, in voxels, of the smallest box around regions (at least one)."""
    start = tuple(min(values) for values in zip(*(region.box_start for region in regions), strict=True))
    stop = tuple(max(values) for values in zip(*(region.box_stop for region in regions), strict=True))
    return start, stop


def evaluate_instances(
    prediction: LabelVolume,
    reference: LabelVolume,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    rules: LesionRules | str = "BraTS-GLI",
    scores: Mapping[int, float] | None = None,
) -> InstanceScore:
    """Score the objects of a prediction.

    Args:
        prediction: one id per object. Where both maps are `InstanceVolume`, only objects of one class
            may match.
        reference: objects held to be true, on the same grid.
        iou_thresholds: above 0, at most 1.
        rules: what counts as one lesion, or the name of a preset of `BRATS_RULES`.
        scores: how sure the detector is of each predicted object; the prediction's own if left out.

    Raises:
        GeometryError: two grids.
        SettingsError: a threshold out of bounds, or an unknown preset.
        VolumeError: a negative id, an object without a class.
    """
    require_same_grid(reference.geometry, prediction.geometry, "prediction and reference")
    table = object_pairs(prediction, reference)
    matched = tuple(match_table(table, threshold) for threshold in iou_thresholds)
    return InstanceScore(
        reference_objects=len(table.reference_ids),
        predicted_objects=len(table.prediction_ids),
        by_threshold=matched,
        mean_average_precision=mean_average_precision(matched),
        divisions=count_divisions(table),
        lesions=lesion_score(
            np.asarray(prediction.array > 0),
            np.asarray(reference.array > 0),
            reference.geometry,
            find_rules(rules),
        ),
        boxes=score_boxes([boxes_of_objects(prediction, scores)], [boxes_of_objects(reference, {})]),
    )


def find_rules(rules: LesionRules | str) -> LesionRules:
    """Rules themselves, or those of a preset, whatever the case of its name.

    Raises:
        SettingsError: no preset of that name.
    """
    if isinstance(rules, LesionRules):
        return rules
    presets = {name.lower(): preset for name, preset in BRATS_RULES.items()}
    if rules.lower() not in presets:
        raise SettingsError("UNKNOWN_RULES", f"expected one of {', '.join(BRATS_RULES)}; got {rules!r}")
    return presets[rules.lower()]
