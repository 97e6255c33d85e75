"""The same cases on a Dask cluster of separate processes on loopback: the same bytes, the same reasons."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import drive_batch
import pytest
from poison_tasks import CANARY, PoisonTask

from medseg.batch.cases import Case, Source
from medseg.batch.cluster import guarded
from medseg.batch.pseudonyms import KEY_FILE
from medseg.batch.run import run_batch
from medseg.batch.work import Job, Limits
from medseg.errors import CancelledError, SettingsError

pytest.importorskip("distributed", reason="the extra `distributed` is not installed")

WORDS = ["good", "segfault", "good", "corrupt", "hog", "good", "hard-exit", "good"]


def drive(inputs: Path, output: Path, scheduler: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, drive_batch.__file__, str(inputs), str(output), "0.1", scheduler],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        text=True,
        capture_output=True,
        timeout=240,
    )


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("ledger.sqlite")
    }


def test_a_cluster_gives_what_this_machine_gives(tmp_path: Path) -> None:
    inputs, here, there = tmp_path / "in", tmp_path / "here", tmp_path / "there"
    inputs.mkdir()
    for n, word in enumerate(WORDS):
        (inputs / f"{n} {CANARY}.txt").write_text(f"{word} {n}")
    drive_batch.planned(inputs, here)
    there.mkdir()
    (there / KEY_FILE).write_bytes((here / KEY_FILE).read_bytes())
    drive(inputs, here, "")
    spoken = drive(inputs, there, "local")
    assert bytes_of(there) == bytes_of(here)
    with (there / "summary.csv").open(newline="") as file:
        codes = sorted(row["code"] for row in csv.DictReader(file))
    assert codes == ["", "", "", "", "MEMORY_LIMIT", "PIXELS_TRUNCATED", "WORKER_CRASHED", "WORKER_CRASHED"]
    assert CANARY not in spoken.stdout + spoken.stderr


def test_a_worker_stops_when_the_lease_of_its_driver_is_gone(tmp_path: Path) -> None:
    lease = tmp_path / "lease"
    lease.touch()
    source = tmp_path / "hang.txt"
    source.write_text("hang")
    job = Job(Case("case-1", (Source(source),)), "key", tmp_path / "cases", lease)
    began = time.monotonic()
    threading.Timer(3.0, lease.unlink).start()
    with pytest.raises(CancelledError):
        guarded(PoisonTask(), job, Limits(600.0, 500_000_000))
    assert time.monotonic() - began < 30
    assert list((tmp_path / "cases").iterdir()) == []


def test_no_scheduler_at_the_address_is_said_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_text("good")
    monkeypatch.setattr("medseg.batch.cluster._CONNECT_S", 1)
    plan = drive_batch.planned(tmp_path / "in", tmp_path / "out")
    with pytest.raises(SettingsError) as caught:
        run_batch(plan, PoisonTask(), tmp_path / "out", scheduler="tcp://127.0.0.1:1")
    assert caught.value.code == "NO_SCHEDULER"
