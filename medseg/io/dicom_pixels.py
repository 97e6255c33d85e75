"""Stored pixels of one file -> planes of integers, with every claim of the header checked on the way."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_codecs import container, decode_frames, without_unused_bits
from medseg.io.dicom_elements import DEFLATED, EXPLICIT_BIG, InflatingStream
from medseg.io.dicom_modality_lut import read_modality_lut
from medseg.io.dicom_records import ImageHeader, PixelLayout, Plane

MAX_ENCAPSULATED_BYTES = 2**32
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_DIGEST_CHUNK = 2**20


def stored_planes(
    reader: SourceReader, header: ImageHeader, planes: Sequence[Plane]
) -> Iterator[npt.NDArray[Any]]:
    """Stored values of planes of one file, in the order asked for.

    Args:
        reader: opens the file.
        header: of the file.
        planes: some of the header's.

    Yields:
        `(rows, columns)` integers of each plane; bits that hold no value are taken out.

    Raises:
        ReadError: `PIXELS_TRUNCATED`, `DECODE_FAILED`, `TOO_LARGE`, or as `SourceReader.open`.
    """
    layout = _layout_of(header)
    wanted = sorted({plane.frame for plane in planes})
    with reader.open(header.file, whole=True) as (stream, size):
        if layout.length is None:
            frames = _encapsulated(layout, stream, size)
            decoded = dict(zip(wanted, decode_frames(layout, [frames[n] for n in wanted]), strict=True))
        else:
            decoded = _native(layout, stream, wanted)
    for plane in planes:
        frame = decoded[plane.frame]
        if plane.tile is not None:
            top, left = plane.tile
            frame = frame[top : top + plane.rows, left : left + plane.columns]
        yield frame


def pixel_digest(reader: SourceReader, header: ImageHeader) -> bytes:
    """Hash of the bytes that store an object's pixels and of how they are to be understood."""
    layout = _layout_of(header)
    facts = (layout.transfer_syntax, layout.rows, layout.columns, layout.bits_stored, layout.signed)
    rescale = [(p.slope, p.intercept) for p in header.planes]
    digest = hashlib.sha256(repr((facts, rescale)).encode())
    table = read_modality_lut(reader, header)
    if table is not None:
        digest.update(repr(table.first).encode() + table.values.tobytes())
    with reader.open(header.file, whole=True) as (stream, _):
        body, left = _at_pixels(layout, stream), layout.length
        while left is None or left > 0:
            part = body.read(_DIGEST_CHUNK if left is None else min(left, _DIGEST_CHUNK))
            if not part:
                break
            digest.update(part)
            left = None if left is None else left - len(part)
    return digest.digest()


def _layout_of(header: ImageHeader) -> PixelLayout:
    if header.layout is None:
        raise ReadError("NOT_AN_IMAGE", "expected an image, got an object without pixels that can be read")
    return header.layout


def _at_pixels(layout: PixelLayout, stream: io.BufferedReader) -> io.BufferedReader[Any]:
    """A stream that stands at the first byte of the pixels."""
    if layout.transfer_syntax != DEFLATED:
        stream.seek(layout.offset)
        return stream
    stream.seek(layout.body)
    limit = layout.offset + (layout.length or 0) + 2**16
    inflated: io.BufferedReader[Any] = io.BufferedReader(InflatingStream(stream, limit), 2**16)
    left = layout.offset
    while left > 0:
        left -= len(_exactly(inflated, min(left, 2**20)))
    return inflated


def _exactly(stream: io.BufferedReader[Any], count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ReadError("PIXELS_TRUNCATED", "expected more pixels, got the end of the file; copy it anew")
    return data


# ---------------------------------------------------------------------- native


def _native(
    layout: PixelLayout, stream: io.BufferedReader, wanted: Sequence[int]
) -> dict[int, npt.NDArray[Any]]:
    body = _at_pixels(layout, stream)
    order = container(layout)
    if layout.transfer_syntax == EXPLICIT_BIG:
        order = order.newbyteorder(">")
    decoded, at = {}, 0
    for frame in wanted:
        skip = (frame - at) * layout.frame_bytes
        if layout.transfer_syntax == DEFLATED:
            while skip > 0:
                skip -= len(_exactly(body, min(skip, 2**20)))
        else:
            body.seek(skip, io.SEEK_CUR)
        data = _exactly(body, layout.frame_bytes)
        at = frame + 1
        if layout.words and layout.bits_allocated == 8:
            data = (
                np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2").byteswap().tobytes()
                + data[len(data) // 2 * 2 :]
            )
        stored = np.frombuffer(data, dtype=order).reshape(layout.rows, layout.columns)
        decoded[frame] = without_unused_bits(layout, stored.astype(container(layout), copy=False))
    return decoded


# ---------------------------------------------------------------------- encapsulated


def _encapsulated(layout: PixelLayout, stream: io.BufferedReader, size: int) -> list[bytes]:
    """Codestream of every frame (DICOM PS3.5 annex A.4)."""
    if size - layout.offset > MAX_ENCAPSULATED_BYTES:
        raise ReadError("TOO_LARGE", "expected compressed pixels below 4 GiB, got more")
    stream.seek(layout.offset)
    offsets, fragments = _fragments(stream, size - layout.offset)
    if layout.frames == 1:
        return [b"".join(data for _, data in fragments)]
    if len(fragments) == layout.frames:
        return [data for _, data in fragments]
    starts = {start for start, _ in fragments}
    if len(offsets) == layout.frames and set(offsets) <= starts and offsets == sorted(set(offsets)):
        ends = [*offsets[1:], 2**63]
        return [
            b"".join(data for at, data in fragments if start <= at < end)
            for start, end in zip(offsets, ends, strict=True)
        ]
    raise ReadError(
        "DECODE_FAILED",
        f"expected pixels of {layout.frames} frames, got {len(fragments)} fragments and no table",
    )


def _fragments(stream: io.BufferedReader, left: int) -> tuple[list[int], list[tuple[int, bytes]]]:
    """(offset table, (offset, bytes) of each fragment)."""
    offsets: list[int] | None = None
    fragments: list[tuple[int, bytes]] = []
    at = 0
    while True:
        head = _exactly(stream, 8)
        left -= 8
        (length,) = struct.unpack("<I", head[4:])
        if head[:4] == _END:
            break
        if head[:4] != _ITEM:
            raise ReadError("DECODE_FAILED", "expected fragments of an image, got other bytes; re-export it")
        if length > left:
            raise ReadError("PIXELS_TRUNCATED", "expected more pixels, got the end of the file; copy it anew")
        data = _exactly(stream, length)
        left -= length
        if offsets is None:
            offsets = list(struct.unpack(f"<{length // 4}I", data[: length // 4 * 4]))
            continue
        fragments.append((at, data))
        at += 8 + length
    if not fragments:
        raise ReadError("PIXELS_TRUNCATED", "expected compressed pixels, got none; copy the file anew")
    return offsets or [], fragments
