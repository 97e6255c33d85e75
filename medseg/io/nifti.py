"""NIfTI-1 and NIfTI-2: `.nii`, `.nii.gz`, and the pair `.hdr` + `.img` (read only).

Policies, each held by a test:
- *Place*: sform if its code is above 0, else qform, else spacing with a `NO_ORIENTATION` notice. Where
  sform and qform differ by more than half a voxel, a `SFORM_QFORM_DIFFER` notice tells so. Shear is read
  as it is (`Geometry.is_orthogonal` tells). Metres and microns become millimetres.
- *Axes*: a trailing axis of one voxel is dropped; a real fourth axis is refused.
- *Values*: integers stay as stored, unless the header scales them (`voxels.rescaled`). A slope of 0 or
  NaN means no scaling. Voxels that are not finite are mended (`voxels.as_volume`).
- *Names* of a label map travel in a Caret extension, as TotalSegmentator writes and reads it.
- *Written*: little-endian, sform always, qform where the grid has no shear, mm, no time stamps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import ReadError, WriteError
from medseg.files import data_file_beside, opened, whole_file
from medseg.geometry import Geometry
from medseg.io.label_table import caret_xml, labels_from_caret_xml, written_names
from medseg.io.nifti_header import MAX_EXTENSION_BYTES, NiftiHeader, extensions, parse_header
from medseg.io.stored import Encoding, Inflater, StoredVoxels, read_stored, write_stored
from medseg.io.voxels import as_labels, as_volume, label_ids, plain_type, rescaled
from medseg.labels import LabelSet
from medseg.volume import Array, LabelVolume, Volume

EXTENSION_CODE = 0
"""As TotalSegmentator has it. The table's own code, 30, makes nibabel 5 raise when somebody lists the
extensions. On reading the content decides, so that Connectome Workbench's files give their names too."""

MAX_NIFTI1_SIZE = 2**15 - 1
SCANNER = 1
"""NIFTI_XFORM_SCANNER_ANAT."""


def read_volume(path: Path) -> Volume:
    """Read intensities.

    Args:
        path: `.nii`, `.nii.gz`, or either file of a pair.

    Returns:
        Array `(i, j, k)` as stored; its affine equals nibabel's (in mm).

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    header, stored, _ = _located(path)
    array = rescaled(read_stored(stored), header.slope, header.intercept)
    return as_volume(array, header.geometry, "NIfTI")


def read_labels(path: Path) -> LabelVolume:
    """Read a label map with the names that its extension holds.

    Args:
        path: `.nii`, `.nii.gz`, or either file of a pair.

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
        VolumeError: `NOT_LABELS`.
    """
    header, stored, head = _located(path)
    array = rescaled(read_stored(stored), header.slope, header.intercept)
    block = _unpacked(head, min(header.offset if header.single else 2**63, MAX_EXTENSION_BYTES))
    tables = [labels_from_caret_xml(content) for _, content in extensions(block, header)]
    return as_labels(array, header.geometry, max(tables, key=len, default=LabelSet()))


def write_volume(volume: Volume, path: Path) -> None:
    """Write intensities in their own type (`bool` as uint8, half floats as float32), whole or not at all.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    _write(volume.array, volume.geometry, path, b"")


def write_labels(labels: LabelVolume, path: Path) -> None:
    """Write a label map in the smallest integer type that holds it, with its names.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
        VolumeError: `NOT_LABELS` for negative ids.
    """
    named = written_names(labels)
    names = caret_xml(named) if len(named) else b""
    _write(label_ids(labels.array), labels.geometry, path, names)


# ---------------------------------------------------------------------- reading


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _unpacked(path: Path, count: int) -> bytes:
    """The first `count` bytes of the content, or all if there are fewer."""
    with opened(path) as stream:
        if not _is_packed(path):
            return stream.read(count)
        mark = stream.read(2)
        if not mark:
            raise ReadError("WRONG_FORMAT", "expected a gzip file, got an empty one; copy it again")
        if mark != b"\x1f\x8b":
            raise ReadError("WRONG_FORMAT", "expected a gzip file, got something else; drop the suffix .gz")
        stream.seek(0)
        return Inflater(stream, Encoding.GZIP).read(count)


def _located(path: Path) -> tuple[NiftiHeader, StoredVoxels, Path]:
    """Header, where its voxels are, and the file that holds the header."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    paired = kind in ("hdr", "img")
    head = data_file_beside(path, _partner(path, "hdr")) if kind == "img" else path
    header = parse_header(_unpacked(head, 540))
    if header.single == paired:
        raise ReadError(
            "WRONG_FORMAT",
            "expected .nii for one file and .hdr with .img for two, got the other header; rename the file",
        )
    data = data_file_beside(path, _partner(path, "img")) if kind == "hdr" else path
    encoding = Encoding.GZIP if _is_packed(data) else Encoding.RAW
    stored = StoredVoxels(data, header.geometry.shape, header.dtype, encoding, skip=header.offset)
    return header, stored, head


def _partner(path: Path, kind: str) -> str:
    """Name of the other file of a pair, in the case that the first one uses."""
    packed = path.suffix if _is_packed(path) else ""
    stem, _, old = path.name.removesuffix(packed).rpartition(".")
    return f"{stem}.{kind.upper() if old.isupper() else kind}{packed}"


# ---------------------------------------------------------------------- writing


def _write(array: Array, geometry: Geometry, path: Path, label_xml: bytes) -> None:
    array = array.astype(plain_type(array.dtype), copy=False)
    extension = b""
    if label_xml:
        size = -(-(len(label_xml) + 8) // 16) * 16
        codes = np.array([size, EXTENSION_CODE], dtype="<i4").tobytes()
        extension = codes + label_xml.ljust(size - 8, b" ")
    head = _header_bytes(array, geometry, len(extension))
    head += bytes([bool(extension), 0, 0, 0]) + extension
    encoding = Encoding.GZIP if _is_packed(path) else Encoding.RAW
    with whole_file(path) as stream:
        write_stored(stream, array, encoding, prefix=head)


def _header_bytes(array: Array, geometry: Geometry, extension_bytes: int) -> bytes:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kind: Any = Nifti1Header if max(array.shape) <= MAX_NIFTI1_SIZE else Nifti2Header
    header = kind(endianness="<")
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4 + extension_bytes
    header["pixdim"][1:4] = geometry.spacing_mm
    if geometry.is_orthogonal:
        header.set_qform(geometry.affine, code=SCANNER)
        reached = Geometry(geometry.shape, header.get_qform())
        if not geometry.is_close(reached, tolerance_voxels=0.05):
            header["qform_code"] = 0
    header.set_sform(geometry.affine, code=SCANNER)
    stored = Geometry(geometry.shape, header.get_sform())
    if not geometry.is_close(stored, tolerance_voxels=0.05):
        raise WriteError(
            "BAD_AFFINE", "expected a place that NIfTI's float32 can hold, got one too far out; write NRRD"
        )
    return bytes(header.binaryblock)
