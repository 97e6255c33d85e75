"""What a reader had to assume: told to the caller, not hidden in a log.

A notice is a Python warning, so that a script can record it, turn it into an error, or let it be
printed, and a viewer can show it, without any reader knowing who listens.
"""

from __future__ import annotations

import warnings


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
    warnings.warn(ReadNotice(code, message), stacklevel=2)
