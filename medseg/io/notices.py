"""What a reader had to assume: told to the caller, not hidden in a log.

A notice is a Python warning, so that a script can record it, turn it into an error, or let it be
printed, and a viewer can show it, without any reader knowing who listens.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_kept: ContextVar[list[str] | None] = ContextVar("kept", default=None)


class ReadNotice(UserWarning):
    """An image was read, but under an assumption, or with voxels mended.

    Args:
        code: stable word in capitals, such as `NOT_FINITE`.
        message: what was found and what was done about it.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ReadNotice], tuple[str, str]]:
        """Rebuild from code and message, so that a notice survives a process boundary."""
        return type(self), (self.code, self.message)


def notify(code: str, message: str) -> None:
    """Tell the caller of a reader what was assumed.

    Args:
        code: stable word in capitals.
        message: what was found and what was done about it; no patient's name, no path.
    """
    notice = ReadNotice(code, message)
    kept = _kept.get()
    if kept is not None:
        kept.append(str(notice))
    warnings.warn(notice, stacklevel=2)


@contextmanager
def notices_kept() -> Iterator[list[str]]:
    """Collect what readers assume meanwhile, in words; the warnings are given all the same."""
    kept: list[str] = []
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)
