"""A guarded worker: whatever a case does, an outcome with a stable reason comes back, and only that."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from poison_tasks import CANARY, PoisonTask

from medseg.batch.cases import Case, Source
from medseg.batch.guard import GuardedWorker
from medseg.batch.work import Job, Limits, Outcome
from medseg.errors import CancelledError, DeviceMemoryError, ModelError

LIMITS = Limits(timeout_s=60.0, memory_bytes=300_000_000, warm_up_s=60.0)


def job(folder: Path, text: str) -> Job:
    source = folder / f"{CANARY}.txt"
    source.write_text(text)
    (folder / "cases").mkdir(exist_ok=True)
    return Job(Case("case-1", (Source(source, files=(source,)),)), "key", folder / "cases", folder / "lease")


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def worker() -> Iterator[GuardedWorker]:
    one = GuardedWorker(PoisonTask(), LIMITS)
    yield one
    one.close()


def processes_of(pid: int) -> list[int]:
    """Children of a process that are still there."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            children.append(int(stat.parent.name))
    return children


def test_a_good_case_leaves_its_files(worker: GuardedWorker, tmp_path: Path) -> None:
    outcome = worker.run(job(tmp_path, "good a b"), never)
    assert outcome.answer.code == ""
    assert outcome.answer.facts == {"regions": 2}
    assert outcome.part is not None
    assert set(outcome.answer.files) == {"deep/labels.txt"}
    assert outcome.answer.files["deep/labels.txt"]["bytes"] == len("good ['a'] 8")
    assert outcome.part.parent == tmp_path / "cases"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("segfault", "WORKER_CRASHED"),
        ("hog", "MEMORY_LIMIT"),
        ("huge", "OUT_OF_MEMORY"),
        ("corrupt", "PIXELS_TRUNCATED"),
        ("stranger", "UNEXPECTED"),
        ("exit", "UNEXPECTED"),
        ("hard-exit", "WORKER_CRASHED"),
        ("link", "BAD_RESULT"),
    ],
)
def test_a_bad_case_has_a_reason_and_leaves_nothing(
    worker: GuardedWorker, tmp_path: Path, word: str, code: str
) -> None:
    outcome = worker.run(job(tmp_path, word), never)
    assert outcome.answer.code == code
    assert outcome.part is None
    assert CANARY not in outcome.answer.reason
    assert str(tmp_path) not in outcome.answer.reason
    assert list((tmp_path / "cases").iterdir()) == []
    assert worker.run(job(tmp_path, "good"), never).answer.code == ""


def test_a_case_that_hangs_is_ended(tmp_path: Path) -> None:
    worker = GuardedWorker(PoisonTask(), Limits(3.0, 300_000_000))
    try:
        outcome = worker.run(job(tmp_path, "hang"), never)
    finally:
        worker.close()
    assert outcome.answer.code == "TIMEOUT"
    assert outcome.part is None
    assert list((tmp_path / "cases").iterdir()) == []


def test_a_crash_is_called_by_its_signal(worker: GuardedWorker, tmp_path: Path) -> None:
    assert "SIGSEGV" in worker.run(job(tmp_path, "segfault"), never).answer.reason


def test_a_kill_from_outside_has_a_reason(tmp_path: Path) -> None:
    worker = GuardedWorker(PoisonTask(pids=str(tmp_path)), Limits(60.0, 300_000_000))

    def kill() -> None:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = worker.run(job(tmp_path, "wait-for-kill"), never)
    killer.join()
    worker.close()
    assert outcome.answer.code == "WORKER_KILLED"


def test_a_worker_killed_while_idle_costs_no_case(tmp_path: Path) -> None:
    log = tmp_path / "warm"
    worker = GuardedWorker(PoisonTask(warm=str(log)), LIMITS)
    assert worker.run(job(tmp_path, "good"), never).answer.code == ""
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
    assert worker.run(job(tmp_path, "good"), never).answer.code == ""
    time.sleep(0.5)
    os.kill(int(log.read_text().split()[-1]), signal.SIGKILL)
    time.sleep(0.5)
    assert worker.run(job(tmp_path, "good"), never).answer.code == ""
    worker.close()


def test_waiting_for_a_turn_does_not_count_as_time(tmp_path: Path) -> None:
    worker = GuardedWorker(PoisonTask(), Limits(3.0, 300_000_000))
    assert worker.run(job(tmp_path, "wait 5"), never).answer.code == ""
    worker.close()


def test_the_model_is_loaded_once_per_worker_and_workers_are_replaced(tmp_path: Path) -> None:
    log = tmp_path / "warm"
    worker = GuardedWorker(PoisonTask(warm=str(log)), Limits(60.0, 300_000_000, recycle_after=3))
    outcomes: list[Outcome] = [worker.run(job(tmp_path, "good"), never) for _ in range(7)]
    worker.close()
    assert not any(one.answer.code for one in outcomes)
    pids = log.read_text().split()
    assert len(pids) == len(set(pids)) == 3


def test_a_stop_ends_the_child_soon(tmp_path: Path) -> None:
    worker = GuardedWorker(PoisonTask(), Limits(60.0, 300_000_000))
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        worker.run(job(tmp_path, "hang"), stop.is_set)
    assert time.monotonic() - began < 20.0
    assert list((tmp_path / "cases").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see children")
def test_no_child_outlives_its_guard(tmp_path: Path) -> None:
    before = set(processes_of(os.getpid()))
    worker = GuardedWorker(PoisonTask(), replace(LIMITS, timeout_s=3.0))
    worker.run(job(tmp_path, "hang"), never)
    worker.run(job(tmp_path, "good"), never)
    worker.close()
    new = set(processes_of(os.getpid())) - before
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in new]
    assert [name for name in names if b"resource_tracker" not in name] == []


def test_a_model_that_does_not_load_ends_the_batch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="install it") as caught:
        GuardedWorker(PoisonTask(warm="broken"), LIMITS).run(job(tmp_path, "good"), never)
    assert caught.value.code == "BROKEN_MODEL"
    assert list((tmp_path / "cases").iterdir()) == []


def test_a_model_larger_than_the_limit_ends_the_batch(tmp_path: Path) -> None:
    with pytest.raises(DeviceMemoryError, match="memory-gb"):
        GuardedWorker(PoisonTask(warm="hungry"), LIMITS).run(job(tmp_path, "good"), never)
