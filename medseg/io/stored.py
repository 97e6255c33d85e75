"""Voxels as they lie in a file: found, bounded, inflated, turned to this machine's byte order.

A header says where its voxels begin, of what type and how many they are (`StoredVoxels`). That
claim is held against the file's size and the machine's memory before anything is allocated.
Inflation stops where the claim ends: a small file can never fill the memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import IO, cast

import numpy as np

from medseg.errors import ReadError
from medseg.files import file_size, opened
from medseg.geometry import MAX_VOXELS
from medseg.machine import physical_memory_bytes
from medseg.volume import Array

MAX_DEFLATE_RATIO = 1032
"""One bit of a Deflate stream stands for at most 258 bytes / 2 bits: 1032 to 1 (zlib's documentation)."""

BOMB_BYTES = 4 * 2**30
BOMB_RATIO = 500
"""More than 4 GiB that shrank more than 500 times is refused: no scan does, an attack does."""

SLACK_BYTES = 2**20
"""Bytes that may follow the last voxel; what exceeds them was not announced by the header."""

COMPRESSED_BLOCK = 2**18
INFLATED_BLOCK = 2**20
WRITTEN_BLOCK = 2**22

DEFLATE_LEVEL = 2
"""Of isal's 0..3: level 2 was as fast as 1 on CT and label maps, and smaller."""


class Encoding(Enum):
    """How voxels are packed; the value is zlib's window setting (0: not packed)."""

    RAW = 0
    ZLIB = 15
    GZIP = 31


@dataclass(frozen=True)
class StoredVoxels:
    """What a header claims of its voxels.

    Attributes:
        path: file that holds them.
        shape: `(i, j, k)`, i runs fastest in the file.
        dtype: with byte order.
        encoding: how the bytes from `offset` on are packed.
        offset: first byte of the (packed) stream in the file.
        skip: bytes of the unpacked stream before the first voxel.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    encoding: Encoding
    offset: int = 0
    skip: int = 0

    @property
    def voxel_bytes(self) -> int:
        """Bytes of all voxels, unpacked."""
        return math.prod(self.shape) * self.dtype.itemsize


def check_claim(stored: StoredVoxels) -> None:
    """Return if the file can hold what its header claims, and this machine too.

    Raises:
        ReadError: `BAD_SHAPE`, `PIXELS_TRUNCATED`, `DECOMPRESSION_BOMB`, `TOO_LARGE`.
    """
    if min(stored.shape) < 1 or math.prod(stored.shape) > MAX_VOXELS:
        raise ReadError(
            "BAD_SHAPE",
            f"expected three sizes of at least 1 voxel, at most 2^36 voxels in all, got {stored.shape}; "
            "repair the header",
        )
    available = max(0, file_size(stored.path) - stored.offset)
    needed = stored.skip + stored.voxel_bytes
    most = available if stored.encoding is Encoding.RAW else available * MAX_DEFLATE_RATIO
    if stored.offset < 0 or stored.skip < 0 or needed > most:
        raise ReadError(
            "PIXELS_TRUNCATED",
            f"expected {needed} bytes of voxels, got a file that can hold at most {most}; copy it again",
        )
    if stored.encoding is not Encoding.RAW and needed > max(BOMB_BYTES, BOMB_RATIO * available):
        raise ReadError(
            "DECOMPRESSION_BOMB",
            f"expected less than {BOMB_RATIO}:1 compression for {needed} bytes, got {available} packed "
            "bytes; unpack the file yourself if you trust it",
        )
    if needed > physical_memory_bytes():
        raise ReadError(
            "TOO_LARGE",
            f"expected voxels that fit the memory, got {needed} bytes; crop it or use a larger machine",
        )


def read_stored(stored: StoredVoxels) -> Array:
    """Voxels `(i, j, k)`, i fastest (Fortran order), in native byte order, writable; one copy.

    Raises:
        ReadError: as `check_claim`; `PIXELS_TRUNCATED` where the stream ends early,
            `PIXELS_CORRUPT` where it does not inflate or its check sum is wrong.
    """
    check_claim(stored)
    data = np.empty(stored.voxel_bytes, dtype=np.uint8)
    with opened(stored.path) as stream:
        stream.seek(stored.offset)
        if stored.encoding is Encoding.RAW:
            stream.seek(stored.skip, os.SEEK_CUR)
            _require_all(stream.readinto(data.data), data.size)
        else:
            inflater = Inflater(stream, stored.encoding)
            inflater.skip(stored.skip)
            _require_all(inflater.read_into(data.data), data.size)
            inflater.finish()
    array = data.view(stored.dtype)
    if not stored.dtype.isnative:
        array = array.byteswap(inplace=True).view(stored.dtype.newbyteorder("="))
    return array.reshape(stored.shape, order="F")


def write_stored(stream: IO[bytes], array: Array, encoding: Encoding, prefix: bytes = b"") -> None:
    """Write voxels `(i, j, k)`, i fastest, little-endian, and packed if so wished.

    The bytes depend on the voxels alone: no time of day, no file name. A contiguous Fortran array
    is written without a copy, any other slice by slice.

    Args:
        stream: where to write, at its present place.
        array: of the type that the header announces.
        encoding: how to pack.
        prefix: bytes before the voxels, packed with them.
    """
    from isal import isal_zlib

    packer = None
    if encoding is not Encoding.RAW:
        packer = isal_zlib.compressobj(level=DEFLATE_LEVEL, wbits=encoding.value)
    for block in chain((prefix,), _bytes_in_order(array)):
        stream.write(packer.compress(block) if packer else block)
    if packer:
        stream.write(packer.flush())


def _bytes_in_order(array: Array) -> Iterator[bytes]:
    slices = [array] if array.flags.f_contiguous else (array[..., k] for k in range(array.shape[-1]))
    for part in slices:
        flat = np.asfortranarray(part).ravel(order="F")
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8)
        for start in range(0, flat.size, WRITTEN_BLOCK):
            yield flat[start : start + WRITTEN_BLOCK].tobytes()


def _require_all(got: int, expected: int) -> None:
    if got != expected:
        raise ReadError(
            "PIXELS_TRUNCATED", f"expected {expected} bytes of voxels, got {got}; copy the file again"
        )


class Inflater:
    """Unpacks a zlib or gzip stream (several gzip members too), never more than is asked for.

    Args:
        stream: positioned at the first packed byte.
        encoding: `ZLIB` or `GZIP`.
    """

    def __init__(self, stream: IO[bytes], encoding: Encoding) -> None:
        from isal import isal_zlib

        self._stream = stream
        self._window = encoding.value
        self._new = isal_zlib.decompressobj
        self._error = cast("type[Exception]", isal_zlib.error)
        self._member = self._new(wbits=self._window)
        self._packed = b""

    def read(self, count: int) -> bytes:
        """Up to `count` unpacked bytes; fewer only at the end of the stream."""
        data = bytearray(count)
        return bytes(data[: self.read_into(memoryview(data))])

    def skip(self, count: int) -> None:
        """Unpack and forget `count` bytes, or as many as there are."""
        while count > 0 and (block := self._next(min(count, INFLATED_BLOCK))):
            count -= len(block)

    def read_into(self, view: memoryview) -> int:
        """Fill a buffer of bytes; returns how many came before the stream ended.

        Raises:
            ReadError: `PIXELS_CORRUPT`, or `PIXELS_TRUNCATED` where the file ends within the stream.
        """
        filled = 0
        while filled < len(view):
            block = self._next(min(len(view) - filled, INFLATED_BLOCK))
            if not block:
                break
            view[filled : filled + len(block)] = block
            filled += len(block)
        return filled

    def finish(self) -> None:
        """Read to the end, which verifies the check sum.

        Raises:
            ReadError: as `read_into`; `DECOMPRESSION_BOMB` where more follows than the header announced.
        """
        surplus = 0
        while block := self._next(INFLATED_BLOCK):
            surplus += len(block)
            if surplus > SLACK_BYTES:
                raise ReadError(
                    "DECOMPRESSION_BOMB",
                    "expected the packed data to end after the last voxel, got far more; repair the "
                    "header or unpack the file yourself if you trust it",
                )

    def _next(self, most: int) -> bytes:
        """1 to `most` unpacked bytes, none at the end of the stream."""
        while True:
            if self._member.eof and not self._next_member():
                return b""
            if not self._packed:
                self._packed = self._stream.read(COMPRESSED_BLOCK)
            ended = not self._packed
            try:
                block: bytes = self._member.decompress(self._packed, most)
            except self._error as error:
                raise ReadError(
                    "PIXELS_CORRUPT", "expected packed voxels, got damaged data; copy the file again"
                ) from error
            self._packed = self._member.unconsumed_tail
            if block:
                return block
            if ended and not self._member.eof:
                raise ReadError(
                    "PIXELS_TRUNCATED",
                    "expected the end of the packed data, got the end of the file; copy it again",
                )

    def _next_member(self) -> bool:
        """Begin the gzip member that follows, if one does; zero padding and garbage end the stream."""
        if self._window != Encoding.GZIP.value:
            return False
        rest = self._packed or self._member.unused_data
        rest = rest if len(rest) > 1 else rest + self._stream.read(COMPRESSED_BLOCK)
        self._packed = rest
        if rest[:2] != b"\x1f\x8b":
            return False
        self._member = self._new(wbits=self._window)
        return True
