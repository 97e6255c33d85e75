"""Other people's DICOM libraries, kept from telling what is in a file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep pydicom's and highdicom's logs and warnings to themselves: they quote values.

    A patient's values may stand in any of them. What matters is raised, not warned.
    """
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [(log.propagate, log.handlers[:]) for log in loggers]
    for log in loggers:
        log.propagate, log.handlers = False, [logging.NullHandler()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, (propagate, handlers) in zip(loggers, before, strict=True):
            log.propagate, log.handlers = propagate, handlers
