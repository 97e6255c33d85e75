"""How much two label maps share, class by class.

Empty cases, the same for every number here: where neither map holds the class there is nothing to
measure and the answer is NaN (as in DeepMind's surface-distance, MONAI's metrics and nnU-Net; BraTS
says 1 and panoptica 0), to be left out of means. Where only one holds it, Dice and IoU are 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from medseg.measure.pairs import PairTable, pair_table
from medseg.volume import LabelVolume


@dataclass(frozen=True)
class Overlap:
    """Counts of one class in two maps, and what is read from them.

    Attributes:
        shared_voxels: in both.
        prediction_voxels: in the prediction.
        reference_voxels: in the reference.
        voxel_volume_mm3: volume of one voxel.
    """

    shared_voxels: int
    prediction_voxels: int
    reference_voxels: int
    voxel_volume_mm3: float = 1.0

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|) (Dice 1945); NaN where both are empty."""
        return _ratio(2 * self.shared_voxels, self.prediction_voxels + self.reference_voxels)

    @property
    def iou(self) -> float:
        """|A and B| / |A or B| (Jaccard); NaN where both are empty."""
        union = self.prediction_voxels + self.reference_voxels - self.shared_voxels
        return _ratio(self.shared_voxels, union)

    @property
    def sensitivity(self) -> float:
        """Share of the reference that was found (recall); NaN where the reference is empty."""
        return _ratio(self.shared_voxels, self.reference_voxels)

    @property
    def precision(self) -> float:
        """Share of the prediction that is right; NaN where the prediction is empty."""
        return _ratio(self.shared_voxels, self.prediction_voxels)

    @property
    def volume_error_mm3(self) -> float:
        """Prediction minus reference; above 0 where too much was predicted."""
        return (self.prediction_voxels - self.reference_voxels) * self.voxel_volume_mm3

    @property
    def volume_error_fraction(self) -> float:
        """Volume error over the reference; NaN where both are empty, inf where only the reference is."""
        if self.reference_voxels == 0 and self.prediction_voxels > 0:
            return math.inf
        return _ratio(self.prediction_voxels - self.reference_voxels, self.reference_voxels)


def _ratio(above: int, below: int) -> float:
    return above / below if below else math.nan


def label_overlaps(prediction: LabelVolume, reference: LabelVolume) -> dict[int, Overlap]:
    """Overlap of every class that occurs in one of two maps; classes are the same by id.

    Args:
        prediction: labels to judge.
        reference: labels held to be true, on the same grid.

    Returns:
        Class id -> overlap, ascending; empty where both maps are.

    Raises:
        GeometryError: two grids.
        VolumeError: a negative id.
    """
    table = pair_table(prediction, reference)
    p_voxels, r_voxels = _by_id(table)
    same = {
        int(table.prediction_ids[p]): int(n)
        for (p, r), n in zip(table.pairs, table.shared_voxels, strict=True)
        if int(table.prediction_ids[p]) == int(table.reference_ids[r])
    }
    volume = reference.geometry.voxel_volume_mm3
    return {
        i: Overlap(same.get(i, 0), p_voxels.get(i, 0), r_voxels.get(i, 0), volume)
        for i in sorted(p_voxels.keys() | r_voxels.keys())
    }


def _by_id(table: PairTable) -> tuple[dict[int, int], dict[int, int]]:
    p = {int(i): int(n) for i, n in zip(table.prediction_ids, table.prediction_voxels, strict=True)}
    r = {int(i): int(n) for i, n in zip(table.reference_ids, table.reference_voxels, strict=True)}
    return p, r


def mean_dice(overlaps: dict[int, Overlap]) -> float:
    """Mean Dice over classes, NaN left out; NaN where none is left."""
    scores = np.array([one.dice for one in overlaps.values()])
    scores = scores[np.isfinite(scores)]
    return float(scores.mean()) if scores.size else math.nan
