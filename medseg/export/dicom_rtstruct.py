"""DICOM RT Structure Set: the labels of a result as contours on the original slices.

Written with pydicom alone. Contours run along pixel edges (`contours`), so they enclose exactly
the voxels; a hole is tied to its rim by a channel, which every planning system reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.export.contours import outlines
from medseg.export.dicom_context import (
    DicomContext,
    complete,
    decimal_strings,
    dicom_context,
    image_reference,
    source_references,
)
from medseg.export.dicom_segments import Segment, long_string, segments_of
from medseg.export.dicom_uids import result_digest
from medseg.export.segment_codes import CATEGORIES
from medseg.files import whole_file
from medseg.io.dicom_quiet import quiet_libraries
from medseg.io.dicom_source import DicomSource, SourceSlice, labels_on_slices
from medseg.labels import Code
from medseg.result import RunRecord
from medseg.volume import InstanceVolume, LabelVolume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
SERIES_NUMBER = 903

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management: retired, and still what the standard's modules ask to name here."""

_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
"""Explicit encoding gives Contour Data only 65,534 bytes, less than a large contour needs."""

_DECIMALS = 4
"""Of a contour's coordinates in mm: a ten-thousandth of a mm, and far below 16 characters."""


@dataclass(frozen=True)
class _Contour:
    """One closed polygon of a segment.

    Attributes:
        slice_index: place in `DicomSource.slices`.
        points: `(n, 2)` of (column, row).
    """

    slice_index: int
    points: npt.NDArray[np.float64]


def write_dicom_rtstruct(
    labels: LabelVolume,
    source: DicomSource,
    path: str | Path,
    *,
    instances: InstanceVolume | None = None,
    record: RunRecord | None = None,
) -> Path:
    """Write labels as a DICOM RT Structure Set, one region of interest per segment.

    Segments, names and numbers are those of the SEG of the same result. The same result gives the
    same bytes.

    Args:
        labels: on any grid of the source's world; every pixel takes the nearest voxel.
        source: slices, with files still in place for the patient's attributes.
        path: file to write, whole or not at all.
        instances: separated objects on the labels' grid.
        record: names the model.

    Returns:
        The path.

    Raises:
        WriteError: `SOURCE_WITHOUT_UID`, `SOURCE_MISSING`, `TOO_MANY_SEGMENTS`, or the file cannot
            be written.
        GeometryError: labels and instances lie on two grids.
    """
    path = Path(path)
    record = record or RunRecord()
    context = dicom_context(source, result_digest(labels, source, instances, record))
    segments, numbers = segments_of(labels, instances, context.digest)
    contours: dict[int, list[_Contour]] = {segment.number: [] for segment in segments}
    for number, contour in _contours(labels_on_slices(numbers, source)):
        contours[number].append(contour)
    with quiet_libraries():
        dataset = _structure_set(context, segments, record)
        dataset.ROIContourSequence = [
            _roi_contour(segment, contours[segment.number], context) for segment in segments
        ]
        with whole_file(path) as stream:
            dataset.save_as(stream, enforce_file_format=True)
    return path


def _contours(planes: npt.NDArray[Any]) -> Iterator[tuple[int, _Contour]]:
    """(segment number, contour) of every slice, each mask cut to its box before it is traced."""
    from scipy.ndimage import find_objects

    for index, plane in enumerate(planes):
        for number, box in enumerate(find_objects(plane), start=1):
            if box is not None:
                offset = (box[1].start, box[0].start)
                for points in outlines(plane[box] == number):
                    yield number, _Contour(index, points + offset)


def contour_mm(points: npt.NDArray[np.float64], plane: SourceSlice) -> npt.NDArray[np.float64]:
    """LPS mm `(n, 3)` of (column, row) points on a slice (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1)."""
    between_rows, between_columns = plane.pixel_spacing_mm
    across = points[:, :1] * between_columns * np.array(plane.row_direction)
    down = points[:, 1:] * between_rows * np.array(plane.column_direction)
    return np.asarray(np.array(plane.position_mm) + across + down)


def _coordinates(values_mm: npt.NDArray[np.float64]) -> list[str]:
    """Decimal strings of at most 16 characters."""
    if np.abs(values_mm).max() >= 1e9:
        return decimal_strings(values_mm)
    rounded = np.round(values_mm, _DECIMALS) + 0.0
    return [text.rstrip("0").rstrip(".") for text in (f"{value:.{_DECIMALS}f}" for value in rounded)]


def _roi_contour(segment: Segment, contours: list[_Contour], context: DicomContext) -> Dataset:
    from pydicom.dataset import Dataset

    roi = Dataset()
    roi.ROIDisplayColor = list(segment.term.colour)
    roi.ReferencedROINumber = segment.number
    items = []
    for number, contour in enumerate(contours, start=1):
        item = Dataset()
        item.ContourImageSequence = [image_reference(context, contour.slice_index)]
        item.ContourGeometricType = "CLOSED_PLANAR"
        item.NumberOfContourPoints = len(contour.points)
        item.ContourNumber = number
        plane = context.source.slices[contour.slice_index]
        item.ContourData = _coordinates(contour_mm(contour.points, plane).ravel())
        items.append(item)
    if items:
        roi.ContourSequence = items
    return roi


def _structure_set(context: DicomContext, segments: tuple[Segment, ...], record: RunRecord) -> Dataset:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(RTSTRUCT_CLASS)
    meta.TransferSyntaxUID = UID(_IMPLICIT_LITTLE_ENDIAN)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = RTSTRUCT_CLASS
    complete(dataset, context, "rtstruct")
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    name = long_string(record.model or "medseg")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, 1
    dataset.SeriesDescription = long_string(f"{name} structures")
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = context.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.StructureSetLabel = long_string(name, 16)
    dataset.StructureSetName = name
    dataset.StructureSetDate, dataset.StructureSetTime = context.date, context.time
    dataset.ApprovalStatus = "UNAPPROVED"

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = context.series_uid
    series.ContourImageSequence = source_references(context)
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = context.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = context.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence = [_roi(segment, context, name) for segment in segments]
    dataset.RTROIObservationsSequence = [_observation(segment) for segment in segments]
    return dataset


def _roi(segment: Segment, context: DicomContext, algorithm: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber = segment.number
    item.ReferencedFrameOfReferenceUID = context.frame_of_reference_uid
    item.ROIName = segment.name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = algorithm
    return item


def _observation(segment: Segment) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = segment.number
    item.ReferencedROINumber = segment.number
    item.ROIObservationLabel = long_string(segment.name, 16)
    item.RTROIIdentificationCodeSequence = [_code_item(segment.term.type)]
    item.RTROIInterpretedType = "ORGAN" if segment.term.category == CATEGORIES["anatomy"] else ""
    item.ROIInterpreter = ""
    return item


def _code_item(code: Code) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.value, code.scheme
    item.CodeMeaning = long_string(code.meaning)
    return item
