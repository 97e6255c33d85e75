"""TID 1500 reports: valid, one volume per segment and per lesion, the SEG's own tracking identifiers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_makers import (
    PATIENT,
    SOURCES,
    complaints,
    installed_program,
    kidneys,
    lesions_of,
    make_source,
)
from highdicom.sr import srread

from medseg.errors import WriteError
from medseg.export.dicom_report import write_dicom_report
from medseg.export.dicom_seg import write_dicom_seg
from medseg.io.dicom_source import DicomSource
from medseg.result import RunRecord
from medseg.volume import InstanceVolume, LabelVolume

RECORD = RunRecord(model="brain-mri", model_version="1.2")


def write_both(
    source: DicomSource, folder: Path, labels: LabelVolume, objects: InstanceVolume | None = None
) -> tuple[Path, Path]:
    seg = write_dicom_seg(labels, source, folder / "seg.dcm", instances=objects, record=RECORD)
    report = write_dicom_report(
        labels, source, folder / "sr.dcm", segmentation=seg, instances=objects, record=RECORD
    )
    return seg, report


def groups_of(report: Path) -> list[Any]:
    content: Any = srread(report).content
    return list(content.get_volumetric_roi_measurement_groups())


def volumes_of(report: Path) -> dict[str, float]:
    """Tracking UID -> volume in mm3."""
    found = {}
    for group in groups_of(report):
        (measurement,) = group.get_measurements()
        assert measurement.unit.value == "mm3"
        assert measurement.name.meaning == "Volume"
        found[str(group.tracking_uid)] = float(measurement.value)
    return found


@pytest.mark.parametrize("name", ["ct", "mr oblique", "enhanced ct", "enhanced mr", "tilted", "bare"])
def test_a_report_is_valid_and_holds_every_volume(name: str, tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES[name])
    labels = kidneys(source)
    objects = lesions_of(labels)
    seg, report = write_both(source, tmp_path, labels, objects)
    assert complaints(report) == []
    rest = (labels.array == 7) & (objects.array == 0)
    masks = [labels.array == 3, rest, objects.array == 1, objects.array == 2, labels.array == 9]
    uids = [item.TrackingUID for item in pydicom.dcmread(seg).SegmentSequence]
    voxel = abs(np.linalg.det(labels.geometry.affine[:3, :3]))
    expected = {uid: float(mask.sum() * voxel) for uid, mask in zip(uids, masks, strict=True)}
    assert volumes_of(report) == pytest.approx(expected, rel=1e-6)


def test_an_empty_result_reports_nothing_found(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    labels = LabelVolume(np.zeros(source.grid.shape, np.uint8), source.grid, kidneys(source).labels)
    _, report = write_both(source, tmp_path, labels)
    assert complaints(report) == []
    assert list(volumes_of(report).values()) == [0.0, 0.0, 0.0]


def test_it_leads_to_the_segmentation_and_the_images(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    seg, report = write_both(source, tmp_path, kidneys(source))
    data, target = pydicom.dcmread(report), pydicom.dcmread(seg)
    (study,) = data.CurrentRequestedProcedureEvidenceSequence
    named = {
        i.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence
    }
    assert named == {target.SOPInstanceUID, *(s.sop_instance_uid for s in source.slices)}
    assert study.StudyInstanceUID == source.study_uid
    assert str(data.PatientName) == PATIENT["PatientName"]
    groups = groups_of(report)
    assert [group.tracking_identifier for group in groups] == ["left kidney", "lesion", "Ödem"]
    assert groups[0].finding_sites[0].laterality.meaning == "Left"


def test_dcmqi_reads_it(tmp_path: Path) -> None:
    program = installed_program("tid1500reader", "dcmqi")
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    _, report = write_both(source, tmp_path, kidneys(source))
    out = tmp_path / "sr.json"
    subprocess.run(
        [program, "--inputDICOM", str(report), "--outputMetadata", str(out)], check=True, capture_output=True
    )
    groups: list[dict[str, Any]] = json.loads(out.read_text())["Measurements"]
    assert [group["ReferencedSegment"] for group in groups] == [1, 2, 3]
    stated = {g["TrackingUniqueIdentifier"]: float(g["measurementItems"][0]["value"]) for g in groups}
    assert stated == pytest.approx(volumes_of(report))


def test_the_same_result_is_the_same_file(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    labels = kidneys(source)
    _, first = write_both(source, tmp_path, labels)
    before = first.read_bytes()
    _, second = write_both(source, tmp_path, labels)
    assert second.read_bytes() == before


def test_the_segmentation_of_another_result_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", **SOURCES["ct"])
    seg = write_dicom_seg(kidneys(source, seed=1), source, tmp_path / "seg.dcm", record=RECORD)
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM")
    for wrong in (seg, text, tmp_path / "absent.dcm"):
        with pytest.raises(WriteError) as caught:
            write_dicom_report(
                kidneys(source), source, tmp_path / "sr.dcm", segmentation=wrong, record=RECORD
            )
        assert caught.value.code == "SEGMENTATION_DIFFERS"
    assert not (tmp_path / "sr.dcm").exists()
