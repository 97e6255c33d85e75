"""`medseg separate`: a folder of objects, one JSON object, presets, stores, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.cli.main import run
from medseg.cli.screen import volume_words
from medseg.geometry import Geometry
from medseg.io.formats import read_labels, write_labels, write_volume
from medseg.labels import LabelSet
from medseg.volume import LabelVolume, Volume


@pytest.fixture
def two_balls(tmp_path: Path) -> Path:
    """Two touching balls, and one far away, of the class `lesion`."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (20, 40, 24)], indexing="ij"), axis=-1)
    array = np.zeros(grid.shape[:3], np.uint8)
    for centre, radius in (((10, 10, 12), 6), ((10, 20, 12), 6), ((10, 34, 12), 2)):
        array[np.linalg.norm(grid - centre, axis=-1) <= radius] = 4
    labels = LabelVolume(array, Geometry.from_spacing(array.shape), LabelSet.from_names({4: "lesion"}))
    return write_labels(labels, tmp_path / "labels.nii.gz")


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    assert run([*map(str, words), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data, dict)
    return data


def objects_of(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [region for region in data["regions"] if region["kind"] == "object"]


def test_objects_into_a_folder(two_balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    data = answer(capsys, "separate", two_balls, "--class", "lesion", "-o", out, "--split-h-mm", 0.5)
    assert {p.name for p in out.iterdir()} >= {"instances.nii.gz", "regions.csv", "run.json"}
    assert [o["id"] for o in objects_of(data)] == [1, 2, 3]
    objects = read_labels(out / "instances.nii.gz")
    assert np.bincount(objects.array.ravel())[1:].tolist() == [o["voxels"] for o in objects_of(data)]
    record = json.loads((out / "run.json").read_text())
    assert two_balls.name not in record["input_name"]  # it may hold a patient's name
    settings = record["settings"]
    assert settings["SeparationSettings"]["split_h_mm"] == 0.5


def test_flags_change_the_answer(two_balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def count(*flags: object) -> int:
        return len(objects_of(answer(capsys, "separate", two_balls, "-c", 4, "-o", tmp_path / "out", *flags)))

    assert count() == 2
    assert count("--merge-gap-mm", 8) == 1
    assert count("--min-volume-mm3", 100) == 1
    assert count("--preset", "brats-gli") == 1
    image = Volume(np.random.default_rng(0).random((20, 40, 24)), Geometry.from_spacing((20, 40, 24)))
    scan = write_volume(image, tmp_path / "scan.nii.gz")
    assert count("--height", "intensity", "--diameter-mm", 10, "--image", scan) >= 2


def test_a_person_sees_a_table(two_balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["separate", str(two_balls), "--class", "lesion", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "2 objects" in shown.out
    assert "written" in shown.err


@pytest.mark.parametrize(
    ("flags", "code", "exit_code"),
    [
        (["--class", "tumour"], "UNKNOWN_LABEL", 1),
        (["--class", "lesion", "--class", "4"], "BAD_CLASSES", 2),
        (["--class", "lesion", "--height", "intensity"], "DIAMETER_NEEDED", 2),
        (["--class", "lesion", "--height", "intensity", "--diameter-mm", "3"], "IMAGE_NEEDED", 2),
        (["--class", "lesion", "--preset", "lesions", "--split-h-mm", "1"], "PRESET_AND_FLAGS", 2),
        (["--class", "lesion", "--split-h-mm", "-1"], "WRONG_USAGE", 2),
        ([], "WRONG_USAGE", 2),
    ],
)
def test_refusals_leave_no_folder(
    two_balls: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: str,
    exit_code: int,
) -> None:
    assert run(["separate", str(two_balls), "-o", str(tmp_path / "out"), *flags]) == exit_code
    assert f"error [{code}]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_store_becomes_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
    from medseg.instances.ome_zarr import create_label_store, open_store

    array = np.zeros((8, 8, 20), np.uint8)
    array[2:5, 2:5, [1, 2, 3, 9, 10]] = 1
    plain = zarr.create_array(str(tmp_path / "plain.zarr"), shape=array.shape, dtype="u1", chunks=array.shape)
    source = open_store(tmp_path / "plain.zarr", spacing_mm=(0.001, 0.001, 0.001))
    create_label_store(tmp_path / "in.zarr", source, plain.dtype, (8, 8, 8))[...] = array
    out = tmp_path / "out.zarr"
    data = answer(capsys, "separate", tmp_path / "in.zarr", "--class", 1, "-o", out)
    assert data["output"] == str(out)
    assert data["objects"] == 2
    assert data["volume_mm3"] == pytest.approx([27e-9, 18e-9])
    assert data["box_start_zyx"] == [[2, 2, 1], [2, 2, 9]]
    assert data["box_stop_zyx"] == [[5, 5, 4], [5, 5, 11]]
    assert data["centroid_zyx_mm"] == [pytest.approx(c) for c in ([3e-3, 3e-3, 2e-3], [3e-3, 3e-3, 9.5e-3])]
    assert run(["separate", str(tmp_path / "in.zarr"), "--class", "lesion", "-o", str(tmp_path / "b")]) == 2
    assert "BAD_CLASSES" in capsys.readouterr().err


def test_a_store_without_metadata_says_its_voxels_and_channel_by_flags(
    two_balls: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zarr = pytest.importorskip("zarr", reason="the extra `zarr` is not installed")
    array = np.zeros((2, 6, 6, 6), np.uint8)
    array[1, 1:3, 1:3, 1:3] = 1
    zarr.create_array(str(tmp_path / "in.zarr"), data=array, chunks=array.shape)
    flags = ["--class", "1", "-o", str(tmp_path / "out.zarr")]
    assert run(["separate", str(tmp_path / "in.zarr"), *flags]) != 0  # no size of a voxel
    capsys.readouterr()
    sized = [*flags, "--spacing-mm", "3", "2", "1", "--channel", "1"]
    data = answer(capsys, "separate", tmp_path / "in.zarr", *sized)
    assert data["volume_mm3"] == [48.0]
    assert data["centroid_zyx_mm"] == [[4.5, 3.0, 1.5]]
    assert run(["separate", str(two_balls), *flags, "--channel", "1"]) == 2
    assert "NOT_A_STORE" in capsys.readouterr().err


def test_volumes_are_told_in_a_fitting_unit() -> None:
    assert [volume_words(v) for v in (2345.0, 12.3456, 5e-7)] == ["2.35 ml", "12.3 mm3", "500 um3"]
