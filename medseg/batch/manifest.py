"""Output folders that appear whole or not at all, each with a manifest that says what it holds.

The driver alone publishes: a child writes into a hidden folder beside the others, and a rename
makes it the result. So a child that outlives its driver, or a second attempt, can break nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import WriteError
from medseg.files import write_json

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "medseg-batch-case/1"
PART_MARK = ".part-"
"""Hidden folders with this in their name are work in progress; a new run removes what a dead one left."""


def new_part(folder: Path, case: str) -> Path:
    """An empty hidden folder for one attempt at a case."""
    part = folder / f".{case}{PART_MARK}{secrets.token_hex(6)}"
    part.mkdir(parents=True)
    return part


def file_list(folder: Path) -> dict[str, dict[str, Any]]:
    """Path with `/` -> `bytes` and `sha256` of every file below a folder; each is put onto disk first.

    Raises:
        WriteError: `BAD_RESULT`, a link or another thing that is no regular file.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise WriteError("BAD_RESULT", "expected regular files in a result, got a link or device")
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            found[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return found


def publish(part: Path, final: Path, manifest: Mapping[str, Any]) -> None:
    """Turn a part folder into the result of a case; an older result gives way.

    Raises:
        WriteError: `NOT_WRITABLE` or `DISK_FULL`.
    """
    write_json(part / MANIFEST_FILE, manifest, sort_keys=True)
    old = None
    try:
        if final.exists():
            old = final.with_name(f".{final.name}{PART_MARK}old-{secrets.token_hex(6)}")
            final.rename(old)
        try:
            part.rename(final)
        except OSError:
            if old is not None:
                old.rename(final)
            raise
        _onto_disk(final.parent)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a writable output folder, got: {reason}") from error
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _onto_disk(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove parts that were never published."""
    for path in folder.glob(f".*{PART_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)


def sweep_files(folder: Path) -> None:
    """Remove files that `whole_file` had begun when their writer was killed; only for a folder of our own."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)
