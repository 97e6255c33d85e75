"""What a batch is given, what it makes of it, and the names that may stand in paths."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from dicom_bytes import SLICES, pixels_of, time_points, write
from dicom_makers import line, make_source, uid
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.batch.cases import Found, Source, plan_batch
from medseg.batch.find import find_inputs, read_table
from medseg.batch.pseudonyms import folder_key, pseudonym, safe_name, without_names
from medseg.errors import ReadError
from medseg.io.dicom_series import read_series

KEY = bytes(32)


def found(*words: str, place: str = "a", code: str = "") -> Found:
    return Found((Source(Path(place)),), words, words[-1], code, code and "reason")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


# ---------------------------------------------------------------------- names


def test_a_pseudonym_depends_on_key_and_words_and_tells_neither() -> None:
    one = pseudonym(KEY, ("DOE", "JOHN"))
    assert one == pseudonym(KEY, ("DOE", "JOHN"))
    assert one != pseudonym(b"1" * 32, ("DOE", "JOHN"))
    assert one != pseudonym(KEY, ("DOEJOHN",))
    assert one.startswith("case-")
    assert "doe" not in one.lower()


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_a_safe_name_is_one_plain_component(text: str) -> None:
    name = safe_name(text)
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-"))
    assert len(name) <= 81


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("../../etc/passwd", "etc_passwd"),
        ("CON", "_CON"),
        ("-rf", "rf"),
        ("C:\\..\\x:y*?", "C_.._x_y"),
        ("..", ""),
    ],
)
def test_a_hostile_name_is_disarmed(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    key = folder_key(tmp_path)
    assert folder_key(tmp_path) == key
    (tmp_path / "names.key").write_text("no key")
    with pytest.raises(ReadError) as caught:
        folder_key(tmp_path)
    assert caught.value.code == "BAD_KEY"


def test_file_names_leave_messages() -> None:
    text = without_names("cannot read DOE^JOHN.nii.gz (DOE^JOHN.nii)", [Path("/x/DOE^JOHN.nii.gz")])
    assert "DOE" not in text


# ---------------------------------------------------------------------- plan


def test_cases_are_sorted_by_name_whatever_the_order() -> None:
    some = [found("file", name, place=name) for name in "abcdefg"]
    assert plan_batch(some, KEY) == plan_batch(some[::-1], KEY)


def test_an_input_found_twice_is_one_case_and_two_of_one_name_are_two() -> None:
    twice = plan_batch([found("file", "x"), found("file", "x")], KEY)
    assert len(twice.cases) == 1
    apart = plan_batch([found("file", "x"), found("file", "x", place="b")], KEY)
    assert len({case.name for case in apart.cases}) == 2


def test_a_name_stays_when_other_inputs_come() -> None:
    alone = plan_batch([found("file", "x")], KEY).cases[0].name
    assert alone in {c.name for c in plan_batch([found("file", "x"), found("file", "y")], KEY).cases}


def test_plain_names_on_request_never_collide() -> None:
    plan = plan_batch(
        [found("a", "Scan 1"), found("b", "scan/1", place="b"), found("c", "two")], KEY, plain_names=True
    )
    names = [case.name for case in plan.cases]
    assert len({name.casefold() for name in names}) == 3
    assert "two" in names


def test_refused_inputs_are_no_cases() -> None:
    plan = plan_batch([found("a", "x", code="LOCALIZER"), found("b", "y")], KEY)
    assert [one.code for one in plan.refused] == ["LOCALIZER"]
    assert len(plan.cases) == 1


# ---------------------------------------------------------------------- find


def test_image_files_of_a_tree_are_found_once_each(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.nii.gz",
        "deep/b.NRRD",
        "deep/er/c.mha",
        "pair.hdr",
        "pair.img",
        "notes.txt",
        ".hidden.nii",
    )
    touch(tmp_path, "out/cases/x/labels.nii.gz", ".git/d.nii")
    inputs = find_inputs([tmp_path], leave_out=tmp_path / "out")
    assert sorted(one.sources[0].path.name for one in inputs) == ["a.nii.gz", "b.NRRD", "c.mha", "pair.hdr"]
    assert {one.label for one in inputs} == {"a", "b", "c", "pair"}


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    import os

    touch(tmp_path, "a.nii")
    (tmp_path / "link.nii").symlink_to("/etc/hostname")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.nii")
    assert len(find_inputs([tmp_path])) == 1


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReadError) as caught:
        find_inputs([tmp_path])
    assert caught.value.code == "NO_CASES"


def test_series_of_a_study_become_cases_with_their_files(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "philips_tilt_ct"
    inputs = [one for one in find_inputs([folder]) if not one.code]
    files = {path for one in inputs for path in one.sources[0].files}
    assert inputs
    assert all(one.sources[0].series_uid for one in inputs)
    assert all(path.is_file() for path in files)


def test_missing_slices_are_refused_unless_they_are_to_be_filled(tmp_path: Path) -> None:
    make_source(tmp_path, [position for n, position in enumerate(line(9)) if n != 4])
    assert [one.code for one in find_inputs([tmp_path])] == ["MISSING_SLICES"]
    assert [one.code for one in find_inputs([tmp_path], irregular="fill")] == [""]


def test_a_zip_is_one_source_of_its_series(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "ct_ge_variable_tilt_spacing"
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in folder.glob("*.dcm"):
            archive.write(path, path.name)
    inputs = find_inputs([tmp_path])
    assert {one.sources[0].path for one in inputs} == {tmp_path / "study.zip"}
    assert {one.sources[0].files for one in inputs} == {(tmp_path / "study.zip",)}


def test_each_volume_of_a_series_is_a_case_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "series", time_points(3))
    cases = plan_batch(find_inputs([folder]), KEY).cases
    assert [case.name[-5:] for case in cases] == ["-v001", "-v002", "-v003"]
    assert len({case.name[:-5] for case in cases}) == 1
    for t, case in enumerate(cases):
        (source,) = case.sources
        assert len(source.files) == SLICES
        array = read_series(source.files, source.series_uid, volume=source.volume).array
        assert array[0, 0, 0] == int(pixels_of(0)[0, 0]) + t - 1024


def test_names_of_volumes_stay_when_files_are_renamed_moved_or_join(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", time_points(2))
    before = {case.name: case.sources[0].volume for case in plan_batch(find_inputs([folder]), KEY).cases}
    moved = write(tmp_path / "b" / "c", time_points(3))
    for path in moved.iterdir():
        path.rename(path.with_name(f"{999 - int(path.name)}.dcm"))
    after = {case.name: case.sources[0].volume for case in plan_batch(find_inputs([moved]), KEY).cases}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_volumes_of_a_zip_and_of_a_table_are_read_by_their_number(tmp_path: Path) -> None:
    folder = write(tmp_path / "series", time_points(3))
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    (tmp_path / "cases.csv").write_text("image,volume\nseries,1\nseries.zip,2\n")
    found = find_inputs([tmp_path / "series.zip", tmp_path / "cases.csv"])
    firsts = []
    for one in found:
        (source,) = one.sources
        volume = read_series(source.files, source.series_uid or None, volume=source.volume)
        firsts.append(int(volume.array[0, 0, 0]) + 1024 - int(pixels_of(0)[0, 0]))
    assert firsts == [0, 1, 2, 0, 1]
    (tmp_path / "cases.csv").write_text("image,volume\nseries,0\n")
    with pytest.raises(ReadError, match="number from 1"):
        find_inputs([tmp_path / "cases.csv"])


# ---------------------------------------------------------------------- tables


def test_a_table_names_cases_images_and_series(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text("case,image,image2,series\none,a.nii,b.nii,\n,sub/c.nii,,\n", encoding="utf-8-sig")
    one, two = read_table(table)
    assert [source.path for source in one.sources] == [tmp_path / "a.nii", tmp_path / "b.nii"]
    assert one.label == "one"
    assert len(two.sources) == 1


def test_a_table_may_name_the_folder_of_a_series(tmp_path: Path) -> None:
    make_source(tmp_path / "ct", line(3))
    touch(tmp_path, "ct/notes.txt")
    (tmp_path / "cases.csv").write_text("case,image\nx,ct\n")
    (one,) = read_table(tmp_path / "cases.csv")
    assert {path.name for path in one.sources[0].files} == {"000.dcm", "001.dcm", "002.dcm"}


def test_a_series_is_read_from_its_files_though_others_lie_beside_it(tmp_path: Path) -> None:
    make_source(tmp_path, line(3))
    for path in tmp_path.glob("*.dcm"):
        path.rename(path.with_name(f"a{path.name}"))
    make_source(tmp_path, line(4), change={"SeriesInstanceUID": uid(9), "StudyInstanceUID": uid(8)})
    found = [one for one in find_inputs([tmp_path]) if not one.code]
    shapes = sorted(read_series(one.sources[0].files).geometry.shape for one in found)
    assert shapes == [(32, 24, 3), (32, 24, 4)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "case\nx\n",
        "image\n\n,\n",
        "image,case\na\n",
        "image,image\na,b\n",
        "image\n\x00\n",
        "image\na,b\n",
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(ReadError) as caught:
        find_inputs([table])
    assert caught.value.code in ("BAD_TABLE", "NO_CASES")
