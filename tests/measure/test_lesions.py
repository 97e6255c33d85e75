"""Lesion-wise scores and surface distances against DeepMind's package and the published BraTS steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import metric_vectors
import numpy as np
import pytest

from medseg.errors import GeometryError, SettingsError
from medseg.geometry import Geometry
from medseg.measure.lesions import BRATS_RULES, LesionRules, lesion_score
from medseg.measure.surface import assd_mm, hausdorff_mm, nsd, surface_distances

ORACLE = json.loads((Path(__file__).parent / "oracle_numbers.json").read_text())["surface"]


@pytest.mark.parametrize("name", sorted(ORACLE["lesions"]))
def test_equals_the_published_steps(name: str) -> None:
    seed, rules = name.split(" ", 1)
    some, true = metric_vectors.scattered_lesions(int(seed))
    expected = ORACLE["lesions"][name]
    i, j, k = some.shape
    score = lesion_score(some, true, Geometry.from_spacing((i, j, k)), BRATS_RULES[rules])
    counts = {"tp": score.true_positives, "fp": score.false_positives, "fn": score.false_negatives}
    assert counts == {key: expected[key] for key in counts}
    assert score.dice == pytest.approx(expected["dice"], abs=1e-8)
    assert score.hd95_mm == pytest.approx(expected["hd95"], abs=1e-4)


@pytest.mark.parametrize("name", sorted(ORACLE["distances"]))
def test_distances_equal_deepmind(name: str) -> None:
    seed, spacing = name.split(" ", 1)
    some, true = metric_vectors.scattered_lesions(int(seed))
    expected: dict[str, Any] = ORACLE["distances"][name]
    i, j, k = some.shape
    grid = Geometry.from_spacing((i, j, k), [float(x) for x in spacing.strip("()").split(",")])
    found = surface_distances(some, true, grid)
    np.testing.assert_allclose(
        [found.reference_mm2.sum(), found.prediction_mm2.sum()], expected["areas"], rtol=1e-6
    )
    if found.both_empty or found.one_empty:
        return  # where DeepMind divides 0 by 0; ours are pinned in test_surface
    assert hausdorff_mm(found) == pytest.approx(expected["hd95"], abs=1e-4)
    assert hausdorff_mm(found, 100) == pytest.approx(expected["hd"], abs=1e-4)
    assert nsd(found, 1.0) == pytest.approx(expected["nsd1"], abs=1e-6)
    to_prediction, to_reference = expected["assd"]
    areas = expected["areas"]
    together = (to_prediction * areas[0] + to_reference * areas[1]) / sum(areas)
    assert assd_mm(found) == pytest.approx(together, abs=1e-5)


def test_vectors_hold_every_case() -> None:
    totals = np.sum([[x["tp"], x["fp"], x["fn"]] for x in ORACLE["lesions"].values()], axis=0)
    assert (totals > 5).all()


def test_empty_cases_are_those_of_brats() -> None:
    grid = Geometry.from_spacing((12, 12, 12))
    none, some = np.zeros((2, *grid.shape), dtype=np.uint8)
    some[2:7, 2:7, 2:7] = 1
    nothing = lesion_score(none, none, grid)
    assert (nothing.dice, nothing.hd95_mm, nothing.lesions) == (1.0, 0.0, ())
    missed = lesion_score(none, some, grid)
    assert (missed.dice, missed.hd95_mm, missed.false_negatives) == (0.0, 374.0, 1)
    invented = lesion_score(some, none, grid)
    assert (invented.dice, invented.hd95_mm, invented.false_positives) == (0.0, 374.0, 1)
    same = lesion_score(some, some, grid)
    assert (same.dice, same.hd95_mm, same.true_positives) == (1.0, 0.0, 1)


def test_a_lesion_too_small_to_judge_neither_helps_nor_hurts() -> None:
    grid = Geometry.from_spacing((16, 12, 12))
    true, some = np.zeros((2, *grid.shape), dtype=np.uint8)
    true[1:6, 1:6, 1:6], true[12:14, 5, 5] = 1, 1
    some[1:6, 1:6, 1:6], some[12:15, 5, 5] = 1, 1
    score = lesion_score(some, true, grid, LesionRules(1, 50.0))
    assert (score.dice, score.true_positives, score.false_positives) == (1.0, 1, 0)
    strict = lesion_score(some, true, grid, LesionRules(1, 1.0))
    assert strict.true_positives == 2
    assert strict.dice == pytest.approx((1 + 4 / 5) / 2)


def test_satellites_join_within_the_dilation_only() -> None:
    grid = Geometry.from_spacing((30, 9, 9))
    true = np.zeros(grid.shape, dtype=np.uint8)
    true[2:8, 2:7, 2:7], true[13:19, 2:7, 2:7] = 1, 1
    assert len(lesion_score(true, true, grid, LesionRules(3)).lesions) == 1
    assert len(lesion_score(true, true, grid, LesionRules(1)).lesions) == 2
    assert len(lesion_score(true, true, grid, LesionRules(0)).lesions) == 2


def test_refuses_other_shapes_and_rules_below_zero() -> None:
    grid = Geometry.from_spacing((4, 4, 4))
    with pytest.raises(GeometryError):
        lesion_score(np.ones((3, 4, 4)), np.ones((4, 4, 4)), grid)
    for bad in ((-1, 50.0), (1, -1.0), (1, math.nan)):
        with pytest.raises(SettingsError):
            LesionRules(*bad)
