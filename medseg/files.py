"""Files as the readers and writers need them: regular, beside each other, whole or absent."""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, BufferedWriter
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medseg.errors import MedsegError, ReadError, WriteError

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def file_size(path: Path) -> int:
    """Bytes of a regular file; links are followed, pipes and devices never opened.

    Raises:
        ReadError: `FILE_NOT_FOUND`, `NOT_READABLE`, or `NOT_A_FILE` for anything but a regular file.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise ReadError(
            "FILE_NOT_FOUND", "expected an existing file or folder, got a path to nothing; check its spelling"
        ) from error
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(status.st_mode):
        raise ReadError(
            "NOT_A_FILE", "expected a regular file, got a folder, pipe or device; name the image file itself"
        )
    return status.st_size


def _unreadable(error: OSError) -> ReadError:
    reason = error.strerror or type(error).__name__
    return ReadError("NOT_READABLE", f"expected a readable file, got: {reason}; check its permissions")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises:
        ReadError: as `file_size`, and `NOT_READABLE` where the system refuses.
    """
    file_size(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise _unreadable(error) from error
    with stream:
        yield stream


def data_file_beside(header: Path, name: str) -> Path:
    """The data file that a header names: only a plain name, only from the header's own folder.

    A header comes from strangers; one that says `/etc/passwd`, `../x` or names a link that leads
    elsewhere would have us read what its author may not see.

    Args:
        header: path of the header file.
        name: what it says of its data file.

    Raises:
        ReadError: `DETACHED_DATA_REFUSED`, or as `file_size`.
    """
    plain = name not in ("", ".", "..") and "\0" not in name
    plain = plain and PurePosixPath(name).name == name and PureWindowsPath(name).name == name
    path = header.parent / name
    if not plain or path.resolve().parent != header.parent.resolve():
        raise ReadError(
            "DETACHED_DATA_REFUSED",
            "expected a data file in the header's own folder, got a path or link that leads elsewhere; "
            "put both files into one folder",
        )
    file_size(path)
    return path


@contextmanager
def whole_file(path: Path) -> Iterator[BufferedWriter]:
    """Write a file that appears whole or not at all.

    Bytes go to a hidden sibling, which takes the final name only after all of them are on disk. An
    older file of that name stays until then.

    Args:
        path: final name; its folder must exist.

    Yields:
        A binary stream to write into.

    Raises:
        WriteError: `DISK_FULL`, or `NOT_WRITABLE` where the system refuses for another reason.
    """
    if "\0" in str(path):
        raise WriteError("NOT_WRITABLE", "expected a file name, got one with a NUL byte; choose another")
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder of that name exists")
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except MedsegError:
        _removed(part)
        raise
    except OSError as error:
        raise _unwritable(error, _removed(part)) from error
    except BaseException:
        _removed(part)
        raise


def _removed(part: Path) -> bool:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _unwritable(error: OSError, part_removed: bool) -> WriteError:
    left = "" if part_removed else " (a hidden .part file is left behind)"
    if error.errno in FULL_DISK_ERRORS:
        return WriteError("DISK_FULL", f"expected room for the file, got a full disk{left}; free some space")
    reason = error.strerror or type(error).__name__
    return WriteError(
        "NOT_WRITABLE", f"expected a folder to write into, got: {reason}{left}; check folder and permissions"
    )


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Raises:
        WriteError: as `whole_file`.
    """
    with whole_file(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Write JSON that people can read too, whole or not at all.

    Args:
        path: final name; its folder must exist.
        content: plain data of finite numbers; text may hold the undecodable bytes of a file's name.
        sort_keys: equal content gives equal bytes, whatever the order of its keys.

    Raises:
        WriteError: as `whole_file`.
        ValueError: a number that is not finite, for which JSON has no word.
    """
    text = json.dumps(content, indent=2, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as stream:
        stream.write((text + "\n").encode(errors="backslashreplace"))  # a lone surrogate, as JSON escapes it


def read_own_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote; None where there is no such file or it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def leads_out(name: str) -> bool:
    """Whether the name of a member of an archive could lead out of the folder that it is unpacked into.

    Names of Windows count on every system: drives, backslashes, roots.
    """
    windows = PureWindowsPath(name)
    return (
        PurePosixPath(name).is_absolute()
        or bool(windows.drive or windows.root)
        or ".." in windows.parts
        or "\\" in name
        or "\0" in name
    )


def lock_now(descriptor: int) -> None:
    """Lock an open file for this process alone; the system lets go when the process ends, however it ends.

    Raises:
        OSError: another process holds the lock.
    """
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
        return
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
