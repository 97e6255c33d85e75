"""What driver, child and cluster say to each other: a task, a job, limits, an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medseg.batch.cases import Case
from medseg.progress import ProgressCallback

WAITING = "wait"
"""Stage of a case that waits for its turn on a device; the clock of its time limit stands still."""


class CaseTask(Protocol):
    """What is done to every case. It is sent to the workers, so it must pickle."""

    def identity(self) -> Mapping[str, Any]:
        """Plain data that decide the result: model, settings, versions. Part of the resume key."""

    def warm_up(self) -> None:
        """Load what all cases need; called once in each new worker."""

    def __call__(self, case: Case, folder: Path, progress: ProgressCallback) -> Mapping[str, Any]:
        """Process one case.

        Args:
            case: what to read.
            folder: empty; take it as the only place to write.
            progress: told how far the work is.

        Returns:
            Plain facts for the manifest; equal inputs give equal facts.
        """


@dataclass(frozen=True)
class Limits:
    """What one case may take.

    Attributes:
        timeout_s: of one case.
        memory_bytes: resident memory of the worker.
        warm_up_s: time to start a worker and load its model.
        recycle_after: cases until a worker is replaced.
    """

    timeout_s: float
    memory_bytes: int
    warm_up_s: float = 900.0
    recycle_after: int = 50


@dataclass(frozen=True)
class Job:
    """A case on its way through a worker.

    Attributes:
        case: what to process.
        key: of input, model, settings and version.
        parts: folder in which the part folder is made.
        lease: a file that exists as long as its driver wants the result.
    """

    case: Case
    key: str
    parts: Path
    lease: Path


@dataclass(frozen=True)
class Answer:
    """What came back from inside the child.

    Attributes:
        code: empty, or the stable reason of a failure.
        reason: the same for people; no patient value.
        facts: of a case that went well.
        files: path -> bytes and sha256 of what it wrote.
    """

    code: str = ""
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        answer: of the child, or of the guard where the child gave none.
        part: folder with what it wrote, or None where it failed.
        seconds: from start to end.
        peak_bytes: highest resident memory seen; 0 where unknown.
    """

    answer: Answer
    part: Path | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
