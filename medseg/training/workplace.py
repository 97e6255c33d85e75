"""Where a training keeps its work in progress, and how many threads it takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.errors import ReadError, WriteError
from medseg.files import lock_now, write_text


def partial_of(folder: Path) -> Path:
    """Where the work in progress of a result lies."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def workplace(folder: Path, words: str) -> Iterator[Path]:
    """The folder `FOLDER.partial` for work in progress, new or one that the same call began.

    At the end the folder `bundle` in it becomes the result, and the rest is removed; after an exception all
    stays as it is, so that the same call goes on.

    Args:
        folder: the result, which must not exist.
        words: everything that decides what the training gives.

    Yields:
        The folder; no other process has it meanwhile.

    Raises:
        WriteError: `OUTPUT_EXISTS`, `NOT_WRITABLE`; `TRAINING_LOCKED`, another process is at work there.
        ReadError: `TRAINING_CHANGED`, another training has begun there.
    """
    require_new(folder)
    partial = partial_of(folder)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _refused(partial) from error
    try:
        _lock(descriptor, partial)
        _require_same(partial, words)
        yield partial
        (partial / "bundle").replace(folder)
    finally:
        os.close(descriptor)
    shutil.rmtree(partial, ignore_errors=True)


def _lock(descriptor: int, partial: Path) -> None:
    try:
        lock_now(descriptor)
    except OSError as error:
        raise WriteError(
            "TRAINING_LOCKED",
            f"expected {partial.name!r} for this training alone, got one that another process is at work in; "
            "wait for it, or choose another name",
        ) from error


def _require_same(partial: Path, words: str) -> None:
    """Return if nothing has begun there yet, or the same training."""
    begun = partial / "begun_with.json"
    try:
        if not begun.exists():
            write_text(begun, words)
        is_same = begun.read_text(encoding="utf-8") == words
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        raise _refused(partial) from error
    if not is_same:
        raise ReadError(
            "TRAINING_CHANGED",
            f"expected the training that {partial.name!r} holds, got other images or settings; repeat the "
            "call that began it, or remove the folder",
        )


def _refused(partial: Path) -> WriteError:
    return WriteError(
        "NOT_WRITABLE", f"expected to write {partial.name!r}, got a refusal; choose another folder"
    )


def require_new(folder: Path) -> None:
    """Return if nothing is there yet.

    Raises:
        WriteError: `OUTPUT_EXISTS`.
    """
    if folder.exists():
        raise WriteError("OUTPUT_EXISTS", f"expected a new folder, got {folder.name!r}; choose another name")


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for a while; 0 leaves the choice to torch."""
    before = torch.get_num_threads()
    if count > 0:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
