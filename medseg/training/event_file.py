"""The rows of a run as an event file of TensorBoard.

The format is small enough to need no package: a file is a row of records, each of them its length (8 bytes,
little-endian), a masked CRC-32C of these, the content, and a masked CRC-32C of that (TensorFlow,
`core/lib/io/record_writer.h`). Contents are `Event` messages of `core/util/event.proto`: field 1 the time, 2
the step, 3 the version of the format, 5 a `Summary`, whose field 1 are values of a name (1) and a number (2).
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.files import whole_file

PREFIX = "events.out.tfevents"
"""TensorBoard looks for names that begin so."""

_POLYNOMIAL = 0x82F63B78
"""Of CRC-32C (Castagnoli), its bits reversed."""

_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5
"""Kinds of fields, as protocol buffers number them."""


def write_events(history: Sequence[Mapping[str, float]], folder: Path) -> Path:
    """Write the rows of a run for TensorBoard, in place of those written before.

    A row's time is that of its learning: rows of a run that was resumed follow each other without the gap.

    Args:
        history: rows in order, each with its `step` and `seconds_per_step`; figures that are no number are
            left out, and a name's first space becomes a group.
        folder: to write into. The file's name holds the last step: TensorBoard would not look again into a
            file of the same name while it runs.

    Returns:
        The file.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    steps = [0, *(int(row["step"]) for row in history)]
    spent = [(b - a) * row["seconds_per_step"] for a, b, row in zip(steps, steps[1:], history, strict=False)]
    began = time.time() - sum(spent)
    records = [_event(began, 0, _field(3, _BYTES, b"brain.Event:2"))]
    for number, row in enumerate(history):
        figures = {name: value for name, value in row.items() if name != "step" and math.isfinite(value)}
        values = [_field(1, _BYTES, _value(name, value)) for name, value in figures.items()]
        moment = began + sum(spent[: number + 1])
        records.append(_event(moment, steps[number + 1], _field(5, _BYTES, b"".join(values))))
    path = folder / f"{PREFIX}.{steps[-1]:010}.medseg"
    with whole_file(path) as stream:
        stream.write(b"".join(_record(event) for event in records))
    for older in folder.glob(f"{PREFIX}.*"):
        if older != path:
            older.unlink(missing_ok=True)
    return path


def _event(moment: float, step: int, content: bytes) -> bytes:
    return _field(1, _DOUBLE, struct.pack("<d", moment)) + _field(2, _VARINT, _varint(step)) + content


def _value(name: str, value: float) -> bytes:
    return _field(1, _BYTES, name.replace(" ", "/", 1).encode()) + _field(2, _FLOAT, struct.pack("<f", value))


def _field(number: int, kind: int, content: bytes) -> bytes:
    length = _varint(len(content)) if kind == _BYTES else b""
    return bytes([number << 3 | kind]) + length + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(parts) + bytes([number])


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _checksum(length) + content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    """CRC-32C, turned by 15 bits and shifted by a constant, as records hold it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
