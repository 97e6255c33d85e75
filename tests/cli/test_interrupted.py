"""What only a process of its own can show: Ctrl-C, full disks, folders that refuse, standard streams."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, code_of, environment, everything_under, medseg
from phantoms import oblique_grid

from medseg.io.formats import write_volume
from medseg.volume import Volume

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX systems")

SMALL, LARGE = (24, 22, 20), (170, 160, 150)


def write_scan(path: Path, shape: tuple[int, int, int]) -> Path:
    noise = np.random.default_rng(0).normal(100, 20, shape).astype(np.float32)
    return write_volume(Volume(noise, oblique_grid(shape, (1.0, 1.0, 1.0))), path)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_nothing_behind(how: signal.Signals, shelf: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii", LARGE)
    words = ["segment", str(scan), "--model", "tiny", "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [*COMMAND, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(shelf)
    ) as child:
        assert child.stderr is not None
        assert child.stderr.readline().startswith("plan: ")
        time.sleep(0.7)
        asked = time.monotonic()
        child.send_signal(how)
        _, said = child.communicate(timeout=60)
        waited = time.monotonic() - asked
    assert child.returncode == 130, said
    assert code_of(said) == "CANCELLED"
    assert everything_under(tmp_path) == {"scan.nii"}
    assert waited < 30


def no_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))


def test_a_full_disk_leaves_nothing_behind(shelf: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails a write in its middle, as a full disk does."""
    scan = write_scan(tmp_path / "scan.nii", SMALL)
    for words in (
        ("convert", scan, tmp_path / "copy.nii.gz"),
        ("segment", scan, "--model", "tiny", "-o", tmp_path / "out"),
    ):
        done = medseg(*words, models=shelf, before=no_large_files)
        assert done.returncode == 1
        assert code_of(done.stderr) == "DISK_FULL"
        assert everything_under(tmp_path) == {"scan.nii"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that nobody may write to")
def test_a_folder_that_refuses_even_the_administrator(shelf: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii", SMALL)
    done = medseg("segment", scan, "--model", "tiny", "-o", "/proc/medseg-out", models=shelf)
    assert done.returncode == 1
    assert code_of(done.stderr) in ("NOT_WRITABLE", "NOT_PERMITTED")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_folder_without_permission_is_told_before_the_work(shelf: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.nii", SMALL)
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    done = medseg("segment", scan, "--model", "tiny", "-o", locked / "out", models=shelf)
    assert done.returncode == 1
    assert code_of(done.stderr) == "NOT_WRITABLE"
    assert "plan:" not in done.stderr
