"""The inside of a guarded child: mute, limited, gone when its parent is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from medseg.batch.cases import Case
from medseg.batch.manifest import file_list
from medseg.batch.pseudonyms import without_names
from medseg.batch.work import Answer, CaseTask
from medseg.errors import MedsegError
from medseg.files import FULL_DISK_ERRORS
from medseg.progress import Progress
from medseg.result import peak_memory_bytes

FENCE_BYTES = 2 * 2**30
"""Room between the memory limit, which the guard looks at, and the fence, which the system holds."""

_PR_SET_PDEATHSIG = 1
_NVIDIA = Path("/dev/nvidiactl")
_PARENT_LOOK_S = 0.5
_STAGE_BYTES = 48


@dataclass(frozen=True)
class Beat:
    """Shared memory in which a child says who it is and what it does; no locks, so no dead ones.

    Attributes:
        pid: of the child; 0 until it is set up.
        stage: ASCII, at most 47 bytes.
        counts: (done, total) of the stage.
    """

    pid: Any
    stage: Any
    counts: Any

    @classmethod
    def made_by(cls, context: Any) -> Beat:
        """A beat that children of a multiprocessing context can share."""
        return cls(context.RawValue("l", 0), context.RawArray("c", _STAGE_BYTES), context.RawArray("d", 2))

    def say(self, progress: Progress) -> None:
        """Take down how far the work is."""
        self.stage.value = progress.stage.encode("ascii", "replace")[: _STAGE_BYTES - 1]
        self.counts[:] = (progress.done, progress.total)

    def read(self) -> Progress:
        """What was taken down last."""
        done, total = self.counts[:]
        return Progress(self.stage.value.decode("ascii", "replace"), int(done), int(total))


_OWN: list[Beat] = []
"""The beat of this process, where it is a child."""
_LIMIT: list[int] = []
"""Its limit of resident memory."""


def set_up(beat: Beat, parent: int, memory_bytes: int) -> None:
    """Prepare a fresh child; runs once, before its first work.

    A process group of its own lets the guard end the child together with what it has started.
    Output is dropped, since libraries print paths and header values there.

    Args:
        beat: where to report.
        parent: pid of the process that started this one.
        memory_bytes: limit of resident memory.
    """
    if os.name == "posix":
        os.setpgid(0, 0)
    _die_with(parent)
    _mute()
    _fence(memory_bytes + FENCE_BYTES)
    _OWN[:], _LIMIT[:] = [beat], [memory_bytes]
    beat.pid.value = os.getpid()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    elif os.name == "posix":
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_LOOK_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _mute() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _fence(memory_bytes: int) -> None:
    """Let the system refuse what one huge allocation could take between two looks of the guard.

    RLIMIT_DATA counts private writable memory. RLIMIT_AS would count what torch and CUDA only
    reserve, tens of GB, and cannot be used with them. Whether CUDA's driver lives well behind a
    fence is not measured, so there is none beside an NVIDIA device.
    """
    if os.name != "posix" or _NVIDIA.exists():
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


class _Boundary:
    """Turns whatever is raised inside into an answer: one bad case must not cost the worker."""

    def __init__(self) -> None:
        self.answer = Answer()

    def __enter__(self) -> _Boundary:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, (Exception, SystemExit)):
            return False
        self.answer = failure(error)
        return True


def failure(error: BaseException) -> Answer:
    """An error as a reason. Only our own messages are known to hold no patient value."""
    if isinstance(error, MedsegError):
        return Answer(error.code, str(error))
    if isinstance(error, MemoryError):
        return Answer("OUT_OF_MEMORY", "expected enough memory, got none; give the case more (--memory-gb)")
    if isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS:
        return Answer("DISK_FULL", "expected room for the result, got a full disk; free some space")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}medseg{os.sep}" in frame.filename] or list(frames)
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "an unknown place"
    return Answer(
        "UNEXPECTED", f"{type(error).__name__} at {where}; run this case alone to see more, and report it"
    )


def over_limit(memory_bytes: int) -> Answer:
    """A case that took more resident memory than it may."""
    return Answer(
        "MEMORY_LIMIT",
        f"expected at most {memory_bytes / 1e9:.1f} GB of memory, got more; raise --memory-gb or look at it",
    )


def warm_up(task: CaseTask) -> Answer:
    """Load what all cases need."""
    with _Boundary() as boundary:
        task.warm_up()
    return boundary.answer


def perform(task: CaseTask, case: Case, part: Path) -> Answer:
    """Process one case into its part folder."""
    with _Boundary() as boundary:
        facts = task(case, part, _OWN[0].say)
        boundary.answer = Answer(facts=facts, files=file_list(part))
    if boundary.answer.code == "OUT_OF_MEMORY" and (peak_memory_bytes() or 0) > _LIMIT[0]:
        # The fence was faster than a guard that a busy machine held up; the reason is the same.
        boundary.answer = over_limit(_LIMIT[0])
    files = [path for source in case.sources for path in (source.path, *source.files)]
    return replace(boundary.answer, reason=without_names(boundary.answer.reason, files))
