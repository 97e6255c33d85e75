"""Running `medseg` as a person does: a process of its own, its exit code, what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "medseg.cli.main"]
TOLD = re.compile(r"^error \[([A-Z][A-Z0-9_]+)\]: (.+)$", re.MULTILINE)


def environment(models: Path | None = None) -> dict[str, str]:
    """This process's environment with few threads, and a user's model folder if given."""
    extra = {"OMP_NUM_THREADS": "1"} | ({"MEDSEG_MODELS": str(models)} if models else {})
    return os.environ | extra


def medseg(
    *words: object, models: Path | None = None, before: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one command line to its end.

    Args:
        words: after `medseg`.
        models: folder of the user's models.
        before: done in the child before it becomes `medseg`, such as setting a limit.
    """
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(models),
        preexec_fn=before,
        timeout=240,
    )


def code_of(stderr: str) -> str:
    """The code of the one failure that was told; fails where none or several were."""
    told = TOLD.findall(stderr)
    assert len(told) == 1, stderr
    assert "Traceback" not in stderr
    code, message = told[0]
    assert message.strip()
    return str(code)


def everything_under(folder: Path) -> set[str]:
    """Names of all files and folders below one, hidden ones too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refused_in_process(folder: Path, capsys: Any, *words: object) -> tuple[str, str]:
    """Code and message of a refusal with exit code 1 that left nothing new below a folder.

    Args:
        folder: where the command could write; its path must not be told.
        capsys: pytest's.
        words: after `medseg`.
    """
    from medseg.cli.main import run

    before = everything_under(folder)
    exit_code = run([str(word) for word in words])
    said = capsys.readouterr()
    assert exit_code == 1, said.err
    assert said.out == ""
    assert everything_under(folder) == before
    code = code_of(said.err)
    assert code not in ("INTERNAL", "SYSTEM", "NOT_INSTALLED"), said.err
    assert str(folder) not in said.err
    return code, TOLD.findall(said.err)[0][1]
