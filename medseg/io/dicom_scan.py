"""Find the DICOM objects of a folder tree, a DICOMDIR's folder or a zip, by their headers alone.

No suffix is assumed. Links are not followed and only regular files are opened. A DICOMDIR is a hint:
what lies beside it counts, and a reference that leads out of its folder makes it refused. Headers are
kept by path, size and time of change, in memory and in the user's cache folder, so a second look at a
folder costs a `stat` per file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader, is_zip, zip_members
from medseg.io.dicom_elements import Elements, read_raw_header
from medseg.io.dicom_header_store import HeaderStore, Stamp, header_store, stamp_of
from medseg.io.dicom_headers import WANTED_TAGS, header_of, lost_header
from medseg.io.dicom_records import ImageHeader, Problem
from medseg.io.dicom_source import SourceFile
from medseg.io.dicom_values import words
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_RECORDS, _REFERENCED_FILE = 0x00041220, 0x00041500
_SILENT_CODES = ("NOT_DICOM", "NOT_A_FILE")
_CACHE_SIZE = 20_000
_REPORT_EVERY = 64


class _Unknown:
    """Not looked at yet; None says that a file is a DICOMDIR."""


_UNKNOWN = _Unknown()
_cache: dict[Stamp, ImageHeader | None] = {}


@dataclass(frozen=True)
class Scan:
    """What was found.

    Attributes:
        headers: one per DICOM object, in order of folder and name.
        skipped: code -> number of files that are no DICOM objects.
        notes: what the user should know, each a code, a colon and a sentence.
    """

    headers: tuple[ImageHeader, ...]
    skipped: Mapping[str, int]
    notes: tuple[str, ...] = ()


def scan(path: Path, *, progress: ProgressCallback = silent, cancel: CancelToken | None = None) -> Scan:
    """Look at every file.

    Args:
        path: folder, DICOM file, DICOMDIR or zip.
        progress: told how many files were looked at; the total of a folder is unknown.
        cancel: stops between files.

    Raises:
        ReadError: `FILE_NOT_FOUND`; `NOT_DICOM` where a single file is none; `UNSAFE_PATH` for a
            DICOMDIR that points outside its folder; for a zip, as `zip_members`.
        CancelledError: a stop was asked for.
    """
    unlisted: list[str] = []
    files, total, notes = _sources(path, unlisted)
    headers: list[ImageHeader] = []
    skipped: Counter[str] = Counter()
    looked_at = 0
    # One file or the members of a zip are read as quickly as they are looked up.
    with SourceReader() as reader, header_store() if not total else nullcontext() as store:
        for looked_at, file in enumerate(files, start=1):
            if cancel is not None:
                cancel.check()
            header = _cached_header(reader, file, store)
            if header is None:
                skipped["DICOMDIR"] += 1
            elif header.problem is not None and header.problem.code == "BAD_ARCHIVE":
                # No one can tell which series the damaged member was a slice of.
                raise header.problem.error()
            elif header.problem is not None and header.problem.code in _SILENT_CODES:
                if total == 1 and not file.member:
                    raise header.problem.error()
                skipped[header.problem.code] += 1
            else:
                headers.append(header)
            if looked_at % _REPORT_EVERY == 0:
                progress(Progress("scan", looked_at, total))
    progress(Progress("scan", looked_at, looked_at))
    if unlisted:
        notes += (f"NOT_READABLE: {len(unlisted)} folders cannot be listed; check their permissions",)
    return Scan(tuple(headers), dict(skipped), notes)


def _sources(path: Path, unlisted: list[str]) -> tuple[Iterator[SourceFile], int, tuple[str, ...]]:
    """(files to look at, how many or 0, notes); folders that refuse to be listed are added to a list."""
    if not path.exists():
        raise ReadError("FILE_NOT_FOUND", "expected an existing file or folder, got a path to nothing")
    if path.is_dir():
        return _tree(path, unlisted), 0, ()
    if not path.is_file():
        raise ReadError("NOT_A_FILE", "expected a folder, file or zip, got a pipe or device")
    if _starts_as_zip(path):
        members = zip_members(path)
        return iter(members), len(members), ()
    only = SourceFile(path.resolve())
    notes = _directory_notes(only)
    return (iter((only,)), 1, ()) if notes is None else (_tree(path.parent, unlisted), 0, notes)


def _starts_as_zip(path: Path) -> bool:
    try:
        return is_zip(path)
    except OSError as error:
        raise ReadError("NOT_READABLE", "expected a readable file; check its permissions") from error


def _tree(root: Path, unlisted: list[str]) -> Iterator[SourceFile]:
    """Regular files below a folder in order of name; folders that cannot be listed are noted."""
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            unlisted.append(folder)
            continue
        waiting.extend(e.path for e in reversed(entries) if e.is_dir(follow_symlinks=False))
        yield from (SourceFile(Path(e.path)) for e in entries if e.is_file(follow_symlinks=False))


def _cached_header(reader: SourceReader, file: SourceFile, store: HeaderStore | None) -> ImageHeader | None:
    """The record of a file; None for a DICOMDIR."""
    if file.member:
        return _read_header(reader, file)
    try:
        status = os.lstat(file.path)
    except OSError:
        return lost_header(file, Problem("NOT_READABLE", "expected a file, got one that went away"))
    stamp = stamp_of(file, status)
    known = _cache.get(stamp, _UNKNOWN)
    if not isinstance(known, _Unknown):
        return known
    kept = None if store is None else store.find(stamp, file)
    if kept is None:
        header = _read_header(reader, file)
        if store is not None:
            store.keep(stamp, header)
    else:
        (header,) = kept
    if len(_cache) >= _CACHE_SIZE:
        _cache.clear()
    _cache[stamp] = header
    return header


def _read_header(reader: SourceReader, file: SourceFile) -> ImageHeader | None:
    try:
        with reader.open(file) as (stream, size):
            raw = read_raw_header(stream, size, WANTED_TAGS)
    except ReadError as error:
        return lost_header(file, Problem.of(error))
    return None if raw.media_class == MEDIA_DIRECTORY else header_of(raw, file, size)


# ---------------------------------------------------------------------- DICOMDIR


def _directory_notes(file: SourceFile) -> tuple[str, ...] | None:
    """What a DICOMDIR says that its folder does not hold; None where the file is no DICOMDIR."""
    try:
        with SourceReader() as reader, reader.open(file) as (stream, size):
            raw = read_raw_header(stream, size, frozenset({_RECORDS}))
    except ReadError:
        return None
    if raw.media_class != MEDIA_DIRECTORY:
        return None
    if raw.broken is not None:
        return (f"DICOMDIR: it is damaged ({raw.broken.code}) and was not used",)
    referenced = [_reference(item) for item in raw.elements.items.get(_RECORDS, ())]
    wanted = [parts for parts in referenced if parts]
    missing = sum(not file.path.parent.joinpath(*parts).is_file() for parts in wanted)
    return (f"DICOMDIR: {missing} of its {len(wanted)} files are missing",) if missing else ()


def _reference(item: Elements) -> tuple[str, ...]:
    parts = words(item, _REFERENCED_FILE)
    for part in parts:
        if part in ("", ".", "..") or "/" in part or ":" in part or PurePosixPath(part).is_absolute():
            raise ReadError(
                "UNSAFE_PATH", "expected a DICOMDIR of plain file ids, got one that leads outside"
            )
    return parts
