"""Overlap numbers against sets of voxels, and the empty cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phantoms import Box, label_map
from strategies import geometries

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.measure import pairs as pairs_module
from medseg.measure import regions as regions_module
from medseg.measure.overlap import Overlap, label_overlaps, mean_dice
from medseg.measure.pairs import pair_table
from medseg.volume import LabelVolume


def voxels_of(array: npt.NDArray[Any], label_id: int) -> set[tuple[int, ...]]:
    return {tuple(index) for index in np.argwhere(array == label_id)}


@given(
    grid=geometries(most=6),
    seed=st.integers(0, 2**32 - 1),
    ids=st.sampled_from([(0, 1, 2, 3), (0, 7, 2**33), (0, 1, 2**63 + 1)]),
    dense=st.booleans(),
    slab=st.sampled_from([5, 2**21]),
)
@settings(deadline=None, max_examples=50)
def test_equals_sets_of_voxels(
    grid: Geometry, seed: int, ids: tuple[int, ...], dense: bool, slab: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = (generator.choice(np.array(ids, dtype=np.uint64), grid.shape) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs_module, "DENSE_PAIR_LIMIT", 2**22 if dense else 0)
        patch.setattr(regions_module, "SLAB_VOXELS", slab)
        table = pair_table(LabelVolume(a, grid), LabelVolume(np.asfortranarray(b), grid))
        overlaps = label_overlaps(LabelVolume(a, grid), LabelVolume(b, grid))
    expected = {
        (p, r): len(voxels_of(a, p) & voxels_of(b, r)) for p in map(int, ids[1:]) for r in map(int, ids[1:])
    }
    found = {
        (int(table.prediction_ids[p]), int(table.reference_ids[r])): int(n)
        for (p, r), n in zip(table.pairs, table.shared_voxels, strict=True)
    }
    assert found == {pair: n for pair, n in expected.items() if n}
    assert list(table.prediction_voxels) == [len(voxels_of(a, int(i))) for i in table.prediction_ids]
    assert list(table.reference_voxels) == [len(voxels_of(b, int(i))) for i in table.reference_ids]
    for label_id, one in overlaps.items():
        p, r = voxels_of(a, label_id), voxels_of(b, label_id)
        assert one.dice == pytest.approx(2 * len(p & r) / (len(p) + len(r)))
        assert one.iou == pytest.approx(len(p & r) / len(p | r))
        if r:
            assert one.sensitivity == pytest.approx(len(p & r) / len(r))
        if p:
            assert one.precision == pytest.approx(len(p & r) / len(p))
    assert set(overlaps) == set(np.unique([a, b]).tolist()) - {0}


def test_two_boxes_have_their_formulas() -> None:
    grid = Geometry.from_spacing((40, 30, 20), (1, 1, 2))
    reference = label_map(grid, {"box": Box((15.5, 14.5, 19), (10, 10, 20))})
    prediction = label_map(grid, {"box": Box((20.5, 14.5, 19), (10, 10, 20))})
    one = label_overlaps(prediction, reference)[1]
    assert one.dice == pytest.approx(0.5)
    assert one.iou == pytest.approx(1 / 3)
    assert (one.sensitivity, one.precision, one.volume_error_mm3) == (0.5, 0.5, 0)
    larger = label_overlaps(label_map(grid, {"box": Box((15.5, 14.5, 19), (10, 20, 20))}), reference)[1]
    assert larger.volume_error_mm3 == pytest.approx(2000)
    assert larger.volume_error_fraction == pytest.approx(1.0)


def test_empty_cases_are_as_the_module_says() -> None:
    both = Overlap(0, 0, 0)
    for value in (both.dice, both.iou, both.sensitivity, both.precision, both.volume_error_fraction):
        assert math.isnan(value)
    assert both.volume_error_mm3 == 0
    missed = Overlap(0, 0, 5, voxel_volume_mm3=2)
    assert (missed.dice, missed.iou, missed.sensitivity) == (0, 0, 0)
    assert math.isnan(missed.precision)
    assert (missed.volume_error_mm3, missed.volume_error_fraction) == (-10, -1)
    invented = Overlap(0, 5, 0)
    assert (invented.dice, invented.iou, invented.precision) == (0, 0, 0)
    assert math.isnan(invented.sensitivity)
    assert invented.volume_error_fraction == math.inf


def test_mean_dice_leaves_out_what_neither_holds() -> None:
    assert mean_dice({1: Overlap(5, 5, 5), 2: Overlap(0, 0, 0), 3: Overlap(0, 0, 5)}) == 0.5
    assert math.isnan(mean_dice({}))
    assert math.isnan(mean_dice({1: Overlap(0, 0, 0)}))


def test_empty_maps_and_two_grids() -> None:
    grid = Geometry.from_spacing((3, 3, 3))
    empty = LabelVolume(np.zeros(grid.shape, np.uint8), grid)
    assert label_overlaps(empty, empty) == {}
    assert pair_table(empty, empty).iou.shape == (0,)
    other = LabelVolume(empty.array, Geometry.from_spacing(grid.shape, (1, 1, 1.5)))
    with pytest.raises(GeometryError) as caught:
        label_overlaps(empty, other)
    assert caught.value.code == "GRID_MISMATCH"
