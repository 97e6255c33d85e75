"""At least a hundred hostile DICOM inputs, each with the code that reading it must give.

`CASES` names each input and how it is built; the code is `"OK"` where it must be read. Numbers such as
d13 or s07 are those of the project's list of hostile inputs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from dicom_bytes import (
    COLUMNS,
    DEFLATED,
    IMPLICIT,
    J2K,
    JLS,
    JPEG_LOSSLESS,
    PIXELS,
    RLE,
    ROWS,
    SLICES,
    UNDEFINED,
    Edit,
    as_syntax,
    behind,
    compressed,
    element,
    fragments,
    image,
    items,
    jpeg_header,
    put,
    rle_frame,
    series,
    text,
    uid,
    wavelet_header,
    write,
)


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        name: of the case.
        build: writes it into an empty folder and returns the path to read.
        code: expected; `"OK"` where it must be read.
        shape: expected of the volume, where it is read.
    """

    name: str
    build: Callable[[Path], Path] = field(repr=False)
    code: str
    shape: tuple[int, int, int] = (COLUMNS, ROWS, SLICES)


CASES: list[Case] = []


Build = Callable[[Path], Path]


def case(
    code: str, name: str, shape: tuple[int, int, int] = (COLUMNS, ROWS, SLICES)
) -> Callable[[Build], Build]:
    """Add a case by its builder."""

    def add(build: Build) -> Build:
        CASES.append(Case(name, build, code, shape))
        return build

    return add


def one_bad(name: str, code: str, edit: Edit) -> None:
    """A series whose third image is edited."""

    def build(folder: Path) -> Path:
        images = series()
        images[2] = edit(images[2])
        return write(folder / "s", images)

    CASES.append(Case(name, build, code))


def all_bad(name: str, code: str, edit: Edit) -> None:
    """A series in which every image is edited."""
    CASES.append(Case(name, lambda folder: write(folder / "s", [edit(i) for i in series()]), code))


def cut(name: str, code: str, edit: Callable[[bytes], bytes]) -> None:
    """A series whose third file is edited as bytes."""

    def build(folder: Path) -> Path:
        path = write(folder / "s", series())
        third = path / "002"
        third.write_bytes(edit(third.read_bytes()))
        return path

    CASES.append(Case(name, build, code))


def lone(name: str, code: str, content: bytes) -> None:
    """One file of given bytes."""

    def build(folder: Path) -> Path:
        path = folder / "one.dcm"
        path.write_bytes(content)
        return path

    CASES.append(Case(name, build, code))


# ---------------------------------------------------------------------- files that are none

lone("d01 empty file", "NOT_DICOM", b"")
lone("d02 131 bytes", "NOT_DICOM", b"\0" * 131)
lone("d03 text", "NOT_DICOM", b"Dear reader, this is no image. " * 40)
lone("d04 mark only", "NOT_DICOM", b"\0" * 128 + b"DICM")
lone("d05 no preamble", "NOT_DICOM", image().bytes()[132:])
lone("one image", "SINGLE_SLICE", image().bytes())
cut("d06 header cut", "TRUNCATED", lambda raw: raw[:600])
cut("header cut before the series UID", "NO_SERIES", lambda raw: raw[:421])
lone("header cut inside an element", "TRUNCATED", image().bytes()[:421])
cut("d07 pixels cut", "PIXELS_TRUNCATED", lambda raw: raw[:-40])
one_bad("d18 few pixels", "PIXELS_TRUNCATED", lambda i: i.put(PIXELS, "OW", b"\0" * 100))
one_bad("no pixel at all", "PIXELS_TRUNCATED", lambda i: i.put(PIXELS, "OW", b""))
all_bad("d19 too many pixels", "OK", lambda i: i.put(PIXELS, "OW", i.fields[PIXELS][1] + b"\7" * 5000))
all_bad("d20 no PixelData", "NOT_AN_IMAGE", lambda i: i.without(PIXELS))
one_bad("one without PixelData", "NO_SERIES", lambda i: i.without(PIXELS))
cut("bytes behind the pixels", "OK", lambda raw: raw + b"\0" * 333)

# ---------------------------------------------------------------------- transfer syntax

one_bad("d08 no transfer syntax", "BAD_TRANSFER_SYNTAX", lambda i: replace(i, syntax=None))
one_bad("d09 unknown transfer syntax", "BAD_TRANSFER_SYNTAX", lambda i: replace(i, syntax="1.2.3.4"))
one_bad("transfer syntax is words", "BAD_TRANSFER_SYNTAX", lambda i: replace(i, syntax="none"))
all_bad("d10 says implicit, is explicit", "OK", lambda i: replace(i, syntax=IMPLICIT))
all_bad("says explicit, is implicit", "OK", lambda i: replace(i, explicit=False))
all_bad("implicit", "OK", lambda i: replace(i, syntax=IMPLICIT, explicit=False))
one_bad("d34 says JPEG, is native", "BAD_TRANSFER_SYNTAX", lambda i: replace(i, syntax=JPEG_LOSSLESS))
one_bad(
    "says native, is encapsulated",
    "BAD_TRANSFER_SYNTAX",
    lambda i: replace(i.put(PIXELS, "OB", fragments(b"\0" * 240)), encapsulated=True),
)
for _name, _syntax in (
    ("d35 MPEG-4", "1.2.840.10008.1.2.4.102"),
    ("JPEG XL", "1.2.840.10008.1.2.4.110"),
    ("referenced by URL", "1.2.840.10008.1.2.4.94"),
):
    all_bad(
        _name,
        "UNSUPPORTED_TS",
        as_syntax(_syntax, b"\0" * 64),
    )
all_bad("deflated", "OK", lambda i: replace(i, syntax=DEFLATED))
cut("d41 meta length 0", "OK", lambda raw: raw[:140] + b"\0\0\0\0" + raw[144:])
cut("d42 meta length huge", "OK", lambda raw: raw[:140] + b"\xff\xff\xff\x7f" + raw[144:])

# ---------------------------------------------------------------------- pixel module

all_bad("d13 65535 x 65535", "TOO_LARGE", lambda i: i.us(0x00280010, 65535).us(0x00280011, 65535))
all_bad("d14 2^31 - 1 frames", "BAD_FRAMES", lambda i: i.put(0x00280008, "IS", text("2147483647")))
all_bad("d15 frames abc", "BAD_FRAMES", lambda i: i.put(0x00280008, "IS", text("abc")))
all_bad("d16 frames -5", "BAD_FRAMES", lambda i: i.put(0x00280008, "IS", text("-5")))
all_bad("d17 frames 0", "OK", lambda i: i.put(0x00280008, "IS", text("0")))
all_bad("frames 1.5", "BAD_FRAMES", lambda i: i.put(0x00280008, "IS", text("1.5")))
all_bad(
    "three frames without places",
    "NO_POSITION",
    lambda i: i.put(0x00280008, "IS", text("3")).put(PIXELS, "OW", i.fields[PIXELS][1] * 3),
)
one_bad("d21 17 bits stored of 16", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280101, 17).us(0x00280102, 16))
one_bad("d22 12 bits allocated", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280100, 12))
one_bad("0 bits stored", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280101, 0))
one_bad("high bit below bits stored", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280102, 3))
one_bad("d23 no sign", "BAD_PIXEL_MODULE", lambda i: i.without(0x00280103))
one_bad("sign 7", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280103, 7))
one_bad("d24 no rows", "BAD_PIXEL_MODULE", lambda i: i.without(0x00280010))
one_bad("d25 0 rows", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280010, 0))
one_bad("0 columns", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280011, 0))
one_bad("rows of 3 bytes", "BAD_PIXEL_MODULE", lambda i: i.put(0x00280010, "US", b"\0\1\2"))
one_bad("d26 three samples of grey", "BAD_PIXEL_MODULE", lambda i: i.us(0x00280002, 3))
one_bad(
    "d27 palette without a palette",
    "BAD_PIXEL_MODULE",
    lambda i: i.put(0x00280004, "CS", text("PALETTE COLOR")),
)
one_bad("no photometric interpretation", "BAD_PIXEL_MODULE", lambda i: i.without(0x00280004))
all_bad("RGB", "COLOUR", lambda i: i.put(0x00280004, "CS", text("RGB")).us(0x00280002, 3))
all_bad("YBR", "COLOUR", lambda i: i.put(0x00280004, "CS", text("YBR_FULL_422")).us(0x00280002, 3))
all_bad("d28 MONOCHROME1", "OK", lambda i: i.put(0x00280004, "CS", text("MONOCHROME1")))
all_bad(
    "overlay in the upper bits",
    "OK",
    lambda i: i.put(PIXELS, "OW", (np.frombuffer(i.fields[PIXELS][1], "<u2") | 0x8000).tobytes()),
)

# ---------------------------------------------------------------------- compressed pixels

all_bad("RLE", "OK", lambda i: compressed(i, RLE, rle_frame(i.fields[PIXELS][1])))
one_bad(
    "d33 RLE offset outside",
    "DECODE_FAILED",
    lambda i: compressed(i, RLE, struct.pack("<16I", 2, 64, 10**6, *([0] * 13)) + b"\0" * 20),
)
one_bad("RLE 16 segments", "DECODE_FAILED", lambda i: compressed(i, RLE, struct.pack("<16I", *([16] * 16))))
one_bad("RLE short", "DECODE_FAILED", lambda i: compressed(i, RLE, rle_frame(i.fields[PIXELS][1])[:90]))
one_bad("RLE 10 bytes", "DECODE_FAILED", lambda i: compressed(i, RLE, b"\1" * 10))
one_bad("d29 JPEG 2000 garbage", "DECODE_FAILED", lambda i: compressed(i, J2K, b"\xa5" * 400))
one_bad("JPEG 2000 header only", "DECODE_FAILED", lambda i: compressed(i, J2K, wavelet_header(COLUMNS, ROWS)))
one_bad(
    "JPEG 2000 right size, garbage behind",
    "DECODE_FAILED",
    lambda i: compressed(i, J2K, wavelet_header(COLUMNS, ROWS) + b"\xff\x52\x00\x0c" + b"\x91" * 400),
)
one_bad(
    "d30 JPEG 2000 of 60000 for 12 rows",
    "DECODE_FAILED",
    lambda i: compressed(i, J2K, wavelet_header(60000, 60000) + b"\0" * 400),
)
all_bad(
    "d31 JPEG 2000 of 60000",
    "TOO_LARGE",
    lambda i: compressed(i, J2K, wavelet_header(60000, 60000)).us(0x00280010, 60000).us(0x00280011, 60000),
)
all_bad(
    "d32 RLE of 30000",
    "TOO_LARGE",
    lambda i: compressed(i, RLE, b"\0" * 64).us(0x00280010, 30000).us(0x00280011, 30000),
)
one_bad("JPEG-LS garbage", "DECODE_FAILED", lambda i: compressed(i, JLS, b"\xa5" * 400))
one_bad(
    "JPEG-LS of another size",
    "DECODE_FAILED",
    lambda i: compressed(i, JLS, jpeg_header(9, 9, 0xF7) + b"\0" * 90),
)
one_bad(
    "JPEG-LS cut",
    "DECODE_FAILED",
    lambda i: compressed(i, JLS, jpeg_header(COLUMNS, ROWS, 0xF7) + b"\xff\xda\0\x08\1\1\0\0\0\0"),
)
one_bad("JPEG garbage", "DECODE_FAILED", lambda i: compressed(i, JPEG_LOSSLESS, b"\xff\xd8" + b"\x5a" * 99))
one_bad(
    "JPEG lossless cut",
    "DECODE_FAILED",
    lambda i: compressed(i, JPEG_LOSSLESS, jpeg_header(COLUMNS, ROWS) + b"\xff\xda\0\x08\1\1\0\1\0\0"),
)
one_bad("JPEG of nothing", "DECODE_FAILED", lambda i: compressed(i, JPEG_LOSSLESS, b""))
one_bad("fragments without an end", "PIXELS_TRUNCATED", lambda i: compressed(i, RLE, b"\0" * 64, end=False))
one_bad("no fragment", "PIXELS_TRUNCATED", lambda i: compressed(i, RLE))
one_bad(
    "garbage for fragments",
    "DECODE_FAILED",
    lambda i: replace(i.put(PIXELS, "OB", b"\x11" * 64), syntax=RLE, encapsulated=True),
)
one_bad(
    "fragment longer than the file",
    "PIXELS_TRUNCATED",
    lambda i: replace(
        i.put(PIXELS, "OB", items(b"") + struct.pack("<HHI", 0xFFFE, 0xE000, 2**31)),
        syntax=RLE,
        encapsulated=True,
    ),
)

# ---------------------------------------------------------------------- bombs and broken headers


def deflated_zeros(megabytes: int) -> bytes:
    """A deflated data set that begins with one element of so many zeros."""
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    head = struct.pack("<HH2s2xI", 0x0009, 0x1001, b"OB", megabytes * 2**20)
    parts = [packer.compress(head)]
    zeros = b"\0" * 2**20
    parts += [packer.compress(zeros) for _ in range(megabytes)]
    return b"".join(parts) + packer.flush()


def deflate_bomb(folder: Path) -> Path:
    start = replace(image(), syntax=DEFLATED)
    path = folder / "bomb.dcm"
    path.write_bytes(start.preamble + b"DICM" + start.meta() + deflated_zeros(300))
    return path


CASES.append(Case("d36 deflate bomb", deflate_bomb, "TOO_LARGE"))
_deflated = replace(image(2), syntax=DEFLATED).bytes()
lone("deflated, cut", "TRUNCATED", _deflated[: len(_deflated) // 2])
lone("deflated, garbage", "TRUNCATED", _deflated[:400] + b"\xff" * 50)


def nested(depth: int, defined: bool) -> bytes:
    """Sequences in sequences."""
    head = struct.pack("<HH2s2x", 0x0008, 0x1140, b"SQ")
    if not defined:
        opening = head + struct.pack("<I", UNDEFINED) + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED)
        closing = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        return opening * depth + closing * depth
    content = b""
    for _ in range(depth):
        content = head + struct.pack("<I", len(content) + 8) + items(content)
    return content


for _depth in (300, 20_000):
    for _defined in (False, True) if _depth == 300 else (False,):
        one_bad(
            f"d37 sequences {_depth} deep, {'defined' if _defined else 'undefined'} length",
            "TOO_DEEP",
            behind(nested(_depth, _defined)),
        )
all_bad("sequences 20 deep", "OK", lambda i: replace(i, tail=nested(20, False)))
one_bad(
    "d39 element of 4 GB",
    "TRUNCATED",
    lambda i: replace(i, tail=element(0x00291020, "OB", b"", length=0xFFFFFFF0)),
)
one_bad(
    "d40 sequence without an end",
    "BAD_HEADER",
    lambda i: replace(i, tail=element(0x00321064, "SQ", items(b""), length=UNDEFINED)),
)
one_bad(
    "d43 VR ZZ", "BAD_HEADER", lambda i: replace(i, tail=struct.pack("<HH2sH", 0x29, 0x1010, b"ZZ", 0xFFFE))
)
one_bad(
    "item longer than its sequence",
    "BAD_HEADER",
    lambda i: replace(i, tail=element(0x00321064, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 90), length=8)),
)
one_bad(
    "sequence longer than the file",
    "TRUNCATED",
    lambda i: replace(i, tail=element(0x00321064, "SQ", items(b""), length=2**30)),
)
all_bad(
    "icon with encapsulated pixels",
    "OK",
    lambda i: replace(
        i,
        tail=element(0x00880200, "SQ", items(element(PIXELS, "OB", fragments(b"\1" * 40), length=UNDEFINED))),
    ),
)
all_bad(
    "private sequence of VR UN",
    "OK",
    lambda i: replace(
        i,
        tail=struct.pack("<HH2s2xI", 0x0029, 0x1031, b"UN", UNDEFINED)
        + items(element(0x00080104, "LO", b"ab", explicit=False))
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ),
)

# ---------------------------------------------------------------------- numbers

for _value in ("abc", "nan\\nan", "0\\0.5", "-1\\0.5", "0,5\\0,5", "1e400\\1", "0.5", "1\\1\\1", "5000\\1"):
    one_bad(f"d44 spacing {_value}", "BAD_SPACING", put(0x00280030, "DS", text(_value)))
one_bad("no spacing", "BAD_SPACING", lambda i: i.without(0x00280030))
for _value in ("0", "nan", "1e308", "x", "1\\2"):
    one_bad(f"d51 slope {_value}", "BAD_RESCALE", put(0x00281053, "DS", text(_value)))
one_bad("intercept inf", "BAD_RESCALE", lambda i: i.ds(0x00281052, "inf"))
one_bad(
    "look-up table instead of a slope",
    "BAD_RESCALE",
    lambda i: i.put(0x00283000, "SQ", items(element(0x00283004, "LO", b"HU"))),
)
for _name, _value in (
    ("d54 zeros", "0\\0\\0\\0\\0\\0"),
    ("d55 five", "1\\0\\0\\0\\1"),
    ("d56 not at a right angle", "1\\0\\0\\0.7\\0.714\\0"),
    ("d57 scaled", "2\\0\\0\\0\\2\\0"),
    ("d58 nan", "1\\0\\0\\0\\nan\\0"),
):
    one_bad(f"orientation {_name}", "BAD_ORIENTATION", put(0x00200037, "DS", text(_value)))
all_bad("orientation 0.05 % too long", "OK", lambda i: i.ds(0x00200037, "1.0005\\0\\0\\0\\0.9996\\0"))
one_bad("no orientation", "NO_POSITION", lambda i: i.without(0x00200037))
one_bad("s12 one without a position", "NO_POSITION", lambda i: i.without(0x00200032))
one_bad("position nan", "BAD_POSITION", lambda i: i.ds(0x00200032, "0\\0\\nan"))
one_bad("position of two", "BAD_POSITION", lambda i: i.ds(0x00200032, "0\\0"))
one_bad("position beyond a kilometre", "BAD_POSITION", lambda i: i.ds(0x00200032, "0\\0\\1e9"))
all_bad("instance number abc", "OK", lambda i: i.put(0x00200013, "IS", text("abc")))
all_bad("thickness abc", "OK", lambda i: i.ds(0x00180050, "abc"))

# ---------------------------------------------------------------------- text and UIDs

all_bad("d59 unknown character set", "OK", lambda i: i.put(0x00080005, "CS", text("ISO_IR 4711")))
all_bad("d60 name of garbage bytes", "OK", lambda i: i.put(0x00100010, "PN", b"\xff\xfe\x80\x81\x1b$B"))
for _value in (
    "../../../../tmp/x",
    "/etc/cron.d/x",
    "C:\\..\\x:y*?",
    "=cmd|' /C calc'!A0",
    "a\nINFO all is well",
    "%s{0.__class__}<script>",
    "x" * 10_000,
    "",
    "a\0b",
    "$(touch x)",
    "CON",
    "-rf",
):
    all_bad(f"d61 patient id {_value[:24]!r}", "OK", put(0x00100020, "LO", text(_value)))
for _tag, _what in ((0x0020000E, "series"), (0x0020000D, "study"), (0x00080018, "object")):
    all_bad(f"d73 {_what} UID ../../x", "BAD_UID", put(_tag, "UI", uid("../../x")))
    all_bad(f"d74 {_what} UID of 198 digits", "BAD_UID", put(_tag, "UI", uid("1." * 99)))
    all_bad(f"d75 {_what} UID empty", "BAD_UID", put(_tag, "UI", b""))
all_bad(
    "all UIDs empty",
    "OK",
    lambda i: i.put(0x0020000E, "UI", b"").put(0x0020000D, "UI", b"").put(0x00080018, "UI", b""),
)
all_bad("d11 polyglot program", "OK", lambda i: replace(i, preamble=b"MZ" + b"\x90" * 126))
all_bad("d12 polyglot ELF", "OK", lambda i: replace(i, preamble=b"\x7fELF" + b"\1" * 124))
all_bad("s21 stripped", "OK", lambda i: i.without(0x00080005, 0x00100010, 0x00100020, 0x00100030, 0x00180050))
all_bad("s19 no frame of reference", "OK", lambda i: i.without(0x00200052))
