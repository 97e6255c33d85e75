"""One case per guarded child process: whatever a case does, the driver and the other cases go on.

The child is a pebble worker. The guard looks at it every few hundredths of a second and kills it,
with all that it has started, when it takes too long or too much resident memory. That measure
means the same with torch on a processor, with CUDA and with mapped files; limits on address space
do not. Between two looks the fence of `child.set_up` holds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.batch import child
from medseg.batch.manifest import new_part
from medseg.batch.work import WAITING, Answer, CaseTask, Job, Limits, Outcome
from medseg.errors import CancelledError, DeviceMemoryError, ModelError
from medseg.progress import Progress

if TYPE_CHECKING:
    from pebble import ProcessPool

LOOK_S = 0.03
_START_ATTEMPTS = 3
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


@dataclass
class _Watch:
    """What the guard saw while it waited."""

    seconds: float = 0.0
    peak_bytes: int = 0
    verdict: str = ""


class GuardedWorker:
    """A child that is replaced whenever a case breaks it.

    One thread at a time may use it. Children are started from that thread and end with it.

    Args:
        task: what is done to each case.
        limits: what one case may take.
    """

    def __init__(self, task: CaseTask, limits: Limits) -> None:
        self._task = task
        self._limits = limits
        self._pool: ProcessPool | None = None
        self._beat: child.Beat | None = None
        self._warm_pid = 0
        self._left = 0

    @property
    def progress(self) -> Progress:
        """What the child does now; may be read from any thread."""
        beat = self._beat
        return Progress("start", 0, 0) if beat is None else beat.read()

    def run(self, job: Job, stopped: Callable[[], bool]) -> Outcome:
        """Process one case.

        Args:
            job: the case.
            stopped: asked often; True ends the child.

        Returns:
            What became of it. A failed case leaves no part folder.

        Raises:
            CancelledError: it was stopped.
            ModelError: no child can be made ready, so no case can be done.
            DeviceMemoryError: loading the model alone takes more than the limit.
        """
        if self._left <= 0:
            self.close()
        part = new_part(job.parts, job.case.name)
        outcome = None
        try:
            for _ in range(_START_ATTEMPTS):
                self._make_ready(stopped)
                began = time.monotonic()
                answer, watch = self._call(
                    (child.perform, self._task, job.case, part), self._limits.timeout_s, stopped
                )
                if answer.code != "WORKER_LOST":
                    break
            self._left -= 1
            outcome = Outcome(answer, part, time.monotonic() - began, watch.peak_bytes)
        finally:
            if outcome is None or outcome.answer.code:
                shutil.rmtree(part, ignore_errors=True)
        return replace(outcome, part=None) if outcome.answer.code else outcome

    def close(self) -> None:
        """End the child."""
        pool, beat = self._pool, self._beat
        self._pool = self._beat = None
        self._left = self._warm_pid = 0
        if pool is not None:
            if beat is not None:
                _kill_group(beat.pid.value)
            pool.stop()
            pool.join()

    def _make_ready(self, stopped: Callable[[], bool]) -> None:
        """Have a child that is alive and has its model."""
        answer = Answer()
        for _ in range(_START_ATTEMPTS):
            if self._pool is not None and self._beat is not None and self._pool.active:
                if self._warm_pid and self._beat.pid.value == self._warm_pid:
                    self._beat.say(Progress("read", 0, 0))
                    return
                self.close()
            self._open()
            answer, _ = self._call((child.warm_up, self._task), self._limits.warm_up_s, stopped)
            if not answer.code and self._beat is not None:
                self._warm_pid = self._beat.pid.value
                self._beat.say(Progress("read", 0, 0))
                return
            self.close()
            if answer.code not in _LOST_CHILD:
                break
        if answer.code in ("MEMORY_LIMIT", "OUT_OF_MEMORY"):
            raise DeviceMemoryError(
                "MEMORY_LIMIT",
                f"expected a worker that loads its model within {self._limits.memory_bytes / 1e9:.1f} GB, "
                "got more; raise --memory-gb or take fewer --workers",
            )
        raise ModelError(
            answer.code, f"expected a worker that starts and loads its model, got: {answer.reason}"
        )

    def _open(self) -> None:
        from pebble import ProcessPool

        context = multiprocessing.get_context("spawn")
        self._beat = child.Beat.made_by(context)
        self._beat.say(Progress("load model", 0, 0))
        self._pool = ProcessPool(
            max_workers=1,
            initializer=child.set_up,
            initargs=(self._beat, os.getpid(), self._limits.memory_bytes),
            context=context,
        )
        self._left = self._limits.recycle_after

    def _call(
        self, words: tuple[Any, ...], timeout_s: float, stopped: Callable[[], bool]
    ) -> tuple[Answer, _Watch]:
        """Let the child do something; `WORKER_LOST` where it was gone before it began."""
        if self._pool is None:
            return Answer("WORKER_LOST", "no worker"), _Watch()
        try:
            future = self._pool.schedule(words[0], args=words[1:])
        except RuntimeError:  # pebble: the pool broke since it was last looked at
            self.close()
            return Answer("WORKER_LOST", "the worker ended while it was idle"), _Watch()
        return self._watched(future, timeout_s, stopped)

    def _watched(
        self, future: Future[Answer], timeout_s: float, stopped: Callable[[], bool]
    ) -> tuple[Answer, _Watch]:
        """Wait for the child, and end it where it must be ended."""
        watch = _Watch()
        last = time.monotonic()
        while True:
            try:
                error = future.exception(timeout=LOOK_S)
            except NotYet:
                now = time.monotonic()
                watch.seconds += 0.0 if self.progress.stage == WAITING else now - last
                last = now
                self._judge(watch, timeout_s, stopped)
                continue
            break
        if error is None:
            return future.result(), watch
        self.close()
        if watch.verdict == "CANCELLED":
            raise CancelledError
        return self._lost(error, watch, timeout_s), watch

    def _judge(self, watch: _Watch, timeout_s: float, stopped: Callable[[], bool]) -> None:
        beat = self._beat
        if beat is None:
            return
        resident = resident_bytes(beat.pid.value)
        watch.peak_bytes = max(watch.peak_bytes, resident)
        if watch.verdict:
            pass  # a child that was not set up yet could not be ended; it is now
        elif stopped():
            watch.verdict = "CANCELLED"
        elif resident > self._limits.memory_bytes:
            watch.verdict = "MEMORY_LIMIT"
        elif watch.seconds > timeout_s:
            watch.verdict = "TIMEOUT"
        if watch.verdict:
            _kill_group(beat.pid.value)

    def _lost(self, error: BaseException, watch: _Watch, timeout_s: float) -> Answer:
        if watch.verdict == "MEMORY_LIMIT":
            return child.over_limit(self._limits.memory_bytes)
        if watch.verdict == "TIMEOUT":
            return Answer(
                "TIMEOUT",
                f"expected an end within {timeout_s:g} s, got none; raise --timeout-s or look at it",
            )
        number = -int(getattr(error, "exitcode", 0) or 0)
        if isinstance(error, BrokenProcessPool):
            return Answer("WORKER_LOST", "expected a worker that starts, got none; look at the machine")
        if number == _KILL:
            return Answer(
                "WORKER_KILLED",
                "expected a worker that lives to the end, got one killed from outside, as the system does "
                "when memory runs out; look at the machine and use --retry-failed",
            )
        name = signal.Signals(number).name if number in set(signal.Signals) else f"exit code {-number}"
        return Answer(
            "WORKER_CRASHED",
            f"expected a worker that lives to the end, got {name}; this case breaks a library",
        )


_LOST_CHILD = ("WORKER_KILLED", "WORKER_CRASHED", "WORKER_LOST")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where the system does not tell or it is gone."""
    try:
        words = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE")


def _kill_group(pid: int) -> None:
    """End a child and what it has started; a child that is gone already is no error."""
    if pid <= 0:
        return
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(pid, _KILL)
        else:
            os.kill(pid, _KILL)
