"""NRRD: `.nrrd` (and `.seg.nrrd`), and the detached header `.nhdr` (read only).

Own reader and writer rather than ITK's: the header is a short text whose every claim is checked here
before memory is taken, and ITK would follow a detached header to any file of the machine. SimpleITK
is the measure in the tests.

Policies, each held by a test:
- *Place*: space directions and origin, turned from LPS, LAS or RAS. Without a space, spacings along
  L, P, S as ITK has it, with a `NO_ORIENTATION` notice. Microns and metres become millimetres.
- *Axes*: axes of one voxel without a direction are dropped; components, layers and time are refused.
- *Packing*: raw and gzip; text, hex and bzip2 are refused.
- *Detached data*: one file, from the header's own folder.
- *Names* of a label map travel in `Segment0_Name`-style keys, as in 3D Slicer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, ReadError
from medseg.files import data_file_beside, file_size, opened, whole_file
from medseg.geometry import FloatArray, Geometry
from medseg.io.label_table import labels_from_segment_keys, segment_keys, written_names
from medseg.io.lps import LPS_TO_RAS, lps_from_ras, plausible_lengths
from medseg.io.notices import notify
from medseg.io.stored import Encoding, StoredVoxels, read_stored, write_stored
from medseg.io.voxels import as_labels, as_volume, label_ids, plain_type
from medseg.volume import Array, LabelVolume, Volume

MAX_HEADER_BYTES = 2**22

_TYPE_WORDS = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {word: kind for kind, words in _TYPE_WORDS.items() for word in words.split(", ")}
ENCODINGS = {"raw": Encoding.RAW, "gzip": Encoding.GZIP, "gz": Encoding.GZIP}
SPACES = {
    "left-posterior-superior": LPS_TO_RAS,
    "lps": LPS_TO_RAS,
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
}
UNIT_MM = {"mm": 1.0, "um": 0.001, "µm": 0.001, "micron": 0.001, "microns": 0.001, "nm": 1e-6, "m": 1000.0}


@dataclass(frozen=True)
class NrrdHeader:
    """Header text, split.

    Attributes:
        fields: standard fields, names in lower case.
        pairs: key/value pairs (`key:=value`).
        end: first byte after the header.
    """

    fields: Mapping[str, str]
    pairs: Mapping[str, str]
    end: int


def read_volume(path: Path) -> Volume:
    """Read intensities.

    Args:
        path: `.nrrd` or `.nhdr`.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    header = _header(path)
    geometry, axes = _geometry(header.fields)
    return as_volume(read_stored(_stored(path, header, axes)), geometry, "NRRD")


def read_labels(path: Path) -> LabelVolume:
    """Read a label map with the names of its segments.

    Args:
        path: `.nrrd` or `.nhdr`.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
        VolumeError: `NOT_LABELS`.
    """
    header = _header(path)
    geometry, axes = _geometry(header.fields)
    array = read_stored(_stored(path, header, axes))
    return as_labels(array, geometry, labels_from_segment_keys(header.pairs))


def write_volume(volume: Volume, path: Path) -> None:
    """Write intensities in their own type, gzip-packed, whole or not at all.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    _write(volume.array, volume.geometry, path, {})


def write_labels(labels: LabelVolume, path: Path) -> None:
    """Write a label map in the smallest integer type that holds it, with its names.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
        VolumeError: `NOT_LABELS` for negative ids.
    """
    keys = segment_keys(written_names(labels), labels.geometry.shape)
    _write(label_ids(labels.array), labels.geometry, path, keys)


# ---------------------------------------------------------------------- reading


def _bad(what: str) -> ReadError:
    return ReadError("BAD_HEADER", f"expected a valid NRRD header, got {what}; write the file again")


def _header(path: Path) -> NrrdHeader:
    with opened(path) as stream:
        block = stream.read(MAX_HEADER_BYTES)
    if not re.match(rb"NRRD000[1-6]\r?\n", block):
        raise ReadError(
            "WRONG_FORMAT", "expected an NRRD header, got something else; give the file its own suffix"
        )
    blank = re.search(rb"\n\r?\n", block)
    if blank is None and len(block) == MAX_HEADER_BYTES:
        raise _bad("one without an end")
    text = block[: blank.start() if blank else len(block)].decode("utf-8", errors="replace")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#"):
            continue
        pair = re.match(r"([^:]*?):=(.*)", line)
        field = re.match(r"([^:]+): ?(.*)", line)
        if pair:
            pairs[pair[1]] = pair[2].replace("\\n", "\n").replace("\\\\", "\\")
        elif field:
            fields[field[1].strip().lower().replace("datafile", "data file")] = field[2].strip()
        elif line.strip():
            raise _bad("a line that is no field")
    if blank is None and "data file" not in fields:
        raise _bad("one that is cut off")
    return NrrdHeader(fields, pairs, blank.end() if blank else len(block))


def _words(fields: Mapping[str, str], name: str) -> list[str]:
    return fields.get(name, "").split()


def _numbers(words: list[str]) -> list[float]:
    try:
        return plausible_lengths(words)
    except GeometryError:
        raise
    except ValueError as error:
        raise _bad("a word where a number belongs") from error


def _sizes(fields: Mapping[str, str]) -> list[int]:
    words = _words(fields, "sizes")
    if not words or not all(re.fullmatch(r"-?\d{1,18}", word) for word in words):
        raise _bad("no sizes")
    if fields.get("dimension", "").strip() != str(len(words)):
        raise _bad("another number of sizes than of dimensions")
    return [int(word) for word in words]


def _geometry(fields: Mapping[str, str]) -> tuple[Geometry, tuple[int, int, int]]:
    """Where the voxels lie, and their shape as stored."""
    sizes = _sizes(fields)
    vectors = _directions(fields, len(sizes))
    if min(sizes) < 1:
        raise ReadError(
            "BAD_SHAPE", f"expected sizes of at least 1 voxel, got {tuple(sizes)}; repair the header"
        )
    spatial = [n for n, vector in enumerate(vectors) if vector is not None]
    if len(spatial) > 3:
        spatial = [n for n in spatial if n < 3 or sizes[n] != 1]
    others = math.prod(size for n, size in enumerate(sizes) if n not in spatial)
    if len(spatial) != 3 or others != 1:
        raise ReadError(
            "NOT_A_VOLUME",
            f"expected three axes in space, got sizes {tuple(sizes)}; pick one component or time point",
        )
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([vectors[n] for n in spatial], dtype=np.float64).T
    origin = _vectors(fields.get("space origin", "(0,0,0)"), 1)[0]
    matrix[:3, 3] = (0, 0, 0) if origin is None else origin
    matrix[:3] *= _unit(fields)
    shape = (sizes[spatial[0]], sizes[spatial[1]], sizes[spatial[2]])
    return Geometry(shape, _space(fields) @ matrix), shape


def _unit(fields: Mapping[str, str]) -> float:
    names = set(re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))) - {""}
    known = {UNIT_MM[name.lower()] for name in names if name.lower() in UNIT_MM}
    return known.pop() if len(known) == 1 and len(names) == 1 else 1.0


def _space(fields: Mapping[str, str]) -> FloatArray:
    """4x4, the file's space -> RAS+."""
    name = fields.get("space", "").lower()
    if not name:
        notify("NO_ORIENTATION", "no space is named; axes were taken to run to L, P and S, as in ITK")
        return LPS_TO_RAS
    if name not in SPACES:
        raise ReadError(
            "BAD_AFFINE", "expected space LPS, LAS or RAS, got another; write the file in one of these"
        )
    return SPACES[name]


def _vectors(text: str, count: int) -> list[list[float] | None]:
    """`count` vectors of three numbers, None for the word none."""
    parts = re.findall(r"\([^()]*\)|none", text.lower())
    if len(parts) != count or re.sub(r"\([^()]*\)|none", "", text.lower()).strip():
        raise _bad("space directions or an origin that are no vectors")
    vectors = [None if p == "none" else _numbers(p[1:-1].replace(",", " ").split()) for p in parts]
    if any(v is not None and len(v) != 3 for v in vectors):
        raise ReadError("NOT_A_VOLUME", "expected a space of three dimensions, got another; convert it to 3D")
    return vectors


def _directions(fields: Mapping[str, str], axes: int) -> list[list[float] | None]:
    """Step of each stored axis in the file's space and unit; None for an axis that is not spatial."""
    if "space directions" in fields:
        return _vectors(fields["space directions"], axes)
    spacing = _numbers(_words(fields, "spacings")) or [1.0] * axes
    if len(spacing) != axes:
        raise _bad("another number of spacings than of dimensions")
    kinds = _words(fields, "kinds") or ["domain"] * axes
    found: list[list[float] | None] = []
    for step, kind in zip(spacing, kinds, strict=False):
        place = sum(v is not None for v in found)
        spatial = kind.lower() in ("domain", "space") and place < 3
        found.append([step * (axis == place) for axis in range(3)] if spatial else None)
    return found


def _stored(path: Path, header: NrrdHeader, shape: tuple[int, int, int]) -> StoredVoxels:
    fields = header.fields
    kind = TYPES.get(fields.get("type", "").lower())
    if kind is None:
        raise ReadError(
            "UNSUPPORTED_VOXELS", "expected integers or floats, got another NRRD type; convert it"
        )
    encoding = ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise ReadError(
            "UNSUPPORTED_ENCODING", "expected NRRD encoding raw or gzip, got another; write it as gzip"
        )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "little").lower())
    if order is None:
        raise _bad("an unknown endian")
    dtype = np.dtype(("<" if order == "<" else ">") + kind)
    data, offset = path, header.end
    if "data file" in fields:
        data, offset = data_file_beside(path, fields["data file"]), 0
    skips = [fields.get(f"{what} skip", fields.get(f"{what}skip", "0")) for what in ("line", "byte")]
    if skips[0] != "0" or not re.fullmatch(r"-1|\d{1,15}", skips[1]):
        raise ReadError("UNSUPPORTED_ENCODING", "expected no skipped lines, got some; write the file again")
    stored = StoredVoxels(data, shape, dtype, encoding, offset)
    skip = int(skips[1])
    if skip == -1 and encoding is Encoding.RAW:  # the voxels are the end of the file
        return StoredVoxels(data, shape, dtype, encoding, file_size(data) - stored.voxel_bytes)
    return StoredVoxels(data, shape, dtype, encoding, offset, max(0, skip))


# ---------------------------------------------------------------------- writing


def _write(array: Array, geometry: Geometry, path: Path, pairs: Mapping[str, str]) -> None:
    array = array.astype(plain_type(array.dtype), copy=False)
    affine = lps_from_ras(geometry.affine)
    columns = ["(" + ",".join(repr(float(x)) for x in affine[:3, n]) + ")" for n in range(4)]
    kind = next(words.split(", ")[-1] for code, words in _TYPE_WORDS.items() if np.dtype(code) == array.dtype)
    lines = [
        "NRRD0005",
        f"type: {kind}",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: " + " ".join(str(n) for n in array.shape),
        "space directions: " + " ".join(columns[:3]),
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        'space units: "mm" "mm" "mm"',
        "space origin: " + columns[3],
        *(f"{key}:=" + value.replace("\\", "\\\\").replace("\n", "\\n") for key, value in pairs.items()),
        "",
        "",
    ]
    with whole_file(path) as stream:
        stream.write("\n".join(lines).encode())
        write_stored(stream, array, Encoding.GZIP)
