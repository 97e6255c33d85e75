"""The same cases on a Dask cluster; each of its workers guards its case as this machine would."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from medseg.batch.guard import GuardedWorker
from medseg.batch.work import Answer, CaseTask, Job, Limits, Outcome
from medseg.errors import ModelError, SettingsError
from medseg.progress import CancelToken, Progress

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK_S = 0.2
_CONNECT_S = 30
_LEASE_LOOK_S = 2.0
_AHEAD = 2
"""Cases sent per thread of the cluster, so that none waits for the driver."""


def run_on_cluster(
    jobs: Iterator[Job],
    task: CaseTask,
    limits: Limits,
    scheduler: str,
    cancel: CancelToken,
    watch: Callable[[str, Progress], None],
) -> Generator[tuple[Job, Outcome], None, None]:
    """Process cases on a cluster and give them back as they end.

    Args:
        jobs: drawn from this thread only.
        task: what is done to each case.
        limits: what one case may take.
        scheduler: its address, such as `tcp://host:8786`.
        cancel: a way to stop; cases under way end when their lease is gone.
        watch: told, from this thread, which cases were sent.

    Raises:
        CancelledError: a stop was asked for.
        ModelError: no worker can be made ready.
        DeviceMemoryError: loading the model alone takes more than the limit.
        SettingsError: `NO_DISTRIBUTED` or `NO_SCHEDULER`.
    """
    with _connected(scheduler) as client:
        sent: dict[Future[Outcome], Job] = {}
        try:
            more = True
            while more or sent:
                room = _AHEAD * max(1, sum(client.nthreads().values()))
                while more and len(sent) < room:
                    cancel.check()
                    job = next(jobs, None)
                    more = job is not None
                    if job is not None:
                        future = client.submit(guarded, task, job, limits, pure=False)
                        sent[future] = job
                        watch(job.case.name, Progress("sent", 0, 0))
                time.sleep(LOOK_S)
                for future in [one for one in sent if one.done()]:
                    yield sent.pop(future), _outcome(future)
                cancel.check()
        finally:
            client.cancel(list(sent), force=True)


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError(
            "NO_DISTRIBUTED", "expected Dask for --scheduler, got none; pip install medseg[distributed]"
        ) from error
    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            "NO_SCHEDULER", "expected a Dask scheduler that answers, got none at this address; start it first"
        ) from error
    with client:
        yield client


def _outcome(future: Future[Outcome]) -> Outcome:
    """What the cluster says of a case; an error that is ours ends the batch."""
    error = future.exception()
    if error is None:
        result = future.result()
        if isinstance(result, Outcome):
            return result
        raise ModelError(
            "BAD_WORKER", "expected an outcome, got something else; align versions of the workers"
        )
    if isinstance(error, MemoryError | ValueError) and hasattr(error, "code"):
        raise error
    return Outcome(
        Answer(
            "WORKER_LOST",
            f"expected a cluster worker that lives to the end, got {type(error).__name__}; "
            "look at its log and use --retry-failed",
        )
    )


_OF_THREAD: dict[tuple[int, str], GuardedWorker] = {}


def guarded(task: CaseTask, job: Job, limits: Limits) -> Outcome:
    """Process one case inside a worker of the cluster; its guarded child is kept for the next one."""
    multiprocessing.current_process().daemon = False  # a nanny's worker may start no child otherwise
    worker = _worker_of_thread(task, limits)
    return worker.run(job, _LeaseGone(job))


def _worker_of_thread(task: CaseTask, limits: Limits) -> GuardedWorker:
    thread = threading.get_ident()
    name = (thread, repr((task, limits)))
    if name not in _OF_THREAD:
        for stale in [key for key in _OF_THREAD if key[0] == thread]:
            _OF_THREAD.pop(stale).close()
        _OF_THREAD[name] = GuardedWorker(task, limits)
    return _OF_THREAD[name]


class _LeaseGone:
    """Whether the driver of a job is gone, asked of the file system every two seconds at most."""

    def __init__(self, job: Job) -> None:
        self._lease = job.lease
        self._next = 0.0
        self._gone = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LEASE_LOOK_S
            self._gone = not self._lease.exists()
        return self._gone
