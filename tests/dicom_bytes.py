"""Synthetic DICOM, byte by byte, so that every lie that a file can tell can be told.

pydicom refuses to write much of this.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

EXPLICIT, IMPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
RLE, J2K, JLS, JPEG_LOSSLESS = "1.2.840.10008.1.2.5", *(f"1.2.840.10008.1.2.4.{n}" for n in (90, 80, 70))
CT, MR, SECONDARY, REPORT = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "4", "7", "88.33"))
ENHANCED_MR, SEG, DOSE = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("4.1", "66.4", "481.2"))
ROOT = "1.2.826.0.1.3680043.10.1"
LONG = ("OB", "OW", "SQ", "UN", "UT")
ROWS, COLUMNS, SLICES = 12, 10, 8
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
PIXELS = 0x7FE00010

Value = tuple[str, bytes]


def text(value: str) -> bytes:
    raw = value.encode("latin-1")
    return raw + b" " * (len(raw) % 2)


def uid(value: str) -> bytes:
    raw = value.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def number(value: int) -> bytes:
    return struct.pack("<H", value)


def element(tag: int, vr: str, value: bytes, *, explicit: bool = True, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if not explicit:
        return head + struct.pack("<I", size) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack("<I", size) + value
    return head + vr.encode() + struct.pack("<H", size) + value


def items(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(c)) + c for c in contents)


def fragments(*contents: bytes, end: bool = True) -> bytes:
    """Encapsulated pixels: an empty offset table, then one item each."""
    tail = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b""
    return items(b"", *contents) + tail


@dataclass
class Image:
    """One DICOM file in the making.

    Attributes:
        fields: tag -> (VR, value); written in order of tags.
        syntax: transfer syntax UID of the meta header; None leaves it out.
        meta_length: what group 2 says of its own length.
        preamble: 128 bytes.
        explicit: encoding that is really used.
        encapsulated: whether the pixels' length is undefined.
        tail: bytes put in front of the pixels, behind all else.
    """

    fields: dict[int, Value]
    syntax: str | None = EXPLICIT
    meta_length: int | None = None
    preamble: bytes = b"\0" * 128
    explicit: bool = True
    encapsulated: bool = False
    tail: bytes = b""

    def put(self, tag: int, vr: str, value: bytes) -> Image:
        return replace(self, fields={**self.fields, tag: (vr, value)})

    def without(self, *tags: int) -> Image:
        return replace(self, fields={t: v for t, v in self.fields.items() if t not in tags})

    def ds(self, tag: int, value: str) -> Image:
        return self.put(tag, "DS", text(value))

    def us(self, tag: int, value: int) -> Image:
        return self.put(tag, "US", number(value))

    def body(self) -> bytes:
        parts = []
        for tag, (vr, value) in sorted(self.fields.items()):
            hidden = tag == PIXELS and self.encapsulated
            if tag == PIXELS:
                parts.append(self.tail)
            parts.append(
                element(tag, vr, value, explicit=self.explicit, length=UNDEFINED if hidden else None)
            )
        if PIXELS not in self.fields:
            parts.append(self.tail)
        return b"".join(parts)

    def meta(self) -> bytes:
        kind, name = self.fields.get(0x00080016, ("", b""))[1], self.fields.get(0x00080018, ("", b""))[1]
        inner = element(0x00020001, "OB", b"\0\1")
        inner += element(0x00020002, "UI", kind) + element(0x00020003, "UI", name or self.media_name())
        if self.syntax is not None:
            inner += element(0x00020010, "UI", uid(self.syntax))
        stated = len(inner) if self.meta_length is None else self.meta_length
        return element(0x00020000, "UL", struct.pack("<I", stated)) + inner

    def media_name(self) -> bytes:
        """For objects whose own UID was emptied: the meta header still tells them apart."""
        return uid(f"{ROOT}.8.{int(self.fields.get(0x00200013, ('', b'0'))[1])}")

    def bytes(self) -> bytes:
        body = self.body()
        if self.syntax == DEFLATED:
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        return self.preamble + b"DICM" + self.meta() + body


def pixels_of(n: int) -> npt.NDArray[np.uint16]:
    """Stored values of the n-th slice, all different."""
    grid = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)
    return (grid * 3 + 100 * n + 7).astype(np.uint16)


def image(n: int = 0) -> Image:
    """The n-th slice of a plain CT series, 2.5 mm apart."""
    return Image(
        {
            0x00080005: ("CS", text("ISO_IR 100")),
            0x00080008: ("CS", text("ORIGINAL\\PRIMARY\\AXIAL")),
            0x00080016: ("UI", uid(CT)),
            0x00080018: ("UI", uid(f"{ROOT}.3.{n + 1}")),
            0x00080060: ("CS", text("CT")),
            0x00100010: ("PN", text("Phantom^One")),
            0x00100020: ("LO", text("P1")),
            0x00100030: ("DA", text("")),
            0x00180050: ("DS", text("2.5")),
            0x0020000D: ("UI", uid(f"{ROOT}.1")),
            0x0020000E: ("UI", uid(f"{ROOT}.2")),
            0x00200013: ("IS", text(str(n + 1))),
            0x00200032: ("DS", text(f"-20\\-30\\{5 + 2.5 * n}")),
            0x00200037: ("DS", text("1\\0\\0\\0\\1\\0")),
            0x00200052: ("UI", uid(f"{ROOT}.4")),
            0x00280002: ("US", number(1)),
            0x00280004: ("CS", text("MONOCHROME2")),
            0x00280010: ("US", number(ROWS)),
            0x00280011: ("US", number(COLUMNS)),
            0x00280030: ("DS", text("0.75\\0.5")),
            0x00280100: ("US", number(16)),
            0x00280101: ("US", number(12)),
            0x00280102: ("US", number(11)),
            0x00280103: ("US", number(0)),
            0x00281052: ("DS", text("-1024")),
            0x00281053: ("DS", text("1")),
            PIXELS: ("OW", pixels_of(n).tobytes()),
        }
    )


def series(count: int = SLICES) -> list[Image]:
    return [image(n) for n in range(count)]


def time_points(count: int) -> list[Image]:
    """A series of several time points; each adds its number from 0 to every stored value."""
    images = []
    for t in range(count):
        for n in range(SLICES):
            one = image(n).put(0x00200100, "IS", text(str(t + 1)))
            one = one.put(0x00080018, "UI", uid(f"{ROOT}.5.{t + 1}.{n + 1}"))
            one = one.put(0x00200013, "IS", text(str(100 * (t + 1) + n)))
            images.append(one.put(PIXELS, "OW", (pixels_of(n) + t).tobytes()))
    return images


def write(folder: Path, images: list[Image]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, one in enumerate(images):
        (folder / f"{n:03d}").write_bytes(one.bytes())
    return folder


Edit = Callable[[Image], Image]


def put(tag: int, vr: str, value: bytes) -> Edit:
    """An edit that sets one element."""
    return lambda i: i.put(tag, vr, value)


def behind(tail: bytes) -> Edit:
    """An edit that puts bytes in front of the pixels."""
    return lambda i: replace(i, tail=tail)


def as_syntax(syntax: str, *codestreams: bytes) -> Edit:
    """An edit that replaces the pixels by compressed ones."""
    return lambda i: compressed(i, syntax, *codestreams)


# ---------------------------------------------------------------------- compressed pixels


def compressed(i: Image, syntax: str, *codestreams: bytes, end: bool = True) -> Image:
    return replace(i.put(PIXELS, "OB", fragments(*codestreams, end=end)), syntax=syntax, encapsulated=True)


def wavelet_header(columns: int, rows: int) -> bytes:
    size = struct.pack(">HHIIIIIIIIH", 41, 0, columns, rows, 0, 0, columns, rows, 0, 0, 1) + b"\x0b\1\1"
    return b"\xff\x4f\xff\x51" + size


def jpeg_header(columns: int, rows: int, marker: int = 0xC3) -> bytes:
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">HBHHB", 11, 12, rows, columns, 1) + b"\1\x11\0"


def rle_frame(plane: bytes, rows: int = ROWS, columns: int = COLUMNS) -> bytes:
    """Two byte planes as literal runs."""
    values = np.frombuffer(plane, dtype="<u2")
    segments = []
    for half in (values >> 8, values & 0xFF):
        data = half.astype(np.uint8).tobytes()
        runs = b"".join(
            bytes([len(data[n : n + 128]) - 1]) + data[n : n + 128] for n in range(0, len(data), 128)
        )
        segments.append(runs + b"\0" * (len(runs) % 2))
    head = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *([0] * 13))
    return head + b"".join(segments)
