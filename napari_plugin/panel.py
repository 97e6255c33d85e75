"""What all panels share: a line that says what is going on, a bar, one job at a time, errors with cures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QApplication, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from medseg import CancelToken, MedsegError, Progress
from napari_plugin.jobs import Ended, Job, Work, failure
from napari_plugin.latest import Latest
from napari_plugin.views import hold_heads_up, unwrapped

if TYPE_CHECKING:
    from napari import Viewer
    from qtpy.QtGui import QCloseEvent, QShowEvent

CANCEL = "Cancel"
CANCELLING = "Cancelling…"
ANSWER_MS = 700
"""A job that has not stopped by then, such as one within a long window, stops behind the scenes."""

_AROUND_WORDS = 10
_WAIT_AT_CLOSE_S = 3.0
_LOOK_EVERY_S = 0.05


class Button(QPushButton):
    """A button that shows its key, and says why where it cannot be pressed.

    Args:
        words: on it.
        tip: what it does.
        keys: shortcut such as `"Alt+M"`; empty for none.
        press: called when it is pressed.
    """

    def __init__(
        self, words: str, tip: str = "", keys: str = "", press: Callable[[], Any] | None = None
    ) -> None:
        super().__init__()
        self._tip, self._keys = tip, keys
        self.setText(words)
        self.allow()
        if press is not None:
            self.clicked.connect(lambda _=False: press())

    def setText(self, words: str) -> None:
        """Show words and key; Qt forgets a shortcut when the text changes."""
        self.words = words
        super().setText(f"{words}  ({self._keys})" if self._keys else words)
        if self._keys:
            self.setShortcut(QKeySequence(self._keys))

    def showEvent(self, event: QShowEvent) -> None:
        """Never be narrower than the words, in the font that the window has given it by now."""
        words = self.fontMetrics().horizontalAdvance(super().text())
        self.setMinimumWidth(words + _AROUND_WORDS)
        super().showEvent(event)

    def text(self) -> str:
        """The words, without the key."""
        return self.words

    def allow(self, why_not: str = "") -> None:
        """Let it be pressed, or say why it cannot be.

        Args:
            why_not: empty where it can.
        """
        self.setEnabled(not why_not)
        self.setToolTip(why_not or self._tip)


class Panel(QWidget):
    """A dock with a job.

    Args:
        viewer: napari's.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = unwrapped(viewer)
        hold_heads_up(self.viewer)
        self.job: Job | None = None
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.bar = QProgressBar()
        self.bar.setVisible(False)
        self.copy = QPushButton("Copy details")
        self.copy.setToolTip("What developers need to know of the error; it names no patient")
        self.copy.setVisible(False)
        self.copy.clicked.connect(self._copy_details)
        self.box = QVBoxLayout(self)
        self._details = ""
        self._began, self._stage = 0.0, ""
        self._button: QPushButton | None = None
        self._words = ""
        self._asides: list[Latest] = []
        self._left: list[Job] = []
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.setInterval(ANSWER_MS)
        self._patience.timeout.connect(self._leave)

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
        self._began, self._details, self._stage = time.monotonic(), "", ""
        self._button, self._words = button, button.text()
        button.setText(CANCEL)
        self.copy.setVisible(False)
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        job = Job(self._after_those_left(work), self)
        self.job = job
        job.progressed.connect(lambda progress: self._progressed(progress) if self.job is job else None)
        job.ended.connect(lambda ended: self._ended(ended, done) if self.job is job else self._gone(job))
        job.start()

    def _after_those_left(self, work: Work) -> Work:
        """Work that begins once cancelled work, which may still be within a window, has stopped."""
        left = tuple(self._left)

        def wait_and_work(report: Callable[[Progress], None], cancel: CancelToken) -> Any:
            for job in left:
                while not job.wait(_LOOK_EVERY_S):
                    cancel.check()
            return work(report, cancel)

        return wait_and_work

    def latest(self) -> Latest:
        """A place for small work that runs beside the job, where only the newest question counts."""
        one = Latest(self)
        self._asides.append(one)
        return one

    @property
    def is_settled(self) -> bool:
        """Whether nothing runs, no small work either."""
        return self.job is None and not self._left and not any(one.is_busy for one in self._asides)

    def attempt(self, act: Callable[[], Any]) -> bool:
        """Do something short now; an error is shown like that of a job. Whether it worked."""
        try:
            act()
        except MedsegError as error:
            self.fail(failure(error))
            return False
        return True

    def or_cancel(self, begin: Callable[[], None]) -> Callable[[], None]:
        """What a button does that begins a job, and stops the one that runs.

        Args:
            begin: begins it.
        """

        def pressed() -> None:
            if self.is_busy:
                self.cancel()
            else:
                begin()

        return pressed

    def cancel(self) -> None:
        """Ask the job to stop."""
        if self.job is not None:
            self.job.cancel()
            self.say("Stopping…")
            self._patience.start()
            if self._button is not None:
                self._button.setText(CANCELLING)
                self._button.setEnabled(False)

    def _leave(self) -> None:
        """Give the panel back to the user; what still runs of a cancelled job gives nothing any more."""
        if self.job is not None:
            self._left.append(self.job)
            self._ended(Ended(code="CANCELLED"), _ignore)

    def _gone(self, job: Job) -> None:
        self._left.remove(job)

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
        if self.job is None or self._button is None or self._button.text() == CANCELLING:
            return
        if progress.stage != self._stage:
            self._stage, self._began = progress.stage, time.monotonic()
        self.bar.setRange(0, progress.total)
        self.bar.setValue(progress.done)
        left = ""
        spent = time.monotonic() - self._began
        if 0 < progress.done < progress.total and spent > 1:
            left = f", about {duration(spent / progress.done * (progress.total - progress.done))} left"
        self.say(f"{progress.stage}: {progress.done} of {progress.total or '?'}{left}")

    def _ended(self, ended: Ended, done: Callable[[Any], None]) -> None:
        self.job = None
        self._patience.stop()
        self.bar.setVisible(False)
        if self._button is not None:
            self._button.setText(self._words)
            self._button.setEnabled(True)
        if ended.is_done:
            self.attempt(lambda: done(ended.value))
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
        for job in (self.job, *self._left):
            if job is not None:
                job.cancel()
                job.wait(_WAIT_AT_CLOSE_S)
        for one in self._asides:
            one.forget()
            one.wait(_WAIT_AT_CLOSE_S)
        super().closeEvent(event)


def _ignore(_value: Any) -> None:
    """For what nobody waits for."""


def duration(seconds: float) -> str:
    """Seconds for people: `40 s`, `3 min`."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
