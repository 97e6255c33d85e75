"""`medseg batch`: many cases, each guarded; resumes by itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from medseg.batch.settings import BatchSettings
from medseg.cli.options import Json, takes_settings
from medseg.cli.screen import print_json, print_table, progress_bar, say
from medseg.cli.segment import require_writable
from medseg.cli.source import Irregular
from medseg.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from medseg.batch.cases import BatchPlan
    from medseg.batch.run import BatchReport, CaseEvent

SOME_FAILED = 3
_REFRESH_S = 0.5


@dataclass(frozen=True)
class BatchFlags:
    """What a person says of a batch beside model and settings.

    Attributes:
        separate: names of classes whose objects are told apart.
        export: kinds of files.
        irregular: what to do with DICOM slices that do not lie as a grid.
        scheduler: address of a Dask scheduler, or empty for this machine.
        plan: only tell which input gets which name.
    """

    separate: tuple[str, ...] = field(
        default=(), metadata={"help": "class whose objects are told apart and counted; repeatable"}
    )
    export: tuple[str, ...] = field(
        default=("nifti",), metadata={"help": "kinds of files, separated by commas; nifti if not given"}
    )
    irregular: Irregular = field(
        default="resample",
        metadata={
            "help": "tilted or unevenly spaced DICOM slices; fill bridges missing ones too",
            "choices": ("resample", "reject", "fill"),
        },
    )
    scheduler: str = field(
        default="",
        metadata={"help": "address of a Dask scheduler (tcp://host:8786); else this machine"},
    )
    plan: bool = field(default=False, metadata={"help": "only tell which input gets which name"})


@takes_settings(flags=BatchFlags, settings=InferenceSettings, batch_settings=BatchSettings)
def batch(
    inputs: tuple[Path, ...],
    /,
    *,
    model: Annotated[str, Parameter(alias="-m")],
    output: Annotated[Path, Parameter(alias="-o")],
    flags: BatchFlags,
    settings: InferenceSettings,
    batch_settings: BatchSettings,
    json: Json = False,
) -> int:
    """Segment many cases, each in a guarded process; run it again to go on after a stop.

    Args:
        inputs: folders, image files, DICOM studies, zips, and CSV tables with a column `image`.
        model: a name from `medseg models list`, or the folder of a model.
        output: folder of the results; made if missing.
        flags: what is separated and written, where, or only planned.
        settings: how the model runs.
        batch_settings: workers and limits.
        json: print one JSON object on standard output.
    """
    from medseg.batch.cases import plan_batch
    from medseg.batch.channels import as_cases
    from medseg.batch.find import find_inputs
    from medseg.batch.pseudonyms import folder_key
    from medseg.batch.run import run_batch
    from medseg.batch.segmentation import segmentation_task
    from medseg.export.settings import ExportSettings

    require_writable(output)
    task = segmentation_task(
        model,
        settings,
        separate=flags.separate,
        export=ExportSettings(kinds=flags.export),
        irregular=flags.irregular,
        workers=1 if flags.scheduler else batch_settings.workers,
    )
    with progress_bar() as report:
        found = find_inputs(inputs, leave_out=output, irregular=flags.irregular, progress=report)
    output.mkdir(parents=True, exist_ok=True)
    cases = as_cases(found, task.channels)
    planned = plan_batch(cases, folder_key(output), plain_names=batch_settings.names == "plain")
    if flags.plan:
        _print_plan(planned, json=json)
        return 0
    say(f"{len(planned.cases)} cases, {len(planned.refused)} inputs that are none")
    with live_table(len(planned.cases)) as watch:
        ended = run_batch(planned, task, output, batch_settings, scheduler=flags.scheduler, watch=watch)
    _print_report(ended, json=json)
    return SOME_FAILED if ended.count("failed") else 0


def _print_plan(plan: BatchPlan, *, json: bool) -> None:
    """Which input has which name: the one place that tells, and only to whoever has key and inputs."""
    rows = [
        {
            "case": case.name,
            "inputs": [str(source.path) for source in case.sources],
            "series_uid": case.sources[0].series_uid,
        }
        for case in plan.cases
    ]
    refused = [{"case": r.name, "state": r.state, "code": r.code, "reason": r.reason} for r in plan.refused]
    if json:
        print_json({"cases": rows, "refused": refused})
        return
    cells = [[c.name, ", ".join(str(s.path) for s in c.sources), c.sources[0].series_uid] for c in plan.cases]
    print_table("Cases", ["case", "inputs", "series"], cells)
    print_table(
        "No cases", ["name", "code", "reason"], [[r["case"], r["code"], r["reason"]] for r in refused]
    )


def _print_report(report: BatchReport, *, json: bool) -> None:
    from medseg.result import plain_data

    counts = {state: report.count(state) for state in ("done", "failed", "skipped")}
    if json:
        print_json({"output": str(report.folder), **counts, "cases": plain_data(report.rows)})
        return
    rows = [[row.case, row.state, row.code, row.reason] for row in report.rows if row.state != "done"]
    if rows:
        print_table("Not done", ["case", "state", "code", "reason"], rows)
    say(", ".join(f"{count} {state}" for state, count in counts.items()) + f"; summary in {report.folder}")


class _Board:
    """What the live table shows."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.ended: dict[str, int] = {"done": 0, "failed": 0, "skipped": 0}
        self.under_way: dict[str, CaseEvent] = {}
        self.fresh = 0
        self.began = time.monotonic()

    def take(self, event: CaseEvent) -> None:
        """Follow one event."""
        if event.state == "running":
            self.under_way[event.case] = event
            return
        self.under_way.pop(event.case, None)
        self.ended[event.state] = self.ended.get(event.state, 0) + 1
        self.fresh += event.seconds > 0

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the pace of the cases that this run has ended; None before the first."""
        if not self.fresh:
            return None
        left = max(0, self.total - self.ended["done"] - self.ended["failed"])
        return (time.monotonic() - self.began) / self.fresh * left

    def picture(self) -> Any:
        """The table as it stands."""
        from rich import box
        from rich.table import Table

        left = self.left_s
        eta = "" if left is None else f", {_clock(left)} left"
        counts = ", ".join(f"{count} {state}" for state, count in self.ended.items())
        title = f"{self.total} cases: {counts}; {_clock(time.monotonic() - self.began)} spent{eta}"
        table = Table("case", "stage", "part", title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for name, event in sorted(self.under_way.items()):
            progress = event.progress
            part = f"{progress.fraction:.0%}" if progress is not None and progress.total else ""
            table.add_row(name, progress.stage if progress is not None else "", part)
        return table


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


@contextmanager
def live_table(total: int) -> Iterator[Callable[[CaseEvent], None]]:
    """A table of what runs, on standard error: live on a terminal, a line per case elsewhere."""
    board = _Board(total)
    if not sys.stderr.isatty():

        def line(event: CaseEvent) -> None:
            board.take(event)
            if event.state != "running":
                code = f" [{event.code}]" if event.code else ""
                say(f"{sum(board.ended.values())}/{total} {event.case} {event.state}{code}")

        yield line
        return
    from rich.console import Console
    from rich.live import Live

    with Live(board.picture(), console=Console(stderr=True), refresh_per_second=4) as live:
        shown = 0.0

        def show(event: CaseEvent) -> None:
            nonlocal shown
            board.take(event)
            if time.monotonic() - shown > _REFRESH_S or event.state != "running":
                shown = time.monotonic()
                live.update(board.picture())

        yield show
