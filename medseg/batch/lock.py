"""One driver per output folder: a lock that the system drops when its holder dies, however it dies."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import WriteError
from medseg.files import lock_now

LOCK_FILE = ".lock"
LEASE_MARK = ".run-"


@contextmanager
def only_driver(folder: Path) -> Iterator[Path]:
    """Be the only driver of an output folder.

    Args:
        folder: made if missing.

    Yields:
        The lease: a file that exists while this run lasts. Workers on other machines, which a dead
        driver cannot stop, give up when it is gone; the next driver removes those of dead ones.

    Raises:
        WriteError: `BATCH_LOCKED`, another driver is at work; `NOT_WRITABLE`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WriteError("NOT_WRITABLE", f"expected a writable output folder, got: {reason}") from error
    lease = folder / f"{LEASE_MARK}{secrets.token_hex(8)}"
    try:
        try:
            lock_now(descriptor)
        except OSError as error:
            raise WriteError(
                "BATCH_LOCKED",
                "expected an output folder of our own, got one that another batch is writing into; "
                "wait for it or take another folder",
            ) from error
        for stale in folder.glob(f"{LEASE_MARK}*"):
            stale.unlink(missing_ok=True)
        lease.touch()
        try:
            yield lease
        finally:
            lease.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
