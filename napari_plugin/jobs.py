"""Long work beside the window: one class, with progress, cancel, and an end that is a value.

An exception never leaves the thread: outside napari's own loop it would end the program.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from qtpy.QtCore import QObject, Signal

from medseg import CancelledError, CancelToken, MedsegError, Progress

Work = Callable[[Callable[[Progress], None], CancelToken], Any]
"""What a job does: told how to report, and how it is asked to stop."""

_REPORT_EVERY_S = 0.05


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        value: what the work gave; None unless it came to its end.
        code: empty, or the stable code of what went wrong; `"CANCELLED"` where it was asked to stop.
        message: what was expected, what came, the cure.
        details: for a report to the developers.
    """

    value: Any = None
    code: str = ""
    message: str = ""
    details: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the work came to its end."""
        return not self.code


class Job(QObject):
    """One piece of work in a thread of its own; signals arrive in the thread of the window.

    Args:
        work: what to do.
        parent: the widget that the job belongs to.
    """

    progressed = Signal(object)
    """A `Progress`, at most twenty a second and always the last of a stage."""

    ended = Signal(object)
    """An `Ended`, once."""

    def __init__(self, work: Work, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._work = work
        self._cancel = CancelToken()
        self._thread = threading.Thread(target=self._run, name="medseg-job", daemon=True)
        self._reported = 0.0

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; `ended` comes when it has."""
        self._cancel.cancel()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the thread; True once it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with _Boundary() as boundary:
            boundary.ended = Ended(self._work(self._report, self._cancel))
            self._cancel.check()
        try:
            self.ended.emit(boundary.ended)
        except RuntimeError:  # the window was closed meanwhile, and Qt's half of this object is gone
            return

    def _report(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S and progress.done < progress.total:
            return
        self._reported = now
        try:
            self.progressed.emit(progress)
        except RuntimeError:
            self._cancel.cancel()


class _Boundary:
    """A thread's last stop: whatever is raised within becomes a value that reaches the user."""

    def __init__(self) -> None:
        self.ended = Ended()

    def __enter__(self) -> _Boundary:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if error is not None:
            self.ended = failure(error)
        return True


def failure(error: BaseException) -> Ended:
    """What is told of an exception: code, what was expected and what came, trace for developers."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, CancelledError):
        return Ended(code=error.code, message=str(error))
    if isinstance(error, MedsegError):
        return Ended(code=error.code, message=str(error), details=details)
    if isinstance(error, MemoryError):
        words = "expected memory for this, got none left; close other programs or choose a smaller scan"
        return Ended(code="OUT_OF_MEMORY", message=words, details=details)
    words = f"expected this to work, got {type(error).__name__}; copy the details and report them"
    return Ended(code="INTERNAL", message=words, details=details)
