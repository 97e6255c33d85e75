"""DICOM Segmentation (SEG) back to a label map: BINARY, LABELMAP, and FRACTIONAL that is not.

A SEG holds frames, each a plane in space, not a grid: planes without a pixel are mostly left out.
On the grid of its images (`grid`) every frame finds its plane again; without one, the grid is that
of the frames that are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.files import file_size, opened
from medseg.geometry import FloatArray, Geometry
from medseg.io.dicom_codecs import decode_frames
from medseg.io.dicom_elements import EXPLICIT_LITTLE, IMPLICIT_LITTLE, Elements, RawHeader, read_raw_header
from medseg.io.dicom_multiframe import FRAME_GROUPS, SHARED_GROUPS, multiframe_planes
from medseg.io.dicom_records import PixelLayout, Plane
from medseg.io.dicom_segment_names import SEGMENTS, labels_of_segments
from medseg.io.dicom_source import DicomSource
from medseg.io.dicom_stack import grid_of_planes, labels_from_slices, place_on_grid, place_on_slice
from medseg.io.dicom_syntaxes import is_decodable
from medseg.io.dicom_values import integer_text, integers, word
from medseg.io.lps import ras_from_lps
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

SEG_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage, Label Map Segmentation Storage."""

MAX_VOXELS = 2**33
MAX_FRAMES = 2**22

_SOP_CLASS, _FRAMES, _ROWS, _COLUMNS = 0x00080016, 0x00280008, 0x00280010, 0x00280011
_ALLOCATED, _PADDING = 0x00280100, 0x00280120
_TYPE, _HIGHEST_FRACTION = 0x00620001, 0x0062000E
_SEGMENT_GROUP, _SEGMENT_NUMBER = 0x0062000A, 0x0062000B
_WANTED = frozenset(
    {
        *(_SOP_CLASS, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _PADDING),
        *(_TYPE, _HIGHEST_FRACTION, SEGMENTS, FRAME_GROUPS, SHARED_GROUPS),
    }
)


@dataclass(frozen=True)
class _Seg:
    """One SEG object up to its pixels."""

    path: Path
    raw: RawHeader
    kind: str
    bits: int
    planes: tuple[Plane, ...]
    segment_of_frame: tuple[int, ...]
    labels: LabelSet
    highest: int


def read_dicom_seg(
    path: str | Path, *, grid: Geometry | DicomSource | None = None, only: Sequence[str | int] = ()
) -> LabelVolume:
    """Read a DICOM SEG as a label map; ids are segment numbers.

    Args:
        path: file.
        grid: of the images that were segmented; every frame must lie on one of its planes. Or the
            source of the images (`DicomVolume.dicom`): then labels of tilted and uneven series come
            onto the grid that their volume has. Without it, the grid spans the frames that the file
            has, evenly spaced ones only.
        only: names or numbers of the segments to read; all where empty.

    Returns:
        Labels with names, codes and colours of the segments.

    Raises:
        ReadError: `NOT_A_SEGMENTATION`; `SEGMENTS_OVERLAP` where two segments hold one pixel, which a
            label map cannot (choose by `only`); `FRACTIONAL_SEGMENTATION` where values between none
            and all occur; `OFF_GRID` where a frame does not lie on `grid`; `VARIABLE_SPACING` where
            frames are uneven and no grid is given; `PIXELS_TRUNCATED`, `DECODE_FAILED`, `TOO_LARGE`.
        VolumeError: `UNKNOWN_LABEL` for a segment that is not there.
    """
    seg = _read_header(Path(path))
    chosen = _chosen(seg.labels, only)
    wanted = np.zeros(2**16, dtype=np.uint8 if max(chosen.ids, default=0) < 256 else np.uint16)
    wanted[list(chosen.ids)] = chosen.ids
    affines = [_affine(plane) for plane in seg.planes]
    uneven = grid if isinstance(grid, DicomSource) and grid.resampled else None
    grid = grid.grid if isinstance(grid, DicomSource) else grid
    grid = grid or grid_of_planes(affines, (seg.planes[0].columns, seg.planes[0].rows), _stated_gap(seg))
    shape = grid.shape if uneven is None else (len(uneven.slices), uneven.columns, uneven.rows)
    array = np.zeros(shape, dtype=wanted.dtype)
    for affine, number, pixels in zip(affines, seg.segment_of_frame, _frames(seg), strict=True):
        numbers = _numbers(seg, number, pixels, wanted)
        if numbers is None or not numbers.any():
            continue
        if uneven is None:
            place_on_grid(numbers.T, affine, grid, array)
        else:
            place_on_slice(numbers.T, affine, uneven, array)
    return LabelVolume(array if uneven is None else labels_from_slices(array, uneven), grid, chosen)


def _chosen(labels: LabelSet, only: Sequence[str | int]) -> LabelSet:
    return LabelSet(tuple(dict.fromkeys(labels.find(one) for one in only))) if only else labels


def _numbers(
    seg: _Seg, number: int, pixels: npt.NDArray[Any], wanted: npt.NDArray[Any]
) -> npt.NDArray[Any] | None:
    """Segment numbers of one frame, 0 elsewhere; None where none of them is wanted.

    `wanted` maps every possible number to itself or to 0.
    """
    if seg.kind == "LABELMAP":
        return np.asarray(wanted[pixels])
    if not wanted[number]:
        return None
    if seg.kind == "FRACTIONAL" and not np.isin(pixels, (0, seg.highest)).all():
        raise ReadError(
            "FRACTIONAL_SEGMENTATION",
            "expected pixels that belong to a segment or not, got fractions of one; threshold them first",
        )
    return np.asarray(np.where(pixels > 0, wanted[number], 0), dtype=wanted.dtype)


def _read_header(path: Path) -> _Seg:
    size = file_size(path)
    with opened(path) as stream:
        raw = read_raw_header(stream, size, _WANTED)
    if raw.broken is not None:
        raise raw.broken
    elements = raw.elements
    if word(elements, _SOP_CLASS) not in SEG_CLASSES:
        raise ReadError(
            "NOT_A_SEGMENTATION", "expected a DICOM segmentation object, got another; read it as an image"
        )
    kind = word(elements, _TYPE)
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP") or raw.pixels is None:
        raise ReadError("BAD_SEGMENTATION", "expected frames of a known segmentation type, got none")
    rows, columns, bits = (_one(elements, tag) for tag in (_ROWS, _COLUMNS, _ALLOCATED))
    frames = integer_text(elements, _FRAMES, "BAD_FRAMES", "NumberOfFrames") or 0
    if not 1 <= frames <= MAX_FRAMES or rows * columns * frames > MAX_VOXELS * 64:
        raise ReadError("BAD_FRAMES", f"expected 1 to {MAX_FRAMES} frames, got {frames}; re-export it")
    if bits not in ((1,) if kind == "BINARY" else (8, 16)):
        raise ReadError("BAD_PIXEL_MODULE", f"expected 1, 8 or 16 bits that fit the type, got {bits}")
    planes = multiframe_planes(elements, frames, rows, columns)
    padding = integers(elements, _PADDING)
    labels = labels_of_segments(
        elements, background=(padding[0] if padding else 0) if kind == "LABELMAP" else -1
    )
    numbers = (0,) * frames if kind == "LABELMAP" else _segment_of_frame(elements)
    highest = next(iter(integers(elements, _HIGHEST_FRACTION)), 255)
    return _Seg(path, raw, kind, bits, planes, numbers, labels, highest)


def _one(elements: Elements, tag: int) -> int:
    found = integers(elements, tag)
    if len(found) != 1 or found[0] < 1:
        raise ReadError("BAD_PIXEL_MODULE", "expected rows, columns and bits of the pixels, got none")
    return found[0]


def _segment_of_frame(elements: Elements) -> tuple[int, ...]:
    shared = elements.items.get(SHARED_GROUPS, ())
    common = shared[0].items.get(_SEGMENT_GROUP, ()) if shared else ()
    numbers = []
    for frame in elements.items[FRAME_GROUPS]:
        items = frame.items.get(_SEGMENT_GROUP) or common
        found = integers(items[0], _SEGMENT_NUMBER) if items else ()
        if len(found) != 1:
            raise ReadError("BAD_SEGMENTATION", "expected the segment of each frame, got a frame without one")
        numbers.append(found[0])
    return tuple(numbers)


def _affine(plane: Plane) -> FloatArray:
    """4x4 (column, row, mm across) -> world RAS mm."""
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(plane.row_direction, plane.pixel_spacing_mm[1])
    affine[:3, 1] = np.multiply(plane.column_direction, plane.pixel_spacing_mm[0])
    affine[:3, 2] = np.cross(plane.row_direction, plane.column_direction)
    affine[:3, 3] = plane.position_mm
    return ras_from_lps(affine)


def _stated_gap(seg: _Seg) -> float:
    """Distance of neighbouring planes: as stated, else the slices' thickness, else 1 mm."""
    first = seg.planes[0]
    return first.spacing_between_mm or first.thickness_mm or 1.0


# ---------------------------------------------------------------------- pixels


def _frames(seg: _Seg) -> Iterator[npt.NDArray[Any]]:
    """Every frame `(rows, columns)`, in order."""
    if seg.raw.transfer_syntax in (IMPLICIT_LITTLE, EXPLICIT_LITTLE):
        return _native_frames(seg)
    return _decoded_frames(seg)


def _native_frames(seg: _Seg) -> Iterator[npt.NDArray[Any]]:
    place, first = seg.raw.pixels, seg.planes[0]
    count = first.rows * first.columns
    needed = (count * len(seg.planes) * seg.bits + 7) // 8
    if place is None or place.length is None or place.length < needed:
        raise ReadError("PIXELS_TRUNCATED", f"expected {needed} bytes of frames, got fewer; copy it again")
    with opened(seg.path) as stream:
        for frame in range(len(seg.planes)):
            begin, end = frame * count * seg.bits, (frame + 1) * count * seg.bits
            stream.seek(place.offset + begin // 8)
            data = stream.read((end + 7) // 8 - begin // 8)
            if len(data) < (end + 7) // 8 - begin // 8:
                raise ReadError("PIXELS_TRUNCATED", "expected all frames, got the file's end; copy it again")
            yield _unpacked(data, seg.bits, begin % 8, count).reshape(first.rows, first.columns)


def _unpacked(data: bytes, bits: int, skip: int, count: int) -> npt.NDArray[Any]:
    if bits == 1:
        packed = np.frombuffer(data, dtype=np.uint8)
        return np.unpackbits(packed, bitorder="little", count=skip + count)[skip:]
    return np.frombuffer(data, dtype="<u2" if bits == 16 else np.uint8)


def _decoded_frames(seg: _Seg) -> Iterator[npt.NDArray[Any]]:
    from pydicom.encaps import generate_frames

    place, first = seg.raw.pixels, seg.planes[0]
    if (
        place is None
        or place.length is not None
        or not is_decodable(seg.raw.transfer_syntax)
        or seg.bits == 1
    ):
        raise ReadError("UNSUPPORTED_TS", "expected frames in a known encoding, got another; decompress it")
    layout = PixelLayout(
        seg.raw.transfer_syntax, first.rows, first.columns, 1, seg.bits, seg.bits, seg.bits - 1,
        signed=False, body=0, offset=0, length=None,
    )  # fmt: skip
    with opened(seg.path) as stream:
        stream.seek(place.offset)
        data = stream.read()
    count = 0
    try:
        for frame in generate_frames(data, number_of_frames=len(seg.planes)):
            yield decode_frames(layout, [frame])[0].reshape(first.rows, first.columns)
            count += 1
    except ReadError:
        raise
    except (ValueError, RuntimeError) as error:
        raise _undecodable() from error
    if count != len(seg.planes):
        raise _undecodable()


def _undecodable() -> ReadError:
    return ReadError(
        "DECODE_FAILED", "expected compressed frames, got some that cannot be decoded; copy it again"
    )
