"""Other people's DICOM libraries, kept from telling what is in a file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_LOGGERS = ("pydicom", "highdicom")
_lock = Lock()
_inside: list[None] = []
"""One entry per block that is under way."""
_undo = ExitStack()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep pydicom's and highdicom's logs and warnings to themselves: they quote values.

    A patient's values may stand in any of them. What matters is raised, not warned. Loggers and filters
    belong to the whole process, so the first thread in silences them and the last one out undoes that.
    """
    with _lock:
        if not _inside:
            _silence()
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _undo.close()


def _silence() -> None:
    _undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for log in map(logging.getLogger, _LOGGERS):
        _undo.callback(_restore, log, log.propagate, log.handlers[:])
        log.propagate, log.handlers = False, [logging.NullHandler()]


def _restore(log: logging.Logger, propagate: bool, handlers: list[logging.Handler]) -> None:
    log.propagate, log.handlers = propagate, handlers
