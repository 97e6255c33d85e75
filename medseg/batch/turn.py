"""Turns on a device: neighbours read and write while one of them computes.

Several workers share a GPU by a lock file of this machine. The system drops the lock of a worker
that dies, however it dies. On a processor there is nothing to wait for: cores are shared out instead.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.batch.work import WAITING
from medseg.progress import Progress, ProgressCallback

_LOOK_S = 0.02


@contextmanager
def turn_on(device: str, progress: ProgressCallback) -> Iterator[None]:
    """Have a device to oneself; at once on a processor and where files cannot be locked.

    Args:
        device: such as `"cuda"`.
        progress: told `wait` while another worker computes.
    """
    if device == "cpu" or os.name != "posix":
        yield
        return
    import fcntl

    path = Path(tempfile.gettempdir()) / f"medseg-{os.getuid()}-{device.replace(':', '-')}.turn"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress(Progress(WAITING, 0, 0))
                time.sleep(_LOOK_S)
        yield
    finally:
        os.close(descriptor)
