"""What a new DICOM object takes over from its source: patient, study, place, and the references.

highdicom copies these from the source images and refuses images that lack some. So it is given
clean stand-ins without a patient (`stand_ins`), and what it made is completed here: the patient's
attributes as the source states them (cured: a value that its attribute cannot hold is left
empty), the true references, and dates and identifiers that a rerun makes again. Patient values
thus never pass through a library that logs.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.errors import WriteError
from medseg.export.dicom_uids import is_uid, medseg_version, uid_of
from medseg.io.dicom_quiet import quiet_libraries
from medseg.io.dicom_source import DicomSource, SourceFile

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "medseg"

_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 2 attributes of the patient and general study modules: present, empty where unknown."""

_OPTIONAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
)
"""Copied where the source has them."""

_IDENTITY = ("PatientName", "PatientID")
"""Copied even where they are longer than DICOM allows: a result without them belongs to nobody."""

_DATES = ("SeriesDate", "ContentDate", "AcquisitionDate", "StudyDate")
_TIMES = ("SeriesTime", "ContentTime", "AcquisitionTime", "StudyTime")
_OTHER = ("SpecificCharacterSet", "SliceThickness")

_NO_DATE = "19000101"
"""Content date (type 1) where the source has no date at all."""


@dataclass(frozen=True, eq=False)
class DicomContext:
    """One source, ready to be referred to.

    Attributes:
        source: its slices.
        patient: patient and study attributes to be copied, cured, as UTF-8 text.
        study_uid: of the study.
        series_uid: of the series.
        frame_of_reference_uid: the source's, or one made from the series where it has none.
        slice_thickness_mm: above 0.
        date: DICOM date of the source, the date of everything that is written.
        time: DICOM time.
        digest: of the result, see `dicom_uids.result_digest`.
    """

    source: DicomSource
    patient: Dataset
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    slice_thickness_mm: float
    date: str
    time: str
    digest: str


def dicom_context(source: DicomSource, digest: str) -> DicomContext:
    """Read what the objects need from the source's first file and check its identifiers.

    Raises:
        WriteError: `SOURCE_WITHOUT_UID` where study, series or an instance has no valid UID, so that
            nothing can refer to it; `SOURCE_MISSING` where the file is gone or damaged.
    """
    named = [("study", source.study_uid), ("series", source.series_uid)]
    named += [("image", plane.sop_instance_uid) for plane in source.slices]
    for what, uid in named:
        if not is_uid(uid):
            raise WriteError(
                "SOURCE_WITHOUT_UID",
                f"expected a valid UID for each study, series and image, got a {what} without one, so that "
                "no DICOM object can refer to it; re-export the series from the archive, or write NIfTI",
            )
    header = _read_header(source.files[0])
    frame_of_reference = source.frame_of_reference_uid
    if not is_uid(frame_of_reference):
        frame_of_reference = uid_of("frame of reference", source.series_uid)
    return DicomContext(
        source=source,
        patient=_patient_of(header),
        study_uid=source.study_uid,
        series_uid=source.series_uid,
        frame_of_reference_uid=frame_of_reference,
        slice_thickness_mm=_slice_thickness(header, source),
        date=next(filter(None, (_valid(header, name) for name in _DATES)), _NO_DATE),
        time=next(filter(None, (_valid(header, name) for name in _TIMES)), "000000"),
        digest=digest,
    )


def _read_header(file: SourceFile) -> Dataset:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    wanted = [*_REQUIRED, *_OPTIONAL, *_DATES, *_TIMES, *_OTHER]
    try:
        with quiet_libraries():
            stream: Any = io.BytesIO(_member_bytes(file)) if file.member else file.path.open("rb")
            with stream:
                header = dcmread(stream, stop_before_pixels=True, specific_tags=list(dict.fromkeys(wanted)))
                header.decode()
                return header
    except (OSError, KeyError, zipfile.BadZipFile, InvalidDicomError) as error:
        raise WriteError(
            "SOURCE_MISSING",
            "expected the DICOM files that the volume was read from, got one that is gone or changed; "
            "keep them in place until the result is written",
        ) from error


def _member_bytes(file: SourceFile) -> bytes:
    with zipfile.ZipFile(file.path) as archive:
        return archive.read(file.member)


def _valid(header: Dataset, name: str) -> str:
    """Text of an element, or empty where it is absent or no legal value of its kind."""
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.multival import MultiValue
    from pydicom.valuerep import validate_value

    with quiet_libraries():
        value = header.get(name)
        parts = value if isinstance(value, MultiValue) else [value]
        text = "\\".join("" if part is None else str(part).strip("\0 ") for part in parts)
        vr = dictionary_VR(name)
        if vr in ("DA", "TM", "CS", "AS", "DS") and "\\" in text:
            return ""
        text = "".join(c for c in text if c >= " ")
        if name == "PatientSex" and text not in ("M", "F", "O"):
            return ""
        if name in _IDENTITY:
            return text.replace("\\", "/")
        try:
            validate_value(vr, text, RAISE)
        except (ValueError, TypeError):
            return ""
    return text.replace("\\", "/") if vr in ("LO", "SH", "PN") else text


def _patient_of(header: Dataset) -> Dataset:
    from pydicom.dataset import Dataset

    patient = Dataset()
    with quiet_libraries():
        patient.SpecificCharacterSet = "ISO_IR 192"
        for name in _REQUIRED:
            setattr(patient, name, _valid(header, name))
        for name in _OPTIONAL:
            if text := _valid(header, name):
                setattr(patient, name, text)
        if patient.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in patient:
            patient.DeidentificationMethod = "not stated by the source"
    return patient


def _slice_thickness(header: Dataset, source: DicomSource) -> float:
    """The header's, else the distance of the slices, else the spacing of the pixels."""
    text = _valid(header, "SliceThickness")
    stated = float(text) if text else 0.0
    if np.isfinite(stated) and 0 < stated < 1e4:
        return stated
    positions = [np.dot(s.position_mm, source.slices[0].normal) for s in source.slices]
    gaps = np.abs(np.diff(positions))
    gaps = gaps[gaps > 1e-6]
    return float(gaps.min()) if len(gaps) else source.slices[0].pixel_spacing_mm[0]


def stand_in_uid(index: int) -> str:
    """Instance UID of the stand-in for a slice."""
    return f"2.25.{index + 1}"


def stand_ins(context: DicomContext) -> list[Dataset]:
    """One plain CT image header per slice, in order, without a patient and with made-up UIDs.

    Highdicom takes geometry from them; `complete` puts the truth in place of the rest.
    """
    from pydicom.dataset import Dataset

    first = context.source.slices[0]
    images = []
    for index, plane in enumerate(context.source.slices):
        image = Dataset()
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        image.SOPInstanceUID = stand_in_uid(index)
        image.StudyInstanceUID = "2.25.1"
        image.SeriesInstanceUID = "2.25.2"
        image.FrameOfReferenceUID = context.frame_of_reference_uid
        image.PositionReferenceIndicator = ""
        for name in _REQUIRED:
            setattr(image, name, None)
        image.Modality = context.source.modality
        image.Rows, image.Columns = context.source.rows, context.source.columns
        image.ImagePositionPatient = decimal_strings(plane.position_mm)
        image.ImageOrientationPatient = decimal_strings((*first.row_direction, *first.column_direction))
        image.PixelSpacing = decimal_strings(first.pixel_spacing_mm)
        image.SliceThickness = decimal_strings((context.slice_thickness_mm,))[0]
        images.append(image)
    return images


def decimal_strings(numbers: Any) -> list[str]:
    """Numbers as DICOM decimal strings of at most 16 characters, as exact as these allow."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(number) + 0.0) for number in numbers]


def complete(dataset: Dataset, context: DicomContext, kind: str) -> None:
    """Put patient, study, dates and identifiers of one object in place, in `dataset` itself.

    Args:
        dataset: made from `stand_ins`, or from nothing.
        context: of the source.
        kind: such as `"seg"`; part of the identifiers, which tell objects of one result apart.
    """
    for element in context.patient:
        dataset.add(element)
    dataset.StudyInstanceUID = context.study_uid
    dataset.SeriesInstanceUID = uid_of(kind, "series", context.digest)
    dataset.SOPInstanceUID = uid_of(kind, "instance", context.digest)
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        if name in dataset:
            del dataset[name]
    for equipment in dataset.get("ContributingEquipmentSequence") or ():
        equipment.pop("ContributionDateTime", None)
    dataset.SeriesDate, dataset.SeriesTime = context.date, context.time
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MANUFACTURER
    dataset.SoftwareVersions = medseg_version()
    dataset.DeviceSerialNumber = "1"


def source_references(context: DicomContext) -> list[Dataset]:
    """An item with class and instance UID per source object, each once, in order."""
    from pydicom.dataset import Dataset

    items = []
    pairs = dict.fromkeys((s.sop_class_uid, s.sop_instance_uid) for s in context.source.slices)
    for sop_class, sop_instance in pairs:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class
        item.ReferencedSOPInstanceUID = sop_instance
        items.append(item)
    return items


def image_reference(context: DicomContext, index: int) -> Dataset:
    """An item that refers to one slice, with its frame number in a multi-frame object."""
    from pydicom.dataset import Dataset

    plane = context.source.slices[index]
    item = Dataset()
    item.ReferencedSOPClassUID = plane.sop_class_uid
    item.ReferencedSOPInstanceUID = plane.sop_instance_uid
    if plane.frame:
        item.ReferencedFrameNumber = plane.frame
    return item
