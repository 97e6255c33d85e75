"""Where a training keeps its work in progress, and how many threads it takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.errors import ReadError, WriteError


def partial_of(folder: Path) -> Path:
    """Where the work in progress of a result lies."""
    return folder.with_name(folder.name + ".partial")


def workplace(folder: Path, words: str) -> Path:
    """The folder `FOLDER.partial` for work in progress, new or one that the same call began.

    Args:
        folder: the result, which must not exist.
        words: everything that decides what the training gives.

    Raises:
        WriteError: `OUTPUT_EXISTS`, `NOT_WRITABLE`.
        ReadError: `TRAINING_CHANGED`, another training has begun there.
    """
    require_new(folder)
    partial = partial_of(folder)
    begun = partial / "begun_with.json"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        if not begun.exists():
            begun.write_text(words, encoding="utf-8")
        same = begun.read_text(encoding="utf-8") == words
    except OSError as error:
        raise WriteError(
            "NOT_WRITABLE", f"expected to write {partial.name!r}, got a refusal; choose another folder"
        ) from error
    if not same:
        raise ReadError(
            "TRAINING_CHANGED",
            f"expected the training that {partial.name!r} holds, got other images or settings; repeat the "
            "call that began it, or remove the folder",
        )
    return partial


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
