"""The cache lies where it was chosen, and what medseg keeps lies in it and nowhere else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment
from dicom_bytes import series, write
from tiny_bundle import write_tiny_bundle

from medseg import set_cache_folder
from medseg.cache import CACHE_VARIABLE, cache_folder

WORK = """
import sys
import medseg

scan, model = sys.argv[1:]
assert [one.readable for one in medseg.list_series(scan)] == [True]
volume = medseg.read(scan)
settings = medseg.InferenceSettings(backend="openvino", threads=1, sanity="off")
medseg.segment(volume, medseg.load_model(model), settings=settings)
"""
"""Lists a DICOM folder, unpacks a zipped model, converts its network and compiles that."""


def test_a_program_chooses_its_cache_and_the_environment_counts_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cache_folder()
    set_cache_folder(tmp_path / "chosen")
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "stated"))
    assert cache_folder() == tmp_path / "stated"
    monkeypatch.delenv(CACHE_VARIABLE)
    set_cache_folder(None)
    assert cache_folder() == before


def test_nothing_is_kept_outside_the_folder_that_the_environment_names(tmp_path: Path) -> None:
    """One process writes all three kinds of what is kept; its home, its place and its scratch stay empty."""
    scan = write(tmp_path / "scan", series())
    write_tiny_bundle(tmp_path / "made" / "tiny")
    model = shutil.make_archive(str(tmp_path / "tiny"), "zip", tmp_path / "made")
    empty = {name: tmp_path / name for name in ("home", "scratch", "here")}
    for folder in empty.values():
        folder.mkdir()
    places = {"HOME": empty["home"], "USERPROFILE": empty["home"], "TMPDIR": empty["scratch"]}
    places |= {"TEMP": empty["scratch"], "TMP": empty["scratch"], CACHE_VARIABLE: tmp_path / "kept"}
    stated = {name: value for name, value in environment().items() if not name.startswith("XDG_")}
    subprocess.run(
        [sys.executable, "-c", WORK, str(scan), model],
        env=stated | {name: str(place) for name, place in places.items()},
        cwd=empty["here"],
        check=True,
    )
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "dicom-headers.sqlite",
        "networks",
        "unpacked",
    }
    assert all(any((tmp_path / "kept" / name).iterdir()) for name in ("networks", "unpacked"))
    left = [path.relative_to(tmp_path) for folder in empty.values() for path in folder.rglob("*")]
    assert left == []
