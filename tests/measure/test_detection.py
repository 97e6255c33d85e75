"""Scored boxes: average precision and FROC against MONAI, formulas and the empty cases."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from medseg.errors import SettingsError, VolumeError
from medseg.measure.detection import (
    LUNA16_RATES,
    Box,
    box_average_precision,
    froc_sensitivity,
    match_boxes,
)


def box(centre: float, size: float = 10.0, score: float = 1.0, class_id: int = 1) -> Box:
    low, high = centre - size / 2, centre + size / 2
    return Box((low, low, low), (high, high, high), score, class_id)


def random_cases(seed: int) -> tuple[list[list[Box]], list[list[Box]]]:
    generator = np.random.default_rng(seed)
    true, some = [], []
    for _ in range(8):
        centres = generator.choice(np.arange(0, 400, 40), generator.integers(0, 5), replace=False)
        true.append([box(float(c)) for c in centres])
        found = [c + generator.normal(0, 3) for c in centres if generator.random() < 0.8]
        found += list(generator.uniform(500, 900, generator.integers(0, 4)))
        some.append([box(float(c), score=float(generator.random())) for c in found])
    return some, true


def test_iou_of_boxes_is_the_formula() -> None:
    assert box(0).iou(box(0)) == 1
    assert box(0).iou(box(10)) == 0
    a = Box((0, 0, 0), (2, 4, 6))
    b = Box((1, 2, 3), (3, 6, 9))
    assert a.iou(b) == pytest.approx(6 / (48 + 48 - 6))
    assert a.size == 48


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_average_precision_equals_monai(threshold: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a third party's deprecations at import
        from monai.apps.detection.metrics.coco import COCOMetric
        from monai.apps.detection.metrics.matching import matching_batch
        from monai.data.box_utils import box_iou

    for seed in range(6):
        some, true = random_cases(seed)
        arrays = [
            [np.array([b.start + b.stop for b in case]).reshape(-1, 6) for case in x] for x in (some, true)
        ]
        results = matching_batch(
            iou_fn=lambda a, b: np.asarray(box_iou(a, b)),
            iou_thresholds=[threshold],
            pred_boxes=arrays[0],
            pred_classes=[np.zeros(len(case), dtype=int) for case in some],
            pred_scores=[np.array([b.score for b in case]) for case in some],
            gt_boxes=arrays[1],
            gt_classes=[np.zeros(len(case), dtype=int) for case in true],
        )
        metric = COCOMetric(
            ["lesion"], iou_list=[threshold], iou_range=(threshold, threshold, 0.1), max_detection=[100]
        )
        expected = metric(results)[0][f"mAP_IoU_{threshold:.2f}_{threshold:.2f}_0.10_MaxDet_100"]
        assert box_average_precision(match_boxes(some, true, threshold)) == pytest.approx(expected, abs=1e-6)


def test_froc_equals_monai_where_it_counts_all_scores() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a third party's deprecations at import
        from monai.metrics.froc import compute_froc_curve_data, compute_froc_score

    for seed in range(6):
        some, true = random_cases(seed)
        curve = match_boxes(some, true)
        # MONAI leaves out its lowest score: give it one more, below all
        fps, sensitivity = compute_froc_curve_data(
            np.append(curve.scores[~curve.hits], -1.0), curve.scores[curve.hits], curve.targets, curve.cases
        )
        rates = (0.25, 0.5, 1.0)
        expected = compute_froc_score(fps, sensitivity, rates)
        assert froc_sensitivity(curve, rates).mean() == pytest.approx(expected, abs=1e-9)


def test_perfect_and_ordered_detections() -> None:
    true = [[box(0), box(100)], [box(0)]]
    perfect = match_boxes(true, true)
    assert box_average_precision(perfect) == 1
    assert (froc_sensitivity(perfect) == 1).all()
    some = [[box(0, score=0.9), box(300, score=0.8), box(100, score=0.7)], []]
    curve = match_boxes(some, true)
    assert list(curve.hits) == [True, False, True]
    # precision 1 up to recall 1/3 (34 levels), 2/3 up to 2/3 (33 levels), then 0
    assert box_average_precision(curve) == pytest.approx((34 + 33 * 2 / 3) / 101)
    np.testing.assert_allclose(froc_sensitivity(curve, (0.0, 0.5, 8.0)), [1 / 3, 2 / 3, 2 / 3])


def test_one_true_box_counts_once_and_only_in_its_class_and_case() -> None:
    twice = match_boxes([[box(0, score=0.5), box(1, score=0.9)]], [[box(0)]])
    assert list(twice.hits) == [True, False]
    assert list(match_boxes([[box(0, class_id=2)]], [[box(0)]]).hits) == [False]
    assert list(match_boxes([[], [box(0)]], [[box(0)], []]).hits) == [False]


def test_empty_cases() -> None:
    nothing = match_boxes([[]], [[]])
    assert math.isnan(box_average_precision(nothing))
    assert np.isnan(froc_sensitivity(nothing)).all()
    assert froc_sensitivity(nothing).shape == (len(LUNA16_RATES),)
    missed = match_boxes([[]], [[box(0)]])
    assert box_average_precision(missed) == 0
    assert (froc_sensitivity(missed) == 0).all()
    invented = match_boxes([[box(0)]], [[]])
    assert math.isnan(box_average_precision(invented))


def test_refuses_bad_boxes_thresholds_and_unequal_cases() -> None:
    for start, stop in (((0, 0, 0), (1, 1, 0)), ((0, 0, math.nan), (1, 1, 1)), ((0, 0, 0), (1, 1, math.inf))):
        with pytest.raises(VolumeError):
            Box(start, stop)
    with pytest.raises(VolumeError):
        Box((0, 0, 0), (1, 1, 1), math.nan)
    with pytest.raises(SettingsError):
        match_boxes([[]], [[]], 0)
    with pytest.raises(VolumeError):
        match_boxes([[]], [[], []])
