"""Hostile series, folders, zips and DICOMDIRs; see `hostile_dicom`, whose list this continues."""

from __future__ import annotations

import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

from dicom_bytes import (
    COLUMNS,
    DOSE,
    ENHANCED_MR,
    PIXELS,
    REPORT,
    ROOT,
    ROWS,
    SECONDARY,
    SEG,
    SLICES,
    Image,
    element,
    image,
    items,
    pixels_of,
    put,
    series,
    text,
    uid,
    write,
)
from hostile_dicom import Build, all_bad, case

NAME, INSTANCE, POSITION, TYPE = 0x00080018, 0x00200013, 0x00200032, 0x00080008


def named(i: Image, n: int) -> Image:
    """Another object of the same series."""
    return i.put(NAME, "UI", uid(f"{ROOT}.9.{n}")).put(INSTANCE, "IS", text(str(n)))


def placed(i: Image, x: float, y: float, z: float) -> Image:
    return i.ds(POSITION, f"{x:g}\\{y:g}\\{z:g}")


# ---------------------------------------------------------------------- how slices lie


@case("OK", "s01 plain")
def plain(folder: Path) -> Path:
    return write(folder / "s", series())


@case("MISSING_SLICES", "s02 one slice missing")
def one_missing(folder: Path) -> Path:
    images = series()
    return write(folder / "s", images[:3] + images[4:])


@case("DUPLICATE_CONFLICT", "s03 one place, two images")
def same_place(folder: Path) -> Path:
    other = named(image(3), 77).put(PIXELS, "OW", pixels_of(90).tobytes())
    return write(folder / "s", [*series(), other])


@case("OK", "s04 every file twice")
def copies(folder: Path) -> Path:
    return write(folder / "s", series() + series())


@case("OK", "one image twice under two UIDs")
def same_pixels(folder: Path) -> Path:
    return write(folder / "s", [*series(), named(image(3), 77)])


@case("DUPLICATE_CONFLICT", "s05 one UID, two images")
def same_name(folder: Path) -> Path:
    other = image(3).put(PIXELS, "OW", pixels_of(90).tobytes())
    return write(folder / "s", [*series(), other])


@case("DUPLICATE_CONFLICT", "one UID at two places")
def same_name_elsewhere(folder: Path) -> Path:
    return write(folder / "s", [*series(), placed(image(3), -20, -30, 40)])


@case("OK", "s06 tilted", (COLUMNS, ROWS + 10, SLICES))
def tilted(folder: Path) -> Path:
    return write(folder / "s", [placed(image(n), -20, -30 + n, 5 + 2.5 * n) for n in range(SLICES)])


@case("OK", "s07 variable spacing", (COLUMNS, ROWS, 15))
def variable(folder: Path) -> Path:
    places = (0, 2, 4, 6, 9.5, 13, 16.5, 28)
    images = [placed(image(n), -20, -30, z) for n, z in enumerate(places)]
    return write(folder / "s", images)


@case("TOO_LARGE", "one slice far away")
def far_away(folder: Path) -> Path:
    return write(folder / "s", [*series(7), placed(image(7), -20, -30, 600_000)])


@case("NOT_A_VOLUME", "slices beside each other")
def beside(folder: Path) -> Path:
    return write(folder / "s", [placed(image(n), 50 * n, 0, n) for n in range(SLICES)])


@case("SEVERAL_VOLUMES", "s08 two matrices")
def two_matrices(folder: Path) -> Path:
    small = [i.us(0x00280010, ROWS - 2) for i in series()[4:]]
    return write(folder / "s", series()[:4] + small)


@case("SEVERAL_VOLUMES", "s18 two pixel spacings")
def two_spacings(folder: Path) -> Path:
    return write(folder / "s", series()[:4] + [i.ds(0x00280030, "0.8\\0.5") for i in series()[4:]])


@case("SEVERAL_VOLUMES", "two orientations")
def two_orientations(folder: Path) -> Path:
    turned = [
        placed(named(image(n), 50 + n).ds(0x00200037, "1\\0\\0\\0\\0\\-1"), 0, 2 * n, 0)
        for n in range(SLICES)
    ]
    return write(folder / "s", series() + turned)


@case("OK", "s09 localizer inside")
def localizer(folder: Path) -> Path:
    scout = named(image(3), 99).put(TYPE, "CS", text("ORIGINAL\\PRIMARY\\LOCALIZER"))
    return write(folder / "s", [*series(), scout.ds(0x00200037, "1\\0\\0\\0\\0\\-1")])


@case("OK", "s10 reversed")
def backwards(folder: Path) -> Path:
    images = [i.put(INSTANCE, "IS", text(str(SLICES - n))) for n, i in enumerate(series())]
    return write(folder / "s", images[::-1])


all_bad("s11 no instance number", "OK", lambda i: i.without(INSTANCE))


@case("OK", "s13 a slope per slice")
def slopes(folder: Path) -> Path:
    return write(folder / "s", [i.ds(0x00281053, f"{0.1 + n / 7:.6f}") for n, i in enumerate(series())])


@case("OK", "s14 mixed sign")
def mixed_sign(folder: Path) -> Path:
    return write(folder / "s", [i.us(0x00280103, n % 2) for n, i in enumerate(series())])


all_bad("s15 all at one place", "NOT_A_VOLUME", lambda i: placed(i, 0, 0, 0))


@case("SINGLE_SLICE", "s16 one slice")
def one_slice(folder: Path) -> Path:
    return write(folder / "s", series(1))


@case("SEVERAL_VOLUMES", "s17 two phases")
def two_phases(folder: Path) -> Path:
    early = [i.put(0x00200100, "IS", text("1")) for i in series()]
    late = [named(i, 50 + n).put(0x00200100, "IS", text("2")) for n, i in enumerate(series())]
    return write(folder / "s", early + late)


@case("MIXED_PATIENT", "s20 two patients in one series")
def two_patients(folder: Path) -> Path:
    return write(folder / "s", series()[:4] + [i.put(0x00100020, "LO", text("P2")) for i in series()[4:]])


@case("MIXED_PATIENT", "two names of one id")
def two_names(folder: Path) -> Path:
    return write(
        folder / "s", series()[:4] + [i.put(0x00100010, "PN", text("Other^Name")) for i in series()[4:]]
    )


@case("SEVERAL_SERIES", "s20 one series UID in two studies")
def two_studies(folder: Path) -> Path:
    other = [named(i, 50 + n).put(0x0020000D, "UI", uid(f"{ROOT}.77")) for n, i in enumerate(series())]
    return write(folder / "s", series() + other)


for _kind, _code in ((SECONDARY, "SECONDARY_CAPTURE"), (SEG, "SEGMENTATION"), (DOSE, "DOSE")):
    all_bad(f"kind {_code}", _code, put(0x00080016, "UI", uid(_kind)))
all_bad("kind report", "NOT_AN_IMAGE", lambda i: i.put(0x00080016, "UI", uid(REPORT)).without(PIXELS))
all_bad(
    "mosaic that says nothing of its slices",
    "BAD_MOSAIC",
    lambda i: i.put(TYPE, "CS", text("ORIGINAL\\PRIMARY\\M\\MOSAIC")),
)

# ---------------------------------------------------------------------- multi-frame


def frame_groups(count: int, spacing: bytes = b"0.75\\0.5") -> tuple[bytes, bytes]:
    """(shared, per-frame) functional groups of an even stack."""
    measures = element(0x00280030, "DS", spacing) if spacing else b""
    turn = element(0x00200037, "DS", text("1\\0\\0\\0\\1\\0"))
    shared = element(0x00209116, "SQ", items(turn)) + element(0x00289110, "SQ", items(measures))
    frames = []
    for n in range(count):
        place = element(0x00200032, "DS", text(f"-20\\-30\\{5 + 2.5 * n}"))
        frames.append(element(0x00209113, "SQ", items(place)))
    return items(shared), items(*frames)


def multiframe(groups: tuple[bytes, bytes], frames: int = SLICES) -> Image:
    pixels = b"".join(pixels_of(n).tobytes() for n in range(frames))
    whole = image().without(POSITION, 0x00200037, 0x00280030, 0x00281052, 0x00281053)
    whole = whole.put(0x00080016, "UI", uid(ENHANCED_MR)).put(0x00280008, "IS", text(str(frames)))
    whole = whole.put(PIXELS, "OW", pixels).put(0x00080060, "CS", text("MR"))
    return whole.put(0x52009229, "SQ", groups[0]).put(0x52009230, "SQ", groups[1])


def _writes(whole: Image) -> Build:
    return lambda folder: write(folder / "s", [whole])


def _multiframe_cases() -> None:
    private = element(0x00209165, "AT", struct.pack("<HH", 0x2005, 0x106E))
    built = {
        ("multi-frame", "OK"): multiframe(frame_groups(SLICES)),
        ("multi-frame without a frame of reference", "OK"): multiframe(frame_groups(SLICES)).without(
            0x00200052
        ),
        ("multi-frame with a private index", "OK"): multiframe(frame_groups(SLICES)).put(
            0x00209222, "SQ", items(private)
        ),
        ("multi-frame, too few groups", "BAD_FRAMES"): multiframe(frame_groups(SLICES - 1)),
        ("multi-frame without groups", "NO_POSITION"): multiframe(frame_groups(SLICES)).without(0x52009230),
        ("multi-frame without spacing", "BAD_SPACING"): multiframe(frame_groups(SLICES, b"")),
        ("multi-frame of 0 frames", "BAD_FRAMES"): multiframe(frame_groups(SLICES)).put(
            0x00280008, "IS", text("0")
        ),
        ("multi-frame, few pixels", "PIXELS_TRUNCATED"): multiframe(frame_groups(SLICES)).put(
            PIXELS, "OW", b"\0" * 999
        ),
        ("multi-frame in implicit encoding", "OK"): replace(
            multiframe((frame_groups(SLICES)[0], frame_groups(SLICES)[1])), explicit=True
        ),
    }
    for (name, code), whole in built.items():
        case(code, name)(_writes(whole))


_multiframe_cases()

# ---------------------------------------------------------------------- trees


@case("OK", "t01 links, a pipe, a folder called dcm, a strange name")
def strange_tree(folder: Path) -> Path:
    tree = write(folder / "s", series())
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "passwords").symlink_to("/etc/passwd")
    (tree / "again.dcm").symlink_to(tree / "000")
    (tree / "folder.dcm").mkdir()
    (tree / "notes.txt").write_text("no image")
    os.mkfifo(tree / "pipe.dcm")
    with open(os.fsencode(tree) + b"/caf\xe9\xff.dcm", "wb") as stream:  # noqa: PTH123  a name that no str path has
        stream.write(b"strange")
    return tree


@case("FILE_NOT_FOUND", "nothing there")
def nothing(folder: Path) -> Path:
    return folder / "nothing"


@case("NO_IMAGES", "empty folder")
def empty(folder: Path) -> Path:
    return folder


@case("NOT_A_FILE", "a pipe")
def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.dcm")
    return folder / "pipe.dcm"


def directory_of(*references: str) -> bytes:
    """A DICOMDIR with these file ids."""
    records = items(*(element(0x00041500, "CS", text(r)) for r in references))
    body = element(0x00041220, "SQ", records)
    whole = Image({0x00080016: ("UI", uid("1.2.840.10008.1.3.10"))})
    return whole.preamble + b"DICM" + whole.meta() + body


def _with_directory(folder: Path, content: bytes) -> Path:
    write(folder / "IMAGES", series())
    (folder / "DICOMDIR").write_bytes(content)
    return folder / "DICOMDIR"


case("OK", "DICOMDIR")(
    lambda folder: _with_directory(folder, directory_of(*(f"IMAGES\\{n:03d}" for n in range(SLICES))))
)
case("OK", "DICOMDIR of missing files")(lambda folder: _with_directory(folder, directory_of("IMAGES\\GONE")))
case("OK", "DICOMDIR cut")(lambda folder: _with_directory(folder, directory_of("IMAGES\\000")[:-3]))
case("UNSAFE_PATH", "t02 DICOMDIR that leads out")(
    lambda folder: _with_directory(folder, directory_of("..\\..\\etc\\passwd"))
)
case("UNSAFE_PATH", "DICOMDIR of an absolute path")(
    lambda folder: _with_directory(folder, directory_of("/etc/passwd"))
)

# ---------------------------------------------------------------------- zips


def zipped(folder: Path, extra: dict[str | zipfile.ZipInfo, bytes] | None = None) -> Path:
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, one in enumerate(series()):
            archive.writestr(f"study/{n:03d}", one.bytes())
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def _with_member(name: str) -> Build:
    return lambda folder: zipped(folder, {name: b"x"})


case("OK", "zip")(zipped)
case("OK", "z05 zip in a zip")(lambda folder: zipped(folder, {"inner.zip": b"PK\3\4" + b"\0" * 400}))
for _name in ("../../evil", "/etc/evil", "a/../../evil"):
    case("ARCHIVE_UNSAFE", f"z01 zip with {_name}")(_with_member(_name))


@case("ARCHIVE_UNSAFE", "z01 zip with backslashes")
def backslashes(folder: Path) -> Path:
    path = zipped(folder, {"..aaevil": b"x"})
    path.write_bytes(path.read_bytes().replace(b"..aaevil", b"..\\\\evil"))
    return path


@case("ARCHIVE_UNSAFE", "z02 zip with a link")
def linked(folder: Path) -> Path:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return zipped(folder, {link: b"/etc/passwd"})


@case("TOO_LARGE", "z03 zip of 4 GiB of zeros")
def zip_bomb(folder: Path) -> Path:
    """The list of members is made to say so; what it says is judged before anything is inflated."""
    path = zipped(folder, {"bomb": b"\0" * 10**6})
    raw = path.read_bytes()
    path.write_bytes(raw.replace(struct.pack("<I", 10**6), struct.pack("<I", 0xFFFFFFF0)))
    return path


@case("TOO_LARGE", "z04 zip of 20,000 members")
def many_members(folder: Path) -> Path:
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(20_000):
            archive.writestr(f"{n}", b"")
    return path


@case("ARCHIVE_ENCRYPTED", "zip with a password")
def encrypted(folder: Path) -> Path:
    path = zipped(folder)
    raw = bytearray(path.read_bytes())
    at = 0
    while (at := raw.find(b"PK\1\2", at)) >= 0:
        raw[at + 8] |= 1
        at += 4
    path.write_bytes(raw)
    return path


@case("BAD_ARCHIVE", "z07 zip cut")
def cut_zip(folder: Path) -> Path:
    path = zipped(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


@case("BAD_ARCHIVE", "zip whose bytes changed")
def damaged_zip(folder: Path) -> Path:
    path = zipped(folder)
    raw = bytearray(path.read_bytes())
    raw[200:260] = b"\xaa" * 60
    path.write_bytes(raw)
    return path
