"""Previews: only the newest question counts, and the window waits for none."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QObject, Signal

from napari_plugin.jobs import Ended, Job, Work

Answer = Callable[[Ended], None]


class Latest(QObject):
    """Runs one piece of work at a time; what is asked meanwhile stops it and takes its turn.

    Args:
        parent: the widget that it belongs to.
    """

    idle = Signal()
    """When nothing runs and nothing waits any more."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._job: Job | None = None
        self._waiting: tuple[Work, Answer] | None = None
        self._is_wanted = True

    @property
    def is_busy(self) -> bool:
        """Whether something runs or waits."""
        return self._job is not None

    def ask(self, work: Work, answer: Answer) -> None:
        """Run work, after what runs now has stopped.

        Args:
            work: what to do.
            answer: given how it ended, in the window's thread; not called where something newer was asked.
        """
        self._waiting = (work, answer)
        if self._job is None:
            self._start()
        else:
            self._job.cancel()

    def forget(self) -> None:
        """Let nothing of what was asked be answered."""
        self._waiting, self._is_wanted = None, False
        if self._job is not None:
            self._job.cancel()

    def wait(self, seconds: float) -> None:
        """Wait for the thread of what runs."""
        if self._job is not None:
            self._job.wait(seconds)

    def _start(self) -> None:
        if self._waiting is None:
            return
        (work, answer), self._waiting, self._is_wanted = self._waiting, None, True
        self._job = Job(work, self)
        self._job.ended.connect(lambda ended: self._ended(ended, answer))
        self._job.start()

    def _ended(self, ended: Ended, answer: Answer) -> None:
        self._job = None
        if self._waiting is not None:
            self._start()
            return
        if self._is_wanted:
            answer(ended)
        if self._job is None:
            self.idle.emit()
