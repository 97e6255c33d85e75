"""Compressed frames -> stored values. Each codestream's own size is checked before it is decoded.

JPEG 2000 by OpenJPEG, JPEG-LS by CharLS, RLE by pylibjpeg-rle, in this process. Classic JPEG of every
kind, and JPEG-LS that CharLS refuses, by the GDCM inside SimpleITK: in a child process with limits of
memory and time, which is given a bare file of our own making and nothing of the original header.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.io.dicom_records import PixelLayout
from medseg.io.dicom_syntaxes import JPEG_2000, JPEG_2000_HIGH_THROUGHPUT, JPEG_LS, RLE

CHILD_SECONDS = 60.0
CHILD_SECONDS_PER_FRAME = 2.0
CHILD_FRAMES = 256
"""Frames that one child decodes; starting it costs about as much as 50 frames."""

_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_CODESTREAM_SEARCH = 4096
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xF7})
_BARE_MARKERS = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})


def decode_frames(layout: PixelLayout, frames: Sequence[bytes]) -> list[npt.NDArray[Any]]:
    """Decode compressed frames of one image.

    Args:
        layout: of the image.
        frames: one codestream each.

    Returns:
        `(rows, columns)` integers each, of the layout's bits and sign.

    Raises:
        ReadError: `DECODE_FAILED` where a codestream is damaged or not of the size that the header states.
    """
    for frame in frames:
        _check_size(layout, frame)
    syntax = layout.transfer_syntax
    if syntax == RLE:
        return [_from_rle(layout, frame) for frame in frames]
    if syntax in JPEG_2000 | JPEG_2000_HIGH_THROUGHPUT:
        return [_from_jpeg_2000(layout, frame) for frame in frames]
    if syntax in JPEG_LS:
        decoded = [_from_jpeg_ls(layout, frame) for frame in frames]
        refused = [n for n, array in enumerate(decoded) if array is None]
        mended = iter(_from_child(layout, [frames[n] for n in refused])) if refused else iter(())
        return [next(mended) if array is None else array for array in decoded]
    return _from_child(layout, frames)


def _failed(what: str) -> ReadError:
    return ReadError(
        "DECODE_FAILED", f"expected an image that its decoder understands, got {what}; re-export it"
    )


def container(layout: PixelLayout) -> np.dtype[Any]:
    """Type of a stored value."""
    return np.dtype(f"<{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}")


def without_unused_bits(layout: PixelLayout, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Stored values alone, where overlays or noise stand in the bits above or below them.

    The value's highest bit is moved to the container's, then back down, which repeats its sign
    (DICOM PS3.5 section 8.1.1).
    """
    above = layout.bits_allocated - 1 - layout.high_bit
    if layout.bits_stored == layout.bits_allocated:
        return stored
    moved: npt.NDArray[Any] = (stored << above) >> (layout.bits_allocated - layout.bits_stored)
    return moved


# ---------------------------------------------------------------------- what a codestream says of itself


def _check_size(layout: PixelLayout, frame: bytes) -> None:
    if layout.transfer_syntax == RLE:
        return
    wavelet = layout.transfer_syntax in JPEG_2000 | JPEG_2000_HIGH_THROUGHPUT
    stated = _wavelet_size(frame) if wavelet else _jpeg_size(frame)
    if stated is None:
        raise _failed("bytes that are none")
    if stated[:2] != (layout.rows, layout.columns):
        raise _failed("an image of another size than its header states")


def _wavelet_size(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, bits) from the SIZ marker (ISO/IEC 15444-1 A.5.1)."""
    at = frame.find(b"\xff\x4f\xff\x51", 0, _CODESTREAM_SEARCH)
    if at < 0 or len(frame) < at + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    bits = (frame[at + 42] & 0x7F) + 1
    return (bottom - top, right - left, bits) if components == 1 else (0, 0, 0)


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, bits) from the start of frame (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2)."""
    at = 0
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _FRAME_MARKERS:
            bits, rows, columns = struct.unpack_from(">BHH", frame, at + 4)
            return rows, columns, bits
        else:
            at += 2 + max(2, int(struct.unpack_from(">H", frame, at + 2)[0]))
    return None


# ---------------------------------------------------------------------- decoders


def _from_rle(layout: PixelLayout, frame: bytes) -> npt.NDArray[Any]:
    from rle.utils import decode_pixel_data

    try:
        data = decode_pixel_data(
            frame, version=2, rows=layout.rows, columns=layout.columns, bits_allocated=layout.bits_allocated
        )
    except (ValueError, RuntimeError, IndexError, OverflowError) as error:
        raise _failed("a damaged RLE image") from error
    if len(data) != layout.frame_bytes:
        raise _failed("an RLE image of another size than its header states")
    stored = np.frombuffer(data, dtype=container(layout)).reshape(layout.rows, layout.columns)
    return without_unused_bits(layout, stored)


def _from_jpeg_2000(layout: PixelLayout, frame: bytes) -> npt.NDArray[Any]:
    from openjpeg.utils import decode

    stated = _wavelet_size(frame)
    start = frame.find(b"\xff\x4f\xff\x51", 0, _CODESTREAM_SEARCH)
    try:
        array = decode(frame[start:], 0)
    except (RuntimeError, ValueError, MemoryError, TypeError) as error:
        raise _failed("a damaged JPEG 2000 image") from error
    return _of_precision(array, stated[2] if stated else layout.bits_stored, layout)


def _from_jpeg_ls(layout: PixelLayout, frame: bytes) -> npt.NDArray[Any] | None:
    """The decoded frame, or None where CharLS refuses it."""
    import jpeg_ls

    try:
        data, facts = jpeg_ls.decode_buffer(frame)
    except (RuntimeError, ValueError, OSError):
        return None
    bits = int(facts["bits_per_sample"])
    array = np.frombuffer(data, dtype="<u1" if bits <= 8 else "<u2")
    if array.size != layout.rows * layout.columns:
        return None
    return _of_precision(array.reshape(layout.rows, layout.columns), bits, layout)


def _of_precision(array: npt.NDArray[Any], bits: int, layout: PixelLayout) -> npt.NDArray[Any]:
    """Values of a codestream of some bits in the header's type; a two's complement is made whole again.

    Encoders mark signed values as unsigned; the header's PixelRepresentation decides.
    """
    if array.shape != (layout.rows, layout.columns) or bits > layout.bits_allocated:
        raise _failed("an image of another size or depth than its header states")
    if layout.signed and array.dtype.kind == "u":
        shift = 8 * array.dtype.itemsize - bits
        array = (array << shift).view(array.dtype.str.replace("u", "i")) >> shift
    return array.astype(container(layout), copy=False)


# ---------------------------------------------------------------------- the guarded child


def _from_child(layout: PixelLayout, frames: Sequence[bytes]) -> list[npt.NDArray[Any]]:
    decoded: list[npt.NDArray[Any]] = []
    for first in range(0, len(frames), CHILD_FRAMES):
        part = frames[first : first + CHILD_FRAMES]
        with tempfile.TemporaryDirectory(prefix="medseg-") as name:
            folder = Path(name)
            for n, frame in enumerate(part):
                _write_bare_file(layout, frame, folder / f"{n}.dcm")
            _run_child(folder, len(part))
            decoded += [_loaded(layout, folder / f"{n}.npy") for n in range(len(part))]
    return decoded


def _run_child(folder: Path, count: int) -> None:
    script = Path(__file__).with_name("dicom_jpeg_child.py")
    seconds = CHILD_SECONDS + CHILD_SECONDS_PER_FRAME * count
    try:
        # -P keeps the script's folder off the path, where modules of ours could hide others.
        subprocess.run(
            [sys.executable, "-P", str(script), str(folder)], capture_output=True, check=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise _failed("one that keeps its decoder busy without end") from error
    except (subprocess.CalledProcessError, OSError) as error:
        raise _failed("one that its decoder fails on") from error


def _loaded(layout: PixelLayout, path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _failed("one that its decoder fails on") from error
    if array.shape != (layout.rows, layout.columns) or array.dtype.kind not in "iu":
        raise _failed("an image of another size than its header states")
    return np.asarray(array.astype(container(layout), copy=False))


def _write_bare_file(layout: PixelLayout, frame: bytes, path: Path) -> None:
    """A DICOM file that holds one frame and the few elements that a decoder needs."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.filewriter import dcmwrite
    from pydicom.uid import UID

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = UID(layout.transfer_syntax)
    bare.SOPClassUID, bare.SOPInstanceUID = UID(_MR_IMAGE), UID("1.2.3")
    bare.SamplesPerPixel, bare.PhotometricInterpretation = 1, "MONOCHROME2"
    bare.Rows, bare.Columns = layout.rows, layout.columns
    bare.BitsAllocated, bare.BitsStored, bare.HighBit = (
        layout.bits_allocated,
        layout.bits_stored,
        layout.high_bit,
    )
    bare.PixelRepresentation = int(layout.signed)
    bare.PixelData = encapsulate([frame])
    bare["PixelData"].VR = "OB"
    dcmwrite(path, bare, enforce_file_format=True)
