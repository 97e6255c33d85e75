"""Which labels of two maps share how many voxels: one pass that every overlap reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import require_same_grid
from medseg.measure.regions import Integers, index_of_ids, occurring_ids, slabs
from medseg.volume import LabelVolume

DENSE_PAIR_LIMIT = 2**22
"""Up to so many possible pairs are counted in a table; above, those that occur are sorted."""


@dataclass(frozen=True, eq=False)
class PairTable:
    """Shared voxels of the labels of two maps; only pairs of two foreground labels are kept.

    Attributes:
        prediction_ids: `(p,)` ids above 0 of the prediction, ascending.
        reference_ids: `(r,)` ids above 0 of the reference, ascending.
        prediction_voxels: `(p,)` size of each predicted label.
        reference_voxels: `(r,)` size of each reference label.
        pairs: `(n, 2)` places in `prediction_ids` and `reference_ids` of labels that meet,
            ascending.
        shared_voxels: `(n,)` voxels that both of a pair hold, above 0.
    """

    prediction_ids: npt.NDArray[Any]
    reference_ids: npt.NDArray[Any]
    prediction_voxels: Integers
    reference_voxels: Integers
    pairs: Integers
    shared_voxels: Integers

    @property
    def iou(self) -> npt.NDArray[np.float64]:
        """`(n,)` intersection over union of each pair."""
        p, r = self.pairs.T
        union = self.prediction_voxels[p] + self.reference_voxels[r] - self.shared_voxels
        return np.asarray(self.shared_voxels / union)


def pair_table(prediction: LabelVolume, reference: LabelVolume) -> PairTable:
    """Count the voxels that every two labels share.

    Args:
        prediction: labels to judge.
        reference: labels held to be true, on the same grid.

    Raises:
        GeometryError: two grids.
        VolumeError: a negative id.
    """
    require_same_grid(reference.geometry, prediction.geometry, "prediction and reference")
    p_ids, r_ids = occurring_ids(prediction.array), occurring_ids(reference.array)
    width = len(r_ids) + 1
    dense = (len(p_ids) + 1) * width <= DENSE_PAIR_LIMIT
    table = np.zeros((len(p_ids) + 1) * width if dense else 0, dtype=np.int64)
    parts: list[tuple[Integers, Integers]] = []
    for _, p_slab, r_slab in slabs(prediction.array, reference.array):
        somewhere = (p_slab != 0) | (r_slab != 0)
        codes = _place(p_ids, p_slab[somewhere]) * width + _place(r_ids, r_slab[somewhere])
        if dense:
            table += np.bincount(codes, minlength=len(table))
        elif codes.size:
            parts.append(np.unique(codes, return_counts=True))
    codes, counts = (np.flatnonzero(table), table[table > 0]) if dense else _merged(parts)
    p, r = np.divmod(codes, width)
    both = (p > 0) & (r > 0)
    return PairTable(
        prediction_ids=p_ids,
        reference_ids=r_ids,
        prediction_voxels=_totals(p, counts, len(p_ids)),
        reference_voxels=_totals(r, counts, len(r_ids)),
        pairs=np.stack([p[both] - 1, r[both] - 1], axis=1),
        shared_voxels=counts[both],
    )


def _place(ids: npt.NDArray[Any], values: npt.NDArray[Any]) -> Integers:
    """0 for background, 1 + place in `ids` for the others."""
    places = np.zeros(len(values), dtype=np.int64)
    inside = values != 0
    places[inside] = index_of_ids(ids, values[inside]) + 1
    return places


def _merged(parts: list[tuple[Integers, Integers]]) -> tuple[Integers, Integers]:
    codes = np.concatenate([c for c, _ in parts])
    unique, where = np.unique(codes, return_inverse=True)
    counts = np.zeros(len(unique), dtype=np.int64)
    np.add.at(counts, where, np.concatenate([n for _, n in parts]))
    return unique, counts


def _totals(place: Integers, counts: Integers, n: int) -> Integers:
    totals = np.zeros(n + 1, dtype=np.int64)
    np.add.at(totals, place, counts)
    return totals[1:]
