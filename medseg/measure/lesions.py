"""Lesion-wise scores by the rules of the BraTS challenges of 2023.

Every true lesion is judged by itself, so that a missed small one costs as much as a missed large one. Parts
of the reference that touch once dilated are one lesion. Every predicted component (26 neighbours) that
touches the dilated lesion belongs to it, as a whole; Dice and HD95 are those of the lesion against all that
belongs to it. A missed lesion has Dice 0 and the penalty as HD95. A predicted component that belongs to no
lesion is a false positive and counts once more as Dice 0 with the penalty. Lesions up to the least volume
are not judged, but what was predicted there is no false positive either.

Source: Saluja et al., "BraTS 2023 Lesion-Wise Performance Metrics for Segmentation Challenges"
(https://github.com/rachitsaluja/BraTS-2023-Metrics). Distances are those of `measure.surface`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import SettingsError
from medseg.geometry import Geometry
from medseg.measure.overlap import Overlap
from medseg.measure.surface import hausdorff_mm, require_shape, surface_distances

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[Any]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class LesionRules:
    """What counts as one lesion.

    Attributes:
        dilation_voxels: steps of dilation (18 neighbours each) within which parts are one lesion.
        least_volume_mm3: lesions up to this volume are not judged.
        penalty_mm: HD95 of a missed lesion and of a false positive.
    """

    dilation_voxels: int = field(
        default=3, metadata={"help": "parts this close are one lesion", "unit": "voxels", "min": 0, "max": 20}
    )
    least_volume_mm3: float = field(
        default=50.0, metadata={"help": "smaller lesions are not judged", "unit": "mm3", "min": 0}
    )
    penalty_mm: float = field(
        default=374.0, metadata={"help": "HD95 of a miss or a false positive", "unit": "mm", "min": 0}
    )

    def __post_init__(self) -> None:
        if self.dilation_voxels < 0 or not self.least_volume_mm3 >= 0 or not self.penalty_mm >= 0:
            raise SettingsError("BAD_LESION_RULES", f"expected rules of 0 and above, got {self}")


BRATS_RULES = {
    "BraTS-GLI": LesionRules(3, 50.0),
    "BraTS-SSA": LesionRules(3, 50.0),
    "BraTS-PED": LesionRules(3, 50.0),
    "BraTS-MEN": LesionRules(1, 50.0),
    "BraTS-MET": LesionRules(1, 2.0),
}
"""Rules of each challenge of 2023: glioma, sub-Saharan Africa, paediatric, meningioma, metastases."""


@dataclass(frozen=True)
class Lesion:
    """One true lesion against all that was predicted at it.

    Attributes:
        volume_mm3: of the true lesion.
        dice: 0 where it was missed.
        hd95_mm: the penalty where it was missed.
        found: whether anything was predicted at it.
        judged: whether it is large enough to count.
    """

    volume_mm3: float
    dice: float
    hd95_mm: float
    found: bool
    judged: bool


@dataclass(frozen=True)
class LesionScore:
    """All lesions of one case.

    Attributes:
        lesions: true lesions, judged or not.
        false_positives: predicted components at no lesion.
        rules: by which they were judged.
    """

    lesions: tuple[Lesion, ...]
    false_positives: int
    rules: LesionRules

    @property
    def true_positives(self) -> int:
        """Judged lesions that were found."""
        return sum(lesion.judged and lesion.found for lesion in self.lesions)

    @property
    def false_negatives(self) -> int:
        """Judged lesions that were missed."""
        return sum(lesion.judged and not lesion.found for lesion in self.lesions)

    @property
    def dice(self) -> float:
        """Mean over judged lesions and false positives; 1 where there is neither, as in BraTS."""
        return self._mean(math.fsum(x.dice for x in self.lesions if x.judged), 1.0)

    @property
    def hd95_mm(self) -> float:
        """Mean over judged lesions and false positives; 0 where there is neither, as in BraTS."""
        total = math.fsum(x.hd95_mm for x in self.lesions if x.judged)
        return self._mean(total + self.false_positives * self.rules.penalty_mm, 0.0)

    def _mean(self, total: float, of_nothing: float) -> float:
        count = self.true_positives + self.false_negatives + self.false_positives
        return total / count if count else of_nothing


def lesion_score(
    prediction: npt.NDArray[Any],
    reference: npt.NDArray[Any],
    geometry: Geometry,
    rules: LesionRules = BRATS_RULES["BraTS-GLI"],
) -> LesionScore:
    """Judge the lesions of one mask one by one.

    Args:
        prediction: `(i, j, k)`; above 0 is lesion.
        reference: `(i, j, k)` on the same grid.
        geometry: that grid.
        rules: what counts as one lesion.

    Raises:
        GeometryError: a mask does not have the grid's shape.
    """
    require_shape((prediction, reference), geometry)
    predicted = _components(prediction > 0)
    true = _joined(reference > 0, rules.dilation_voxels)
    places = dict(_boxes(predicted))
    lesions, belonging = [], set[int]()
    for lesion_id, box in _boxes(true):
        members = _members(predicted, true[box] == lesion_id, box, rules.dilation_voxels)
        part = _around([box, *(places[member] for member in members)])
        grid = geometry.crop([s.start for s in part], [s.stop for s in part])
        answer = np.isin(predicted[part], members)
        lesion = _judged(answer, true[part] == lesion_id, grid, rules)
        lesions.append(lesion)
        belonging.update(members)
    return LesionScore(tuple(lesions), len(places) - len(belonging), rules)


def _members(predicted: Labels, lesion: Mask, box: Box, steps: int) -> list[int]:
    """Ids of the predicted components that touch a lesion, given within its box, once it is dilated."""
    wide = tuple(
        slice(max(0, s.start - steps), min(n, s.stop + steps))
        for s, n in zip(box, predicted.shape, strict=True)
    )
    reach = [(s.start - w.start, w.stop - s.stop) for s, w in zip(box, wide, strict=True)]
    near = _dilated(np.pad(lesion, reach), steps)
    return [int(member) for member in np.unique(predicted[wide][near]) if member > 0]


def _judged(answer: Mask, lesion: Mask, geometry: Geometry, rules: LesionRules) -> Lesion:
    """A lesion against all that was predicted at it, both on the part of the grid that holds them."""
    volume = float(lesion.sum() * geometry.voxel_volume_mm3)
    judged = volume > rules.least_volume_mm3
    if not answer.any():
        return Lesion(volume, 0.0, rules.penalty_mm, found=False, judged=judged)
    overlap = Overlap(int((answer & lesion).sum()), int(answer.sum()), int(lesion.sum()))
    hd95 = hausdorff_mm(surface_distances(answer, lesion, geometry))
    return Lesion(volume, overlap.dice, hd95, found=True, judged=judged)


def _around(boxes: list[Box]) -> Box:
    """Smallest box around boxes."""
    return tuple(
        slice(min(s.start for s in line), max(s.stop for s in line)) for line in zip(*boxes, strict=True)
    )


def _components(mask: Mask) -> Labels:
    """Connected components, 26 neighbours, ids 1..n."""
    import cc3d

    return np.asarray(cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26))


def _joined(mask: Mask, dilation_voxels: int) -> Labels:
    """Components of the dilated mask, shown on the mask itself."""
    together = _components(_dilated(mask, dilation_voxels))
    return np.where(mask, together, 0)


def _dilated(mask: Mask, steps: int) -> Mask:
    from scipy import ndimage

    if steps == 0:
        return mask
    neighbours = ndimage.generate_binary_structure(3, 2)
    return np.asarray(ndimage.binary_dilation(mask, structure=neighbours, iterations=steps))


def _boxes(labels: Labels) -> Iterator[tuple[int, Box]]:
    from scipy import ndimage

    for place, box in enumerate(ndimage.find_objects(labels)):
        if box is not None:
            yield place + 1, box
