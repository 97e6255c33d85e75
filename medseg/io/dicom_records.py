"""What medseg keeps of DICOM files: frozen records of headers, planes of pixels, and why one is refused.

A single image, a frame of a multi-frame object and a tile of a mosaic are all one `Plane`, so that
grouping and geometry need to know nothing of how a vendor packs them. Positions are DICOM's LPS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from medseg.errors import ReadError
from medseg.io.dicom_source import SourceFile

Triple = tuple[float, float, float]


@lru_cache(maxsize=4096)
def one_of_equals(value: Any) -> Any:
    """The same object for equal directions, spacings and layouts: a hundred thousand headers share them."""
    return value


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something is not read.

    Attributes:
        code: stable, in capitals.
        reason: expected, got, cure; no patient's value.
    """

    code: str
    reason: str

    @classmethod
    def of(cls, error: ReadError) -> Problem:
        """The same, said by an error."""
        return cls(error.code, str(error))

    def error(self) -> ReadError:
        """To raise."""
        return ReadError(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """How stored values stand in a file.

    Attributes:
        transfer_syntax: UID.
        rows: of the whole frame.
        columns: of the whole frame.
        frames: number of them, from 1.
        bits_allocated: 8, 16 or 32.
        bits_stored: low bits that hold the value.
        high_bit: place of the highest of them.
        signed: whether values are two's complement.
        body: offset of the data set in the file.
        offset: first byte of the value in the file (in the inflated stream of a deflated one).
        length: bytes of a native value, None where it is encapsulated.
        words: whether 8-bit big-endian pixels stand in swapped 16-bit words.
        modality_lut: whether a table in the header gives the real values.
    """

    transfer_syntax: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    body: int
    offset: int
    length: int | None
    words: bool = False
    modality_lut: bool = False

    @property
    def frame_bytes(self) -> int:
        """Bytes of one decoded frame."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane of pixels in space.

    Attributes:
        frame: from 0, in the object.
        tile: (first row, first column) in a mosaic, else None.
        rows: of the plane.
        columns: of the plane.
        position_mm: LPS of the first pixel's centre.
        row_direction: LPS unit vector of growing column index.
        column_direction: LPS unit vector of growing row index.
        pixel_spacing_mm: (between rows, between columns).
        thickness_mm: of the slice, None where unknown.
        spacing_between_mm: stated distance of slices, None where unknown; a hint only.
        slope: of the rescale to real values.
        intercept: of the rescale to real values.
        keys: what may tell two planes at one place apart: name -> value.
    """

    frame: int
    tile: tuple[int, int] | None
    rows: int
    columns: int
    position_mm: Triple
    row_direction: Triple
    column_direction: Triple
    pixel_spacing_mm: tuple[float, float]
    thickness_mm: float | None
    spacing_between_mm: float | None
    slope: float
    intercept: float
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """One DICOM object.

    Attributes:
        file: where it is.
        sop_class_uid: kind of object.
        sop_instance_uid: the object.
        study_uid: safe to print.
        series_uid: safe to print.
        frame_of_reference_uid: empty where absent.
        modality: such as `"CT"`.
        patient: salted hash that tells the patients of one series apart.
        instance_number: None where absent.
        layout: of the pixels, None where it is no image that can be read.
        planes: empty where it is no image that can be read.
        problem: why this object, and with it its series, cannot be read; None where it can.
        set_aside: why this object is no part of a volume, and does no harm to its series.
        notes: what was odd but harmless.
    """

    file: SourceFile
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    modality: str
    patient: bytes = field(repr=False)
    instance_number: int | None
    layout: PixelLayout | None = None
    planes: tuple[Plane, ...] = ()
    problem: Problem | None = None
    set_aside: Problem | None = None
    notes: tuple[str, ...] = ()
