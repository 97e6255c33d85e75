"""Planes of a Siemens mosaic: all slices of one time point as tiles of a single image.

The image's own position is that of its corner as if it were one big slice around the same centre, so
the slices' corner lies half of the surplus further in. The private CSA header says which way the
slices go. Source: NiBabel's documentation, "Siemens mosaic DICOM" and "Siemens CSA header format".
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace

import numpy as np

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements
from medseg.io.dicom_records import Plane
from medseg.io.dicom_values import integers

CSA_HEADER, MOSAIC_COUNT = 0x00291010, 0x0019100A
_MAX_CSA_TAGS, _MAX_CSA_ITEMS, _MAX_SLICES = 1000, 1000, 1024


def mosaic_planes(elements: Elements, whole: Plane) -> tuple[Plane, ...]:
    """One plane per tile that holds a slice.

    Args:
        elements: header of the image.
        whole: the image as one plane.

    Raises:
        ReadError: `BAD_MOSAIC` where the header does not say how many slices there are, how far apart,
            and which way they go.
    """
    counts = integers(elements, MOSAIC_COUNT)
    csa = _csa_numbers(elements.values.get(CSA_HEADER, b""))
    count = counts[0] if counts else int(csa.get("NumberOfImagesInMosaic", [0.0])[0])
    normal = np.array(csa.get("SliceNormalVector", []))
    spacing = whole.spacing_between_mm or whole.thickness_mm
    side = math.ceil(math.sqrt(count)) if 0 < count <= _MAX_SLICES else 0
    if not side or whole.rows % side or whole.columns % side or normal.shape != (3,) or not spacing:
        raise ReadError(
            "BAD_MOSAIC",
            "expected a mosaic whose Siemens header states the number, distance and direction of its slices,"
            " got one without; convert it on the scanner",
        )
    row, column = np.array(whole.row_direction), np.array(whole.column_direction)
    cross = np.cross(row, column)
    direction = cross if float(cross @ normal) > 0 else -cross
    if abs(float(cross @ normal)) < 0.999:
        raise ReadError("BAD_MOSAIC", "expected slices across the image's plane, got another direction")
    rows, columns = whole.rows // side, whole.columns // side
    corner = (
        np.array(whole.position_mm)
        + row * whole.pixel_spacing_mm[1] * (whole.columns - columns) / 2
        + column * whole.pixel_spacing_mm[0] * (whole.rows - rows) / 2
    )
    planes = []
    for n in range(count):
        x, y, z = corner + direction * spacing * n
        tile = (n // side * rows, n % side * columns)
        place = (float(x), float(y), float(z))
        planes.append(replace(whole, tile=tile, rows=rows, columns=columns, position_mm=place))
    return tuple(planes)


def _csa_numbers(raw: bytes) -> dict[str, list[float]]:
    """The numeric fields of a CSA2 header; none of them where it is damaged or of another kind."""
    if raw[:4] != b"SV10":
        return {}
    found: dict[str, list[float]] = {}
    try:
        (tags,) = struct.unpack_from("<I", raw, 8)
        at = 16
        for _ in range(min(tags, _MAX_CSA_TAGS)):
            name = raw[at : at + 64].split(b"\0", 1)[0].decode("latin-1")
            (items,) = struct.unpack_from("<i", raw, at + 76)
            at += 84
            values = []
            for _ in range(min(items, _MAX_CSA_ITEMS)):
                (length,) = struct.unpack_from("<i", raw, at + 4)
                if length < 0:
                    return found
                values.append(raw[at + 16 : at + 16 + length].split(b"\0", 1)[0].strip())
                at += 16 + (length + 3) // 4 * 4
            if name in ("NumberOfImagesInMosaic", "SliceNormalVector"):
                found[name] = [float(v) for v in values if v]
    except (struct.error, ValueError):
        return found
    return {name: numbers for name, numbers in found.items() if numbers and np.isfinite(numbers).all()}
