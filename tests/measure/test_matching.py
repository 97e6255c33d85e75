"""Object matching against stardist, panoptica, and every possible assignment."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metric_vectors
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import SettingsError, VolumeError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.measure.matching import (
    IOU_THRESHOLDS,
    MatchScore,
    count_divisions,
    match_table,
    mean_average_precision,
    object_pairs,
)
from medseg.volume import InstanceVolume, LabelVolume

Labels = npt.NDArray[Any]
ORACLES = json.loads((Path(__file__).parent / "oracle_numbers.json").read_text())


def on_grid(array: Labels) -> LabelVolume:
    i, j, k = array.shape
    return LabelVolume(array, Geometry.from_spacing((i, j, k)))


def match_objects(
    prediction: LabelVolume, reference: LabelVolume, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> list[MatchScore]:
    """One score per threshold."""
    table = object_pairs(prediction, reference)
    return [match_table(table, threshold) for threshold in thresholds]


def vectors(name: str, shared_data: Path) -> tuple[Labels, Labels]:
    """Prediction and reference that an oracle was run on."""
    if name.startswith("crowded"):
        return metric_vectors.crowded_objects(int(name.split()[1]))
    if name == "demo":
        import tifffile

        mask = tifffile.imread(shared_data / "instances" / "stardist" / "mask3d.tif")
        return np.roll(mask, (1, 2, 1), (0, 1, 2)), mask
    import nibabel

    folder = shared_data / "instances" / "panoptica_spine"
    some, true = (
        np.asarray(nibabel.Nifti1Image.from_filename(folder / f"unmatched_instance_{x}.nii.gz").dataobj)
        for x in ("pred", "ref")
    )
    return some, true


@pytest.mark.parametrize("name", sorted(ORACLES["stardist"]))
def test_equals_stardist(name: str, request: pytest.FixtureRequest) -> None:
    data = Path() if name.startswith("crowded") else request.getfixturevalue("shared_data")
    some, true = vectors(name, data)
    table = object_pairs(on_grid(some), on_grid(true))
    for threshold, expected in ORACLES["stardist"][name].items():
        score = match_table(table, float(threshold))
        assert score.true_positives == expected["tp"]
        assert score.false_positives == expected["fp"]
        assert score.false_negatives == expected["fn"]
        for value, key in (
            (score.precision, "precision"),
            (score.recall, "recall"),
            (score.average_precision, "accuracy"),
            (score.f1, "f1"),
            (score.segmentation_quality, "mean_matched_score"),
            (score.panoptic_quality, "panoptic_quality"),
        ):
            assert value == pytest.approx(expected[key], abs=1e-6), (threshold, key)


@pytest.mark.parametrize("name", sorted(ORACLES["panoptica"]))
def test_equals_panoptica(name: str, request: pytest.FixtureRequest) -> None:
    data = Path() if name.startswith("crowded") else request.getfixturevalue("shared_data")
    some, true = vectors(name, data)
    for threshold, expected in ORACLES["panoptica"][name].items():
        (score,) = match_objects(on_grid(some), on_grid(true), [float(threshold)])
        assert [score.true_positives, score.false_positives, score.false_negatives] == [
            expected["tp"],
            expected["fp"],
            expected["fn"],
        ]
        assert score.f1 == pytest.approx(expected["rq"], abs=1e-8)
        if score.true_positives:
            assert score.segmentation_quality == pytest.approx(expected["sq"], abs=1e-8)
            assert score.panoptic_quality == pytest.approx(expected["pq"], abs=1e-8)


@given(seed=st.integers(0, 2**31), threshold=st.sampled_from([0.05, 0.2, 0.5, 0.75]))
@settings(deadline=None, max_examples=50)
def test_best_of_all_assignments(seed: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    some, true = np.repeat(generator.integers(0, 5, (2, 4, 3, 2)), generator.integers(1, 3), axis=1)
    some = np.where(generator.random(some.shape) < 0.5, true, some)
    table = object_pairs(on_grid(some), on_grid(true))
    score = match_table(table, threshold)
    value = np.zeros((len(table.prediction_ids), len(table.reference_ids)))
    value[tuple(table.pairs.T)] = table.iou
    value = value if value.shape[0] <= value.shape[1] else value.T
    best = (0, 0.0)
    for order in itertools.permutations(range(value.shape[1]), value.shape[0]):
        scores = [value[n, m] for n, m in enumerate(order) if value[n, m] >= threshold]
        best = max(best, (len(scores), math.fsum(scores)))
    assert score.true_positives == best[0]
    assert math.fsum(m.iou for m in score.matches) == pytest.approx(best[1])
    assert len({m.prediction_id for m in score.matches}) == len({m.reference_id for m in score.matches})
    for match in score.matches:
        p, r = some == match.prediction_id, true == match.reference_id
        assert match.iou == pytest.approx((p & r).sum() / (p | r).sum())


def test_only_objects_of_one_class_match() -> None:
    array = np.zeros((6, 6, 6), dtype=np.uint64)
    array[:3], array[3:] = 1, 2**40
    grid = Geometry.from_spacing(array.shape)
    names = LabelSet.from_names({1: "lesion", 2: "oedema"})
    true = InstanceVolume(array, grid, names, classes={1: 1, 2**40: 2})
    other = InstanceVolume(array, grid, names, classes={1: 1, 2**40: 1})
    (score,) = match_objects(other, true, [0.5])
    assert (score.true_positives, score.false_positives, score.false_negatives) == (1, 1, 1)
    (blind,) = match_objects(other, LabelVolume(array, grid), [0.5])
    assert blind.true_positives == 2
    with pytest.raises(VolumeError) as caught:
        match_objects(InstanceVolume(array, grid, names), true)
    assert caught.value.code == "OBJECT_WITHOUT_CLASS"


def test_empty_cases_are_as_the_module_says() -> None:
    none, some = on_grid(np.zeros((3, 3, 3), np.uint8)), on_grid(np.ones((3, 3, 3), np.uint8))
    nothing = match_objects(none, none)
    assert math.isnan(mean_average_precision(nothing))
    for read in (
        "precision",
        "recall",
        "f1",
        "average_precision",
        "segmentation_quality",
        "panoptic_quality",
    ):
        assert math.isnan(getattr(nothing[0], read))
        for score in (match_objects(none, some)[0], match_objects(some, none)[0]):
            assert getattr(score, read) == 0
    assert mean_average_precision(match_objects(some, some)) == 1
    assert math.isnan(mean_average_precision(()))
    assert count_divisions(object_pairs(none, some)).oversegmented == 0


def test_a_rejected_match_is_a_miss_and_an_invention() -> None:
    some, true = np.zeros((2, 10, 4, 4), dtype=np.uint8)
    some[:6], true[2:] = 1, 1
    assert match_objects(on_grid(some), on_grid(true), [0.4])[0].true_positives == 1
    (score,) = match_objects(on_grid(some), on_grid(true), [0.5])
    assert (score.true_positives, score.false_positives, score.false_negatives) == (0, 1, 1)


def test_divisions_count_cut_and_lumped_objects() -> None:
    true, some = np.zeros((2, 20, 4, 4), dtype=np.uint16)
    true[0:6], true[7:10], true[10:13], true[14:18] = 1, 2, 3, 4
    some[0:3], some[3:6] = 1, 2  # the first is cut in two
    some[7:13] = 3  # the second and third are lumped
    some[14:18] = 4
    found = count_divisions(object_pairs(on_grid(some), on_grid(true)))
    assert (found.oversegmented, found.undersegmented) == (1, 1)
    back = count_divisions(object_pairs(on_grid(true), on_grid(some)))
    assert (back.oversegmented, back.undersegmented) == (1, 1)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, math.nan])
def test_refuses_a_threshold_out_of_bounds(threshold: float) -> None:
    some = on_grid(np.ones((3, 3, 3), np.uint8))
    with pytest.raises(SettingsError):
        match_objects(some, some, [threshold])
