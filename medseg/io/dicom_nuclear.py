"""Planes of a reconstructed nuclear medicine volume: a classic multi-frame object without functional groups.

The slice vector numbers the slices, the detector's item places the first of them, and the signed
SpacingBetweenSlices says how the others follow along the normal. Projections, whole-body and dynamic
frames lie at no such place and are refused. Source: DICOM PS3.3 C.8.4.8 (NM Multi-frame), C.8.4.11 (NM
Detector), C.8.4.15 (NM Reconstruction).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements
from medseg.io.dicom_planes import (
    MAX_SPACING_MM,
    MIN_SPACING_MM,
    ORIENTATION,
    POSITION,
    SPACING_BETWEEN,
    single_plane,
)
from medseg.io.dicom_records import Plane
from medseg.io.dicom_values import decimal, integers, words

NUCLEAR_IMAGE = "1.2.840.10008.5.1.4.1.1.20"
_IMAGE_TYPE, _DETECTORS = 0x00080008, 0x00540022
_SLICES, _DETECTOR = 0x00540080, 0x00540020
_OTHERS = {
    "energy": 0x00540010,
    "phase": 0x00540030,
    "rotation": 0x00540050,
    "interval": 0x00540060,
    "slot": 0x00540070,
    "view": 0x00540090,
    "time": 0x00540100,
}
NUCLEAR_TAGS = frozenset({_DETECTORS, _SLICES, _DETECTOR, *_OTHERS.values()})
_RECONSTRUCTED = {"RECON TOMO", "RECON GATED TOMO"}


def nuclear_planes(elements: Elements, frames: int, rows: int, columns: int) -> tuple[Plane, ...]:
    """One plane per frame.

    Raises:
        ReadError: `NO_POSITION` where frames are not reconstructed slices or not numbered, `BAD_FRAMES`
            where a vector has another number of entries, `BAD_SPACING` where the distance and direction of
            slices is not stated; for the values of the plane, see `medseg.io.dicom_planes`.
    """
    if not _RECONSTRUCTED & set(words(elements, _IMAGE_TYPE)):
        raise ReadError(
            "NO_POSITION",
            "expected reconstructed slices of nuclear medicine, got projections or planar frames; they form"
            " no volume",
        )
    numbers = _vector(elements, _SLICES, frames)
    if not numbers:
        raise ReadError("NO_POSITION", "expected a SliceVector that numbers the slices, got none")
    detectors = _vector(elements, _DETECTOR, frames) or (1,) * frames
    others = [(name, _vector(elements, tag, frames)) for name, tag in _OTHERS.items()]
    step = _signed_step(elements)
    known = {number: _first_plane(elements, number, rows, columns) for number in sorted(set(detectors))}
    planes = []
    for n in range(frames):
        first = known[detectors[n]]
        normal = np.cross(first.row_direction, first.column_direction)
        x, y, z = np.array(first.position_mm) + normal * step * (numbers[n] - 1)
        stack = " ".join(f"{name} {values[n]}" for name, values in others if len(set(values)) > 1)
        detector = f"detector {detectors[n]}" if len(known) > 1 else ""
        keys = {"stack": f"{detector} {stack}".strip()}
        place = (float(x), float(y), float(z))
        planes.append(replace(first, frame=n, position_mm=place, keys={k: v for k, v in keys.items() if v}))
    return tuple(planes)


def _vector(elements: Elements, tag: int, frames: int) -> tuple[int, ...]:
    """One number per frame, from 1; empty where there is no such vector."""
    if not elements.values.get(tag):
        return ()
    found = integers(elements, tag)
    if len(found) != frames or min(found) < 1:
        raise ReadError("BAD_FRAMES", f"expected vectors of {frames} frames, got one of {len(found)}")
    return found


def _signed_step(elements: Elements) -> float:
    step = decimal(elements, SPACING_BETWEEN, "BAD_SPACING", "SpacingBetweenSlices")
    if step is None or not MIN_SPACING_MM <= abs(step) <= MAX_SPACING_MM:
        raise ReadError(
            "BAD_SPACING",
            "expected SpacingBetweenSlices, which alone places the slices of this object, got none",
        )
    return step


def _first_plane(elements: Elements, detector: int, rows: int, columns: int) -> Plane:
    """The first slice of a detector, as its item places it."""
    items = elements.items.get(_DETECTORS, ())
    if detector > len(items):
        raise ReadError("NO_POSITION", "expected a detector that places its slices, got none of that number")
    own = items[detector - 1]
    place = own if own.values.get(POSITION) and own.values.get(ORIENTATION) else elements
    return single_plane(elements, rows, columns, place)
