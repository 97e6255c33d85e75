"""What all panels share: a line that says what is going on, a bar, one job at a time, errors with cures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from medseg import Progress
from napari_plugin.jobs import Ended, Job, Work

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtGui import QCloseEvent

CANCEL = "Cancel"
CANCELLING = "Cancelling…"
_WAIT_AT_CLOSE_S = 3.0


class Panel(QWidget):
    """A dock with a job.

    Args:
        viewer: napari's.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.job: Job | None = None
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.copy = QPushButton("Copy details")
        self.copy.setVisible(False)
        self.copy.clicked.connect(self._copy_details)
        self.box = QVBoxLayout(self)
        self._details = ""
        self._began = 0.0
        self._button: QPushButton | None = None
        self._words = ""

    def finish_layout(self) -> None:
        """Put the shared parts below those of the panel."""
        for part in (self.bar, self.said, self.copy):
            self.box.addWidget(part)
        self.box.addStretch()

    @property
    def is_busy(self) -> bool:
        """Whether a job runs."""
        return self.job is not None

    def start(self, work: Work, button: QPushButton, done: Callable[[Any], None]) -> None:
        """Run work beside the window; its button becomes Cancel until it has ended.

        Args:
            work: what to do.
            button: what started it.
            done: given what the work gave, in the window's thread; not called where it failed or was stopped.
        """
        if self.job is not None:
            self.say("Something runs already; wait for it or cancel it.")
            return
        self._began, self._details = time.monotonic(), ""
        self._button, self._words = button, button.text()
        button.setText(CANCEL)
        self.copy.setVisible(False)
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        self.job = Job(work, self)
        self.job.progressed.connect(self._progressed)
        self.job.ended.connect(lambda ended: self._ended(ended, done))
        self.job.start()

    def cancel(self) -> None:
        """Ask the job to stop."""
        if self.job is not None:
            self.job.cancel()
            self.say("Stopping…")
            if self._button is not None:
                self._button.setText(CANCELLING)
                self._button.setEnabled(False)

    def say(self, words: str) -> None:
        """Show a line to the user."""
        self.said.setText(words)

    def fail(self, ended: Ended) -> None:
        """Show what went wrong and how to cure it, here and as a notification."""
        from napari.utils.notifications import show_error

        self._details = f"{ended.code}: {ended.message}\n\n{ended.details}"
        self.copy.setVisible(True)
        self.say(f"{ended.message} [{ended.code}]")
        show_error(f"medseg: {ended.message} [{ended.code}]")

    def _progressed(self, progress: Progress) -> None:
        if self.job is None:
            return
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        left = ""
        spent = time.monotonic() - self._began
        if 0 < progress.done < progress.total and spent > 1:
            left = f", about {_duration(spent / progress.done * (progress.total - progress.done))} left"
        self.say(f"{progress.stage}: {progress.done} of {progress.total or '?'}{left}")

    def _ended(self, ended: Ended, done: Callable[[Any], None]) -> None:
        self.job = None
        self.bar.setVisible(False)
        if self._button is not None:
            self._button.setText(self._words)
            self._button.setEnabled(True)
        if ended.is_done:
            done(ended.value)
        elif ended.code == "CANCELLED":
            self.say("Stopped; nothing was changed.")
        else:
            self.fail(ended)

    def _copy_details(self) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self._details)

    def closeEvent(self, event: QCloseEvent) -> None:
        """Stop what runs before the panel goes."""
        if self.job is not None:
            self.job.cancel()
            self.job.wait(_WAIT_AT_CLOSE_S)
        super().closeEvent(event)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
