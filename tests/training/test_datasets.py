"""Datasets: every layout of the field is found, every fault is told at once and by the file's name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sphere_datasets import GRID, ball_and_box, write_dataset

from medseg.errors import CancelledError, ReadError, VolumeError
from medseg.geometry import Geometry
from medseg.io.formats import read_labels, read_volume, write_labels, write_volume
from medseg.labels import LabelSet
from medseg.progress import CancelToken
from medseg.training.case_reading import read_case_data
from medseg.training.dataset import ALWAYS_TRAINING, Case, list_dataset
from medseg.training.dataset_check import CheckedDataset, check_dataset, numbers_objects, require_sound
from medseg.volume import LabelVolume, Volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", 4)


def checked(path: Path, labels: str = "auto") -> CheckedDataset:
    return check_dataset(list_dataset(path), labels)


def codes(found: CheckedDataset) -> set[str]:
    return {fault.code for fault in found.faults}


def image(folder: Path, number: int) -> Path:
    return folder / "images" / f"case_{number:02}.nii.gz"


def entry(number: int) -> dict[str, object]:
    return {"image": f"images/case_{number:02}.nii.gz", "label": f"labels/case_{number:02}.nii.gz"}


def label(folder: Path, number: int) -> Path:
    return folder / "labels" / f"case_{number:02}.nii.gz"


# ----------------------------------------------------------------------------- layouts


def test_a_sound_dataset_has_no_fault_and_its_classes_have_the_names_of_its_files(folder: Path) -> None:
    found = checked(folder)
    assert not found.faults
    assert found.class_names == {1: "ball", 2: "box"}
    assert [case.name for case in found.cases] == [f"case_{n:02}" for n in range(4)]
    assert not found.has_objects
    truth = ball_and_box(2)[1].array
    assert found.facts[2].voxels == {1: int((truth == 1).sum()), 2: int((truth == 2).sum())}


def test_the_layout_of_nnunet_joins_channels_and_names_classes(folder: Path) -> None:
    (folder / "imagesTr").mkdir()
    for number in range(4):
        for channel in range(2):
            shutil.copy(image(folder, number), folder / "imagesTr" / f"case_{number:02}_{channel:04}.nii.gz")
    (folder / "labels").rename(folder / "labelsTr")
    shutil.rmtree(folder / "images")
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "one": 1, "two": 2}}
    (folder / "dataset.json").write_text(json.dumps(about))
    found = checked(folder)
    assert [len(case.images) for case in found.cases] == [2, 2, 2, 2]
    assert found.channel_names == ("T1", "T2")
    assert found.class_names == {1: "one", 2: "two"}
    assert not found.faults


def test_a_datalist_tells_what_is_held_out(folder: Path) -> None:
    entries = [
        {"image": f"images/case_{n:02}.nii.gz", "label": f"labels/case_{n:02}.nii.gz"} for n in range(4)
    ]
    listed = {
        "labels": {"0": "background", "1": "a", "2": "b"},
        "training": entries[:3],
        "validation": entries[3:],
    }
    (folder / "my.json").write_text(json.dumps(listed))
    found = checked(folder / "my.json")
    assert [case.fold for case in found.cases] == [ALWAYS_TRAINING] * 3 + [0]
    assert found.class_names == {1: "a", 2: "b"}
    folds = {"training": [one | {"fold": n} for n, one in enumerate(entries)]}
    (folder / "my.json").write_text(json.dumps(folds))
    assert [case.fold for case in checked(folder / "my.json").cases] == [0, 1, 2, 3]


def test_a_table_names_channels_by_its_columns(folder: Path) -> None:
    rows = [f"images/case_{n:02}.nii.gz,images/case_{n:02}.nii.gz,labels/case_{n:02}.nii.gz,p{n},{s}"
            for n, s in enumerate(("train", "train", "val", ""))]  # fmt: skip
    (folder / "table.csv").write_text("\n".join(["T1,FLAIR,label,name,split", *rows]))
    found = checked(folder / "table.csv")
    assert found.channel_names == ("t1", "flair")
    assert [(case.name, case.fold) for case in found.cases] == [
        ("p0", -1),
        ("p1", -1),
        ("p2", 0),
        ("p3", None),
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_tables_of_spreadsheets_may_part_their_columns_otherwise(folder: Path, mark: str) -> None:
    rows = [mark.join((f"images/case_{n:02}.nii.gz", f"labels/case_{n:02}.nii.gz")) for n in range(4)]
    (folder / "table.csv").write_text("\n".join([mark.join(("image", "label")), *rows]))
    assert [case.name for case in list_dataset(folder / "table.csv").cases] == [
        f"case_0{n}" for n in range(4)
    ]


@pytest.mark.parametrize(
    ("slices", "labels", "names"),
    [
        ("rtstruct_mim_ge_ct/ct_?.dcm", "rtstruct_mim_ge_ct/rt.dcm", None),
        ("dcmqi_segmentations/ct-3slice/*", "dcmqi_segmentations/liver.dcm", {"Liver"}),
    ],
)
def test_series_of_dicom_slices_with_structure_sets_and_segmentations(
    tmp_path: Path, shared_data: Path, slices: str, labels: str, names: set[str] | None
) -> None:
    for name in ("images", "labels"):
        (tmp_path / name / "one").mkdir(parents=True)
    for path in (shared_data / "dicom").glob(slices):
        shutil.copy(path, tmp_path / "images" / "one" / path.name)
    shutil.copy(shared_data / "dicom" / labels, tmp_path / "labels" / "one")
    found = checked(tmp_path)
    assert codes(found) <= {"ONE_CASE", "OPEN_CONTOUR", "SPACING_ASSUMED"}
    (facts,) = found.facts
    assert facts.is_named
    assert facts.modality == "CT"
    assert sum(facts.voxels.values()) > 0
    assert names is None or set(found.class_names.values()) == names


def test_cases_of_one_file_name_are_told_apart_by_their_folders(folder: Path) -> None:
    for number in range(3):
        place = folder / "study" / f"p{number}"
        place.mkdir(parents=True)
        shutil.copy(image(folder, number), place / "image.nii.gz")
        shutil.copy(label(folder, number), place / "label.nii.gz")
    rows = [f"study/p{n}/image.nii.gz,study/p{n}/label.nii.gz" for n in range(3)]
    (folder / "table.csv").write_text("\n".join(["image,label", *rows]))
    found = checked(folder / "table.csv")
    assert [case.name for case in found.cases] == ["p0_image", "p1_image", "p2_image"]
    assert not found.faults
    (folder / "table.csv").write_text("\n".join(["image,label", rows[0], rows[0]]))
    assert "NAME_TWICE" in codes(checked(folder / "table.csv"))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"training": [{"image": [], "label": "x"}]}',
        '{"training": [{"label": "x"}]}',
        '{"training": 3}',
    ],
)
def test_a_damaged_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(ReadError) as caught:
        list_dataset(tmp_path / "list.json")
    assert caught.value.code == "BAD_DATASET_LIST"


def test_no_dataset_and_no_folder(tmp_path: Path) -> None:
    for path, code in ((tmp_path, "NOT_A_DATASET"), (tmp_path / "nowhere", "FILE_NOT_FOUND")):
        with pytest.raises(ReadError) as caught:
            list_dataset(path)
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["scan.nii.gz", "notes.txt"])
def test_a_single_file_is_no_dataset(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(ReadError, match=f"a single file, {name}") as caught:
        list_dataset(tmp_path / name)
    assert caught.value.code == "NOT_A_DATASET"


def test_pictures_are_named_as_what_was_found_instead_of_volumes(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    with pytest.raises(ReadError, match="the folder is empty"):
        list_dataset(tmp_path)
    for part in ("images", "labels"):
        (tmp_path / part / "slice 1.png").write_bytes(b"picture")
    with pytest.raises(ReadError, match=r"slice 1\.png") as caught:
        list_dataset(tmp_path)
    assert caught.value.code == "NOT_A_DATASET"


# ------------------------------------------------------------------------------ faults


def test_a_fault_says_whether_it_is_in_the_image_or_the_labels(folder: Path) -> None:
    """Both files have the same name."""
    image(folder, 0).write_bytes(image(folder, 0).read_bytes()[:300])
    label(folder, 1).write_bytes(b"")
    _small, labels = ball_and_box(7, Geometry.from_spacing((20, 26, 24)))
    write_labels(labels, label(folder, 2))
    messages = {fault.case: fault.message for fault in checked(folder).grave}
    assert messages["case_00"].startswith("image case_00.nii.gz: ")
    assert messages["case_01"].startswith("labels case_01.nii.gz: ")
    assert "empty" in messages["case_01"]
    assert "expected labels case_02.nii.gz on the grid of image case_02.nii.gz" in messages["case_02"]


def test_a_way_out_is_offered_only_where_it_leads_out(folder: Path) -> None:
    label(folder, 1).unlink()
    with pytest.raises(VolumeError, match="--skip-faulty"):
        require_sound(checked(folder), lambda _words: None)
    for number in (0, 2, 3):
        label(folder, number).unlink()
    with pytest.raises(VolumeError) as caught:
        require_sound(checked(folder), lambda _words: None)
    assert "--skip-faulty" not in str(caught.value)


def test_all_faults_are_told_at_once_and_by_name(folder: Path) -> None:
    image(folder, 0).unlink()
    label(folder, 1).unlink()
    _small, labels = ball_and_box(7, Geometry.from_spacing((20, 26, 24)))
    write_labels(labels, label(folder, 2))
    image(folder, 3).write_bytes(image(folder, 3).read_bytes()[:300])
    found = checked(folder)
    told = {(fault.code, fault.case) for fault in found.grave}
    assert {("IMAGE_MISSING", "case_00"), ("LABEL_MISSING", "case_01"), ("SHAPES_DIFFER", "case_02")} <= told
    assert any(fault.case == "case_03" and "case_03.nii.gz" in fault.message for fault in found.grave)
    assert found.cases == ()
    assert "NO_CASE" not in codes(checked(write_dataset(folder / "other", 2)))


def test_labels_at_another_place(folder: Path) -> None:
    labels = read_labels(label(folder, 0))
    affine = labels.geometry.affine.copy()
    affine[0, 3] += 5
    write_labels(replace(labels, geometry=Geometry(labels.geometry.shape, affine)), label(folder, 0))
    assert [(f.code, f.case) for f in checked(folder).grave] == [("AFFINES_DIFFER", "case_00")]


def test_fractions_are_no_labels(folder: Path) -> None:
    volume = Volume(np.random.default_rng(0).random(GRID.shape, dtype=np.float32), GRID)
    write_volume(volume, label(folder, 0))
    assert [(f.code, f.case) for f in checked(folder).grave] == [("NOT_LABELS", "case_00")]


def test_an_id_that_nobody_named(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"ball": 1}}))
    found = checked(folder)
    assert {fault.code for fault in found.grave} == {"LABEL_UNKNOWN"}
    assert len(found.grave) == 4


def test_a_class_that_never_occurs_and_one_that_is_rare(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"ball": 1, "box": 2, "spleen": 3, "pin": 4}}))
    labels = read_labels(label(folder, 1))
    array = labels.array.copy()
    array[0, 0, 0] = 4
    write_labels(LabelVolume(array, labels.geometry, LabelSet.unnamed((1, 2, 4))), label(folder, 1))
    found = checked(folder)
    assert [(fault.code, fault.is_grave) for fault in found.faults] == [
        ("CLASS_MISSING", False),
        ("CLASS_RARE", False),
    ]
    assert found.class_names[3] == "spleen"


def test_voxels_that_are_no_numbers_and_cases_without_foreground_are_told_and_kept(folder: Path) -> None:
    volume = read_volume(image(folder, 0))
    array = volume.array.copy()
    array[3, 3, 3] = np.nan
    write_volume(replace(volume, array=array), image(folder, 0))
    empty = LabelVolume(np.zeros(GRID.shape, dtype=np.uint8), GRID)
    write_labels(empty, label(folder, 1))
    found = checked(folder)
    assert {(f.code, f.case) for f in found.faults} == {("NOT_FINITE", "case_00"), ("EMPTY_CASE", "case_01")}
    assert len(found.cases) == 4
    assert not found.grave


def test_the_same_image_twice_and_a_leak_between_splits(folder: Path) -> None:
    shutil.copy(image(folder, 0), image(folder, 3))
    assert [(f.code, f.case) for f in checked(folder).grave] == [("DUPLICATE", "case_03")]
    entries = [
        {"image": f"images/case_{n:02}.nii.gz", "label": f"labels/case_{n:02}.nii.gz"} for n in range(4)
    ]
    (folder / "list.json").write_text(json.dumps({"training": entries[:3], "validation": entries[3:]}))
    assert [(f.code, f.case) for f in checked(folder / "list.json").grave] == [("LEAKAGE", "case_03")]


def test_left_that_lies_right_is_suspected(folder: Path) -> None:
    sides = {"labels": {"kidney_right": 1, "kidney_left": 2}}  # the ball lies at lower x, which is left
    (folder / "dataset.json").write_text(json.dumps(sides))
    found = checked(folder)
    assert {(fault.code, fault.is_grave) for fault in found.faults} == {("SIDES_SWAPPED", False)}
    assert len(found.faults) == 4


def test_a_picture_among_volumes(folder: Path) -> None:
    flat, labels = ball_and_box(0, Geometry.from_spacing((26, 24, 1)))
    write_volume(flat, image(folder, 2))
    write_labels(labels, label(folder, 2))
    assert [fault.case for fault in checked(folder).grave] == ["case_02"]


def test_one_case_and_none(tmp_path: Path) -> None:
    found = checked(write_dataset(tmp_path / "one", 1))
    assert codes(found) == {"ONE_CASE"}
    assert not found.grave
    label(tmp_path / "one", 0).unlink()
    assert {fault.code for fault in checked(tmp_path / "one").grave} == {"LABEL_MISSING", "NO_CASE"}


def test_images_of_another_number(folder: Path) -> None:
    shutil.copy(image(folder, 0), folder / "images" / "case_00_0000.nii.gz")
    shutil.copy(image(folder, 0), folder / "images" / "case_00_0001.nii.gz")
    image(folder, 0).unlink()
    assert [(f.code, f.case) for f in checked(folder).grave] == [("CHANNELS_DIFFER", "case_00")]


def test_numbered_objects_are_told_from_classes(folder: Path) -> None:
    facts = checked(folder).facts
    numbered = [replace(one, voxels=dict.fromkeys(range(1, n + 1), 9), names={})
                for one, n in zip(facts, (12, 30, 9, 17), strict=True)]  # fmt: skip
    assert numbers_objects(numbered, {})
    assert not numbers_objects(numbered, {1: "liver"})
    assert not numbers_objects([replace(one, voxels=numbered[0].voxels) for one in facts], {})
    assert not numbers_objects([replace(numbered[0], voxels={2: 3, 70: 4})], {})


def test_a_check_can_be_stopped(folder: Path) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        check_dataset(list_dataset(folder), cancel=token)


def test_what_cannot_be_read_names_the_file(folder: Path) -> None:
    case = Case("x", (folder / "images" / "nowhere.nii.gz",), label(folder, 0))
    with pytest.raises(ReadError, match=r"nowhere\.nii\.gz") as caught:
        read_case_data(case)
    assert caught.value.code == "FILE_NOT_FOUND"
