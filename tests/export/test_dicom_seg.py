"""DICOM SEG written by us: valid, on the source's slices, read back by other programs bit for bit."""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import highdicom
import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from dicom_makers import (
    PATIENT,
    SOURCES,
    UNEVEN,
    complaints,
    installed_program,
    kidneys,
    lesions_of,
    make_source,
    uid,
)

from medseg.errors import GeometryError, WriteError
from medseg.export.dicom_seg import SegKind, write_dicom_seg
from medseg.geometry import Geometry
from medseg.io.dicom_source import DicomSource, labels_on_slices
from medseg.labels import LabelSet
from medseg.result import RunRecord
from medseg.volume import InstanceVolume, LabelVolume

RECORD = RunRecord(model="brain-mri", model_version="1.2")
KINDS: tuple[SegKind, ...] = ("binary", "labelmap")


@pytest.fixture(params=[*SOURCES, "uneven"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DicomSource:
    return make_source(tmp_path / "source", **{**SOURCES, "uneven": UNEVEN}[request.param])


@pytest.fixture
def ct(tmp_path: Path) -> DicomSource:
    return make_source(tmp_path / "source", **SOURCES["ct"])


def pixels_by_slice(path: Path, source: DicomSource) -> npt.NDArray[Any]:
    """Segment numbers `(slices, rows, columns)`, each frame put where its reference to an image says."""
    seg = pydicom.dcmread(path)
    place = {(s.sop_instance_uid, s.frame): n for n, s in enumerate(source.slices)}
    planes = np.zeros((len(source.slices), source.rows, source.columns), dtype=int)
    frames = seg.pixel_array.reshape(-1, source.rows, source.columns)
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        index = place[image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber", 0))]
        at = groups.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose([float(x) for x in at], source.slices[index].position_mm, atol=1e-6)
        if seg.SegmentationType == "BINARY":
            shared = seg.SharedFunctionalGroupsSequence[0]
            holder = groups if "SegmentIdentificationSequence" in groups else shared
            number = int(holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            assert not (planes[index][frame > 0]).any()
            planes[index][frame > 0] = number
        else:
            planes[index] = frame
    return planes


def as_segments(labels: LabelVolume) -> LabelVolume:
    """Classes 3, 7, 9 as segments 1, 2, 3."""
    table = np.zeros(10, dtype=np.uint8)
    table[[3, 7, 9]] = 1, 2, 3
    return LabelVolume(table[labels.array], labels.geometry)


@pytest.mark.parametrize("kind", KINDS)
def test_every_object_is_valid_and_refers_to_its_slices(
    source: DicomSource, kind: SegKind, tmp_path: Path
) -> None:
    labels = kidneys(source)
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", record=RECORD, kind=kind)
    assert complaints(path) == []
    expected = labels_on_slices(as_segments(labels), source)
    assert np.array_equal(pixels_by_slice(path, source), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", [True, False])
def test_an_empty_result_is_a_valid_object(
    source: DicomSource, kind: SegKind, named: bool, tmp_path: Path
) -> None:
    labels = kidneys(source)
    labels = replace(labels, array=np.zeros_like(labels.array), labels=labels.labels if named else LabelSet())
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind=kind)
    assert complaints(path) == []
    seg = pydicom.dcmread(path)
    assert not seg.pixel_array.any()
    numbers = [item.SegmentNumber for item in seg.SegmentSequence if item.SegmentNumber]
    assert len(numbers) == (3 if named else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_highdicom_reads_it_back_on_the_grid(ct: DicomSource, kind: SegKind, tmp_path: Path) -> None:
    labels = kidneys(ct)
    path = write_dicom_seg(labels, ct, tmp_path / "seg.dcm", kind=kind)
    images = [highdicom.imread(s.file.path) for s in ct.slices]
    grid = highdicom.get_volume_from_series([pydicom.dcmread(s.file.path) for s in ct.slices])
    assert len(images) == grid.spatial_shape[0]
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    volume = volume.match_geometry(grid)
    expected = labels_on_slices(as_segments(labels), ct)
    expected = (
        expected
        if np.allclose(grid.get_plane_position(0)[0].ImagePositionPatient, ct.slices[0].position_mm)
        else expected[::-1]
    )
    assert np.array_equal(volume.array, expected)


def by_dcmqi(path: Path, out: Path, shape: tuple[int, ...], to_index: Any) -> list[npt.NDArray[Any]]:
    """What dcmqi makes of a SEG: each of its files as an array on our grid, found by world position."""
    program = installed_program("segimage2itkimage", "dcmqi")
    out.mkdir()
    command = [program, "--inputDICOM", str(path), "--outputDirectory", str(out), "--outputType", "nifti"]
    subprocess.run(command, check=True, capture_output=True)
    arrays = []
    for file in sorted(out.glob("*.nii.gz")):
        image = cast("Any", nibabel.load(file))
        stored = np.asarray(image.dataobj)
        found = np.argwhere(stored > 0)
        index = to_index(found @ image.affine[:3, :3].T + image.affine[:3, 3])
        assert np.abs(index - np.round(index)).max() < 2e-3
        array = np.zeros(shape, dtype=stored.dtype)
        array[tuple(np.round(index).astype(int).T)] = stored[tuple(found.T)]
        arrays.append(array)
    return arrays


@pytest.mark.parametrize("name", ["ct", "mr oblique", "enhanced mr", "feet first"])
def test_dcmqi_reads_it_back_on_the_grid(name: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES[name])
    labels = kidneys(source)
    path = write_dicom_seg(labels, source, tmp_path / "seg.dcm")
    expected = as_segments(labels)
    masks = by_dcmqi(path, tmp_path / "out", expected.array.shape, expected.geometry.to_index)
    assert len(masks) == 3
    for number, mask in enumerate(masks, start=1):
        assert np.array_equal(mask > 0, expected.array == number)


@pytest.mark.parametrize("name", ["ct", "mr oblique", "enhanced mr", "feet first"])
def test_dcmqi_reads_a_labelmap_back_on_the_grid(name: str, tmp_path: Path) -> None:
    """dcmqi's wheel decodes no JPEG-LS, so dcmtk first undoes it, which loses nothing."""
    decoder = installed_program("dcmdjpls", "dcmtk, a system package")
    source = make_source(tmp_path / "source", **SOURCES[name])
    labels = kidneys(source)
    packed = write_dicom_seg(labels, source, tmp_path / "seg.dcm", kind="labelmap")
    subprocess.run([decoder, packed, tmp_path / "plain.dcm"], check=True, capture_output=True)
    expected = as_segments(labels)
    (array,) = by_dcmqi(
        tmp_path / "plain.dcm", tmp_path / "out", expected.array.shape, expected.geometry.to_index
    )
    assert np.array_equal(array, expected.array)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_result_is_the_same_file(ct: DicomSource, kind: SegKind, tmp_path: Path) -> None:
    labels = kidneys(ct)
    first = write_dicom_seg(labels, ct, tmp_path / "a.dcm", record=RECORD, kind=kind)
    later = replace(RECORD, started="2031-01-01T00:00:00Z", seconds={"all": 3.0})
    second = write_dicom_seg(labels, ct, tmp_path / "b.dcm", record=later, kind=kind)
    assert first.read_bytes() == second.read_bytes()


def test_another_voxel_name_model_or_kind_is_another_object(ct: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(ct)
    other = labels.array.copy()
    other[0, 0, 0] = 3 if other[0, 0, 0] != 3 else 0
    renamed = LabelSet.from_names({3: "spleen", 7: "liver", 9: "aorta"})
    calls: list[tuple[LabelVolume, RunRecord, SegKind]] = [
        (labels, RECORD, "binary"),
        (labels, RECORD, "labelmap"),
        (replace(labels, array=other), RECORD, "binary"),
        (replace(labels, labels=renamed), RECORD, "binary"),
        (labels, replace(RECORD, model="other"), "binary"),
    ]
    uids = set()
    for one, record, kind in calls:
        path = write_dicom_seg(one, ct, tmp_path / "seg.dcm", record=record, kind=kind)
        uids.add(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    assert len(uids) == len(calls)
    assert all(len(one) <= 64 for one in uids)


def test_objects_take_the_place_of_their_class(ct: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(ct)
    objects = lesions_of(labels)
    path = write_dicom_seg(labels, ct, tmp_path / "seg.dcm", instances=objects)
    assert complaints(path) == []
    seg = pydicom.dcmread(path)
    names = [item.SegmentLabel for item in seg.SegmentSequence]
    assert names == ["left kidney", "lesion (rest)", "lesion 1", "lesion 2", "Ödem"]
    uids = [item.TrackingUID for item in seg.SegmentSequence]
    assert len(set(uids)) == 5
    planes = pixels_by_slice(path, ct)
    for number, object_id in ((3, 1), (4, 2)):
        mask = LabelVolume((objects.array == object_id).astype(np.uint8), labels.geometry)
        assert np.array_equal(planes == number, labels_on_slices(mask, ct) == 1)


def test_what_made_it_and_what_it_shows_stands_in_it(ct: DicomSource, tmp_path: Path) -> None:
    path = write_dicom_seg(kidneys(ct), ct, tmp_path / "seg.dcm", record=RECORD)
    seg = pydicom.dcmread(path)
    kidney, _, swelling = seg.SegmentSequence
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    modifier = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Left"
    assert swelling.SegmentedPropertyTypeCodeSequence[0].CodeValue == "79654002"
    assert kidney.SegmentAlgorithmType == "AUTOMATIC"
    assert kidney.SegmentAlgorithmName == "brain-mri"
    assert kidney.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2"
    assert len(kidney.RecommendedDisplayCIELabValue) == 3
    series = seg.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == ct.series_uid
    assert len(series.ReferencedInstanceSequence) == len(ct.slices)


def test_the_patient_is_copied_and_bad_values_are_left_empty(tmp_path: Path) -> None:
    source = make_source(tmp_path / "good", **SOURCES["ct"])
    seg = pydicom.dcmread(write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm"))
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        assert str(seg[name].value) == PATIENT[name]
    assert seg.StudyInstanceUID == source.study_uid
    bare = make_source(tmp_path / "bare", **SOURCES["bare"])
    seg = pydicom.dcmread(write_dicom_seg(kidneys(bare), bare, tmp_path / "seg.dcm"))
    assert seg.PatientBirthDate == seg.PatientSex == seg.StudyID == ""
    assert seg.FrameOfReferenceUID.startswith("2.25.")
    assert seg.SeriesDate == "20190807", "the first date that is one"


def test_an_identity_that_is_too_long_is_kept(tmp_path: Path) -> None:
    change = {"PatientID": "7" * 80, "PatientName": "Long^" + "n" * 90, "StudyID": "s" * 30}
    source = make_source(tmp_path / "source", **SOURCES["ct"], change=change)
    seg = pydicom.dcmread(write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the length
        assert seg.PatientID == change["PatientID"]
        assert str(seg.PatientName) == change["PatientName"]
    assert seg.StudyID == ""


def test_an_identifier_with_backslashes_stays_one_value(tmp_path: Path) -> None:
    source = make_source(
        tmp_path / "source", **SOURCES["ct"], change={"PatientID": "C:\\..\\x", "SliceThickness": [2, 3]}
    )
    path = write_dicom_seg(kidneys(source), source, tmp_path / "seg.dcm")
    assert pydicom.dcmread(path).PatientID == "C:/../x"
    assert complaints(path) == []


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def ear() -> Iterator[_Ear]:
    handler, root = _Ear(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def test_no_patient_value_is_logged(ct: DicomSource, ear: _Ear, tmp_path: Path) -> None:
    write_dicom_seg(kidneys(ct), ct, tmp_path / "seg.dcm")
    text = "\n".join(ear.heard).lower()
    assert "canary" not in text
    assert uid(3) not in text


@pytest.mark.parametrize("broken", [{"study_uid": ""}, {"series_uid": "invalid-12ab"}])
def test_a_source_that_nothing_can_refer_to_is_refused(
    ct: DicomSource, broken: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(WriteError) as caught:
        write_dicom_seg(kidneys(ct), replace(ct, **cast("Any", broken)), tmp_path / "seg.dcm")
    assert caught.value.code == "SOURCE_WITHOUT_UID"
    assert list(tmp_path.glob("*seg*")) == []


def test_a_source_that_is_gone_is_refused(ct: DicomSource, tmp_path: Path) -> None:
    ct.slices[0].file.path.unlink()
    with pytest.raises(WriteError) as caught:
        write_dicom_seg(kidneys(ct), ct, tmp_path / "seg.dcm")
    assert caught.value.code == "SOURCE_MISSING"
    assert str(tmp_path) not in str(caught.value)


def test_too_many_segments_are_refused(ct: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(ct)
    geometry = Geometry.from_spacing((300, 300, 1))
    many = np.arange(90_000, dtype=np.int32).reshape(300, 300, 1)
    objects = InstanceVolume(many, geometry, labels.labels, dict.fromkeys(range(90_000), 7))
    classes = LabelVolume(np.full((300, 300, 1), 7, dtype=np.uint8), geometry, labels.labels)
    with pytest.raises(WriteError) as caught:
        write_dicom_seg(classes, ct, tmp_path / "seg.dcm", instances=objects)
    assert caught.value.code == "TOO_MANY_SEGMENTS"


def test_objects_on_another_grid_are_refused(ct: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(ct)
    with pytest.raises(GeometryError):
        write_dicom_seg(
            labels, ct, tmp_path / "seg.dcm", instances=lesions_of(labels).crop((0, 0, 0), (4, 4, 4))
        )


def test_a_source_in_a_zip_serves_too(ct: DicomSource, tmp_path: Path) -> None:
    import zipfile

    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for plane in ct.slices:
            zipped.write(plane.file.path, f"x/{plane.file.path.name}")
    inside = tuple(
        replace(s, file=replace(s.file, path=archive, member=f"x/{s.file.path.name}")) for s in ct.slices
    )
    plain = write_dicom_seg(kidneys(ct), ct, tmp_path / "a.dcm")
    zipped_one = write_dicom_seg(kidneys(ct), replace(ct, slices=inside), tmp_path / "b.dcm")
    assert plain.read_bytes() == zipped_one.read_bytes()


def test_large_ids_and_wide_types(ct: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(ct)
    large = np.where(labels.array == 7, 2**30, labels.array.astype(np.int64))
    names = LabelSet.from_names({3: "left kidney", 2**30: "lesion", 9: "other"})
    path = write_dicom_seg(LabelVolume(large, labels.geometry, names), ct, tmp_path / "seg.dcm")
    numbers = np.zeros_like(labels.array)
    numbers[labels.array == 3], numbers[labels.array == 9], numbers[labels.array == 7] = 1, 2, 3
    assert np.array_equal(pixels_by_slice(path, ct), labels_on_slices(LabelVolume(numbers, ct.grid), ct))
