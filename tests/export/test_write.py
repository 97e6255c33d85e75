"""A result arrives whole or not at all, and touches nobody else's files."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from phantoms import Sphere, label_map, linear_ramp

import medseg
from medseg.errors import GeometryError, SettingsError, WriteError
from medseg.export import write as module
from medseg.export.settings import KINDS, ExportSettings, parse_kinds
from medseg.export.write import Job, own_files
from medseg.geometry import Geometry
from medseg.io.dicom_source import DicomVolume
from medseg.io.formats import read_labels
from medseg.measure.regions import measure_regions
from medseg.result import Result, RunRecord
from medseg.volume import InstanceVolume

GRID = Geometry.from_spacing((24, 20, 16), (1.0, 1.5, 2.0))
LABELS = label_map(GRID, {"left lung": Sphere((7, 14, 15), 6), "heart": Sphere((18, 14, 15), 4)})
IMAGE = linear_ramp(GRID)
OBJECTS = InstanceVolume(np.where(LABELS.array == 2, 9, 0), GRID, LABELS.labels, classes={9: 2})
PLAIN = Result(LABELS, None, measure_regions(LABELS, IMAGE), RunRecord(input_name="scan"), IMAGE)
FULL = replace(PLAIN, instances=OBJECTS, regions=PLAIN.regions + measure_regions(OBJECTS, IMAGE))

ALWAYS = ["labels.nii.gz", "regions.csv", "run.json"]


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_in(folder)}


def full_disk(job: Job) -> None:
    (job.folder / "meshes").mkdir()
    (job.folder / "meshes" / "half.stl").write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(job: Job) -> None:
    raise KeyboardInterrupt


def test_writes_what_was_promised(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    assert PLAIN.save(folder) == folder
    assert files_in(folder) == ALWAYS
    back = read_labels(folder / "labels.nii.gz")
    np.testing.assert_array_equal(back.array, LABELS.array)
    assert back.labels.names == LABELS.labels.names
    affine = nibabel.Nifti1Image.from_filename(folder / "labels.nii.gz").affine
    np.testing.assert_allclose(affine, GRID.affine)
    assert json.loads((folder / "run.json").read_text())["files"] == ALWAYS
    assert files_in(tmp_path) == [f"not/there/yet/{name}" for name in ALWAYS]


def test_writes_objects_and_all_that_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    medseg.write_result(FULL, folder, ("stl", "PNG,html"))
    expected = [
        "instances.nii.gz",
        "labels.nii.gz",
        "meshes/heart.stl",
        "meshes/left_lung.stl",
        "pictures/instances.png",
        "pictures/labels.png",
        "pictures/sizes.png",
        "regions.csv",
        "report.html",
        "run.json",
    ]
    assert files_in(folder) == expected
    assert json.loads((folder / "run.json").read_text())["files"] == expected
    assert own_files(folder) == expected
    assert "longest_diameter_mm" in (folder / "regions.csv").read_text()


def test_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        FULL.save(tmp_path / name, export=("stl", "png", "html"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_replaces_its_own_files_and_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    FULL.save(folder, export=("stl", "html"))
    foreign = {"notes.txt": b"mine", "meshes/mine.obj": b"mine", "sub/labels.nii.gz": b"mine"}
    for name, data in foreign.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    PLAIN.save(folder)
    assert files_in(folder) == sorted([*ALWAYS, *foreign])
    assert {name: (folder / name).read_bytes() for name in foreign} == foreign
    (folder / "meshes" / "mine.obj").unlink()
    PLAIN.save(folder)
    assert not (folder / "meshes").exists()


def test_writes_into_an_existing_empty_folder_and_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    PLAIN.save(tmp_path / "link")
    assert files_in(tmp_path / "real") == ALWAYS
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(("fault", "code"), [(full_disk, "DISK_FULL"), (interrupted, None)])
def test_leaves_nothing_behind_when_writing_fails(
    existing: bool,
    fault: Callable[[Job], None],
    code: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "new" / "out"
    if existing:
        FULL.save(folder, export=("png",))
    before = contents(tmp_path)
    monkeypatch.setitem(module.WRITERS, "stl", fault)
    with pytest.raises(WriteError if code else KeyboardInterrupt) as caught:
        PLAIN.save(folder, export=("stl",))
    if isinstance(caught.value, WriteError):
        assert caught.value.code == code
        assert str(tmp_path) not in str(caught.value)
    assert contents(tmp_path) == before
    assert existing or not (tmp_path / "new").exists()


@pytest.mark.parametrize("after", range(1, 9))
def test_puts_all_back_when_a_move_fails(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "out"
    FULL.save(folder, export=("stl",))
    before = contents(tmp_path)
    moves = 0
    really = Path.replace

    def sometimes(self: Path, target: Path) -> Path:
        nonlocal moves
        if ".part/" not in f"{self.as_posix()}/ {Path(target).as_posix()}/" or self.suffix == ".part":
            return really(self, target)  # a single file that takes its own name
        moves += 1
        if moves == after:
            raise OSError(errno.EIO, "Input/output error")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    with pytest.raises(WriteError) as caught:
        PLAIN.save(folder)
    assert caught.value.code == "NOT_WRITABLE"
    assert contents(tmp_path) == before


def test_an_earlier_result_that_cannot_be_put_back_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    FULL.save(folder, export=("stl",))
    before = contents(folder)
    moves = 0
    really = Path.replace

    def broken(self: Path, target: Path) -> Path:
        nonlocal moves
        if ".part/" not in f"{self.as_posix()}/ {Path(target).as_posix()}/" or self.suffix == ".part":
            return really(self, target)
        moves += 1
        if moves > 3:  # the disk is gone for good: nothing can be moved back either
            raise OSError(errno.EIO, "Input/output error")
        return really(self, target)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(WriteError):
        PLAIN.save(folder)
    assert sorted(contents(folder).values()) == sorted(before.values())
    assert not list(folder.rglob("new"))


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "labels.nii.gz").mkdir(parents=True)
    with pytest.raises(WriteError) as caught:
        PLAIN.save(tmp_path / "out")
    assert caught.value.code == "NOT_WRITABLE"
    assert files_in(tmp_path) == []


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    for folder in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(WriteError) as caught:
            PLAIN.save(folder)
        assert caught.value.code == "NOT_WRITABLE"
    assert contents(tmp_path) == {"out": b"mine"}


def test_dicom_without_its_series_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for kind in ("dicom-seg", "dicom-seg-labelmap", "rtstruct", "sr"):
        with pytest.raises(WriteError) as caught:
            PLAIN.save(tmp_path / "out", export=(kind,))
        assert caught.value.code == "NO_DICOM_SOURCE"
    assert files_in(tmp_path) == []


def test_a_fault_that_is_no_fault_of_the_disk_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(job: Job) -> None:
        raise GeometryError("GRID_MISMATCH", "expected one grid, got two")

    monkeypatch.setitem(module.WRITERS, "nifti", fails)
    with pytest.raises(GeometryError):
        PLAIN.save(tmp_path / "out")
    assert files_in(tmp_path) == []


def test_kinds_are_words_or_lists() -> None:
    assert parse_kinds(("html, stl", "STL")) == ("nifti", "stl", "html")
    assert parse_kinds("png") == ("nifti", "png")
    assert parse_kinds(()) == ("nifti",)
    assert set(module.WRITERS) == set(KINDS)
    assert list(parse_kinds(",".join(KINDS))) == list(KINDS)
    with pytest.raises(SettingsError) as caught:
        parse_kinds(("nifty",))
    assert caught.value.code == "UNKNOWN_EXPORT"


@pytest.mark.parametrize("bad", [{"kinds": ("x",)}, {"mesh_space": "XYZ"}, {"mesh_smoothing_mm": -1.0}])
def test_settings_out_of_bounds_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        replace(ExportSettings(), **bad)  # type: ignore[arg-type]  # what a caller without types may pass
    assert not ExportSettings().needs_dicom_source
    assert ExportSettings(kinds=("sr",)).needs_dicom_source


def test_dicom_kinds_go_back_to_their_series(tmp_path: Path) -> None:
    import pydicom
    from dicom_makers import kidneys, line, make_source

    source = make_source(tmp_path / "series", line(6))
    labels = kidneys(source)
    scan = DicomVolume(np.zeros(labels.geometry.shape, np.int16), labels.geometry, dicom=source)
    result = Result(labels, None, measure_regions(labels, scan), RunRecord(), scan)
    result.save(tmp_path / "all", export=("dicom-seg", "dicom-seg-labelmap", "rtstruct", "sr"))
    dicom = {"report.dcm", "rtstruct.dcm", "segmentation.dcm", "segmentation_labelmap.dcm"}
    assert set(files_in(tmp_path / "all")) == {*ALWAYS, *dicom}
    assert {pydicom.dcmread(tmp_path / "all" / name).StudyInstanceUID for name in dicom} == {source.study_uid}
    result.save(tmp_path / "sr", export=("sr",))
    assert "segmentation.dcm" in files_in(tmp_path / "sr")  # what the report refers to
