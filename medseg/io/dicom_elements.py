"""The bytes of a DICOM header, walked with a limit on everything that a file can claim.

pydicom descends into nested sequences until Python's stack ends and inflates a deflated file whole,
so it is not let near a file that nobody has looked at. This walker keeps only the elements that
were asked for, stops in front of the pixels, and turns each lie into a stable reason. It never
holds a name or an id of a patient as text.

Source of the encoding: DICOM PS3.5 section 7 (elements, sequences, items), PS3.10 section 7 (file).
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from dataclasses import dataclass, field
from typing import Protocol

from medseg.errors import ReadError

MAX_DEPTH = 64
"""Sequences inside sequences; content trees of reports stay below 20."""
MAX_ELEMENTS = 4_000_000
MAX_HEADER_BYTES = 2**28
"""Everything before the pixels of one file."""
MAX_VALUE_BYTES = 2**16
"""Longer values of a wanted element are not kept."""
MAX_TABLE_BYTES = 2**17
"""Look-up table of 65,536 entries."""
MAX_PRIVATE_BYTES = 2**20
"""Longest private image header (Siemens CSA) that is kept."""

UNDEFINED_LENGTH = 0xFFFFFFFF
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

_GROUP_LENGTH, _MEDIA_CLASS, _MEDIA_INSTANCE, _TRANSFER_SYNTAX = (
    0x00020000,
    0x00020002,
    0x00020003,
    0x00020010,
)
_TABLE_DATA = 0x00283006
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"})
_SHORT_VRS = _TEXT_VRS | {"AT", "FD", "FL", "SL", "SS", "UL", "US"}
_VRS = _LONG_VRS | _SHORT_VRS
_ITEM_BYTES = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


class ByteStream(Protocol):
    """What the walker needs of an open file."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""


@dataclass(slots=True)
class Elements:
    """What was kept of one data set.

    Attributes:
        little: byte order of numbers.
        values: tag -> raw bytes.
        items: tag of a sequence -> its items.
    """

    little: bool = True
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, tuple[Elements, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PixelPlace:
    """Where the pixels of a file stand.

    Attributes:
        tag: PixelData or one of its floating-point kin.
        vr: two letters; empty in implicit encoding.
        offset: of the value's first byte, in the file, or in the inflated stream of a deflated one.
        length: bytes, or None where they are encapsulated in fragments.
    """

    tag: int
    vr: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class RawHeader:
    """One file up to its pixels.

    Attributes:
        transfer_syntax: UID.
        media_class: kind of object as the file's meta header states it.
        media_instance: UID of the object as the file's meta header states it.
        body: offset of the data set, which is where a deflated stream begins.
        elements: those asked for.
        pixels: None where the object has none.
        foreign_preamble: whether the 128 free bytes in front are those of a program file.
        broken: why the walk ended early, with everything read so far; None where it did not.
    """

    transfer_syntax: str
    media_class: str
    media_instance: str
    body: int
    elements: Elements
    pixels: PixelPlace | None
    foreign_preamble: bool
    broken: ReadError | None = None


class InflatingStream(io.RawIOBase):
    """A raw-deflate stream read forward, never holding more than a chunk.

    Args:
        stream: compressed bytes.
        limit: inflated bytes after which the stream is refused.
    """

    def __init__(self, stream: ByteStream, limit: int) -> None:
        super().__init__()
        self._stream, self._left = stream, limit
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # narrower
        """Fill a buffer; 0 at the end.

        Raises:
            ReadError: `TOO_LARGE` past the limit, `TRUNCATED` where the stream is damaged.
        """
        while True:
            source = self._inflate.unconsumed_tail or self._stream.read(2**16)
            try:
                data = self._inflate.decompress(source, len(buffer))
            except zlib.error as error:
                raise ReadError("TRUNCATED", "expected a deflated data set, got damaged bytes") from error
            if data or not source:
                break
        self._left -= len(data)
        if self._left < 0:
            raise ReadError("TOO_LARGE", "expected a deflated file of sane size, got one that keeps growing")
        buffer[: len(data)] = data
        return len(data)


def read_raw_header(stream: io.BufferedReader, size: int, wanted: frozenset[int]) -> RawHeader:
    """Walk a file up to its pixels.

    Args:
        stream: at the file's first byte.
        size: bytes of the file.
        wanted: tags of the data set to keep; a sequence is kept with everything in it.

    Returns:
        the header; where the data set is damaged, what stood before the damage and the reason.

    Raises:
        ReadError: `NOT_DICOM` without the mark at byte 128, `TRUNCATED` or `BAD_HEADER` where the file's
            meta header is damaged.
    """
    start = stream.read(132)
    if len(start) < 132 or start[128:] != b"DICM" or size <= 140:
        raise ReadError("NOT_DICOM", "expected DICM at byte 128 and a header after it, got another file")
    tags = (_TRANSFER_SYNTAX, _MEDIA_CLASS, _MEDIA_INSTANCE)
    meta = _Walker(stream, size, 132, frozenset({_GROUP_LENGTH, *tags}))
    found = meta.meta_header()
    uids = [sys.intern(found.values.get(tag, b"").decode("latin-1").strip("\0 ")) for tag in tags]
    syntax = uids[0]
    broken = None if syntax.startswith(IMPLICIT_LITTLE) else _unknown_syntax(syntax)
    walker = _Walker(stream, size, meta.at, wanted)
    if syntax == DEFLATED:
        inflating = InflatingStream(stream, MAX_HEADER_BYTES)
        walker = _Walker(io.BufferedReader(inflating, 2**16), None, 0, wanted)
    walker.little = syntax != EXPLICIT_BIG
    elements = Elements(walker.little)
    try:
        walker.find_encoding()
        walker.data_set(elements, None, 0, None)
    except ReadError as error:
        broken = broken or error
    foreign = start.startswith((b"MZ", b"\x7fELF"))
    return RawHeader(syntax, uids[1], uids[2], meta.at, elements, walker.pixels, foreign, broken)


def _longest(tag: int) -> int:
    """Bytes of a wanted value that are kept."""
    if tag >> 16 & 1:
        return MAX_PRIVATE_BYTES
    return MAX_TABLE_BYTES if tag == _TABLE_DATA else MAX_VALUE_BYTES


def _unknown_syntax(syntax: str) -> ReadError:
    what = "one that is not of the standard" if syntax else "none"
    return ReadError("BAD_TRANSFER_SYNTAX", f"expected a transfer syntax of the standard, got {what}")


class _Walker:
    """One pass over a data set; `at` is the number of bytes behind it.

    A stream of known size can be sought in; an inflated one (size None) is only read forward.
    """

    def __init__(self, stream: io.BufferedReader, size: int | None, at: int, wanted: frozenset[int]) -> None:
        self.stream, self.size, self.at, self.wanted = stream, size, at, wanted
        self.pending = b""
        self.little, self.explicit = True, True
        self.pixels: PixelPlace | None = None
        self.elements = 0

    # ------------------------------------------------------------------ bytes

    def take(self, count: int) -> bytes:
        if self.pending:
            data = self.pending + self.stream.read(max(0, count - len(self.pending)))
            data, self.pending = data[:count], data[count:]
        else:
            data = self.stream.read(count)
        self.at += len(data)
        if len(data) < count:
            raise ReadError("TRUNCATED", "expected more of the header, got the end of the file; copy it anew")
        return data

    def skip(self, count: int) -> None:
        if self.size is not None:
            if self.at + count > self.size:
                raise ReadError("TRUNCATED", "expected a value that fits the file, got a longer one")
            self.stream.seek(count, io.SEEK_CUR)
            self.at += count
            return
        while count > 0:
            count -= len(self.take(min(count, 2**16)))

    def push_back(self, data: bytes) -> None:
        self.at -= len(data)
        if self.size is None:
            self.pending = data + self.pending
        else:
            self.stream.seek(-len(data), io.SEEK_CUR)

    # ------------------------------------------------------------------ the file's parts

    def meta_header(self) -> Elements:
        """Group 2, always explicit little endian; its stated length is believed for deflated files only."""
        kept = Elements()
        end = None
        while end is None or self.at < end:
            head = self.take(8)
            if head[:2] != b"\x02\x00":
                self.push_back(head)
                break
            tag, _, length = self._parsed(head)
            if length > MAX_VALUE_BYTES:
                self.skip(length)
                continue
            value = self.take(length)
            if tag in self.wanted:
                kept.values[tag] = value
            deflated = kept.values.get(_TRANSFER_SYNTAX, b"").rstrip(b"\0 ") == DEFLATED.encode()
            stated = kept.values.get(_GROUP_LENGTH, b"")
            end = 144 + int(struct.unpack("<I", stated)[0]) if deflated and len(stated) == 4 else None
        return kept

    def find_encoding(self) -> None:
        """Explicit or implicit by what the first element looks like; writers have mislabelled both."""
        head = self.take(8)
        self.push_back(head)
        self.explicit = head[4:6].decode("latin-1") in _VRS

    def _parsed(self, head: bytes) -> tuple[int, str, int]:
        """(tag, VR, length); the VR is empty in implicit encoding and for items."""
        order = "<" if self.little else ">"
        group, element = struct.unpack(order + "HH", head[:4])
        tag = group << 16 | element
        if not self.explicit or group == 0xFFFE:
            return tag, "", struct.unpack(order + "I", head[4:])[0]
        vr = head[4:6].decode("latin-1")
        if vr in _SHORT_VRS:
            return tag, vr, struct.unpack(order + "H", head[6:])[0]
        if vr not in _LONG_VRS:
            raise ReadError("BAD_HEADER", "expected a value type of the standard, got another; re-export it")
        return tag, vr, struct.unpack(order + "I", self.take(4))[0]

    def data_set(self, kept: Elements, end: int | None, depth: int, keep_all: bool | None) -> None:
        """Walk elements up to `end`, an item's end mark, the pixels or the file's end.

        `keep_all` is None at the top, where only wanted tags are kept.
        """
        while end is None or self.at < end:
            if depth == 0 and self._at_end():
                return
            tag, vr, length = self._parsed(self.take(8))
            self.elements += 1
            if self.elements > MAX_ELEMENTS or self.at > MAX_HEADER_BYTES:
                raise ReadError("TOO_LARGE", "expected a header of sane size, got an endless one")
            if tag == _ITEM_END:
                return
            if depth == 0 and tag in _PIXEL_TAGS:
                known = None if length == UNDEFINED_LENGTH else length
                self.pixels = PixelPlace(tag, vr, self.at, known)
                return
            keep = tag in self.wanted if keep_all is None else keep_all
            self._value(kept, tag, vr, length, depth, keep)
        if self.at > end:
            raise ReadError("BAD_HEADER", "expected an item to end with its last element, got a longer one")

    def _at_end(self) -> bool:
        if self.size is not None:
            return self.at >= self.size
        if not self.pending:
            self.pending = self.stream.read(1)
        return not self.pending

    def _value(self, kept: Elements, tag: int, vr: str, length: int, depth: int, keep: bool) -> None:
        if length == UNDEFINED_LENGTH:
            if vr in ("SQ", "UN", ""):
                items = self._sequence(None, depth + 1, keep, implicit=vr == "UN")
                if keep:
                    kept.items[tag] = items
            else:
                self._fragments()
        elif vr == "SQ" or (keep and vr in ("UN", "") and length >= 8 and self._looks_like_items()):
            if self.size is not None and self.at + length > self.size:
                raise ReadError("TRUNCATED", "expected a sequence that fits the file, got a longer one")
            items = self._sequence(self.at + length, depth + 1, keep, implicit=vr == "UN")
            if keep:
                kept.items[tag] = items
        elif keep and length <= _longest(tag):
            kept.values[tag] = self.take(length)
        else:
            self.skip(length)

    def _looks_like_items(self) -> bool:
        head = self.take(4)
        self.push_back(head)
        return head in _ITEM_BYTES

    def _sequence(self, end: int | None, depth: int, keep: bool, implicit: bool) -> tuple[Elements, ...]:
        if depth > MAX_DEPTH:
            raise ReadError("TOO_DEEP", f"expected at most {MAX_DEPTH} nested sequences, got more")
        explicit, self.explicit = self.explicit, self.explicit and not implicit
        items: list[Elements] = []
        while end is None or self.at < end:
            tag, _, length = self._parsed(self.take(8))
            if tag == _SEQUENCE_END:
                break
            if tag != _ITEM:
                raise ReadError("BAD_HEADER", "expected an item of a sequence, got another element")
            item = Elements(self.little)
            self.data_set(item, None if length == UNDEFINED_LENGTH else self.at + length, depth, keep)
            if keep:
                items.append(item)
        self.explicit = explicit
        return tuple(items)

    def _fragments(self) -> None:
        """Skip an encapsulated value, such as the pixels of an icon."""
        while True:
            tag, _, length = self._parsed(self.take(8))
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM or length == UNDEFINED_LENGTH:
                raise ReadError("BAD_HEADER", "expected fragments of an image, got another element")
            self.skip(length)
