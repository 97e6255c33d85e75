"""`medseg evaluate --instances --scores`: boxes ranked by the scores of a regions.csv."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.cli.main import run
from medseg.export.tables import read_scores, write_regions_csv
from medseg.geometry import Geometry
from medseg.io.formats import write_labels
from medseg.measure.evaluate import evaluate_instances
from medseg.measure.regions import measure_regions
from medseg.volume import InstanceVolume

CUBES = ((2, 2, 2), (12, 2, 2), (2, 12, 2), (12, 12, 12))


def cubes(which: tuple[int, ...], scores: dict[int, float] | None = None) -> InstanceVolume:
    """Objects 1, 2, … in the places asked for."""
    array = np.zeros((20, 20, 20), dtype=np.uint8)
    for number, place in enumerate(which, start=1):
        i, j, k = CUBES[place]
        array[i : i + 5, j : j + 5, k : k + 5] = number
    geometry = Geometry(array.shape, np.diag([1.0, 2.0, 3.0, 1.0]))
    return InstanceVolume(array, geometry, classes={n + 1: 1 for n in range(len(which))}, scores=scores or {})


def evaluated(folder: Path, capsys: pytest.CaptureFixture[str], scores: dict[int, float]) -> Any:
    predicted, true = cubes((0, 1, 3), scores), cubes((0, 1, 2))
    files = [write_labels(x, folder / f"{n}.nii.gz") for n, x in enumerate((predicted, true))]
    table = write_regions_csv(measure_regions(predicted), folder / "regions.csv")
    assert read_scores(table) == pytest.approx(scores)
    capsys.readouterr()
    assert run(["evaluate", *map(str, files), "--instances", "--scores", str(table), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    own = evaluate_instances(predicted, true).boxes
    assert data["boxes"]["average_precision"] == pytest.approx(own.average_precision)
    return data["boxes"]


def test_a_false_box_costs_less_the_less_sure_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = evaluated(tmp_path, capsys, {1: 0.9, 2: 0.8, 3: 0.1})
    first = evaluated(tmp_path, capsys, {1: 0.5, 2: 0.4, 3: 0.9})
    # two of three found before any false box: precision 1 up to recall 2/3 (67 of 101 recalls)
    assert last["average_precision"] == pytest.approx(67 / 101)
    # the false box comes first: precisions 1/2 and 2/3, of which the better counts from there on
    assert first["average_precision"] == pytest.approx(67 / 101 * 2 / 3)
    assert last["sensitivity"][0] == pytest.approx(2 / 3)
    assert first["sensitivity"][0] == 0
    assert last["cpm"] == pytest.approx(2 / 3)


def test_scores_need_objects_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write_labels(cubes((0,)), tmp_path / "a.nii.gz"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for flags, code in (
        (["--scores", file], "SCORES_OF_OBJECTS"),
        (["--instances", "--scores", str(tmp_path / "other.csv")], "NOT_A_REGION_TABLE"),
        (["--instances", "--scores", file], "NOT_A_REGION_TABLE"),
        (["--instances", "--scores", str(tmp_path / "none.csv")], "FILE_NOT_FOUND"),
        (["--instances", "--scores", str(tmp_path)], "NOT_A_FILE"),
    ):
        assert run(["evaluate", file, file, *flags]) in (1, 2)
        assert f"error [{code}]" in capsys.readouterr().err


def test_without_objects_there_is_nothing_to_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write_labels(cubes(()), tmp_path / "a.nii.gz"))
    capsys.readouterr()
    assert run(["evaluate", file, file, "--instances"]) == 0
    assert "AP -" in capsys.readouterr().out
