"""How well scored boxes find true boxes: average precision and the FROC curve.

Predictions of all cases are taken by falling score; each takes the free true box of its case and class
that it overlaps most, if their IoU reaches the threshold, and is a false positive otherwise. A low
threshold (0.1) is the custom for 3D lesions, where a box that is off by two voxels has lost half its IoU
(Baumgartner et al., nnDetection, MICCAI 2021; LUNA16).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import SettingsError, VolumeError
from medseg.measure.regions import measure_regions
from medseg.volume import InstanceVolume, LabelVolume

Floats = npt.NDArray[np.float64]

RECALL_LEVELS = np.linspace(0, 1, 101)
"""Recalls at which COCO reads the precision."""

LUNA16_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which LUNA16 reads the sensitivity."""


@dataclass(frozen=True)
class Box:
    """A box along the axes, in mm or voxels, the same for all that are compared.

    Attributes:
        start: lower corner.
        stop: upper corner, above `start` on every axis.
        score: how sure the detector is; true boxes keep 1.
        class_id: only boxes of one class match.

    Raises:
        VolumeError: a corner is not finite, a side is not above 0, or the score is not finite.
    """

    start: tuple[float, float, float]
    stop: tuple[float, float, float]
    score: float = 1.0
    class_id: int = 1

    def __post_init__(self) -> None:
        numbers = (*self.start, *self.stop, self.score)
        sides = (b > a for a, b in zip(self.start, self.stop, strict=True))
        if not all(map(math.isfinite, numbers)) or not all(sides):
            raise VolumeError("BAD_BOX", "expected finite corners with stop above start, got others")

    @property
    def size(self) -> float:
        """Volume in the unit of the corners, cubed."""
        return math.prod(b - a for a, b in zip(self.start, self.stop, strict=True))

    def iou(self, other: Box) -> float:
        """Intersection over union with another box."""
        sides = (
            min(b, d) - max(a, c)
            for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True)
        )
        shared = math.prod(max(0.0, side) for side in sides)
        return shared / (self.size + other.size - shared)


@dataclass(frozen=True)
class BoxScore:
    """How well boxes were found, in all cases together.

    Attributes:
        iou_threshold: from which on a box is right.
        average_precision: as `box_average_precision`.
        false_positives_per_case: rates at which the sensitivity is read.
        sensitivity: share of true boxes found at each rate (FROC).
        cpm: its mean, the competition metric of LUNA16.
    """

    iou_threshold: float
    average_precision: float
    false_positives_per_case: tuple[float, ...]
    sensitivity: tuple[float, ...]
    cpm: float


@dataclass(frozen=True, eq=False)
class DetectionCurve:
    """All predictions by falling score, right or wrong; every detection score reads it.

    Attributes:
        scores: `(n,)` falling.
        hits: `(n,)` whether each found a free true box.
        targets: true boxes in all cases.
        cases: number of cases.
    """

    scores: Floats
    hits: npt.NDArray[np.bool_]
    targets: int
    cases: int


def match_boxes(
    predictions: Sequence[Sequence[Box]], references: Sequence[Sequence[Box]], iou_threshold: float = 0.1
) -> DetectionCurve:
    """Find out which predicted boxes are right.

    Args:
        predictions: boxes of each case.
        references: true boxes of each case, in the same order of cases.
        iou_threshold: above 0, at most 1.

    Raises:
        SettingsError: a threshold out of bounds.
        VolumeError: predictions and references of unequal numbers of cases.
    """
    if not 0 < iou_threshold <= 1:
        raise SettingsError("BAD_THRESHOLD", f"expected an IoU above 0, at most 1, got {iou_threshold}")
    if len(predictions) != len(references):
        raise VolumeError(
            "CASES_MISMATCH", f"expected as many cases, got {len(predictions)} and {len(references)}"
        )
    found: list[tuple[float, bool]] = []
    for some, true in zip(predictions, references, strict=True):
        found += _match_case(some, true, iou_threshold)
    found.sort(key=lambda pair: -pair[0])
    return DetectionCurve(
        scores=np.array([score for score, _ in found]),
        hits=np.array([hit for _, hit in found], dtype=bool),
        targets=sum(map(len, references)),
        cases=len(references),
    )


def _match_case(some: Sequence[Box], true: Sequence[Box], threshold: float) -> list[tuple[float, bool]]:
    free = list(true)
    found = []
    for box in sorted(some, key=lambda one: -one.score):
        rivals = [(box.iou(other), n) for n, other in enumerate(free) if other.class_id == box.class_id]
        best, place = max(rivals, key=lambda pair: pair[0], default=(0.0, -1))
        hit = best >= threshold
        if hit:
            free.pop(place)
        found.append((box.score, hit))
    return found


def box_average_precision(curve: DetectionCurve) -> float:
    """Area under precision over recall, read at 101 recalls as in COCO and nnDetection.

    Returns:
        0..1; NaN where there is no true box, 0 where there is one and nothing was predicted.
    """
    if not curve.targets:
        return math.nan
    if not curve.hits.size:
        return 0.0
    right = np.cumsum(curve.hits)
    recall = right / curve.targets
    precision = right / np.arange(1, len(right) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(recall, RECALL_LEVELS, side="left")
    return float(np.append(best_from_here, 0.0)[place].mean())


def froc_sensitivity(
    curve: DetectionCurve, false_positives_per_case: Sequence[float] = LUNA16_RATES
) -> Floats:
    """Share of true boxes found at each number of false positives per case (FROC).

    The curve has one point per score threshold, is read by linear interpolation as in LUNA16, CAMELYON16
    and MONAI, and stays level beyond its last point. Predictions of equal score come and go together.

    Args:
        curve: from `match_boxes`.
        false_positives_per_case: rates, each 0 or above. The mean over `LUNA16_RATES` is the CPM of LUNA16.

    Returns:
        One value per rate; NaN where there is no true box.
    """
    if not curve.targets:
        return np.full(len(false_positives_per_case), math.nan)
    last_of_score = np.append(np.diff(curve.scores) != 0, True)[: len(curve.scores)]
    wrong = np.concatenate([[0], np.cumsum(~curve.hits)[last_of_score]])
    right = np.concatenate([[0], np.cumsum(curve.hits)[last_of_score]])
    rates = wrong / max(curve.cases, 1)
    return np.asarray(np.interp(false_positives_per_case, rates, right / curve.targets))


def score_boxes(
    predictions: Sequence[Sequence[Box]], references: Sequence[Sequence[Box]], iou_threshold: float = 0.1
) -> BoxScore:
    """Average precision and FROC of the boxes of some cases.

    Args:
        predictions: boxes of each case.
        references: true boxes of each case, in the same order of cases.
        iou_threshold: above 0, at most 1.

    Raises:
        SettingsError: a threshold out of bounds.
        VolumeError: predictions and references of unequal numbers of cases.
    """
    curve = match_boxes(predictions, references, iou_threshold)
    found = froc_sensitivity(curve)
    return BoxScore(
        iou_threshold=iou_threshold,
        average_precision=box_average_precision(curve),
        false_positives_per_case=LUNA16_RATES,
        sensitivity=tuple(float(value) for value in found),
        cpm=float(found.mean()),
    )


def boxes_of_objects(objects: LabelVolume, scores: Mapping[int, float] | None = None) -> tuple[Box, ...]:
    """The boxes about the objects of a map, in mm along its own axes.

    Args:
        objects: one id per object; classes count where it is an `InstanceVolume`.
        scores: how sure the detector is of each, 1 where it does not say; None takes the map's own.

    Raises:
        VolumeError: a negative id, or an object without a class.
    """
    if scores is None:
        scores = objects.scores if isinstance(objects, InstanceVolume) else {}
    is_classed = isinstance(objects, InstanceVolume)
    spacing = objects.geometry.spacing_mm
    boxes = []
    for region in measure_regions(objects):
        start, stop = (
            tuple(edge * step for edge, step in zip(ends, spacing, strict=True))
            for ends in (region.box_start, region.box_stop)
        )
        boxes.append(
            Box(
                (start[0], start[1], start[2]),
                (stop[0], stop[1], stop[2]),
                scores.get(region.id, 1.0),
                region.class_id if is_classed else 1,
            )
        )
    return tuple(boxes)
