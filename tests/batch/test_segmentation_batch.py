"""Whole nights in small: `medseg batch` over images and DICOM, with no word of a patient in what it says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import command_line
import nibabel
import numpy as np
import pytest
from dicom_bytes import time_points, write
from dicom_makers import PATIENT, line, make_source, uid
from phantoms import oblique_grid
from tiny_bundle import write_tiny_bundle

import medseg
from medseg.batch.cases import Case, Source
from medseg.batch.segmentation import segmentation_task
from medseg.cli.main import run
from medseg.errors import ModelError
from medseg.io.formats import read_labels, write_volume
from medseg.pipeline import segment
from medseg.progress import silent
from medseg.volume import Volume

pytestmark = pytest.mark.timeout(900)  # two workers load torch first, slow on a busy machine
WARN = medseg.InferenceSettings(sanity="warn")
"""The tiny model says MR; some of the inputs are CT."""

CANARIES = ("Canary", "CANARY", "canary", "19010203", "DOE", uid(1), uid(2))
"""Values of the inputs' headers and parts of their names."""
NOISE = np.random.default_rng(3).integers(0, 900, (20, 24), np.int16).tobytes()


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(inputs, output, model): images, a good series, one of two times, one with a gap, a torn image."""
    root = tmp_path_factory.mktemp("night")
    inputs, output = root / "DOE^JOHN", root / "out"
    model = write_tiny_bundle(root / "models" / "tiny")
    inputs.mkdir()
    grid = oblique_grid((20, 18, 16))
    for n in range(2):
        noise = np.random.default_rng(n).normal(100, 20, grid.shape).astype(np.float32)
        path = write_volume(Volume(noise, grid), inputs / f"DOE^JOHN {n}.nii.gz")
        image = nibabel.Nifti1Image.from_filename(path)
        image.header["descrip"] = b"CANARY in the header"
        nibabel.Nifti1Image(image.get_fdata(), image.affine, image.header).to_filename(path)
    (inputs / "DOE^JOHN torn.nii.gz").write_bytes((inputs / "DOE^JOHN 1.nii.gz").read_bytes()[:900])
    make_source(inputs / "ct", line(6), size=(20, 24), change={"PixelData": NOISE})
    gap = [position for n, position in enumerate(line(9)) if n != 4]
    make_source(inputs / "gap", gap, size=(20, 24), change={"SeriesInstanceUID": uid(9), "PixelData": NOISE})
    write(inputs / "bold", time_points(2))
    done = medseg_batch(inputs, model, output)
    assert done.returncode == 3, done.stderr
    return inputs, output, model


def medseg_batch(inputs: Path, model: Path, output: Path, *more: str) -> Any:
    return command_line.medseg(
        "batch", inputs, "-m", model, "-o", output, "--workers", 2, "--threads", 1, "--sanity", "warn", *more
    )


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_good_are_done_and_the_bad_have_reasons(night: tuple[Path, Path, Path]) -> None:
    _, output, _ = night
    states = sorted((row["state"], row["code"]) for row in rows(output))
    assert [state for state, _ in states] == ["done"] * 5 + ["failed"] * 2
    assert "MISSING_SLICES" in {code for _, code in states}
    assert all(code for state, code in states if state == "failed")
    assert sum(row["case"].endswith(("-v001", "-v002")) for row in rows(output)) == 2
    for row in rows(output):
        if row["state"] == "done":
            assert {"labels.nii.gz", "regions.csv", "run.json", "manifest.json"} == {
                path.name for path in (output / row["folder"]).iterdir()
            }


def test_the_labels_are_those_of_one_segmentation_alone(night: tuple[Path, Path, Path]) -> None:
    inputs, output, model = night
    alone = segment(inputs / "DOE^JOHN 0.nii.gz", model).labels.array
    hits = [
        row["case"]
        for row in rows(output)
        if row["state"] == "done"
        and np.array_equal(read_labels(output / row["folder"] / "labels.nii.gz").array, alone)
    ]
    assert len(hits) == 1


def test_no_word_of_a_patient_leaves_the_inputs(night: tuple[Path, Path, Path]) -> None:
    inputs, output, model = night
    again = medseg_batch(inputs, model, output, "--json")
    assert again.returncode == 3
    spoken = (again.stdout + again.stderr).replace(str(output), "OUT")
    for canary in (*CANARIES, *PATIENT.values()):
        if canary in ("F",):
            continue
        assert canary not in spoken
        for path in output.rglob("*"):
            assert canary not in str(path.relative_to(output))
            if path.is_file() and path.suffix != ".gz":
                assert canary.encode() not in path.read_bytes(), f"{path.name} tells {canary}"
            elif path.is_file():
                assert canary.encode() not in nibabel.Nifti1Image.from_filename(path).header.binaryblock


def test_a_second_run_is_quick_and_its_object_complete(night: tuple[Path, Path, Path]) -> None:
    inputs, output, model = night
    again = medseg_batch(inputs, model, output, "--json")
    data = json.loads(again.stdout)
    assert (data["done"], data["failed"], data["skipped"]) == (5, 2, 0)
    assert {row["state"] for row in data["cases"]} == {"done", "failed"}
    assert "error" not in again.stderr


def test_from_python_it_goes_on_where_the_shell_left_off(night: tuple[Path, Path, Path]) -> None:
    inputs, output, model = night
    events: list[medseg.CaseEvent] = []
    report = medseg.segment_batch([inputs], medseg.BatchRecipe(model, WARN), output, watch=events.append)
    assert [report.count(state) for state in ("done", "failed", "skipped")] == [5, 2, 0]
    assert {(event.seconds, event.state) for event in events} == {(0.0, "done"), (0.0, "failed")}


def test_a_plan_tells_which_input_has_which_name(
    night: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    inputs, output, model = night
    assert run(["batch", str(inputs), "-m", str(model), "-o", str(output), "--plan", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {row["case"] for row in data["cases"]} | {row["case"] for row in data["refused"]} == {
        row["case"] for row in rows(output)
    }
    assert any(uid(2) == row["series_uid"] for row in data["cases"])


def test_dicom_output_holds_the_patient_and_nothing_else_does(tmp_path: Path) -> None:
    source = make_source(tmp_path / "in", line(6), size=(20, 24), change={"PixelData": NOISE})
    model = write_tiny_bundle(tmp_path / "models" / "tiny")
    task = segmentation_task(model, WARN, export=_exports("dicom-seg"))
    files = tuple(one.file.path for one in source.slices)
    (tmp_path / "part").mkdir()
    case = Case("case-1", (Source(tmp_path / "in", source.series_uid, files),))
    facts = task(case, tmp_path / "part", silent)
    assert b"Canaryson" in (tmp_path / "part" / "segmentation.dcm").read_bytes()
    assert b"anary" not in (tmp_path / "part" / "run.json").read_bytes()
    assert set(facts) >= {"structures", "ml"}


def _exports(*kinds: str) -> Any:
    from medseg.export.settings import ExportSettings

    return ExportSettings(kinds=kinds)


def test_a_case_with_the_wrong_number_of_images_is_refused(tmp_path: Path) -> None:
    model = write_tiny_bundle(tmp_path / "tiny")
    two = Case("case-1", (Source(tmp_path / "a.nii"), Source(tmp_path / "b.nii")))
    with pytest.raises(ModelError) as caught:
        segmentation_task(model)(two, tmp_path, silent)
    assert caught.value.code == "CHANNELS_MISMATCH"


def test_what_decides_the_result_is_in_the_key_and_speed_is_not(tmp_path: Path) -> None:
    from medseg.inference.settings import InferenceSettings

    model = write_tiny_bundle(tmp_path / "tiny")
    plain = segmentation_task(model).identity()
    assert segmentation_task(model, InferenceSettings(threads=2, device="cpu")).identity() == plain
    assert segmentation_task(model, InferenceSettings(overlap_fraction=0.6)).identity() != plain
    assert segmentation_task(model, separate=("rest",)).identity() != plain
    assert segmentation_task(model, irregular="fill").identity() != plain
    other = write_tiny_bundle(tmp_path / "other", seed=1)
    assert segmentation_task(other).identity() != plain
