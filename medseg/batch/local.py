"""Cases on this machine: as many guarded workers as asked for, fed one case ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event

from medseg.batch.guard import GuardedWorker
from medseg.batch.work import CaseTask, Job, Limits, Outcome
from medseg.machine import free_memory_bytes
from medseg.progress import CancelToken, Progress

LOOK_S = 0.2
_FREE_SHARE = 0.9

Watcher = Callable[[str, Progress], None]
"""Told the name of a case under way and what its child does."""


def run_local(
    jobs: Iterator[Job],
    task: CaseTask,
    limits: Limits,
    workers: int,
    cancel: CancelToken,
    watch: Watcher,
) -> Generator[tuple[Job, Outcome], None, None]:
    """Process cases and give them back as they end.

    One job more than there are workers is drawn ahead. Drawing a job reads and hashes its files
    (see `run`), so the neighbour's files are in the system's cache before a worker asks for them.

    Args:
        jobs: drawn from this thread only.
        task: what is done to each case.
        limits: what one case may take.
        workers: cases at the same time.
        cancel: a way to stop; children are killed.
        watch: told, from this thread, what the children do.

    Raises:
        CancelledError: a stop was asked for.
        ModelError: no worker can be made ready.
        DeviceMemoryError: loading the model alone takes more than the limit.
    """
    crew = [GuardedWorker(task, limits) for _ in range(workers)]
    idle: SimpleQueue[GuardedWorker] = SimpleQueue()
    for worker in crew:
        idle.put(worker)
    halt = Event()
    busy: dict[str, GuardedWorker] = {}

    def process(job: Job) -> Outcome:
        worker = idle.get()
        busy[job.case.name] = worker
        try:
            return worker.run(job, halt.is_set)
        finally:
            del busy[job.case.name]
            idle.put(worker)

    threads = ThreadPoolExecutor(workers, thread_name_prefix="medseg-batch")
    under_way: dict[Future[Outcome], Job] = {}
    try:
        more = True
        while more or under_way:
            while more and len(under_way) <= workers:
                cancel.check()
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    under_way[threads.submit(process, job)] = job
            ended, _ = wait(under_way, timeout=LOOK_S, return_when=FIRST_COMPLETED)
            for name, worker in list(busy.items()):
                watch(name, worker.progress)
            for future in ended:
                yield under_way.pop(future), future.result()
            cancel.check()
    finally:
        halt.set()
        for future in under_way:
            future.cancel()
        threads.shutdown(wait=True)
        for worker in crew:
            worker.close()


def memory_share_bytes(workers: int) -> int:
    """What one of several workers may take, so that all together leave the driver some."""
    return int(free_memory_bytes() * _FREE_SHARE / workers)
