"""One call scores all classes or all objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from phantoms import Box, Sphere, centre_mm, label_map, oblique_grid

from medseg.errors import GeometryError, SettingsError
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.measure.evaluate import evaluate_instances, evaluate_labels
from medseg.measure.lesions import LesionRules
from medseg.volume import InstanceVolume, LabelVolume


def test_labels_of_two_shifted_boxes() -> None:
    grid = Geometry.from_spacing((60, 30, 20), (1, 1, 2))
    reference = label_map(grid, {"left box": Box((15.5, 14.5, 19), (10, 10, 20))})
    prediction = label_map(
        grid, {"x": Box((17.5, 14.5, 19), (10, 10, 20)), "y": Box((45, 14, 19), (4, 4, 8))}
    )
    first, second = evaluate_labels(prediction, reference, tolerance_mm=2.0)
    assert (first.id, first.name, second.id, second.name) == (1, "left box", 2, "y")
    assert first.dice == pytest.approx(0.8)
    assert first.iou == pytest.approx(8 / 12)
    assert first.reference_mm3 == first.prediction_mm3 == pytest.approx(2000)
    assert first.hausdorff95_mm == pytest.approx(2.0)
    assert (first.nsd, first.tolerance_mm) == (1.0, 2.0)
    assert (second.dice, second.nsd, second.reference_mm3) == (0, 0, 0)
    assert second.hausdorff95_mm == second.assd_mm == second.volume_error_fraction == math.inf
    assert math.isnan(second.sensitivity)


def test_a_perfect_prediction_on_an_oblique_grid() -> None:
    grid = oblique_grid()
    labels = label_map(grid, {"ball": Sphere(centre_mm(grid), 9.0)})
    (score,) = evaluate_labels(labels, labels)
    assert (score.dice, score.iou, score.nsd, score.hausdorff95_mm, score.assd_mm) == (1, 1, 1, 0, 0)
    assert evaluate_labels(LabelVolume(labels.array * 0, grid), LabelVolume(labels.array * 0, grid)) == ()


def test_objects_by_class_and_lesion_rules() -> None:
    grid = Geometry.from_spacing((40, 12, 12))
    array = np.zeros(grid.shape, np.uint16)
    array[2:8, 2:8, 2:8], array[30:36, 2:8, 2:8] = 1, 2
    names = LabelSet.from_names({5: "lesion"})
    true = InstanceVolume(array, grid, names, classes={1: 5, 2: 5})
    some = InstanceVolume(np.where(array == 2, 0, array), grid, names, classes={1: 5})
    score = evaluate_instances(some, true, [0.5, 0.75])
    assert (score.reference_objects, score.predicted_objects) == (2, 1)
    assert score.mean_average_precision == pytest.approx(0.5)
    assert [one.iou_threshold for one in score.by_threshold] == [0.5, 0.75]
    assert score.lesions.dice == pytest.approx(0.5)
    assert score.lesions.hd95_mm == pytest.approx(187)
    assert evaluate_instances(some, true, rules="brats-met").lesions.rules.dilation_voxels == 1
    assert evaluate_instances(some, true, rules=LesionRules(2)).lesions.rules.dilation_voxels == 2
    # an instance map may be scored by labels too: its ids are then taken as classes
    assert [one.dice for one in evaluate_labels(some, true)] == [1, 0]


def test_refuses_two_grids_and_unknown_rules() -> None:
    array = np.ones((3, 3, 3), np.uint8)
    one = LabelVolume(array, Geometry.from_spacing(array.shape))
    other = LabelVolume(array, Geometry.from_spacing(array.shape, (1, 1, 2)))
    for evaluate in (evaluate_labels, evaluate_instances):
        with pytest.raises(GeometryError):
            evaluate(one, other)
    with pytest.raises(SettingsError) as caught:
        evaluate_instances(one, one, rules="BraTS-XYZ")
    assert "BraTS-GLI" in str(caught.value)
    with pytest.raises(SettingsError):
        evaluate_labels(one, one, tolerance_mm=-1)
