"""DICOM structured report (TID 1500): a volume per segment and per lesion.

Each measurement group names the segment that it measures in a SEG of the same result, and shares
its tracking identifier, so that a viewer leads from the number to the voxels and back.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import WriteError
from medseg.export.dicom_context import (
    MANUFACTURER,
    DicomContext,
    complete,
    dicom_context,
    source_references,
    stand_ins,
)
from medseg.export.dicom_seg import algorithm_name, algorithm_version, concept
from medseg.export.dicom_segments import Segment, segments_of
from medseg.export.dicom_uids import medseg_version, result_digest, uid_of
from medseg.export.segment_codes import CATEGORIES
from medseg.files import whole_file
from medseg.io.dicom_quiet import quiet_libraries
from medseg.io.dicom_source import DicomSource
from medseg.labels import Code
from medseg.measure.regions import measure_regions
from medseg.result import RunRecord
from medseg.volume import InstanceVolume, LabelVolume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 904

_PROCEDURES = {
    "CT": Code("SCT", "77477000", "Computed Tomography X-Ray"),
    "MR": Code("SCT", "113091000", "Magnetic Resonance Imaging"),
    "PT": Code("SCT", "82918005", "Positron Emission Tomography"),
}
_ANY_PROCEDURE = Code("SCT", "363679005", "Imaging procedure")


def write_dicom_report(
    labels: LabelVolume,
    source: DicomSource,
    path: str | Path,
    *,
    segmentation: str | Path,
    instances: InstanceVolume | None = None,
    record: RunRecord | None = None,
) -> Path:
    """Write the volumes of a result as a TID 1500 measurement report.

    Volumes are those of the labels as given (voxels times the volume of one), not of the pixels on
    the slices, so that they equal `regions.csv`. The same result gives the same bytes.

    Args:
        labels: classes.
        source: slices, with files still in place for the patient's attributes.
        path: file to write, whole or not at all.
        segmentation: SEG of the same labels and objects, written before; a BINARY one, since the
            checkers of reports do not know label maps yet.
        instances: separated objects on the labels' grid.
        record: names the model.

    Returns:
        The path.

    Raises:
        WriteError: `SEGMENTATION_DIFFERS` where the SEG is of another result; `SOURCE_WITHOUT_UID`,
            `SOURCE_MISSING`, `TOO_MANY_SEGMENTS`, or the file cannot be written.
        GeometryError: labels and instances lie on two grids.
    """
    path = Path(path)
    record = record or RunRecord()
    context = dicom_context(source, result_digest(labels, source, instances, record))
    segments, numbers = segments_of(labels, instances, context.digest)
    volumes = {region.id: region.volume_mm3 for region in measure_regions(numbers)}
    with quiet_libraries():
        seg = _segmentation_header(Path(segmentation), segments)
        groups = [
            _group(segment, volumes.get(segment.number, 0.0), seg, context, record) for segment in segments
        ]
        dataset = _report(groups, seg, context, record)
        complete(dataset, context, "report")
        _refer_to_evidence(dataset, seg, context)
        with whole_file(path) as stream:
            dataset.save_as(stream, enforce_file_format=True)
    return path


def _segmentation_header(path: Path, segments: tuple[Segment, ...]) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SegmentSequence"]
    try:
        seg = dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
        there = {item.get("TrackingUID"): int(item.SegmentNumber) for item in seg.SegmentSequence}
    except (OSError, InvalidDicomError, AttributeError) as error:
        raise _other_segmentation() from error
    if any(there.get(segment.tracking_uid) != segment.number for segment in segments):
        raise _other_segmentation()
    return seg


def _other_segmentation() -> WriteError:
    return WriteError(
        "SEGMENTATION_DIFFERS",
        "expected the DICOM SEG of the same labels and objects, got another; write that of this result first",
    )


def _group(
    segment: Segment, volume_mm3: float, seg: Dataset, context: DicomContext, record: RunRecord
) -> Any:
    """TID 1411 of one segment."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    side = segment.term.side
    site = None
    if side is not None and segment.term.category == CATEGORIES["anatomy"]:
        site = [sr.FindingSite(concept(segment.term.type), laterality=concept(side))]
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=segment.tracking_uid, identifier=segment.name),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=segment.number,
            source_series=sr.SourceSeriesForSegmentation(context.series_uid),
        ),
        finding_category=concept(segment.term.category),
        finding_type=concept(segment.term.type),
        finding_sites=site,
        algorithm_id=sr.AlgorithmIdentification(algorithm_name(record), algorithm_version(record)),
        measurements=[
            sr.Measurement(
                name=codes.SCT.Volume,
                value=round(volume_mm3, 6),
                unit=sr.CodedConcept("mm3", "UCUM", "cubic millimeter"),
            )
        ],
    )


def _report(groups: list[Any], seg: Dataset, context: DicomContext, record: RunRecord) -> Dataset:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", medseg_version()),
            name=algorithm_name(record),
            manufacturer_name=MANUFACTURER,
            model_name=MANUFACTURER,
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=concept(_PROCEDURES.get(context.source.modality, _ANY_PROCEDURE)),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = stand_ins(context)[0]
    evidence.SOPClassUID, evidence.SOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    return sr.Comprehensive3DSR(
        evidence=[evidence],
        content=content[0],
        series_instance_uid=uid_of("report", "series", context.digest),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid_of("report", "instance", context.digest),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        series_description="Volumes of segments",
        content_date=context.date,
        content_time=context.time,
        specific_character_set="ISO_IR 192",
    )


def _refer_to_evidence(dataset: Dataset, seg: Dataset, context: DicomContext) -> None:
    """Name the SEG and the source images where highdicom saw a stand-in."""
    from pydicom.dataset import Dataset

    study, own, series = Dataset(), Dataset(), Dataset()
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = seg.SOPClassUID, seg.SOPInstanceUID
    own.ReferencedSOPSequence = [item]
    own.SeriesInstanceUID = seg.SeriesInstanceUID
    series.ReferencedSOPSequence = source_references(context)
    series.SeriesInstanceUID = context.series_uid
    study.ReferencedSeriesSequence = [own, series]
    study.StudyInstanceUID = context.study_uid
    dataset.CurrentRequestedProcedureEvidenceSequence = [study]
    if "PertinentOtherEvidenceSequence" in dataset:
        del dataset.PertinentOtherEvidenceSequence
