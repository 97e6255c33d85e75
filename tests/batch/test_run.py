"""Whole batches: poisoned cases, stops, kills and reruns; the same bytes in the end."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import drive_batch
import pytest
from poison_tasks import CANARY, PoisonTask

from medseg.batch.cases import BatchPlan, Refused
from medseg.batch.lock import only_driver
from medseg.batch.manifest import new_part, publish
from medseg.batch.pseudonyms import KEY_FILE, folder_key
from medseg.batch.run import BatchReport, CaseEvent, run_batch
from medseg.batch.settings import BatchSettings
from medseg.errors import CancelledError, ModelError, WriteError
from medseg.progress import CancelToken

FAST = BatchSettings(workers=2, timeout_s=10.0, memory_gb=0.3)
NIGHT = BatchSettings(workers=2, timeout_s=30.0, memory_gb=0.3)
"""For cases whose fate must be told apart: a starved machine must not make a hang of a hog."""


def write_inputs(folder: Path, words: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for n, word in enumerate(words):
        (folder / f"{n:02d} {CANARY}.txt").write_text(f"{word} {n} {CANARY}")
    return folder


def bytes_of(folder: Path) -> dict[str, str]:
    """Every visible file but the ledger and its times."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("ledger.sqlite") and path.name != ".lock"
    }


def rows_of(report: BatchReport) -> dict[str, int]:
    return {state: report.count(state) for state in ("done", "failed", "skipped")}


def half_written(folder: Path) -> list[str]:
    marks = (".part", ".run-", "half.bin")
    return [path.name for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


def kill_when_asked(folder: Path) -> threading.Thread:
    """Kill -9 the process that writes its id into the folder."""

    def kill() -> None:
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            time.sleep(0.02)
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def canary_places(folder: Path) -> list[str]:
    """Files whose bytes or path hold any part of the canary."""
    parts = [CANARY, "DOE", "JOHN"]
    return [
        path.name
        for path in folder.rglob("*")
        if any(word.encode() in (path.read_bytes() if path.is_file() else b"") for word in parts)
        or any(word in str(path.relative_to(folder)) for word in parts)
    ]


def test_forty_cases_of_which_five_are_poisoned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["good"] * 40
    words[3], words[11], words[18], words[26], words[33] = (
        "segfault", "hang", "hog", "corrupt", "wait-for-kill",
    )  # fmt: skip
    inputs, output = write_inputs(tmp_path / CANARY, words), tmp_path / "out"
    killer = kill_when_asked(tmp_path)
    events: list[CaseEvent] = []
    report = run_batch(
        drive_batch.planned(inputs, output),
        PoisonTask(pids=str(tmp_path)),
        output,
        NIGHT,
        watch=events.append,
    )
    killer.join(timeout=10)
    assert rows_of(report) == {"done": 35, "failed": 5, "skipped": 0}
    codes = sorted(row.code for row in report.rows if row.state == "failed")
    assert codes == ["MEMORY_LIMIT", "PIXELS_TRUNCATED", "TIMEOUT", "WORKER_CRASHED", "WORKER_KILLED"]
    assert len(list((output / "cases").iterdir())) == 35
    assert half_written(output) == []
    assert all(
        {p.name for p in case.iterdir()} == {"deep", "manifest.json"} for case in (output / "cases").iterdir()
    )
    with (output / "summary.csv").open(newline="") as file:
        assert [row["state"] for row in csv.DictReader(file)].count("done") == 35
    assert canary_places(output) == []
    spoken = capfd.readouterr()
    assert CANARY not in spoken.out + spoken.err + repr(events) + repr(report)
    assert {event.state for event in events} == {"running", "done", "failed"}


def test_a_second_run_does_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "corrupt", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    log = tmp_path / "warm"
    run_batch(plan, PoisonTask(warm=str(log)), output, FAST)
    before, times = bytes_of(output), log.read_text()
    events: list[CaseEvent] = []
    report = run_batch(plan, PoisonTask(warm=str(log)), output, FAST, watch=events.append)
    assert bytes_of(output) == before
    assert log.read_text() == times, "no worker was started"
    assert rows_of(report) == {"done": 2, "failed": 1, "skipped": 0}
    assert all(event.seconds == 0 for event in events)


def test_retry_failed_runs_only_what_failed(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "corrupt"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    run_batch(plan, PoisonTask(), output, FAST)
    failed = {path.stem for path in (output / "failed").iterdir()}
    events: list[CaseEvent] = []
    again = BatchSettings(workers=1, memory_gb=0.3, retry_failed=True)
    run_batch(plan, PoisonTask(), output, again, watch=events.append)
    assert {e.case for e in events if e.seconds > 0} == failed
    with sqlite3.connect(output / "ledger.sqlite") as db:
        attempts = dict(db.execute("SELECT state, attempts FROM cases"))
    db.close()
    assert attempts == {"done": 1, "failed": 2}


def test_a_mended_input_is_done_and_its_record_of_failure_goes(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["corrupt", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    run_batch(plan, PoisonTask(), output, FAST)
    next(inputs.glob("00*")).write_text("good now")
    report = run_batch(plan, PoisonTask(), output, FAST)
    assert rows_of(report) == {"done": 2, "failed": 0, "skipped": 0}
    assert list((output / "failed").iterdir()) == []


def test_other_settings_make_every_case_anew_and_a_stale_result_never_stays(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    run_batch(plan, PoisonTask(version=1), output, FAST)
    first = bytes_of(output)
    next(inputs.glob("00*")).write_text("corrupt")
    report = run_batch(plan, PoisonTask(version=2), output, FAST)
    assert rows_of(report) == {"done": 1, "failed": 1, "skipped": 0}
    assert len(list((output / "cases").iterdir())) == 1
    assert bytes_of(output) != first


@pytest.mark.parametrize("harm", ["changed", "missing", "manifest", "ledger-lost", "ledger-damaged"])
def test_a_harmed_output_is_mended(tmp_path: Path, harm: str) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "corrupt", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    log = tmp_path / "warm"
    run_batch(plan, PoisonTask(), output, FAST)
    whole = bytes_of(output)
    victim = sorted((output / "cases").iterdir())[0]
    match harm:
        case "changed":
            (victim / "deep" / "labels.txt").write_text("x")
        case "missing":
            (victim / "deep" / "labels.txt").unlink()
        case "manifest":
            (victim / "manifest.json").write_text('{"key": ')
        case "ledger-lost":
            (output / "ledger.sqlite").unlink()
        case "ledger-damaged":
            (output / "ledger.sqlite").write_bytes(b"no database at all" * 1000)
    run_batch(plan, PoisonTask(warm=str(log)), output, FAST)
    kept = {name: digest for name, digest in bytes_of(output).items() if name in whole}
    assert kept == whole
    assert log.exists() == (not harm.startswith("ledger")), "results outlive the ledger; only harm is redone"


def test_refused_inputs_and_missing_files_are_rows(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    next(inputs.glob("01*")).unlink()
    refused = (Refused("case-x", "LOCALIZER", "expected a volume, got a localizer"),)
    report = run_batch(BatchPlan(plan.cases, refused), PoisonTask(), output, FAST)
    assert rows_of(report) == {"done": 1, "failed": 1, "skipped": 1}
    assert {row.code for row in report.rows} == {"", "NOT_READABLE", "LOCALIZER"}


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good"]), tmp_path / "out"
    drive_batch.planned(inputs, output)
    assert stat.S_IMODE((output / KEY_FILE).stat().st_mode) == 0o600


def test_one_driver_per_folder(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    with only_driver(output), pytest.raises(WriteError) as caught:
        run_batch(plan, PoisonTask(), output, FAST)
    assert caught.value.code == "BATCH_LOCKED"
    assert run_batch(plan, PoisonTask(), output, FAST).count("done") == 1


@pytest.mark.parametrize(
    ("word", "warm", "error"), [("disk-full", "", WriteError), ("good", "broken", ModelError)]
)
def test_what_would_fail_every_case_stops_the_batch_and_leaves_it_resumable(
    tmp_path: Path, word: str, warm: str, error: type[Exception]
) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", word]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    with pytest.raises(error):
        run_batch(plan, PoisonTask(warm=warm), output, FAST)
    assert half_written(output) == []
    assert list((output / "failed").iterdir()) == []


def test_a_stop_drops_what_is_under_way_and_keeps_what_is_done(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "good", "hang", "hang"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    cancel = CancelToken()

    def watch(event: CaseEvent) -> None:
        if event.state == "running" and len(list(done.glob("case-*"))) == 2:
            cancel.cancel()

    done = output / "cases"
    with pytest.raises(CancelledError):
        run_batch(
            plan, PoisonTask(), output, BatchSettings(workers=4, memory_gb=0.3), watch=watch, cancel=cancel
        )
    assert half_written(output) == []
    assert len(list(done.iterdir())) == 2
    with sqlite3.connect(output / "ledger.sqlite") as db:
        states = [state for (state,) in db.execute("SELECT state FROM cases")]
    db.close()
    assert sorted(states) == ["done", "done", "queued", "queued"]


def drive(inputs: Path, output: Path, seconds: float, scheduler: str = "") -> subprocess.Popen[bytes]:
    program = Path(drive_batch.__file__)
    return subprocess.Popen(
        [sys.executable, str(program), str(inputs), str(output), str(seconds), scheduler],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def settled(output: Path) -> int:
    """Cases that are done or failed."""
    return len([*(output / "cases").glob("case-*"), *(output / "failed").glob("case-*.json")])


def kill_and_resume(tmp_path: Path, kills: int, cases: int) -> None:
    """An undisturbed run, and one whose driver dies at random moments; equal bytes in the end."""
    words = ["good"] * cases
    words[1], words[cases // 2] = "segfault", "corrupt"
    inputs, calm, stormy = write_inputs(tmp_path / "in", words), tmp_path / "calm", tmp_path / "stormy"
    drive_batch.planned(inputs, calm)
    stormy.mkdir()
    (stormy / KEY_FILE).write_bytes((calm / KEY_FILE).read_bytes())
    (stormy / KEY_FILE).chmod(0o600)
    assert drive(inputs, calm, 0.2).wait(timeout=240) == 0
    chance, died = random.Random(20), 0
    for n in range(kills):
        before = settled(stormy)
        driver = drive(inputs, stormy, 0.2)
        # Every second dies while it starts, the others soon after a case, however quick the machine.
        while n % 2 == 0 and settled(stormy) == before and driver.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5 if n % 2 else 0.1))
        died += driver.poll() is None
        driver.kill()
        driver.wait()
        published = [p for p in (stormy / "cases").glob("*") if not p.name.startswith(".")]
        assert all((p / "manifest.json").exists() and (p / "deep/labels.txt").exists() for p in published)
    assert died >= kills // 2
    assert drive(inputs, stormy, 0.2).wait(timeout=240) == 0
    assert half_written(stormy) == []
    assert bytes_of(stormy) == bytes_of(calm)


def test_a_driver_killed_three_times_leads_to_the_same_bytes(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=3, cases=8)


def test_files_that_a_killed_driver_had_begun_to_write_are_swept(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "corrupt"]), tmp_path / "out"
    assert drive(inputs, output, 0.0).wait(timeout=120) == 0
    begun = [output / "failed" / ".case-1.json.0a1b2c.part", output / ".summary.csv.0a1b2c.part"]
    for path in begun:
        path.write_bytes(b"half")
    assert drive(inputs, output, 0.0).wait(timeout=120) == 0
    assert half_written(output) == []


def test_a_driver_killed_between_two_steps_leaves_no_contradiction(tmp_path: Path) -> None:
    """A result beside the record of its later failure, and the reverse: the next run drops what is stale."""
    inputs, output = write_inputs(tmp_path / "in", ["good", "good"]), tmp_path / "out"
    plan = drive_batch.planned(inputs, output)
    run_batch(plan, PoisonTask(), output, FAST)
    done = bytes_of(output)
    (record,) = [output / "failed" / f"{plan.cases[0].name}.json"]
    record.write_text("{}")
    run_batch(plan, PoisonTask(), output, FAST)
    assert bytes_of(output) == done
    shutil.copytree(output / "cases", tmp_path / "kept")
    next(inputs.glob("00*")).write_text("corrupt")
    run_batch(plan, PoisonTask(), output, FAST)
    failed = bytes_of(output)
    (stale,) = {path.name for path in (tmp_path / "kept").iterdir()} - {
        path.name for path in (output / "cases").iterdir()
    }
    shutil.copytree(tmp_path / "kept" / stale, output / "cases" / stale)
    run_batch(plan, PoisonTask(), output, FAST)
    assert bytes_of(output) == failed


def test_a_result_that_cannot_be_published_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, final = new_part(tmp_path, "case-1"), tmp_path / "case-1"
    final.mkdir()
    (final / "labels").write_text("older")
    really = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self == part:
            raise OSError(errno.ENOSPC, "No space left on device")
        return really(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(WriteError):
        publish(part, final, {})
    assert (final / "labels").read_text() == "older"


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        keys = set(threads.map(lambda _: folder_key(tmp_path), range(64)))
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@pytest.mark.slow
def test_a_driver_killed_twenty_times_leads_to_the_same_bytes(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=20, cases=40)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends orphans on Linux only")
def test_a_child_dies_with_its_driver(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["hang", "hang"]), tmp_path / "out"
    driver = drive(inputs, output, 0.2)
    while len(parts := list((output / "cases").glob(".*"))) < 2 or not all(
        (p / "half.bin").exists() for p in parts
    ):
        time.sleep(0.05)
    children = children_of(driver.pid)
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) >= 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_an_interrupt_from_the_keyboard_leaves_nothing_half_written(tmp_path: Path) -> None:
    inputs, output = write_inputs(tmp_path / "in", ["good", "hang"]), tmp_path / "out"
    driver = drive(inputs, output, 0.1)
    deadline = time.monotonic() + 90
    while len(list((output / "cases").glob("case-*"))) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) != 0
    assert half_written(output) == []
    assert len(list((output / "cases").iterdir())) == 1
