"""What a NIfTI header claims, checked before a voxel is touched.

Pure: bytes in, `NiftiHeader` out. The rules are the NIfTI-1.1 standard's (nifti1.h); where it
leaves a choice, `nibabel.load(path).affine` is the measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medseg.errors import ReadError
from medseg.geometry import FloatArray, Geometry
from medseg.io.notices import notify

ByteOrder = Literal["<", ">"]

HEADER_BYTES = {1: 348, 2: 540}
MAGIC = {1: ((b"n+1\0", b"ni1\0"), slice(344, 348)), 2: ((b"n+2\0", b"ni2\0"), slice(4, 8))}
"""Magic of (single file, header of a pair) and where it stands."""

VOXEL_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres in the spatial unit of `xyzt_units`: metre, mm, micron; none given means mm."""

MAX_FORM_DISTANCE_VOXELS = 0.5
MAX_OFFSET = 2**40
MAX_EXTENSION_BYTES = 2**24


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a header that voxels, place and names need.

    Attributes:
        geometry: shape and affine.
        dtype: of the stored voxels, with byte order.
        slope: scaling; 1 where the header asks for none.
        intercept: 0 where the header asks for none.
        offset: first byte of the voxels in their (unpacked) file.
        single: voxels follow in the same file; else they stand in an `.img`.
        version: 1 or 2.
    """

    geometry: Geometry
    dtype: np.dtype[np.generic]
    slope: float
    intercept: float
    offset: int
    single: bool
    version: int


def parse_header(block: bytes) -> NiftiHeader:
    """Check and understand the first 540 (or all, if fewer) bytes of a NIfTI file.

    Raises:
        ReadError: `WRONG_FORMAT`, `ANALYZE_REFUSED`, `BAD_HEADER`, `NOT_A_VOLUME`, `BAD_SHAPE`,
            `UNSUPPORTED_VOXELS`, `BAD_RESCALE`.
        GeometryError: `BAD_AFFINE`, `BAD_SHAPE`.
    """
    version, order, single = _identity(block)
    header = _fields(block, version, order)
    shape = _volume_shape([int(n) for n in header["dim"]])
    code = int(header["datatype"])
    if code not in VOXEL_TYPES:
        raise ReadError(
            "UNSUPPORTED_VOXELS",
            f"expected real numbers, got NIfTI data type {code} (colour, complex or bits); convert it",
        )
    offset = float(header["vox_offset"])
    least = HEADER_BYTES[version] + 4 if single else 0
    if not math.isfinite(offset) or not offset.is_integer() or not least <= offset <= MAX_OFFSET:
        raise ReadError(
            "BAD_HEADER", f"expected voxels from byte {least} on, got {offset:g}; repair vox_offset"
        )
    slope, intercept = _scaling(float(header["scl_slope"]), float(header["scl_inter"]))
    dtype = np.dtype(VOXEL_TYPES[code]).newbyteorder(order)
    with np.errstate(all="ignore"):  # signalling NaNs; what comes of them is judged by Geometry
        affine = _affine(header, shape)
    geometry = Geometry(shape, affine)
    return NiftiHeader(geometry, dtype, slope, intercept, int(offset), single, version)


def _identity(block: bytes) -> tuple[int, ByteOrder, bool]:
    """Version, byte order and whether header and voxels share a file."""
    orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    for order in orders:
        size = int(np.frombuffer(block[:4].ljust(4, b"\0"), dtype=f"{order}i4")[0])
        for version, expected in HEADER_BYTES.items():
            magics, place = MAGIC[version]
            if size != expected or len(block) < expected:
                continue
            if block[place] in magics:
                return version, order, block[place] == magics[0]
            if version == 1 and not block[place].strip(b"\0"):
                raise ReadError(
                    "ANALYZE_REFUSED",
                    "expected NIfTI, got Analyze 7.5, which does not say left from right; convert it with a "
                    "program that knows its origin",
                )
    raise ReadError(
        "WRONG_FORMAT", "expected a NIfTI header, got something else; give the file the suffix of its content"
    )


def _fields(block: bytes, version: int, order: ByteOrder) -> Any:
    from nibabel import nifti1, nifti2

    layout = (nifti1 if version == 1 else nifti2).header_dtype.newbyteorder(order)
    return np.frombuffer(block[: HEADER_BYTES[version]], dtype=layout)[0]


def _volume_shape(dim: list[int]) -> tuple[int, int, int]:
    """Three sizes; trailing axes of one voxel are dropped."""
    if not 1 <= dim[0] <= 7:
        raise ReadError("BAD_HEADER", f"expected 1 to 7 axes, got {dim[0]}; repair the header")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise ReadError("BAD_SHAPE", f"expected sizes of at least 1 voxel, got {tuple(sizes)}; repair it")
    if len(sizes) < 3 or math.prod(sizes[3:]) != 1:
        raise ReadError(
            "NOT_A_VOLUME",
            f"expected one 3D volume, got shape {tuple(sizes)}; pick or split one volume out of it, for "
            "example with fslsplit or nibabel.four_to_three",
        )
    return sizes[0], sizes[1], sizes[2]


def _scaling(slope: float, intercept: float) -> tuple[float, float]:
    """Slope 0 (the standard) or not finite (nibabel's files) mean: no scaling."""
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(intercept):
        raise ReadError(
            "BAD_RESCALE", "expected a finite scl_inter beside a scl_slope, got none; repair the header"
        )
    return slope, intercept


def _affine(header: Any, shape: tuple[int, int, int]) -> FloatArray:
    """Index -> RAS+ mm: the sform if its code is above 0, else the qform, else an assumption."""
    unit = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    qform = _qform(header) if int(header["qform_code"]) > 0 else None
    if int(header["sform_code"]) > 0:
        rows = [np.asarray(header[row], dtype=np.float64) for row in ("srow_x", "srow_y", "srow_z")]
        affine = np.vstack([*rows, (0, 0, 0, 1)])
        _compare_forms(affine, qform, shape)
    elif qform is not None:
        affine = qform
    else:
        affine = _assumed_affine(header, shape)
    affine = affine.copy()
    affine[:3] *= unit
    return affine


def _qform(header: Any) -> FloatArray:
    """Rotation by unit quaternion, spacing and offset: "method 2" of nifti1.h."""
    b, c, d = (float(header[f"quatern_{x}"]) for x in "bcd")
    pixdim = [float(p) for p in header["pixdim"][:4]]
    affine = np.eye(4)
    square = b * b + c * c + d * d
    if not square <= 1.01 or not all(math.isfinite(p) for p in pixdim):
        return np.full((4, 4), np.nan)
    norm = max(1.0, math.sqrt(square))
    b, c, d = b / norm, c / norm, d / norm
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine[:3, :3] *= (pixdim[1], pixdim[2], -pixdim[3] if pixdim[0] < 0 else pixdim[3])
    affine[:3, 3] = [float(header[f"qoffset_{x}"]) for x in "xyz"]
    return affine


def _compare_forms(sform: FloatArray, qform: FloatArray | None, shape: tuple[int, int, int]) -> None:
    """Tell where a usable qform puts a corner elsewhere than the sform; the sform is taken."""
    with np.errstate(all="ignore"):
        usable = [
            m is not None and bool(np.isfinite(m).all()) and abs(np.linalg.det(m[:3, :3])) > 1e-12
            for m in (sform, qform)
        ]
    if qform is None or not all(usable):
        return
    corners = np.array([[a, b, c, 1] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(shape) - 1
    with np.errstate(all="ignore"):
        there = corners @ (np.linalg.inv(sform) @ qform).T
    distance = float(np.abs(there - corners).max())
    if not distance <= MAX_FORM_DISTANCE_VOXELS:
        notify(
            "SFORM_QFORM_DIFFER",
            f"sform and qform put a corner {distance:.3g} voxels apart; the sform was taken, as nibabel does",
        )


def _assumed_affine(header: Any, shape: tuple[int, int, int]) -> FloatArray:
    """Spacing alone: first axis to the left, centre at the world's origin, as nibabel has it."""
    spacing = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64)) * (-1, 1, 1)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    notify(
        "NO_ORIENTATION",
        "the header holds neither sform nor qform; the first axis was taken to run to the left",
    )
    return affine


def extensions(block: bytes, header: NiftiHeader) -> tuple[tuple[int, bytes], ...]:
    """(code, content) of the extensions that stand between header and voxels; stops at a damaged one.

    Args:
        block: the file's bytes up to the voxels.
        header: of the same file.
    """
    order: Literal["big", "little"] = "big" if header.dtype.str[0] == ">" else "little"
    position = HEADER_BYTES[header.version]
    found: list[tuple[int, bytes]] = []
    if block[position : position + 1] in (b"", b"\0"):
        return ()
    position += 4
    while position + 8 <= len(block):
        size = int.from_bytes(block[position : position + 4], order, signed=True)
        code = int.from_bytes(block[position + 4 : position + 8], order, signed=True)
        if size < 8 or position + size > len(block):
            break
        found.append((code, block[position + 8 : position + size]))
        position += size
    return tuple(found)
