"""Planes in space of a single-frame image, and the checks that every plane passes.

Source: DICOM PS3.3 C.7.6.2 (Image Plane Module), C.11.1 (Modality LUT Module).
"""

from __future__ import annotations

import math

import numpy as np

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements
from medseg.io.dicom_records import Plane, Triple, one_of_equals
from medseg.io.dicom_values import decimal, decimals, doubles, lenient_decimal, word, words

ORIENTATION_TOLERANCE = 1e-3
"""How far direction cosines may be from unit length and from a right angle."""
MAX_SPACING_MM = 1000.0
MIN_SPACING_MM = 1e-5
MAX_POSITION_MM = 1e6
_LARGEST_STORED = 2.0**32
_LARGEST_FLOAT32 = 3.4e38

POSITION, ORIENTATION, SPACING = 0x00200032, 0x00200037, 0x00280030
THICKNESS, SPACING_BETWEEN = 0x00180050, 0x00180088
SLOPE, INTERCEPT = 0x00281053, 0x00281052

_TEXT_KEYS = {
    "image_type": 0x00080008,
    "echo_time": 0x00180081,
    "echo_number": 0x00180086,
    "inversion_time": 0x00180082,
    "temporal_position": 0x00200100,
    "trigger_time": 0x00181060,
    "cardiac_phase": 0x00189241,
    "kernel": 0x00181210,
    "flip_angle": 0x00181314,
    "image_index": 0x00541330,
    "acquisition_number": 0x00200012,
    "acquisition_time": 0x00080032,
    "content_time": 0x00080033,
    "units": 0x00541001,
    "rescale_type": 0x00281054,
}
_SIEMENS_B, _GE_B, _STANDARD_B, _GRADIENT = 0x0019100C, 0x00431039, 0x00189087, 0x00189089
PLANE_TAGS = frozenset(
    {POSITION, ORIENTATION, SPACING, THICKNESS, SPACING_BETWEEN, SLOPE, INTERCEPT}
    | {_SIEMENS_B, _GE_B, _STANDARD_B, _GRADIENT}
    | set(_TEXT_KEYS.values())
)


def single_plane(elements: Elements, rows: int, columns: int, place: Elements | None = None) -> Plane:
    """The plane of an image with one frame.

    Args:
        elements: of the image.
        rows: pixels along a column.
        columns: pixels along a row.
        place: the item that states position and orientation, where the image itself does not.

    Raises:
        ReadError: `NO_POSITION`, `BAD_POSITION`, `BAD_ORIENTATION`, `BAD_SPACING`, `BAD_RESCALE`.
    """
    place = elements if place is None else place
    row_direction, column_direction = orientation_of(place)
    slope, intercept = rescale_of(elements)
    return Plane(
        frame=0,
        tile=None,
        rows=rows,
        columns=columns,
        position_mm=position_of(place),
        row_direction=row_direction,
        column_direction=column_direction,
        pixel_spacing_mm=pixel_spacing_of(elements),
        thickness_mm=positive_hint(elements, THICKNESS),
        spacing_between_mm=positive_hint(elements, SPACING_BETWEEN),
        slope=slope,
        intercept=intercept,
        keys=split_keys(elements),
    )


def split_keys(elements: Elements) -> dict[str, str]:
    """What may tell two images at one place apart."""
    keys = {name: "\\".join(words(elements, tag)) for name, tag in _TEXT_KEYS.items()}
    b_value = doubles(elements, _STANDARD_B)
    keys["b_value"] = str(b_value[0]) if b_value else word(elements, _SIEMENS_B) or word(elements, _GE_B)
    gradient = doubles(elements, _GRADIENT)
    keys["gradient"] = " ".join(f"{g:.4f}" for g in gradient)
    return {name: value for name, value in keys.items() if value}


def position_of(elements: Elements) -> Triple:
    """ImagePositionPatient, LPS mm.

    Raises:
        ReadError: `NO_POSITION` where absent, `BAD_POSITION` where it is no place.
    """
    found = decimals(elements, POSITION, 3, "BAD_POSITION", "ImagePositionPatient")
    if found is None:
        raise ReadError(
            "NO_POSITION", "expected ImagePositionPatient in every image, got none; it cannot be placed"
        )
    if max(abs(x) for x in found) > MAX_POSITION_MM:
        raise ReadError("BAD_POSITION", "expected a place within 1 km of the isocentre, got one beyond")
    return found[0], found[1], found[2]


def orientation_of(elements: Elements) -> tuple[Triple, Triple]:
    """ImageOrientationPatient as two unit vectors at a right angle.

    Raises:
        ReadError: `NO_POSITION` where absent, `BAD_ORIENTATION` where lengths are not 1 or the angle not
            right, both within `ORIENTATION_TOLERANCE`.
    """
    found = decimals(elements, ORIENTATION, 6, "BAD_ORIENTATION", "ImageOrientationPatient")
    if found is None:
        raise ReadError(
            "NO_POSITION", "expected ImageOrientationPatient in every image, got none; it cannot be placed"
        )
    row, column = np.array(found[:3]), np.array(found[3:])
    lengths = math.hypot(*found[:3]), math.hypot(*found[3:])
    off = max(abs(length - 1) for length in lengths)
    if off > ORIENTATION_TOLERANCE or abs(float(row @ column)) > ORIENTATION_TOLERANCE:
        raise ReadError(
            "BAD_ORIENTATION",
            "expected two unit vectors at a right angle as ImageOrientationPatient, got others",
        )
    row, column = row / lengths[0], column / lengths[1]
    pair: tuple[Triple, Triple] = one_of_equals((tuple(row.tolist()), tuple(column.tolist())))
    return pair


def pixel_spacing_of(elements: Elements) -> tuple[float, float]:
    """PixelSpacing: mm between rows, mm between columns.

    Raises:
        ReadError: `BAD_SPACING` where absent or not two lengths above 0.
    """
    found = decimals(elements, SPACING, 2, "BAD_SPACING", "PixelSpacing")
    if found is None:
        raise ReadError("BAD_SPACING", "expected PixelSpacing in every image, got none; re-export the series")
    if not all(MIN_SPACING_MM <= x <= MAX_SPACING_MM for x in found):
        raise ReadError("BAD_SPACING", "expected a PixelSpacing above 0 and below 1 m, got another")
    pair: tuple[float, float] = one_of_equals((found[0], found[1]))
    return pair


def rescale_of(elements: Elements) -> tuple[float, float]:
    """(slope, intercept) from stored to real values; (1, 0) where the file states none.

    Raises:
        ReadError: `BAD_RESCALE` where the slope is 0 or values would leave float32.
    """
    slope = decimal(elements, SLOPE, "BAD_RESCALE", "RescaleSlope")
    intercept = decimal(elements, INTERCEPT, "BAD_RESCALE", "RescaleIntercept")
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or abs(slope) * _LARGEST_STORED + abs(intercept) > _LARGEST_FLOAT32:
        raise ReadError("BAD_RESCALE", "expected a RescaleSlope that maps into float32, got 0 or a huge one")
    return slope, intercept


def positive_hint(elements: Elements, tag: int) -> float | None:
    """A length above 0, or None; the sign of SpacingBetweenSlices means nothing here."""
    found = lenient_decimal(elements, tag)
    return abs(found) if found else None
