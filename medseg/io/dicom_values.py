"""Numbers and words of a DICOM header, strictly: a value that is not what it must be has a reason.

pydicom hands malformed numbers back as text, SimpleITK puts 1.0 in their place. Here `PixelSpacing`
of "abc", "0.5,0.5" or "nan" is a `ReadError` with the code of the attribute's kind.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
import sys

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"[+-]?\d{1,12}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_MAX_UID = 64


def words(elements: Elements, tag: int) -> tuple[str, ...]:
    """Values of a text element, without padding; empty where it is absent or empty."""
    raw = elements.values.get(tag, b"").decode("latin-1").strip("\0 ")
    return tuple(sys.intern(part.strip("\0 ")) for part in raw.split("\\")) if raw else ()


def word(elements: Elements, tag: int) -> str:
    """First value of a text element, or an empty string."""
    found = words(elements, tag)
    return found[0] if found else ""


def uid(elements: Elements, tag: int) -> str:
    """A UID, or an empty string where it is absent.

    Raises:
        ReadError: `BAD_UID` where it is no UID.
    """
    raw = elements.values.get(tag, b"").decode("latin-1").strip("\0 ")
    if raw and (len(raw) > _MAX_UID or not _UID.fullmatch(raw)):
        raise ReadError("BAD_UID", "expected digits and dots, at most 64, as UID, got something else")
    return sys.intern(raw)


def safe_uid(elements: Elements, tag: int) -> str:
    """A UID, or `invalid-` and a hash of what stands there: fit to group by, to print and for paths."""
    try:
        return uid(elements, tag)
    except ReadError:
        return "invalid-" + hashlib.sha256(elements.values[tag]).hexdigest()[:16]


def decimals(elements: Elements, tag: int, count: int, code: str, name: str) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers of a DS element, or None where it is absent or empty.

    Args:
        elements: data set.
        tag: of the element.
        count: numbers expected.
        code: of the error.
        name: of the element, for the message.

    Raises:
        ReadError: another number of values, or one that is no finite number.
    """
    found = words(elements, tag)
    if not found:
        return None
    if len(found) != count or not all(_DECIMAL.fullmatch(part) for part in found):
        raise ReadError(code, f"expected {count} decimal numbers as {name}, got something else; re-export it")
    numbers = tuple(float(part) for part in found)
    if not all(math.isfinite(number) for number in numbers):
        raise ReadError(code, f"expected finite numbers as {name}, got infinity; re-export it")
    return numbers


def decimal(elements: Elements, tag: int, code: str, name: str) -> float | None:
    """One finite number of a DS element; see `decimals`."""
    found = decimals(elements, tag, 1, code, name)
    return found[0] if found else None


def lenient_decimal(elements: Elements, tag: int) -> float | None:
    """One finite number, or None where there is none or it is malformed: for hints, never for geometry."""
    try:
        return decimal(elements, tag, "BAD_NUMBER", "a hint")
    except ReadError:
        return None


def integer_text(elements: Elements, tag: int, code: str, name: str) -> int | None:
    """One whole number of an IS element, or None where it is absent or empty.

    Raises:
        ReadError: it is no whole number.
    """
    found = words(elements, tag)
    if not found:
        return None
    if len(found) != 1 or not _INTEGER.fullmatch(found[0]):
        raise ReadError(code, f"expected one whole number as {name}, got something else; re-export it")
    return int(found[0])


def integers(elements: Elements, tag: int, kind: str = "H") -> tuple[int, ...]:
    """Binary whole numbers of an element, `kind` as in `struct`; empty where it is absent or damaged."""
    raw = elements.values.get(tag, b"")
    size = struct.calcsize(kind)
    if len(raw) % size:
        return ()
    order = "<" if elements.little else ">"
    return tuple(int(n) for n in struct.unpack(f"{order}{len(raw) // size}{kind}", raw))


def doubles(elements: Elements, tag: int) -> tuple[float, ...]:
    """FD values of an element; empty where it is absent or damaged."""
    raw = elements.values.get(tag, b"")
    if len(raw) % 8:
        return ()
    order = "<" if elements.little else ">"
    return tuple(struct.unpack(f"{order}{len(raw) // 8}d", raw))
