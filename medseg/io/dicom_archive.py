"""Open DICOM files wherever they lie: on their own, or inside a zip that is not trusted.

A zip is never unpacked to disk. Its list of members is judged before the first byte is inflated.
"""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from medseg.errors import ReadError
from medseg.files import leads_out
from medseg.io.dicom_source import SourceFile

MAX_MEMBERS = 16_384
MAX_INFLATED_BYTES = 2**36
MAX_RATIO = 100
RATIO_MATTERS_BYTES = 2**30
"""Blank slices shrink a thousandfold, so the ratio of a small archive says nothing."""
_DRAIN_BYTES = 2**20


def is_zip(path: Path) -> bool:
    """Whether a file begins like a zip; a DICOM file with a zip behind it does not count."""
    with path.open("rb") as stream:
        return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def zip_members(path: Path) -> tuple[SourceFile, ...]:
    """The files of a zip that are worth a look, in order of their names.

    Raises:
        ReadError: `BAD_ARCHIVE`, `ARCHIVE_UNSAFE` for a member that points outside or is a link,
            `ARCHIVE_ENCRYPTED`, `TOO_LARGE`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise ReadError(
            "BAD_ARCHIVE", "expected a whole zip file, got a damaged one; copy it anew"
        ) from error
    if len(members) > MAX_MEMBERS:
        raise ReadError("TOO_LARGE", f"expected a zip of at most {MAX_MEMBERS} members, got {len(members)}")
    inflated = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    bomb = inflated > RATIO_MATTERS_BYTES and inflated > MAX_RATIO * packed
    if inflated > MAX_INFLATED_BYTES or bomb:
        raise ReadError("TOO_LARGE", "expected a zip of sane size, got one that inflates without measure")
    for member in members:
        _check_member(member)
    names = sorted(m.filename for m in members if not m.is_dir() and m.file_size > 0)
    return tuple(SourceFile(path, name) for name in dict.fromkeys(names))


def _check_member(member: zipfile.ZipInfo) -> None:
    if leads_out(member.orig_filename) or stat.S_ISLNK(member.external_attr >> 16):
        raise ReadError(
            "ARCHIVE_UNSAFE", "expected plain files inside the zip, got a link or a path that leads out of it"
        )
    if member.flag_bits & 1:
        raise ReadError("ARCHIVE_ENCRYPTED", "expected a zip without a password; unpack it first")


class SourceReader:
    """Opens source files; a zip is kept open between its members. Use it as a context manager."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for archive in self._archives.values():
            archive.close()
        self._archives.clear()

    @contextmanager
    def open(self, file: SourceFile, *, whole: bool = False) -> Iterator[tuple[io.BufferedReader, int]]:
        """The file's bytes from the first on, and how many there are.

        Never follows a link, never waits for a pipe.

        Args:
            file: what to open.
            whole: read a member of a zip to its end, whatever was read before, so that its checksum is
                tested.

        Raises:
            ReadError: `NOT_READABLE` where the system refuses, `NOT_A_FILE` for what is no regular file,
                `BAD_ARCHIVE` where a member is damaged.
        """
        if file.member:
            with self._open_member(file) as found:
                yield found
                while whole and found[0].read(_DRAIN_BYTES):
                    pass
            return
        flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
        try:
            handle = os.open(file.path, flags)
        except OSError as error:
            raise _unreadable(error) from error
        with io.FileIO(handle, "rb") as raw:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ReadError("NOT_A_FILE", "expected a regular file, got a folder, pipe or device")
            try:
                yield io.BufferedReader(raw, 2**15), status.st_size
            except OSError as error:
                if isinstance(error, ReadError):
                    raise
                raise _unreadable(error) from error

    @contextmanager
    def _open_member(self, file: SourceFile) -> Iterator[tuple[io.BufferedReader, int]]:
        try:
            if file.path not in self._archives:
                self._archives[file.path] = zipfile.ZipFile(file.path)
            archive = self._archives[file.path]
            size = archive.getinfo(file.member).file_size
            with archive.open(file.member) as member:
                # ZipExtFile can seek forward by reading; the typeshed calls it no raw stream.
                yield io.BufferedReader(member, 2**16), size  # type: ignore[arg-type]  # as said above
        except ReadError:
            raise
        except (zipfile.BadZipFile, zlib.error, OSError, KeyError, EOFError, NotImplementedError) as error:
            raise ReadError("BAD_ARCHIVE", "expected a whole member of a zip, got a damaged one") from error


def _unreadable(error: OSError) -> ReadError:
    reason = error.strerror or type(error).__name__
    return ReadError("NOT_READABLE", f"expected a readable file, got: {reason}; check its permissions")
