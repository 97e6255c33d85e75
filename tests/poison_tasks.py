"""A batch task that does what its input file says, the good and the bad; workers import it from here."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.batch.cases import Case
from medseg.errors import ReadError
from medseg.progress import Progress, ProgressCallback

CANARY = "CANARY^DOE^JOHN"
"""Stands in every input's path and content; it may stand nowhere else."""


@dataclass(frozen=True)
class PoisonTask:
    """Reads one word of the input and obeys it.

    Attributes:
        version: part of the identity.
        pids: folder in which a case that wants to be killed writes its process id.
        seconds: how long a good case takes.
    """

    version: int = 1
    pids: str = ""
    seconds: float = 0.0
    warm: str = ""

    def identity(self) -> Mapping[str, Any]:
        return {"task": "poison", "version": self.version}

    def warm_up(self) -> None:
        if self.warm == "broken":
            raise ReadError("BROKEN_MODEL", "expected a model, got none; install it")
        if self.warm == "hungry":
            _hog()
        if self.warm:
            with Path(self.warm).open("a") as file:
                file.write(f"{os.getpid()}\n")

    def __call__(self, case: Case, folder: Path, progress: ProgressCallback) -> Mapping[str, Any]:
        text = case.sources[0].path.read_text()
        word, *rest = text.split()
        (folder / "half.bin").write_bytes(b"half")
        sys.stdout.write(text + CANARY)
        self._obey(word, rest, case, folder, progress)
        for done in range(2):
            progress(Progress("segment", done, 2))
            time.sleep(self.seconds / 2)
        (folder / "half.bin").unlink()
        (folder / "deep").mkdir()
        (folder / "deep" / "labels.txt").write_text(f"{word} {rest[:1]} {len(text)}")
        return {"regions": len(rest)}

    def _obey(self, word: str, rest: list[str], case: Case, folder: Path, progress: ProgressCallback) -> None:
        match word:
            case "segfault":
                ctypes.string_at(0)
            case "hang":
                time.sleep(3600)
            case "hog":
                _hog()
            case "huge":
                np.ones((1 << 40,), np.uint8)
            case "corrupt" | "stranger" | "exit" | "hard-exit" | "disk-full":
                _fail(word, case)
            case "wait-for-kill":
                (Path(self.pids) / "pid").write_text(str(os.getpid()))
                time.sleep(3600)
            case "link":
                (folder / "link").symlink_to("/etc/hostname")
            case "wait":
                progress(Progress("wait", 0, 0))
                time.sleep(float(rest[0]))


def _hog() -> None:
    kept = []
    while True:
        kept.append(np.ones(8 << 20, np.uint8))


def _fail(word: str, case: Case) -> None:
    match word:
        case "corrupt":
            raise ReadError("PIXELS_TRUNCATED", "expected whole pixels, got half of them; send it again")
        case "stranger":
            raise ValueError(f"cannot read {case.sources[0].path} of {CANARY}")
        case "exit":
            raise SystemExit(3)
        case "hard-exit":
            os._exit(7)
        case "disk-full":
            raise ReadError("DISK_FULL", "expected room, got none")
