"""Converted networks on disk, so that a second start need not convert again.

One folder per entry: the files of a network and `entry.json` with their SHA-256 and a note. Entries
appear whole or not at all, damaged ones are thrown away, the least recently used go when the cache
grows too large, and where nothing can be written everything works without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.cache import cache_folder as cache_root
from medseg.models.weights import file_sha256

MAX_BYTES = 4_000_000_000
"""Size beyond which the least recently used entries are removed."""

_ENTRY = "entry.json"
_NEW = ".new-"


def cache_folder() -> Path:
    """Where converted networks lie; it need not exist."""
    return cache_root() / "networks"


def fingerprint_of(parts: Mapping[str, object]) -> str:
    """A key of an entry: SHA-256 of plain data, in hexadecimal."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """What the cache holds under a key.

    Attributes:
        folder: holds the files; do not write into it.
        note: plain data kept with them.
    """

    folder: Path
    note: Mapping[str, Any]


@dataclass(frozen=True)
class NetworkCache:
    """Entries in one folder.

    Attributes:
        folder: made when something is put into it.
        max_bytes: size that it is kept below.
    """

    folder: Path
    max_bytes: int = MAX_BYTES

    def find(self, key: str) -> Entry | None:
        """The entry of a key, whole; None where there is none or it is damaged (then it is removed)."""
        place = self.folder / key
        try:
            content = json.loads((place / _ENTRY).read_bytes())
            is_whole = all(file_sha256(place / name) == value for name, value in content["files"].items())
            note = content["note"]
        except FileNotFoundError:
            if not place.is_dir():
                return None
            is_whole = False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            is_whole = False
        if not is_whole or not isinstance(note, dict):
            self.drop(key)
            return None
        with suppress(OSError):
            os.utime(place / _ENTRY)  # most recently used
        return Entry(place, note)

    def put(self, key: str, write: Callable[[Path], None], note: Mapping[str, Any]) -> Entry | None:
        """Add an entry, instead of one of that key.

        Args:
            key: from `fingerprint_of`.
            write: writes files into an empty folder.
            note: plain data to keep with them.

        Returns:
            The entry; None where nothing can be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
        except OSError:
            return None
        try:
            write(new)
            files = {path.name: file_sha256(path) for path in sorted(new.iterdir())}
            (new / _ENTRY).write_text(json.dumps({"files": files, "note": dict(note)}), encoding="utf-8")
            self.drop(key)
            new.replace(self.folder / key)
        except (OSError, RuntimeError):  # full disk, or another process was quicker
            return self.find(key)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self._shrink(key)
        return Entry(self.folder / key, note)

    def drop(self, key: str) -> None:
        """Remove an entry, if there is one."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def _shrink(self, keep: str) -> None:
        """Remove the least recently used entries until the rest fits."""
        entries = []
        with suppress(OSError):
            for place in self.folder.iterdir():
                if place.name == keep or place.name.startswith(_NEW) or not (place / _ENTRY).is_file():
                    continue
                entries.append(((place / _ENTRY).stat().st_mtime, place, _size(place)))
        total = _size(self.folder / keep) + sum(size for _, _, size in entries)
        for _, place, size in sorted(entries):
            if total <= self.max_bytes:
                return
            shutil.rmtree(place, ignore_errors=True)
            total -= size


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):
        total = sum(path.stat().st_size for path in folder.iterdir())
    return total
