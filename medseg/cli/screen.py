"""What a person sees: a progress bar on standard error, tables and JSON on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from medseg.progress import Progress, ProgressCallback


def say(words: str) -> None:
    """One line on standard error, so that standard output stays for results."""
    print(words, file=sys.stderr, flush=True)


def print_json(data: Mapping[str, Any]) -> None:
    """One object on standard output, in ASCII, which every terminal and pipe takes.

    NaN and infinities, which JSON lacks, become null.
    """
    print(json.dumps(_finite(data)))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()
) -> None:
    """A table on standard output.

    Args:
        title: above it.
        heads: of the columns.
        rows: of cells.
        numbers: columns that are flush right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if n in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """A bar per stage on standard error: done, total, time spent and left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", justify="left"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def report(progress: Progress) -> None:
            if progress.note:
                bar.console.print(progress.note, markup=False, highlight=False, soft_wrap=True)
            if progress.stage not in tasks:
                tasks[progress.stage] = bar.add_task(progress.stage, total=None)
            bar.update(tasks[progress.stage], completed=progress.done, total=progress.total or None)

        yield report


def volume_words(volume_mm3: float) -> str:
    """A volume in the unit that a person would choose: ml, mm3 or um3."""
    if volume_mm3 >= 1000:
        return f"{volume_mm3 / 1000:.2f} ml"
    if volume_mm3 >= 0.01:
        return f"{volume_mm3:.3g} mm3"
    return f"{volume_mm3 * 1e9:.4g} um3"
