"""The command line as other programs rely on it: verbs, files, JSON objects, exit codes, speed."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import COMMAND, code_of, environment, medseg
from phantoms import Body, Box, Sphere, centre_mm, label_map, oblique_grid
from tiny_bundle import TINY_NAMES

import medseg as package
from medseg.cli.main import VERBS, run
from medseg.io.formats import read_labels, read_volume, write_labels, write_volume
from medseg.volume import LabelVolume, Volume

pytestmark = pytest.mark.usefixtures("at_home")

SPAN = {"ball", "box"}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    grid = oblique_grid((24, 22, 20))
    noise = np.random.default_rng(0).normal(100, 20, grid.shape).astype(np.float32)
    return write_volume(Volume(noise, grid), tmp_path / "scan.nii.gz")


def phantom(radius_mm: float = 8.0) -> LabelVolume:
    grid = oblique_grid((70, 40, 30))
    x, y, z = centre_mm(grid)
    bodies: dict[str, Body] = {
        "ball": Sphere((x - 7, y, z), radius_mm),
        "box": Box((x + 9, y, z), (8.0, 10.0, 12.0)),
    }
    return label_map(grid, bodies)


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The one object that a command prints under `--json`, run in this process."""
    assert run([*map(str, words), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data, dict)
    return data


# ---------------------------------------------------------------------- segment


def test_the_whole_trip_from_the_shell(scan: Path, shelf: Path, tmp_path: Path) -> None:
    done = medseg("segment", scan, "--model", "tiny", "-o", tmp_path / "out", models=shelf)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"labels.nii.gz", "regions.csv", "run.json"}
    assert "plan: " in done.stderr
    assert "peak memory" in done.stderr
    assert "segment" in done.stderr  # the bar
    labels = read_labels(tmp_path / "out" / "labels.nii.gz")
    volume = read_volume(scan)
    assert labels.geometry.is_close(volume.geometry)
    assert set(labels.labels.names.values()) == set(TINY_NAMES.values())
    present = {labels.labels.names[i] for i in labels.present_ids()}
    assert all(name in done.stdout for name in present)
    with (tmp_path / "out" / "regions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    head = ["id", "class", "name", "voxels", "volume_mm3", "centroid_x_mm", "centroid_y_mm", "centroid_z_mm"]
    assert list(rows[0])[:8] == head
    assert {row["name"] for row in rows} == present
    assert sum(int(row["voxels"]) for row in rows) == int((labels.array > 0).sum())
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert str(tmp_path) not in json.dumps(record)


def test_segment_prints_one_object_and_the_same_bytes_twice(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = answer(capsys, "segment", scan, "--model", "tiny", "-o", tmp_path / "a")
    second = answer(capsys, "segment", scan, "--model", "tiny", "-o", tmp_path / "b")
    assert first["regions"] == second["regions"]
    assert Path(first["output"]) == tmp_path / "a"
    assert first["record"]["model"] == "tiny"
    for name in ("labels.nii.gz", "regions.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_run_replaces_the_first(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep me")
    (tmp_path / "out" / "regions.csv").write_text("old")
    answer(capsys, "segment", scan, "--model", "tiny", "-o", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"
    assert (tmp_path / "out" / "regions.csv").read_text().startswith("id,")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_separate_counts_objects(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("segment", scan, "--model", "tiny", "--separate", "rest", "-o", tmp_path / "out")
    data = answer(capsys, *words)
    assert (tmp_path / "out" / "instances.nii.gz").is_file()
    objects = [r for r in data["regions"] if r["kind"] == "object"]
    whole = [r for r in data["regions"] if r["kind"] == "class" and r["name"] == "rest"]
    assert sum(r["voxels"] for r in objects) == sum(r["voxels"] for r in whole)


# ---------------------------------------------------------------------- measure, evaluate, convert


def test_measure_knows_the_volume_of_a_ball(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_labels(phantom(), tmp_path / "labels.nii.gz")
    data = answer(capsys, "measure", path, "-o", tmp_path / "regions.csv")
    regions = {r["name"]: r for r in data["regions"]}
    assert set(regions) == SPAN
    assert regions["ball"]["volume_mm3"] == pytest.approx(Sphere((0, 0, 0), 8).volume_mm3, rel=0.02)
    assert (
        (tmp_path / "regions.csv").read_text().splitlines()[0].startswith("id,class,name,voxels,volume_mm3")
    )
    assert run(["measure", str(path)]) == 0
    said = capsys.readouterr().out
    assert "ball" in said
    assert "2.1" in said  # 2.14 ml


def test_evaluate_tells_equal_from_smaller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = write_labels(phantom(8.0), tmp_path / "reference.nii.gz")
    smaller = write_labels(phantom(6.0), tmp_path / "smaller.nii.gz")
    same = answer(capsys, "evaluate", reference, reference)
    assert same["mean"]["dice"] == 1
    assert same["mean"]["hausdorff95_mm"] == 0
    data = answer(capsys, "evaluate", smaller, reference, "--tolerance-mm", "0.5")
    rows = {r["name"]: r for r in data["labels"]}
    share = (6 / 8) ** 3
    assert rows["ball"]["dice"] == pytest.approx(2 * share / (1 + share), abs=0.02)
    assert rows["ball"]["assd_mm"] == pytest.approx(2, abs=0.4)
    assert rows["ball"]["hausdorff95_mm"] == pytest.approx(2, abs=0.8)
    assert rows["box"]["dice"] == 1
    assert run(["evaluate", str(smaller), str(reference)]) == 0
    assert "Dice" in capsys.readouterr().out


def test_evaluate_says_null_where_a_class_is_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = phantom()
    half = LabelVolume(np.where(whole.array == 1, whole.array, 0), whole.geometry, whole.labels)
    data = answer(
        capsys, "evaluate", write_labels(half, tmp_path / "a.nii"), write_labels(whole, tmp_path / "b.nii")
    )
    box = next(r for r in data["labels"] if r["name"] == "box")
    assert box["dice"] == 0
    assert box["hausdorff95_mm"] is None


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_convert_keeps_voxels_and_place(
    suffix: str, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = answer(capsys, "convert", scan, tmp_path / f"other{suffix}")
    before, after = read_volume(scan), read_volume(tmp_path / f"other{suffix}")
    assert after.geometry.is_close(before.geometry)
    np.testing.assert_array_equal(after.array, before.array)
    assert data["shape"] == list(before.geometry.shape)


def test_convert_keeps_the_names_of_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_labels(phantom(), tmp_path / "labels.nii.gz")
    answer(capsys, "convert", source, tmp_path / "other.nii", "--labels")
    assert read_labels(tmp_path / "other.nii").labels.names == phantom().labels.names


@pytest.mark.filterwarnings("ignore::UserWarning")  # notices of the reader about other series
def test_a_series_is_named_by_its_uid(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared_data / "dicom" / "d2n_small"
    listed = answer(capsys, "series", folder)["series"]
    uids = [series["series_uid"] for series in listed]
    assert len(set(uids)) > 1  # so that a UID is needed
    one = next(s for s in listed if s["geometry"] == "regular" and uids.count(s["series_uid"]) == 1)
    data = answer(capsys, "convert", folder, tmp_path / "one.nii", "--series", one["series_uid"])
    assert data["shape"] == one["shape"]
    assert run(["convert", str(folder), str(tmp_path / "none.nii"), "--series", "1.2.3"]) == 1
    assert code_of(capsys.readouterr().err)
    assert not (tmp_path / "none.nii").exists()


# ---------------------------------------------------------------------- models, doctor, help


def test_models_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = answer(capsys, "models", "list")["models"]
    tiny = next(m for m in listed if m["name"] == "tiny")
    assert tiny["structures"] == 3
    assert tiny["licence"]
    shown = answer(capsys, "models", "show", "tiny")
    assert {label["name"] for label in shown["labels"]} == set(TINY_NAMES.values())
    for words in (["models", "list"], ["models", "show", "tiny"]):
        assert run(words) == 0
        assert "tiny" in capsys.readouterr().out


def test_the_doctor_knows_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    data = answer(capsys, "doctor")
    assert "cpu" in data["devices"]
    assert data["versions"]["numpy"] == np.__version__
    assert data["parts"]["torch"] is True
    assert run(["doctor"]) == 0
    assert "numpy" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_and_speaks_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Usage: medseg")
    if verb != "models":
        assert "--json" in said


def test_help_version_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == package.__version__
    assert run([]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="processor time of children is told on POSIX systems")
def test_help_answers_in_well_under_half_a_second() -> None:
    """In processor time, which other programs on the machine do not stretch."""
    import resource

    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, env=environment())
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.4
