"""What happened to each case, in SQLite: one writer, states and reasons, hashes of files seen before.

The ledger is an index. What is done is said by the manifests in the output folders, so a lost or
damaged ledger costs time for hashing and the history of attempts, and no result.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from medseg.batch.pseudonyms import token
from medseg.errors import WriteError
from medseg.models.weights import file_sha256

LEDGER_FILE = "ledger.sqlite"

_TABLES = """
CREATE TABLE IF NOT EXISTS cases (
  name TEXT PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL,
  attempts INTEGER NOT NULL, seconds REAL NOT NULL, peak_bytes INTEGER NOT NULL, changed REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
  name TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, seconds REAL NOT NULL,
  peak_bytes INTEGER NOT NULL, ended REAL NOT NULL);
CREATE TABLE IF NOT EXISTS fingerprints (
  token TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
"""
_FRESH_S = 2.0
"""A file changed so shortly before it was hashed may change again within one tick of its clock."""


@dataclass(frozen=True)
class Row:
    """State of one case.

    Attributes:
        name: of the case.
        key: hash of input, model, settings and version that the state holds for.
        state: `queued`, `running`, `done`, `failed` or `skipped`.
        code: stable reason, or empty.
        reason: the same for people.
        attempts: how often it was tried.
        seconds: of the last attempt.
        peak_bytes: highest resident memory seen in the last attempt; 0 where unknown.
    """

    name: str
    key: str
    state: str
    code: str = ""
    reason: str = ""
    attempts: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0


class Ledger:
    """The ledger of one output folder; for the driver's thread alone.

    Args:
        folder: output folder; exists.
        key: of the pseudonyms; paths are kept as tokens only.

    Raises:
        WriteError: `NOT_WRITABLE`.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._key = key
        path = folder / LEDGER_FILE
        try:
            self._db = self._opened(path)
        except sqlite3.OperationalError as error:
            raise WriteError(
                "NOT_WRITABLE", f"expected a ledger that can be written, got: {error}"
            ) from error
        except sqlite3.DatabaseError:
            path.replace(path.with_name(f"{LEDGER_FILE}.damaged"))
            for side in ("-wal", "-shm"):
                path.with_name(LEDGER_FILE + side).unlink(missing_ok=True)
            self._db = self._opened(path)

    @staticmethod
    def _opened(path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_TABLES)
            db.execute("SELECT count(*) FROM cases").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def row(self, name: str) -> Row | None:
        """The state of one case; None for a case never seen."""
        found = self._db.execute(
            "SELECT name, key, state, code, reason, attempts, seconds, peak_bytes FROM cases WHERE name=?",
            (name,),
        ).fetchone()
        return None if found is None else Row(*found)

    def write(self, row: Row) -> None:
        """Set the state of a case, and note the attempt that has just ended, if one has."""
        self._db.execute("BEGIN")
        self._db.execute(
            "INSERT OR REPLACE INTO cases VALUES (?,?,?,?,?,?,?,?,?)",
            (row.name, row.key, row.state, row.code, row.reason, row.attempts, row.seconds, row.peak_bytes,
             time.time()),
        )  # fmt: skip
        if row.state in ("done", "failed") and row.seconds > 0:
            self._db.execute(
                "INSERT INTO attempts VALUES (?,?,?,?,?,?,?)",
                (row.name, row.key, row.state, row.code, row.seconds, row.peak_bytes, time.time()),
            )
        self._db.execute("COMMIT")

    def requeue_running(self) -> None:
        """Cases that a stop caught under way are to be done again."""
        self._db.execute("UPDATE cases SET state='queued' WHERE state='running'")

    def sha256(self, path: Path) -> str:
        """SHA-256 of a regular file; a file of the same size and time as before is not read again.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        word = token(self._key, os.fspath(path.absolute()))
        known = self._db.execute(
            "SELECT sha256 FROM fingerprints WHERE token=? AND size=? AND mtime_ns=?",
            (word, status.st_size, status.st_mtime_ns),
        ).fetchone()
        if known is not None:
            return str(known[0])
        digest = file_sha256(path)
        if time.time() - status.st_mtime > _FRESH_S:
            self._db.execute(
                "INSERT OR REPLACE INTO fingerprints VALUES (?,?,?,?)",
                (word, status.st_size, status.st_mtime_ns, digest),
            )
        return digest
