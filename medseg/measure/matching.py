"""Which predicted object is which true one, and how many were found.

Two objects may match where their IoU (intersection over union) is at least a threshold. Of all one-to-one
matchings the one with most pairs counts, and among these the one with the largest sum of IoU, as in
`stardist.matching` (Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020). Above a threshold of 0.5 an
object has at most one partner and nothing is left to choose. A pair below the threshold is no match: its
prediction is a false positive and its reference a false negative.

Empty cases: where neither map holds an object every score is NaN, to be left out of means (stardist says
0). Where at least one holds an object but none matches, every score is 0, as in stardist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import SettingsError
from medseg.measure.pairs import PairTable, pair_table
from medseg.measure.regions import Integers, class_of_each
from medseg.volume import InstanceVolume, LabelVolume

IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * n, 2) for n in range(10))
"""0.50, 0.55, … 0.95: the thresholds of COCO's mean AP."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Match:
    """A predicted object and the true one that it is.

    Attributes:
        prediction_id: id in the prediction.
        reference_id: id in the reference.
        iou: intersection over union of the two, at least the threshold.
    """

    prediction_id: int
    reference_id: int
    iou: float


@dataclass(frozen=True)
class MatchScore:
    """Objects found at one IoU threshold.

    Attributes:
        iou_threshold: least IoU of a match.
        matches: the pairs, ascending by reference id.
        false_positives: predicted objects without a partner.
        false_negatives: true objects without a partner.
    """

    iou_threshold: float
    matches: tuple[Match, ...]
    false_positives: int
    false_negatives: int

    @property
    def true_positives(self) -> int:
        """Number of matches."""
        return len(self.matches)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return self._share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self._share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); the recognition quality (RQ) of panoptic segmentation."""
        return self._share(
            2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives
        )

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN): AP as microscopy has it (Data Science Bowl 2018; stardist's accuracy)."""
        return self._share(
            self.true_positives, self.true_positives + self.false_positives + self.false_negatives
        )

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the matches (SQ)."""
        return self._share(math.fsum(match.iou for match in self.matches), self.true_positives)

    @property
    def panoptic_quality(self) -> float:
        """PQ = SQ x RQ (Kirillov et al., CVPR 2019)."""
        return self.segmentation_quality * self.f1

    def _share(self, above: float, below: int) -> float:
        if not (self.matches or self.false_positives or self.false_negatives):
            return math.nan
        return above / below if below else 0.0


@dataclass(frozen=True)
class Divisions:
    """Objects cut apart or lumped together.

    Attributes:
        oversegmented: true objects with two or more predictions that each lie in it with more than half
            of their voxels.
        undersegmented: predictions with two or more true objects that each lie in it with more than half
            of their voxels.
    """

    oversegmented: int
    undersegmented: int


def object_pairs(prediction: LabelVolume, reference: LabelVolume) -> PairTable:
    """Pairs of objects that share voxels and, where classes are known, a class.

    Raises:
        GeometryError: two grids.
        VolumeError: a negative id, or an object without a class.
    """
    table = pair_table(prediction, reference)
    if not (isinstance(prediction, InstanceVolume) and isinstance(reference, InstanceVolume)):
        return table
    p_class = np.array([c for _, c in class_of_each(prediction, table.prediction_ids)], dtype=np.int64)
    r_class = np.array([c for _, c in class_of_each(reference, table.reference_ids)], dtype=np.int64)
    same = p_class[table.pairs[:, 0]] == r_class[table.pairs[:, 1]]
    return PairTable(
        table.prediction_ids,
        table.reference_ids,
        table.prediction_voxels,
        table.reference_voxels,
        table.pairs[same],
        table.shared_voxels[same],
    )


def match_table(table: PairTable, iou_threshold: float) -> MatchScore:
    """Find the partners at one threshold from counted pairs.

    Raises:
        SettingsError: the threshold is not above 0 and at most 1.
    """
    if not 0 < iou_threshold <= 1:
        raise SettingsError("BAD_THRESHOLD", f"expected an IoU above 0, at most 1, got {iou_threshold}")
    enough = table.iou >= iou_threshold
    pairs, iou = table.pairs[enough], table.iou[enough]
    chosen = _best_pairs(pairs, iou)
    chosen = chosen[np.argsort(pairs[chosen, 1], kind="stable")]
    matches = tuple(
        Match(int(table.prediction_ids[p]), int(table.reference_ids[r]), float(score))
        for (p, r), score in zip(pairs[chosen], iou[chosen], strict=True)
    )
    return MatchScore(
        iou_threshold,
        matches,
        false_positives=len(table.prediction_ids) - len(matches),
        false_negatives=len(table.reference_ids) - len(matches),
    )


def mean_average_precision(scores: Sequence[MatchScore]) -> float:
    """Mean of the average precision over thresholds; NaN where there are no objects."""
    return math.fsum(score.average_precision for score in scores) / len(scores) if scores else math.nan


def count_divisions(table: PairTable) -> Divisions:
    """Count objects that were cut apart or lumped together; a speck counts like a half."""
    p, r = table.pairs.T
    mostly_in_reference = 2 * table.shared_voxels > table.prediction_voxels[p]
    mostly_in_prediction = 2 * table.shared_voxels > table.reference_voxels[r]
    parts = np.bincount(r[mostly_in_reference], minlength=1)
    lumps = np.bincount(p[mostly_in_prediction], minlength=1)
    return Divisions(int((parts >= 2).sum()), int((lumps >= 2).sum()))


def _best_pairs(pairs: Integers, iou: Floats) -> npt.NDArray[np.intp]:
    """Places of the chosen pairs: most of them, then the largest sum of IoU.

    Only pairs that compete for an object are weighed against each other, group by group.
    """
    if not len(pairs):
        return np.zeros(0, dtype=np.intp)
    alone = (np.bincount(pairs[:, 0])[pairs[:, 0]] == 1) & (np.bincount(pairs[:, 1])[pairs[:, 1]] == 1)
    rest = np.flatnonzero(~alone)
    chosen = [np.flatnonzero(alone)]
    for group in _groups(pairs[rest]):
        places = rest[group]
        chosen.append(places[_assign(pairs[places], iou[places])])
    return np.concatenate(chosen)


def _groups(pairs: Integers) -> list[npt.NDArray[np.intp]]:
    """Places of the pairs that are linked by shared objects."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    _, p = np.unique(pairs[:, 0], return_inverse=True)
    _, r = np.unique(pairs[:, 1], return_inverse=True)
    r = r + p.max() + 1
    n = int(r.max()) + 1
    _, group_of = connected_components(coo_array((np.ones(len(p)), (p, r)), shape=(n, n)), directed=False)
    group = group_of[p]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _assign(pairs: Integers, iou: Floats) -> npt.NDArray[np.intp]:
    """Best one-to-one choice within one group (Hungarian method)."""
    from scipy.optimize import linear_sum_assignment

    _, p = np.unique(pairs[:, 0], return_inverse=True)
    _, r = np.unique(pairs[:, 1], return_inverse=True)
    value = np.zeros((p.max() + 1, r.max() + 1))
    value[p, r] = 1 + iou / (2 * min(value.shape))
    place = np.full(value.shape, -1)
    place[p, r] = np.arange(len(p))
    found = place[linear_sum_assignment(value, maximize=True)]
    return np.asarray(found[found >= 0])
