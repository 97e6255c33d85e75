"""The tables keep their contract and hold what was measured."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from phantoms import Sphere, label_map, linear_ramp

from medseg.errors import WriteError
from medseg.export.tables import REGION_COLUMNS, SHAPE_COLUMNS, region_rows, write_regions_csv, write_run_json
from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.measure.regions import measure_regions
from medseg.measure.shape import measure_shapes
from medseg.result import Result, RunRecord
from medseg.volume import InstanceVolume, LabelVolume

GRID = Geometry.from_spacing((30, 28, 26), (1.0, 1.5, 2.0))
LABELS = label_map(GRID, {'a "quoted", name': Sphere((10, 15, 20), 7), "höher": Sphere((22, 30, 30), 4)})


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_csv_begins_as_promised_and_reads_back(tmp_path: Path) -> None:
    regions = measure_regions(LABELS, linear_ramp(GRID))
    path = write_regions_csv(regions, tmp_path / "regions.csv")
    promised = "id,class,name,voxels,volume_mm3,centroid_x_mm,centroid_y_mm,centroid_z_mm,"
    assert path.read_text(encoding="utf-8").startswith(promised)
    rows = read_rows(path)
    assert tuple(rows[0]) == REGION_COLUMNS
    for row, region in zip(rows, regions, strict=True):
        assert (int(row["id"]), int(row["class"]), row["name"]) == (region.id, region.class_id, region.name)
        assert int(row["voxels"]) == region.voxels
        assert float(row["volume_mm3"]) == pytest.approx(region.volume_mm3, rel=1e-8)
        centroid = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
        assert centroid == pytest.approx(region.centroid_mm, rel=1e-8)
        assert [int(row[f"stop_{axis}"]) for axis in "ijk"] == list(region.box_stop)
        assert float(row["std"]) == pytest.approx(region.std, rel=1e-8)
        assert row["touches_border"] == "false"


def test_without_an_image_intensities_are_empty(tmp_path: Path) -> None:
    row = read_rows(write_regions_csv(measure_regions(LABELS), tmp_path / "r.csv"))[0]
    assert [row[name] for name in ("mean", "min", "max", "std")] == ["", "", "", ""]
    assert write_regions_csv([], tmp_path / "none.csv").read_text().count("\n") == 1


def test_objects_get_their_shapes_and_classes_none(tmp_path: Path) -> None:
    array = np.where(LABELS.array == 1, 2**40, 0).astype(np.uint64)
    objects = InstanceVolume(array, GRID, LabelSet.from_names({1: "lesion"}), classes={2**40: 1})
    regions = measure_regions(LABELS) + measure_regions(objects)
    shapes = measure_shapes(objects)
    rows = read_rows(write_regions_csv(regions, tmp_path / "r.csv", shapes))
    assert tuple(rows[0]) == REGION_COLUMNS + SHAPE_COLUMNS
    assert [row["kind"] for row in rows] == ["class", "class", "object"]
    assert rows[0]["longest_diameter_mm"] == ""
    assert float(rows[2]["longest_diameter_mm"]) == pytest.approx(shapes[2**40].longest_diameter_mm)
    assert rows[2]["nearest_neighbour_mm"] == ""
    assert int(rows[2]["id"]) == 2**40
    assert region_rows(regions, shapes)[2]["sphericity"] == shapes[2**40].sphericity


def test_run_json_is_strict_json(tmp_path: Path) -> None:
    record = RunRecord(input_name="scan.nii.gz", seconds={"read": math.nan}, warnings=("ünlike",))
    result = Result(LABELS, record=record)
    data = json.loads(
        write_run_json(result, tmp_path / "run.json", ["labels.nii.gz"]).read_text(encoding="utf-8"),
        parse_constant=lambda word: pytest.fail(f"{word} is no JSON"),
    )
    assert data["program"] == "medseg"
    assert data["seconds"] == {"read": None}
    assert data["grid"]["affine_ras"] == GRID.affine.tolist()
    assert [one["name"] for one in data["classes"]] == ['a "quoted", name', "höher"]
    assert data["files"] == ["labels.nii.gz"]


def test_unwritable_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught:
        write_regions_csv([], tmp_path / "missing" / "r.csv")
    assert caught.value.code == "NOT_WRITABLE"
    assert isinstance(LABELS, LabelVolume)
