"""Fetch a file from the web: resumable, bounded, checked, and never half in place.

Only https is followed; plain http only to this machine itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from medseg.errors import DownloadError, WriteError
from medseg.files import FULL_DISK_ERRORS, lock_now, read_own_json, write_json
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

STAGE = "download"
"""Name of the stage in progress reports; a unit is a byte."""

MOST_BYTES = 50 * 10**9
"""What a server that does not say how much it will send may send."""

TRIES_WITHOUT_GAIN = 4
"""Connections in a row that bring nothing new before the download is given up."""

TIMEOUT_S = 30.0
_CHUNK_BYTES = 2**20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DIGESTS = ("sha256", "sha1", "md5")


@dataclass(frozen=True)
class Remote:
    """A file on the web, and what its publisher says of it.

    Attributes:
        url: its address.
        checksum: such as `"sha256:…"` or `"sha1:…"`; empty where the publisher gives none.
        size: bytes, or None where unknown.
    """

    url: str
    checksum: str = ""
    size: int | None = None


def download(
    remote: Remote,
    target: Path,
    *,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
    pause_s: float = 1.0,
) -> Path:
    """Fetch a file, going on where an earlier try was cut off.

    What has come lies in `target` + `.part` until all of it is there and its checksum is right.

    Args:
        remote: what to fetch.
        target: where to put it; its folder must exist.
        progress: told of bytes.
        cancel: a way to stop; what has come is kept for the next try.
        pause_s: wait before a connection is tried again, doubled each time.

    Returns:
        `target`.

    Raises:
        DownloadError: `BAD_ADDRESS`, `DOWNLOAD_REFUSED` (the server says no), `DOWNLOAD_FAILED`
            (it could not be reached, or keeps breaking off), `SIZE_MISMATCH`, `CHECKSUM_MISMATCH`,
            `DOWNLOAD_RUNNING`.
        WriteError: `DISK_FULL` or `NOT_WRITABLE`.
        CancelledError: a stop was asked for.
    """
    check_address(remote.url)
    with _alone(target.with_name(target.name + ".lock")):
        part = _whole_part(remote, target, progress, cancel or CancelToken(), pause_s)
        part.replace(target)
    return target


def _whole_part(
    remote: Remote, target: Path, progress: ProgressCallback, cancel: CancelToken, pause_s: float
) -> Path:
    """Connect as often as it takes; the checked part once all of it is there."""
    part = target.with_name(target.name + ".part")
    tries = 0
    while True:
        cancel.check()
        before = _bytes_at(part)
        try:
            is_whole = _receive(remote, part, progress, cancel)
            reason = "the connection broke off"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, (DownloadError, WriteError)):
                raise
            is_whole, reason = False, _reason(error)
        if is_whole:
            break
        tries = 0 if _bytes_at(part) > before else tries + 1
        if tries >= TRIES_WITHOUT_GAIN:
            raise DownloadError(
                "DOWNLOAD_FAILED",
                f"expected a file from {_host(remote.url)}, got: {reason}; check the network and try again, "
                "what has come is kept",
            )
        _wait(pause_s * 2**tries, cancel)
    _check(remote, part)
    _note_of(part).unlink(missing_ok=True)
    return part


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Be the only one who writes a part: two would mix their bytes."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(error) from error
    try:
        try:
            lock_now(descriptor)
        except OSError as error:
            raise DownloadError(
                "DOWNLOAD_RUNNING", "expected to fetch this file alone, got another at it; wait for it"
            ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def check_address(url: str) -> None:
    """Return if an address may be followed.

    Raises:
        DownloadError: `BAD_ADDRESS`, anything but https, or http to this machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK)):
        raise DownloadError("BAD_ADDRESS", "expected an https address, got another; correct it")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follow a redirect only to an address that we would have taken in the first place."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any
    ) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except BaseException:
            fp.close()  # urllib leaves the connection open where it refuses to follow
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _receive(remote: Remote, part: Path, progress: ProgressCallback, cancel: CancelToken) -> bool:
    """One connection: append what comes to the part; True once all of it is there."""
    start, note = _resumable(part, remote.url)
    headers = {"User-Agent": "medseg", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": note["validator"]}
    opener = urllib.request.build_opener(_CheckedRedirects)
    # check_address has let pass https, and http on this machine, alone
    request = urllib.request.Request(remote.url, headers=headers)  # noqa: S310
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return _append(remote, part, answer, start, progress, cancel)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(part)  # what we hold does not belong to what the server has now
            return False
        if error.code in (429, 500, 502, 503, 504):
            return False
        raise DownloadError(
            "DOWNLOAD_REFUSED",
            f"expected a file from {_host(remote.url)}, got status {error.code}; "
            "the file may have moved, or needs a login",
        ) from error
    except ValueError as error:  # a redirect to what is no address
        raise DownloadError("BAD_ADDRESS", "expected an https address, got another; correct it") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(
                "DOWNLOAD_REFUSED",
                f"expected a valid certificate from {_host(remote.url)}, got another; check clock and proxy",
            ) from error
        raise


def _append(
    remote: Remote,
    part: Path,
    answer: Any,
    start: int,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> bool:
    resumed = start > 0 and answer.status == http.HTTPStatus.PARTIAL_CONTENT
    if resumed and not str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-"):
        _forget(part)
        return False
    at = start if resumed else 0
    stated = answer.headers.get("Content-Length")
    total = at + int(stated) if stated and stated.isdigit() else None
    _check_total(remote, total)
    _check_room(part.parent, (total or 0) - at)
    _write_note(part, remote.url, answer.headers)
    with _open_part(part, "ab" if resumed else "wb") as file:
        for chunk in _chunks(answer):
            cancel.check()
            at += len(chunk)
            _check_total(remote, at if total is None else max(at, total))
            _write(file, chunk)
            progress(Progress(STAGE, at, total or remote.size or 0))
    return at == total if total is not None else True


def _chunks(answer: Any) -> Iterator[bytes]:
    while chunk := answer.read1(_CHUNK_BYTES):
        yield chunk


def _check_total(remote: Remote, total: int | None) -> None:
    """Stop early where more comes than was meant; too little is judged once all has come."""
    most = remote.size or MOST_BYTES
    if total is not None and total > most:
        raise DownloadError(
            "SIZE_MISMATCH",
            f"expected at most {most} bytes from {_host(remote.url)}, got {total} or more; "
            "the file is not the one that was meant",
        )


def _check(remote: Remote, part: Path) -> None:
    """Size and checksum of what has come; what is wrong is thrown away."""
    size = _bytes_at(part)
    if remote.size is not None and size != remote.size:
        _forget(part)
        raise DownloadError(
            "SIZE_MISMATCH",
            f"expected {remote.size} bytes from {_host(remote.url)}, got {size}; try again later",
        )
    if remote.checksum and file_checksum(part, remote.checksum.partition(":")[0]) != remote.checksum:
        _forget(part)
        raise DownloadError(
            "CHECKSUM_MISMATCH",
            f"expected the file that the checksum {remote.checksum[:19]}… belongs to, got another from "
            f"{_host(remote.url)}; it was thrown away, try again or ask its publisher",
        )


def file_checksum(path: Path, method: str = "sha256") -> str:
    """`method:hexadecimal digest` of a file.

    Args:
        path: the file.
        method: `"sha256"`, `"sha1"` or `"md5"`; the weaker ones only because publishers give them.

    Raises:
        DownloadError: `BAD_CHECKSUM`, another method.
    """
    if method not in _DIGESTS:
        raise DownloadError("BAD_CHECKSUM", f"expected one of {', '.join(_DIGESTS)}, got {method!r}")
    with path.open("rb") as file:
        return f"{method}:{hashlib.file_digest(file, method).hexdigest()}"


def _note_of(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _resumable(part: Path, url: str) -> tuple[int, Mapping[str, str]]:
    """Bytes that are there and may be gone on from, and what the server said of the file then."""
    note = read_own_json(_note_of(part)) or {}
    fits = note.get("url") == url and isinstance(note.get("validator"), str)
    if not fits or not note["validator"]:  # without one, a changed file would be glued to an old start
        return 0, {}
    return _bytes_at(part), note


def _write_note(part: Path, url: str, headers: Any) -> None:
    etag = str(headers.get("ETag", ""))
    validator = etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified", ""))
    write_json(_note_of(part), {"url": url, "validator": validator})


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note_of(part).unlink(missing_ok=True)


def _bytes_at(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _open_part(part: Path, mode: str) -> IO[bytes]:
    try:
        return part.open(mode)
    except OSError as error:
        raise _unwritable(error) from error


def _write(file: IO[bytes], chunk: bytes) -> None:
    try:
        file.write(chunk)
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> WriteError:
    if error.errno in FULL_DISK_ERRORS:
        return WriteError("DISK_FULL", "expected room for the download, got a full disk; free some space")
    return WriteError(
        "NOT_WRITABLE", f"expected a folder to write into, got: {error.strerror or type(error).__name__}"
    )


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            "DISK_FULL",
            f"expected {needed / 1e9:.1f} GB of free disk, got {free / 1e9:.1f} GB; free some space",
        )


def _wait(seconds: float, cancel: CancelToken) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        cancel.check()
        time.sleep(min(left, 0.1))


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the server"


def _reason(error: OSError | http.client.HTTPException) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or type(inner).__name__)
