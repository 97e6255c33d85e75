"""RT structure sets: valid, on the slices, holes and exact areas, decimal strings that fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import PATIENT, SOURCES, UNEVEN, complaints, kidneys, lesions_of, make_source
from phantoms import Sphere, mask_of

from medseg.export.contours import area
from medseg.export.dicom_rtstruct import write_dicom_rtstruct
from medseg.io.dicom_rtstruct_reader import read_dicom_rtstruct
from medseg.io.dicom_source import DicomSource
from medseg.labels import LabelSet
from medseg.result import RunRecord
from medseg.volume import LabelVolume


@pytest.fixture(params=[*SOURCES, "uneven"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DicomSource:
    return make_source(tmp_path / "source", **{**SOURCES, "uneven": UNEVEN}[request.param])


def test_every_object_is_valid_and_each_contour_lies_on_its_slice(
    source: DicomSource, tmp_path: Path
) -> None:
    path = write_dicom_rtstruct(kidneys(source), source, tmp_path / "rt.dcm")
    assert complaints(path) == []
    place = {(s.sop_instance_uid, s.frame): s for s in source.slices}
    for roi in pydicom.dcmread(path).ROIContourSequence:
        for contour in roi.get("ContourSequence", ()):
            image = contour.ContourImageSequence[0]
            plane = place[image.ReferencedSOPInstanceUID, int(image.get("ReferencedFrameNumber", 0))]
            points = np.array([float(x) for x in contour.ContourData]).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 4
            assert np.abs((points - plane.position_mm) @ plane.normal).max() < 2e-4
            raw = contour.get_item("ContourData").value
            words = raw.split(b"\\") if isinstance(raw, bytes) else [str(x).encode() for x in raw]
            assert max(map(len, words)) <= 16


def test_filling_it_again_gives_the_labels(source: DicomSource, tmp_path: Path) -> None:
    if source.slices[0].position_mm[2] == 0:
        pytest.skip("uneven slices have no grid that holds them all")
    labels = kidneys(source)
    path = write_dicom_rtstruct(labels, source, tmp_path / "rt.dcm")
    back = read_dicom_rtstruct(path, grid=source.grid)
    assert back.labels.names == {1: "left kidney", 2: "lesion", 3: "Ödem"}
    assert back.labels.find(3).colour == (1, 2, 3)
    for number, class_id in ((1, 3), (2, 7), (3, 9)):
        assert np.array_equal(back.array == number, labels.array == class_id)


def test_a_hollow_ball_keeps_its_hole_and_its_volume(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"], size=(64, 64))
    centre = tuple(source.grid.to_world((31.5, 31.5, 2.5)))
    ball = mask_of(Sphere(centre, 20.0), source.grid) & ~mask_of(Sphere(centre, 9.0), source.grid)
    labels = LabelVolume(ball.astype(np.uint8), source.grid, LabelSet.from_names({1: "liver"}))
    path = write_dicom_rtstruct(labels, source, tmp_path / "rt.dcm")
    contours = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence
    assert len(contours) == 6, "one polygon per slice: the hole is tied to its rim"
    total = 0.0
    for contour in contours:
        points = np.array([float(x) for x in contour.ContourData]).reshape(-1, 3)
        total += area(points[:, :2])
    assert total * 2.5 == pytest.approx(ball.sum() * source.grid.voxel_volume_mm3, rel=1e-5)
    assert np.array_equal(read_dicom_rtstruct(path, grid=source.grid).array, labels.array)


def test_an_empty_result_is_a_valid_object(source: DicomSource, tmp_path: Path) -> None:
    labels = kidneys(source)
    for names in (labels.labels, LabelSet()):
        empty = replace(labels, array=np.zeros_like(labels.array), labels=names)
        path = write_dicom_rtstruct(empty, source, tmp_path / "rt.dcm")
        assert complaints(path) == []


def test_objects_references_and_patient_stand_in_it(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    labels = kidneys(source)
    record = RunRecord(model="brain-mri")
    path = write_dicom_rtstruct(
        labels, source, tmp_path / "rt.dcm", instances=lesions_of(labels), record=record
    )
    data = pydicom.dcmread(path)
    names = [item.ROIName for item in data.StructureSetROISequence]
    assert names == ["left kidney", "lesion (rest)", "lesion 1", "lesion 2", "Ödem"]
    assert str(data.PatientName) == PATIENT["PatientName"]
    assert data.StructureSetLabel == "brain-mri"
    series = (
        data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    )
    assert [i.ReferencedSOPInstanceUID for i in series.ContourImageSequence] == [
        s.sop_instance_uid for s in source.slices
    ]
    assert data.RTROIObservationsSequence[0].RTROIInterpretedType == "ORGAN"
    before = path.read_bytes()
    write_dicom_rtstruct(labels, source, path, instances=lesions_of(labels), record=record)
    assert path.read_bytes() == before


def test_contours_of_more_than_64_kilobytes_are_whole(tmp_path: Path) -> None:
    """Explicit encoding could not hold them; a comb along every second pixel makes such a contour."""
    source = make_source(tmp_path / "source", **SOURCES["single"], size=(200, 200))
    comb = np.zeros((200, 200, 1), dtype=np.uint8)
    comb[::2] = 1
    comb[:, ::10] = 1
    labels = LabelVolume(comb, source.grid, LabelSet.from_names({1: "liver"}))
    path = write_dicom_rtstruct(labels, source, tmp_path / "rt.dcm")
    assert complaints(path) == []
    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert sum(len(str(x)) + 1 for x in contour.ContourData) > 65534
    assert np.array_equal(read_dicom_rtstruct(path, grid=source.grid).array, comb)
