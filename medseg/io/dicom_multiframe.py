"""Planes of Enhanced CT, MR and PET objects: what is shared, then what each frame overrides.

Private dimension indices and a missing frame of reference do no harm here: only the standard
functional groups are read. Source: DICOM PS3.3 C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

from collections.abc import Mapping

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements
from medseg.io.dicom_planes import (
    SPACING_BETWEEN,
    THICKNESS,
    orientation_of,
    pixel_spacing_of,
    position_of,
    positive_hint,
    rescale_of,
)
from medseg.io.dicom_records import Plane
from medseg.io.dicom_values import doubles, integers, word, words

SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
_POSITION_GROUP, _ORIENTATION_GROUP, _MEASURES_GROUP = 0x00209113, 0x00209116, 0x00289110
_TRANSFORM_GROUP, _CONTENT_GROUP, _ECHO_GROUP = 0x00289145, 0x00209111, 0x00189114
_DIFFUSION_GROUP, _CARDIAC_GROUP, _TIMING_GROUP = 0x00189117, 0x00189118, 0x00189112
_FRAME_TYPE_GROUPS = (0x00189226, 0x00189329, 0x00189751)
_GRADIENT_GROUP = 0x00189076


def multiframe_planes(elements: Elements, frames: int, rows: int, columns: int) -> tuple[Plane, ...]:
    """One plane per frame.

    Raises:
        ReadError: `NO_POSITION` where frames have no functional groups, `BAD_FRAMES` where they are not
            as many as frames; for a frame's own values, see `medseg.io.dicom_planes`.
    """
    per_frame = elements.items.get(FRAME_GROUPS, ())
    if not per_frame:
        raise ReadError(
            "NO_POSITION", "expected functional groups that place each frame, got none; it cannot be placed"
        )
    if len(per_frame) != frames:
        raise ReadError("BAD_FRAMES", f"expected functional groups of {frames} frames, got {len(per_frame)}")
    shared = elements.items.get(SHARED_GROUPS, ())
    common = shared[0] if shared else Elements(elements.little)
    return tuple(_plane(n, common, own, rows, columns) for n, own in enumerate(per_frame))


def _group(common: Elements, own: Elements, tag: int) -> Elements:
    """A functional group: the frame's own, or the shared one."""
    items = own.items.get(tag) or common.items.get(tag)
    return items[0] if items else Elements(own.little)


def _plane(frame: int, common: Elements, own: Elements, rows: int, columns: int) -> Plane:
    measures = _group(common, own, _MEASURES_GROUP)
    row_direction, column_direction = orientation_of(_group(common, own, _ORIENTATION_GROUP))
    slope, intercept = rescale_of(_group(common, own, _TRANSFORM_GROUP))
    return Plane(
        frame=frame,
        tile=None,
        rows=rows,
        columns=columns,
        position_mm=position_of(_group(common, own, _POSITION_GROUP)),
        row_direction=row_direction,
        column_direction=column_direction,
        pixel_spacing_mm=pixel_spacing_of(measures),
        thickness_mm=positive_hint(measures, THICKNESS),
        spacing_between_mm=positive_hint(measures, SPACING_BETWEEN),
        slope=slope,
        intercept=intercept,
        keys=_keys(common, own),
    )


def _keys(common: Elements, own: Elements) -> Mapping[str, str]:
    types = [_group(common, own, tag) for tag in _FRAME_TYPE_GROUPS]
    image_type = " ".join("\\".join(words(t, 0x00089007)) + word(t, 0x00089208) for t in types).strip()
    content = _group(common, own, _CONTENT_GROUP)
    diffusion = _group(common, own, _DIFFUSION_GROUP)
    gradient = _group(diffusion, diffusion, _GRADIENT_GROUP)
    keys = {
        "image_type": image_type,
        "stack": word(content, 0x00209056),
        "echo_time": _number(_group(common, own, _ECHO_GROUP), 0x00189082),
        "b_value": _number(diffusion, 0x00189087),
        "gradient": " ".join(f"{g:.4f}" for g in doubles(gradient, 0x00189089)),
        "temporal_position": " ".join(map(str, integers(content, 0x00209128, "I"))),
        "trigger_time": _number(_group(common, own, _CARDIAC_GROUP), 0x00209153),
        "flip_angle": word(_group(common, own, _TIMING_GROUP), 0x00181314),
        "acquisition_number": " ".join(map(str, integers(content, 0x00209156, "H"))),
        "acquisition_time": word(content, 0x00189074),
    }
    return {name: value for name, value in keys.items() if value}


def _number(elements: Elements, tag: int) -> str:
    found = doubles(elements, tag)
    return str(found[0]) if found else ""
