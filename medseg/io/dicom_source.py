"""Where the slices of a DICOM volume came from, so that results find the way back to them.

A reader makes a `DicomSource` beside each volume; a writer of SEG, RTSTRUCT or a report takes it.
Positions and directions here are DICOM's own (LPS); `SourceSlice.affine` and everything of
`medseg.geometry` is RAS. This module holds no header values of a patient.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import FloatArray, Geometry
from medseg.io.lps import ras_from_lps
from medseg.volume import LabelVolume, Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""For vectors: DICOM's left, posterior, superior to right, anterior, superior."""

_SAME_AXIS_VOXELS = 1e-4


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One DICOM file, on its own or inside a zip.

    Attributes:
        path: the file, or the zip that holds it.
        member: name inside the zip; empty for a plain file.
    """

    path: Path = field(repr=False)
    member: str = field(default="", repr=False)


@dataclass(frozen=True)
class SourceSlice:
    """One plane of pixels as the scanner stored it.

    Attributes:
        file: where it is stored.
        sop_class_uid: kind of object.
        sop_instance_uid: the object.
        frame: number in a multi-frame object, from 1; 0 where the object is a single image.
        position_mm: LPS, centre of the pixel in row 0, column 0 (ImagePositionPatient).
        row_direction: LPS unit vector along a row, with growing column index.
        column_direction: LPS unit vector along a column, with growing row index.
        pixel_spacing_mm: (between rows, between columns), as PixelSpacing has it.
        tile: (first row, first column) of the plane inside a mosaic; None where it is the whole frame.
    """

    file: SourceFile
    sop_class_uid: str
    sop_instance_uid: str
    frame: int
    position_mm: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    pixel_spacing_mm: tuple[float, float]
    tile: tuple[int, int] | None = None

    @property
    def normal(self) -> FloatArray:
        """LPS unit vector across the plane: row direction x column direction."""
        cross = np.cross(self.row_direction, self.column_direction)
        unit: FloatArray = cross / np.linalg.norm(cross)
        return unit

    @property
    def affine(self) -> FloatArray:
        """4x4, (column, row, mm across the plane) -> world RAS mm."""
        matrix = np.eye(4)
        matrix[:3, 0] = np.multiply(self.row_direction, self.pixel_spacing_mm[1])
        matrix[:3, 1] = np.multiply(self.column_direction, self.pixel_spacing_mm[0])
        matrix[:3, 2] = self.normal
        matrix[:3, 3] = self.position_mm
        return ras_from_lps(matrix)


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The series that a volume was made from.

    Attributes:
        study_uid: of the study, empty where the files state none.
        series_uid: of the series, empty where the files state none.
        frame_of_reference_uid: empty where the files state none.
        modality: such as `"CT"`.
        rows: pixels along a column of every slice.
        columns: pixels along a row of every slice.
        slices: original planes, in order of their position along the normal of the first.
        geometry_class: how they lie: `"regular"`, `"tilted"`, `"variable"`, `"missing"`, …
        grid: of the volume that was made, RAS.
        resampled: whether the volume's voxels were interpolated, so that its planes are not the slices.
        notes: what the reader did or met on the way, for the record; no patient's value.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    rows: int
    columns: int
    slices: tuple[SourceSlice, ...]
    geometry_class: str
    grid: Geometry
    resampled: bool = False
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """Every file once, in order of its first slice."""
        return tuple(dict.fromkeys(s.file for s in self.slices))


@dataclass(frozen=True, eq=False)
class DicomVolume(Volume):
    """A volume that knows the DICOM slices it was made from.

    Attributes:
        dicom: its slices. It stays true when the volume is cropped, padded or reoriented, since
            `labels_on_slices` goes by world position.
    """

    dicom: DicomSource | None = None


def labels_on_slices(labels: LabelVolume, source: DicomSource) -> npt.NDArray[Any]:
    """Labels of any grid put back onto the original slices: every pixel takes the nearest voxel.

    On the volume's own, not resampled grid this only moves voxels. A pixel outside the labels'
    field of view (half a voxel beyond its outer centres) is 0.

    Args:
        labels: on the grid that `source` made, or any other grid of the same world.
        source: the slices.

    Returns:
        `(slices, rows, columns)` of the labels' integer type, in order of `source.slices`.
    """
    shape = (len(source.slices), source.rows, source.columns)
    result = np.zeros(shape, dtype=labels.array.dtype)
    to_index = np.linalg.inv(labels.geometry.affine)
    for n, plane in enumerate(source.slices):
        at = _indices_of_plane(to_index @ plane.affine, source.rows, source.columns)
        nearest = [np.floor(a + 0.5 + _SAME_AXIS_VOXELS).astype(np.intp) for a in at]
        inside = [(a >= 0) & (a < size) for a, size in zip(nearest, labels.array.shape, strict=True)]
        within = np.logical_and.reduce(np.broadcast_arrays(*inside))
        if within.any():
            clamped = [np.clip(a, 0, size - 1) for a, size in zip(nearest, labels.array.shape, strict=True)]
            result[n] = np.where(within, labels.array[tuple(clamped)], 0)
    return result


def _indices_of_plane(matrix: FloatArray, rows: int, columns: int) -> list[FloatArray]:
    """Label index along each axis of every pixel, in the smallest shape that broadcasts to the plane."""
    column, row = np.arange(columns, dtype=np.float64), np.arange(rows, dtype=np.float64)
    indices: list[FloatArray] = []
    for axis in range(3):
        along: FloatArray = np.full((1, 1), matrix[axis, 3])
        if abs(matrix[axis, 0]) * columns > _SAME_AXIS_VOXELS:
            along = along + matrix[axis, 0] * column[None, :]
        if abs(matrix[axis, 1]) * rows > _SAME_AXIS_VOXELS:
            along = along + matrix[axis, 1] * row[:, None]
        indices.append(along)
    return indices
