"""A header as bytes and back, for the store on disk. Floats come back exactly as they were."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from typing import Any

from medseg.io.dicom_records import ImageHeader, PixelLayout, Plane, Problem, one_of_equals
from medseg.io.dicom_source import SourceFile

_HEADER = tuple(f.name for f in fields(ImageHeader) if f.name != "file")
_LAYOUT = tuple(f.name for f in fields(PixelLayout))
_PLANE = tuple(f.name for f in fields(Plane))
_PROBLEM = tuple(f.name for f in fields(Problem))

RECORD_FIELDS = (_HEADER, _LAYOUT, _PLANE, _PROBLEM)
"""What a record holds, in order; records of other fields are of another version."""


_SHARED_WORDS = ("sop_class_uid", "study_uid", "series_uid", "frame_of_reference_uid", "modality")


def record_of(header: ImageHeader | None) -> bytes:
    """A header without its place; None says that the file is a DICOMDIR."""
    if header is None:
        return b"null"
    plain = {name: getattr(header, name) for name in _HEADER}
    plain["patient"] = header.patient.hex()
    plain["layout"] = _values(header.layout, _LAYOUT)
    plain["planes"] = [_values(plane, _PLANE) for plane in header.planes]
    plain["problem"] = _values(header.problem, _PROBLEM)
    plain["set_aside"] = _values(header.set_aside, _PROBLEM)
    return json.dumps(list(plain.values()), separators=(",", ":")).encode()


def header_from(record: bytes, file: SourceFile) -> ImageHeader | None:
    """The header of a file from its record.

    Raises:
        ValueError: it is no record of this version.
        TypeError: likewise.
        KeyError: likewise.
    """
    row = json.loads(record)
    if row is None:
        return None
    plain: dict[str, Any] = dict(zip(_HEADER, row, strict=True))
    plain["patient"] = bytes.fromhex(plain["patient"])
    plain["layout"] = None if plain["layout"] is None else one_of_equals(PixelLayout(*plain["layout"]))
    plain["planes"] = tuple(Plane(*map(_frozen, plane)) for plane in plain["planes"])
    for name in ("problem", "set_aside"):
        plain[name] = None if plain[name] is None else Problem(*plain[name])
    plain["notes"] = tuple(plain["notes"])
    for name in _SHARED_WORDS:
        plain[name] = sys.intern(plain[name])
    return ImageHeader(file, **plain)


def _values(thing: object, names: tuple[str, ...]) -> list[Any] | None:
    return None if thing is None else [getattr(thing, name) for name in names]


def _frozen(value: Any) -> Any:
    return one_of_equals(tuple(value)) if isinstance(value, list) else value
