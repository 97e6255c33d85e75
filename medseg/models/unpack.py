"""Unpack a zip that is not trusted: judged from its list of members before a byte is written."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path

from medseg.errors import ModelError, WriteError
from medseg.files import FULL_DISK_ERRORS, leads_out
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

STAGE = "unpack"
"""Name of the stage in progress reports; a unit is a byte."""

MOST_MEMBERS = 10_000
MOST_BYTES = 50 * 10**9
MOST_RATIO = 200
RATIO_MATTERS_BYTES = 100 * 10**6
"""Small text shrinks well, so the ratio of a small member says nothing."""

_CHUNK_BYTES = 2**20


def unpack_zip(
    archive: Path, folder: Path, *, progress: ProgressCallback = silent, cancel: CancelToken | None = None
) -> None:
    """Write the files of a zip below a folder.

    Args:
        archive: the zip.
        folder: exists and is empty; on an error what was written so far is left for the caller to remove.
        progress: told of bytes.
        cancel: a way to stop.

    Raises:
        ModelError: `BAD_ARCHIVE` (damaged), `ARCHIVE_UNSAFE` (a member that points outside, is a link,
            or stands twice), `ARCHIVE_TOO_LARGE` (a bomb), `ARCHIVE_ENCRYPTED`.
        WriteError: `DISK_FULL` or `NOT_WRITABLE`.
        CancelledError: a stop was asked for.
    """
    cancel = cancel or CancelToken()
    try:
        with zipfile.ZipFile(archive) as opened:
            members = judged(opened.infolist())
            total = sum(member.file_size for member in members)
            done = 0
            for member in members:
                target = folder / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("xb") as file:
                    while chunk := source.read(_CHUNK_BYTES):
                        cancel.check()
                        done += len(chunk)
                        file.write(chunk)
                        progress(Progress(STAGE, done, total))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            "BAD_ARCHIVE", "expected a whole zip file, got a damaged one; fetch it again"
        ) from error
    except OSError as error:
        if error.errno in FULL_DISK_ERRORS:
            raise WriteError("DISK_FULL", "expected room to unpack, got a full disk; free some") from error
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a folder to unpack into, got: {reason}") from error


def judged(members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """The files among the members of a zip, once all of them are found harmless.

    Raises:
        ModelError: as `unpack_zip`.
    """
    files = [member for member in members if not member.is_dir()]
    if len(members) > MOST_MEMBERS or sum(member.file_size for member in files) > MOST_BYTES:
        raise _too_large()
    for member in files:
        if (
            not member.orig_filename
            or leads_out(member.orig_filename)
            or stat.S_ISLNK(member.external_attr >> 16)
        ):
            raise ModelError(
                "ARCHIVE_UNSAFE",
                "expected plain files inside the zip, got a link or a path that leads out of it; "
                "do not use it, and take the model from its publisher",
            )
        if member.flag_bits & 1:
            raise ModelError("ARCHIVE_ENCRYPTED", "expected a zip without a password; unpack it first")
        inflated = member.file_size > RATIO_MATTERS_BYTES
        if inflated and member.file_size > MOST_RATIO * max(member.compress_size, 1):
            raise _too_large()
    names = {member.filename.casefold() for member in files}
    if len(names) < len(files):
        raise ModelError(
            "ARCHIVE_UNSAFE",
            "expected every file once in the zip, got one twice; take it from its publisher",
        )
    return files


def _too_large() -> ModelError:
    return ModelError(
        "ARCHIVE_TOO_LARGE",
        "expected a zip of sane size, got one that inflates without measure; take it from its publisher",
    )
