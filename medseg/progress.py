"""How long work speaks to whoever waits for it: plain callables, no screen, no threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from medseg.errors import CancelledError


@dataclass(frozen=True)
class Progress:
    """One report of work under way.

    Attributes:
        stage: what is being done, such as `"segment"`.
        done: units finished.
        total: units in all; 0 where nobody knows.
        note: a sentence for people, such as what is planned; mostly empty.
    """

    stage: str
    done: int
    total: int
    note: str = ""

    @property
    def fraction(self) -> float:
        """Share that is finished, 0..1; 0 where the total is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


ProgressCallback = Callable[[Progress], None]
"""Called often and from the working thread; must be quick."""


def silent(progress: Progress) -> None:
    """Report to nobody."""


class CancelToken:
    """A flag that one thread raises and the working thread looks at."""

    def __init__(self) -> None:
        self._raised = Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next look."""
        self._raised.set()

    @property
    def cancelled(self) -> bool:
        """Whether a stop was asked for."""
        return self._raised.is_set()

    def check(self) -> None:
        """Return at once, or stop the work.

        Raises:
            CancelledError: a stop was asked for.
        """
        if self.cancelled:
            raise CancelledError
