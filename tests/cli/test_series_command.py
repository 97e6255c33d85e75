"""`medseg series`: the table for people, the JSON object for programs, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import dicom_bytes as raw
import hostile_places
import pytest

from medseg.cli.main import run
from medseg.io.notices import ReadNotice

FIELDS = [
    "study_uid",
    "series_uid",
    "modality",
    "files",
    "shape",
    "spacing_mm",
    "geometry",
    "readable",
    "code",
    "reason",
]


def test_json_holds_one_entry_per_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw.write(tmp_path / "a", raw.series())
    assert run(["series", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (entry,) = told["series"]
    assert list(entry) == FIELDS
    assert entry["shape"] == [raw.COLUMNS, raw.ROWS, raw.SLICES]
    assert entry["spacing_mm"] == [0.5, 0.75, 2.5]
    assert (entry["geometry"], entry["readable"], entry["code"], entry["reason"]) == ("regular", True, "", "")


def test_what_cannot_be_read_is_listed_and_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile_places.one_missing(tmp_path)
    assert run(["series", str(tmp_path), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["series"]
    assert (entry["readable"], entry["code"], entry["geometry"]) == (False, "MISSING_SLICES", "missing")
    assert run(["series", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "not read [MISSING_SLICES]" in told.err
    assert "5.00 mm after slice" in told.err
    assert "0 of 1 readable" in told.err


def test_a_tilted_series_is_readable_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile_places.tilted(tmp_path)
    assert run(["series", str(tmp_path)]) == 0
    assert "note [TILTED]" in capsys.readouterr().err


def test_an_empty_folder_holds_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["series", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"series": []}


@pytest.mark.parametrize(("name", "code"), [("nothing", "FILE_NOT_FOUND"), ("text.txt", "NOT_DICOM")])
def test_a_path_that_cannot_be_looked_into_fails(
    name: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("no image " * 40)
    assert run(["series", str(tmp_path / name)]) == 1
    assert f"error [{code}]" in capsys.readouterr().err


def test_convert_follows_the_policy_for_irregular_slices(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, target = hostile_places.tilted(tmp_path), str(tmp_path / "out.nii.gz")
    assert run(["convert", str(place), target, "--irregular", "reject"]) == 1
    assert "error [IRREGULAR]" in capsys.readouterr().err
    with pytest.warns(ReadNotice, match="TILTED|RESAMPLED"):
        assert run(["convert", str(place), target]) == 0
    gap = hostile_places.one_missing(tmp_path / "gap")
    assert run(["convert", str(gap), target]) == 1
    assert "error [MISSING_SLICES]" in capsys.readouterr().err
