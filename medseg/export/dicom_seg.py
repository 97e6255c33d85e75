"""DICOM Segmentation (SEG): the labels of a result on the original slices of its series.

Written by highdicom. BINARY, one bit per pixel and segment, is what archives and viewers take
today; LABELMAP (Supplement 243), one number per pixel, is hundreds of times smaller for many
segments, and not yet shown by most viewers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt

from medseg.export.dicom_context import (
    MANUFACTURER,
    DicomContext,
    complete,
    dicom_context,
    image_reference,
    source_references,
    stand_in_uid,
    stand_ins,
)
from medseg.export.dicom_segments import Segment, long_string, segments_of
from medseg.export.dicom_uids import medseg_version, result_digest, uid_of
from medseg.files import whole_file
from medseg.io.dicom_quiet import quiet_libraries
from medseg.io.dicom_source import DicomSource, labels_on_slices
from medseg.labels import Code
from medseg.result import RunRecord
from medseg.volume import InstanceVolume, LabelVolume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SegKind = Literal["binary", "labelmap"]

SERIES_NUMBERS = {"binary": 901, "labelmap": 902}

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"


def write_dicom_seg(
    labels: LabelVolume,
    source: DicomSource,
    path: str | Path,
    *,
    instances: InstanceVolume | None = None,
    record: RunRecord | None = None,
    kind: SegKind = "binary",
) -> Path:
    """Write labels as DICOM SEG on the slices of their source, tilted and uneven ones included.

    One segment per class, or per object where objects were separated (`dicom_segments`). The same
    result gives the same bytes: identifiers follow from the content, dates are the source's.

    Args:
        labels: on any grid of the source's world; every pixel takes the nearest voxel.
        source: slices, with files still in place for the patient's attributes.
        path: file to write, whole or not at all.
        instances: separated objects on the labels' grid.
        record: names the model.
        kind: `"binary"`, or `"labelmap"` with lossless JPEG-LS.

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
    planes = labels_on_slices(numbers, source)
    with quiet_libraries():
        dataset = _segmentation(context, segments, planes, record, kind)
        _refer_to_source(dataset, context)
        complete(dataset, context, f"seg {kind}")
        _steady_dimensions(dataset, context, kind)
        with whole_file(path) as stream:
            dataset.save_as(stream, enforce_file_format=True)
    return path


def _segmentation(
    context: DicomContext,
    segments: tuple[Segment, ...],
    planes: npt.NDArray[Any],
    record: RunRecord,
    kind: SegKind,
) -> Dataset:
    import highdicom

    images = stand_ins(context)
    further: list[Dataset] = []
    if kind == "binary" and not planes.any():
        # highdicom writes all planes of all segments when none has a pixel; one plane says it too
        images, further, planes = images[:1], images[1:], planes[:1]
    return highdicom.seg.Segmentation(
        source_images=images,
        further_source_images=further,
        pixel_array=planes,
        segmentation_type=kind.upper(),
        segment_descriptions=[_description(segment, record) for segment in segments],
        series_instance_uid=uid_of(f"seg {kind}", "series", context.digest),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=uid_of(f"seg {kind}", "instance", context.digest),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=medseg_version(),
        device_serial_number="1",
        content_label="SEGMENTATION",
        content_description=long_string(f"{algorithm_name(record)} segmentation"),
        content_date=context.date,
        content_time=context.time,
        series_description=long_string(f"{algorithm_name(record)} segmentation"),
        specific_character_set="ISO_IR 192",
        transfer_syntax_uid=_JPEG_LS_LOSSLESS if kind == "labelmap" else _EXPLICIT_LITTLE_ENDIAN,
        # a label map keeps its empty planes: they cost nothing, and it then holds the whole grid
        omit_empty_frames=kind == "binary",
    )


def algorithm_name(record: RunRecord) -> str:
    """Name of what made the labels: the model, or medseg where none ran."""
    return long_string(record.model or "medseg")


def algorithm_version(record: RunRecord) -> str:
    """Version of the model, else of medseg."""
    return long_string(record.model_version or medseg_version())


def concept(code: Code) -> Any:
    """A term as highdicom takes it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, long_string(code.meaning))


def _description(segment: Segment, record: RunRecord) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    description = highdicom.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=concept(segment.term.category),
        segmented_property_type=concept(segment.term.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm_name(record),
            family=codes.DCM.ArtificialIntelligence,
            version=algorithm_version(record),
            source=MANUFACTURER,
        ),
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.name,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment.term.colour),
    )
    if segment.term.side is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [concept(segment.term.side)]
    return description


def _refer_to_source(dataset: Dataset, context: DicomContext) -> None:
    """Put the true source images in place of the stand-ins."""
    references = source_references(context)
    dataset.SourceImageSequence = references
    series = type(references[0])()
    series.SeriesInstanceUID = context.series_uid
    series.ReferencedInstanceSequence = references
    dataset.ReferencedSeriesSequence = [series]
    true_of = {stand_in_uid(n): n for n in range(len(context.source.slices))}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in frame.DerivationImageSequence:
            for item in derivation.SourceImageSequence:
                index = true_of.get(item.ReferencedSOPInstanceUID)
                if index is None:  # frames of one plane share the item: it is done
                    continue
                item.update(image_reference(context, index))
                if context.source.slices[index].tile is not None:
                    item.SpatialLocationsPreserved = "NO"


def _steady_dimensions(dataset: Dataset, context: DicomContext, kind: SegKind) -> None:
    """Replace highdicom's random dimension organization UID, which would make reruns differ."""
    uid = uid_of(f"seg {kind}", "dimensions", context.digest)
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
