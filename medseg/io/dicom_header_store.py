"""Headers of files seen before, on disk, so that a folder of a hundred thousand files is listed in seconds.

One SQLite file in the cache folder. A row is found by a hash of path, size, times and inode, and
sealed with a key made of the same, so that whoever has the cache alone learns no name, UID or date from
it. What is damaged is thrown away, what cannot be written is done without, and a file that changes, or a
reader that changes, is read again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from medseg.cache import cache_folder
from medseg.io.dicom_header_record import RECORD_FIELDS, header_from, record_of
from medseg.io.dicom_records import ImageHeader
from medseg.io.dicom_source import SourceFile

STORE_FILE = "dicom-headers.sqlite"
MAX_ROWS = 500_000
MAX_BYTES = 2**28
MAX_RECORD_BYTES = 2**18
"""Longer records, of objects with thousands of frames, are quicker read than kept."""
FRESH_NS = 2_000_000_000
"""A file changed so shortly ago may change again within one tick of its clock."""
_BUSY_S = 2.0
_BATCH = 1000
_MARK_BYTES = 16
_PASSING = ("NOT_READABLE", "NOT_A_FILE")
_TABLES = """
CREATE TABLE IF NOT EXISTS secret (key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS headers (id INTEGER PRIMARY KEY, token BLOB UNIQUE NOT NULL, record BLOB NOT NULL);
"""


def stamp_of(file: SourceFile, status: os.stat_result) -> tuple[str, int, int, int, int]:
    """What a file is known by: a rename or an exchange of two files of equal size and time changes it too."""
    return (os.fspath(file.path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


Stamp = tuple[str, int, int, int, int]


@contextmanager
def header_store() -> Iterator[HeaderStore | None]:
    """The user's store for the length of a scan; None where there can be none."""
    store = opened_store(cache_folder() / STORE_FILE)
    try:
        yield store
    finally:
        if store is not None:
            store.close()


def opened_store(path: Path) -> HeaderStore | None:
    """A store; one that is damaged is begun anew. None where it can be neither read nor made."""
    for _ in range(2):
        try:
            return HeaderStore(path)
        except (OSError, sqlite3.OperationalError):
            return None
        except sqlite3.Error:
            _remove(path)
    return None


def _remove(path: Path) -> None:
    for side in ("", "-journal"):
        with suppress(OSError):
            path.with_name(path.name + side).unlink(missing_ok=True)


class HeaderStore:
    """Headers by stamp; for one thread. Rows are written in batches, the last of them by `close`.

    Args:
        path: of the SQLite file; made, with its folder, if missing, and readable by its owner alone.

    Raises:
        OSError: it cannot be used; and SQLite's own errors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_S)
        self._waiting: list[tuple[bytes, bytes]] = []
        self._is_writable, self._is_sound = True, True
        try:
            self._secret = self._prepared()
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepared(self) -> bytes:
        # What a lost machine leaves behind is found by the marks of the rows, so no write waits for the disk.
        self._db.execute("PRAGMA synchronous=OFF")
        found = None
        with suppress(sqlite3.OperationalError):  # no such table yet
            found = self._db.execute("SELECT key FROM secret").fetchone()
        if found is None:
            self._db.execute("BEGIN IMMEDIATE")
            for statement in _TABLES.strip().splitlines():
                self._db.execute(statement)
            found = self._db.execute("SELECT key FROM secret").fetchone()
            if found is None:
                found = (secrets.token_bytes(32),)
                self._db.execute("INSERT INTO secret VALUES (?)", found)
            self._db.execute("COMMIT")
        return bytes(found[0])

    def find(self, stamp: Stamp, file: SourceFile) -> tuple[ImageHeader | None] | None:
        """A header in a tuple, or None where the file is not known."""
        if not self._is_sound:
            return None
        key = self._key(stamp)
        try:
            row = self._db.execute("SELECT record FROM headers WHERE token=?", (_token(key),)).fetchone()
        except sqlite3.OperationalError:
            return None
        except sqlite3.Error:
            self._is_sound = False
            return None
        record = None if row is None else _unsealed(key, bytes(row[0]))
        if record is None:
            return None
        try:
            return (header_from(record, file),)
        except (ValueError, TypeError, KeyError):
            return None

    def keep(self, stamp: Stamp, header: ImageHeader | None) -> None:
        """Keep what was read, where it holds for long."""
        _, _, changed, altered, _ = stamp
        passing = header is not None and header.problem is not None and header.problem.code in _PASSING
        if passing or not self._is_writable or time.time_ns() - max(changed, altered) < FRESH_NS:
            return
        record = record_of(header)
        if len(record) > MAX_RECORD_BYTES:
            return
        key = self._key(stamp)
        self._waiting.append((_token(key), _sealed(key, record)))
        if len(self._waiting) >= _BATCH:
            self._write()

    def close(self) -> None:
        """Write what waits, drop the oldest rows where there are too many, and end."""
        self._write()
        self._db.close()
        if not self._is_sound:
            _remove(self._path)

    def _key(self, stamp: Stamp) -> bytes:
        words = "\0".join(map(str, stamp)).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(words, key=self._secret, person=reader_version()).digest()

    def _write(self) -> None:
        rows, self._waiting = self._waiting, []
        if not rows or not (self._is_writable and self._is_sound):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO headers (token, record) VALUES (?, ?)", rows)
            self._make_room()
            self._db.execute("COMMIT")
        except sqlite3.OperationalError:  # read-only, full disk, or another process that writes for long
            self._is_writable = False
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            self._is_sound = False

    def _make_room(self) -> None:
        newest, oldest = self._db.execute("SELECT max(id), min(id) FROM headers").fetchone()
        numbers = [self._number(name) for name in ("page_count", "freelist_count", "page_size")]
        if newest - oldest >= MAX_ROWS or (numbers[0] - numbers[1]) * numbers[2] > MAX_BYTES:
            self._db.execute("DELETE FROM headers WHERE id <= ?", ((newest + oldest) // 2,))

    def _number(self, pragma: str) -> int:
        return int(self._db.execute(f"PRAGMA {pragma}").fetchone()[0])


@lru_cache(maxsize=1)
def reader_version() -> bytes:
    """Hash of the modules that make a header from a file, 16 bytes: another reader trusts no old record."""
    digest = hashlib.blake2b(repr(RECORD_FIELDS).encode(), digest_size=16)
    for path in sorted(Path(__file__).parent.glob("dicom_*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


# ---------------------------------------------------------------------- sealed rows


def _token(key: bytes) -> bytes:
    return hashlib.blake2b(b"token", key=key, digest_size=16).digest()


def _stream(key: bytes, data: bytes) -> bytes:
    """Data under a one-time pad that a key gives; each stamp has a key of its own."""
    pad = hashlib.shake_256(key + b"pad").digest(len(data))
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(len(data), "little")


def _sealed(key: bytes, record: bytes) -> bytes:
    packed = zlib.compress(record, 1)
    return hashlib.blake2b(packed, key=key, digest_size=_MARK_BYTES).digest() + _stream(key, packed)


def _unsealed(key: bytes, sealed: bytes) -> bytes | None:
    """The record; None where a bit of it changed."""
    packed = _stream(key, sealed[_MARK_BYTES:])
    if hashlib.blake2b(packed, key=key, digest_size=_MARK_BYTES).digest() != sealed[:_MARK_BYTES]:
        return None
    return zlib.decompress(packed)
