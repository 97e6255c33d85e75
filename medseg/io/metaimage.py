"""MetaImage, ITK's own format: `.mha`, and the pair `.mhd` + raw or zraw (read only).

Own reader and writer rather than ITK's, for the reasons that stand in `nrrd`; SimpleITK is the
measure in the tests.

Policies, each held by a test:
- *Place*: `TransformMatrix` (axis by axis), `Offset`, `ElementSpacing`, turned from LPS. Fields that are
  missing take ITK's values (identity, 0, 1 mm), with a `NO_ORIENTATION` notice where spacing or matrix is.
- *Axes*: three, of one channel.
- *Packing*: none or zlib. *Detached data*: one file, from the header's own folder.
- *Names* of a label map travel in `Segment0_Name`-style fields, as in NRRD.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.errors import GeometryError, ReadError
from medseg.files import data_file_beside, file_size, opened, whole_file
from medseg.geometry import FloatArray, Geometry
from medseg.io.label_table import labels_from_segment_keys, segment_keys, written_names
from medseg.io.lps import lps_from_ras, plausible_lengths, ras_from_lps
from medseg.io.notices import notify
from medseg.io.stored import Encoding, StoredVoxels, read_stored, write_stored
from medseg.io.voxels import as_labels, as_volume, label_ids, plain_type
from medseg.volume import Array, LabelVolume, Volume

MAX_HEADER_BYTES = 2**22
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
UNIT_MM = {"um": 0.001, "mm": 1.0, "cm": 10.0}
SIZE_DIGITS = 20


@dataclass(frozen=True)
class MetaHeader:
    """Header text, split.

    Attributes:
        fields: all fields, names as written.
        end: first byte after the header.
    """

    fields: Mapping[str, str]
    end: int


def read_volume(path: Path) -> Volume:
    """Read intensities.

    Args:
        path: `.mha` or `.mhd`.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    header = _header(path)
    geometry = _geometry(header.fields)
    return as_volume(read_stored(_stored(path, header, geometry.shape)), geometry, "MetaImage")


def read_labels(path: Path) -> LabelVolume:
    """Read a label map with the names of its segments.

    Args:
        path: `.mha` or `.mhd`.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
        VolumeError: `NOT_LABELS`.
    """
    header = _header(path)
    geometry = _geometry(header.fields)
    array = read_stored(_stored(path, header, geometry.shape))
    return as_labels(array, geometry, labels_from_segment_keys(header.fields))


def write_volume(volume: Volume, path: Path) -> None:
    """Write intensities in their own type, zlib-packed, whole or not at all.

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
    return ReadError("BAD_HEADER", f"expected a valid MetaImage header, got {what}; write the file again")


def _header(path: Path) -> MetaHeader:
    with opened(path) as stream:
        block = stream.read(MAX_HEADER_BYTES)
    if not re.match(rb"\s*[A-Za-z]+\s*=", block):
        raise ReadError(
            "WRONG_FORMAT", "expected a MetaImage header, got something else; give the file its own suffix"
        )
    last = re.search(rb"(?m)^\s*ElementDataFile\s*=[^\n]*(\n|\Z)", block)
    if last is None:
        raise _bad("one without ElementDataFile")
    fields: dict[str, str] = {}
    for line in block[: last.end()].decode("utf-8", errors="replace").splitlines():
        name, equals, value = line.partition("=")
        if not equals and line.strip():
            raise _bad("a line that is no field")
        fields[name.strip()] = value.strip()
    return MetaHeader(fields, last.end())


def _numbers(fields: Mapping[str, str], names: tuple[str, ...], count: int) -> list[float] | None:
    """The numbers of the first of these fields that exists."""
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return None
    try:
        numbers = plausible_lengths(text.split())
    except GeometryError:
        raise
    except ValueError as error:
        raise _bad(f"no numbers for {names[0]}") from error
    if len(numbers) != count:
        raise _bad(f"{len(numbers)} instead of {count} numbers for {names[0]}")
    return numbers


def _is_true(fields: Mapping[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower() in ("true", "1", "t") for name in names)


def _geometry(fields: Mapping[str, str]) -> Geometry:
    words = fields.get("DimSize", "").split()
    if not words or not all(re.fullmatch(r"-?\d{1,18}", word) for word in words):
        raise _bad("no DimSize")
    if fields.get("NDims") != str(len(words)):
        raise _bad("another number of sizes than NDims")
    if len(words) != 3 or fields.get("ElementNumberOfChannels", "1") != "1":
        raise ReadError(
            "NOT_A_VOLUME",
            f"expected one 3D volume of one channel, got {len(words)} axes or several channels; pick one",
        )
    return Geometry((int(words[0]), int(words[1]), int(words[2])), _affine(fields))


def _affine(fields: Mapping[str, str]) -> FloatArray:
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), 3)
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), 9)
    offset = _numbers(fields, ("Offset", "Position", "Origin"), 3) or [0.0, 0.0, 0.0]
    if spacing is None or matrix is None:
        notify("NO_ORIENTATION", "the header lacks spacing or matrix; 1 mm and axes along L, P, S were taken")
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(matrix or np.eye(3).ravel(), (3, 3)).T * (spacing or (1.0, 1.0, 1.0))
    lps[:3, 3] = offset
    lps[:3] *= UNIT_MM.get(fields.get("DistanceUnits", "mm").lower(), 1.0)
    return ras_from_lps(lps)


def _stored(path: Path, header: MetaHeader, shape: tuple[int, int, int]) -> StoredVoxels:
    fields = header.fields
    kind = TYPES.get(fields.get("ElementType", ""))
    if kind is None:
        raise ReadError(
            "UNSUPPORTED_VOXELS", "expected integers or floats, got another ElementType; convert it"
        )
    if fields.get("BinaryData", "True").lower() == "false":
        raise ReadError("UNSUPPORTED_ENCODING", "expected binary voxels, got text; write the file as binary")
    big = _is_true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    dtype = np.dtype((">" if big else "<") + kind)
    encoding = Encoding.ZLIB if _is_true(fields, "CompressedData") else Encoding.RAW
    name = fields["ElementDataFile"]
    data, offset = (path, header.end) if name.upper() == "LOCAL" else (data_file_beside(path, name), 0)
    skip = fields.get("HeaderSize", "0")
    if not re.fullmatch(r"-1|\d{1,15}", skip):
        raise _bad("no number for HeaderSize")
    if skip == "-1":  # the voxels are the end of the file
        tail = StoredVoxels(data, shape, dtype, Encoding.RAW)
        return StoredVoxels(data, shape, dtype, Encoding.RAW, file_size(data) - tail.voxel_bytes)
    return StoredVoxels(data, shape, dtype, encoding, offset + int(skip))


# ---------------------------------------------------------------------- writing


def _write(array: Array, geometry: Geometry, path: Path, extra: Mapping[str, str]) -> None:
    array = array.astype(plain_type(array.dtype), copy=False)
    affine = lps_from_ras(geometry.affine)
    directions = affine[:3, :3] / geometry.spacing_mm

    def text(numbers: FloatArray) -> str:
        return " ".join(repr(float(x)) for x in numbers)

    lines = [
        "ObjectType = Image",
        "NDims = 3",
        *(f"{key} = {value}" for key, value in extra.items()),
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        "CompressedDataSize = ",
        f"TransformMatrix = {text(directions.T.ravel())}",
        f"Offset = {text(affine[:3, 3])}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {text(np.array(geometry.spacing_mm))}",
        "DimSize = " + " ".join(str(n) for n in array.shape),
        "ElementType = " + next(word for word, kind in TYPES.items() if np.dtype(kind) == array.dtype),
        "ElementDataFile = LOCAL",
        "",
    ]
    size_at = len("\n".join(lines[: lines.index("CompressedDataSize = ") + 1]).encode())
    lines[lines.index("CompressedDataSize = ")] += " " * SIZE_DIGITS
    with whole_file(path) as stream:
        stream.write("\n".join(lines).encode())
        start = stream.tell()
        write_stored(stream, array, Encoding.ZLIB)
        packed = stream.tell() - start
        stream.seek(size_at)
        stream.write(str(packed).ljust(SIZE_DIGITS).encode())
