"""A batch from plan to summary: skip what is done, run the rest guarded, publish, write it down.

OUT/cases/NAME/…            one folder per finished case, with manifest.json
OUT/failed/NAME.json        one record per case that failed or input that was refused
OUT/summary.csv, .html      one row per input
OUT/ledger.sqlite           states, attempts, times, hashes of files
OUT/names.key               the key of the pseudonyms, mode 0600
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.batch.cases import BatchPlan, Case
from medseg.batch.cluster import run_on_cluster
from medseg.batch.ledger import Ledger, Row
from medseg.batch.local import memory_share_bytes, run_local
from medseg.batch.lock import only_driver
from medseg.batch.manifest import (
    MANIFEST_FILE,
    MANIFEST_FORMAT,
    new_part,
    publish,
    sweep,
    sweep_files,
)
from medseg.batch.pseudonyms import folder_key
from medseg.batch.settings import BatchSettings
from medseg.batch.summary import SummaryRow, write_summary
from medseg.batch.work import Answer, CaseTask, Job, Limits, Outcome
from medseg.errors import ReadError, WriteError
from medseg.files import read_own_json, write_json
from medseg.progress import CancelToken, Progress
from medseg.result import plain_data

CASES_FOLDER = "cases"
FAILED_FOLDER = "failed"


@dataclass(frozen=True)
class CaseEvent:
    """Something happened to a case.

    Attributes:
        case: its name.
        state: `running`, `done`, `failed` or `skipped`.
        code: stable reason, or empty.
        reason: the same for people.
        progress: what a running case does.
        seconds: of a case that ended now; 0 where an earlier run ended it.
    """

    case: str
    state: str
    code: str = ""
    reason: str = ""
    progress: Progress | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class BatchReport:
    """How a batch ended.

    Attributes:
        folder: the output folder.
        rows: one per input, by name.
    """

    folder: Path
    rows: tuple[SummaryRow, ...]

    def count(self, state: str) -> int:
        """Inputs in one state."""
        return sum(row.state == state for row in self.rows)


def ignore(event: CaseEvent) -> None:
    """Watch nothing."""


def run_batch(
    plan: BatchPlan,
    task: CaseTask,
    output: Path,
    settings: BatchSettings | None = None,
    *,
    scheduler: str = "",
    watch: Callable[[CaseEvent], None] = ignore,
    cancel: CancelToken | None = None,
) -> BatchReport:
    """Process every case of a plan; what an earlier run has done is not done again.

    Args:
        plan: from `plan_batch`.
        task: what is done to each case.
        output: folder of the results; made if missing.
        settings: workers and limits.
        scheduler: address of a Dask scheduler, such as `tcp://host:8786`; empty for this machine.
            Its workers must see inputs and output under the same paths.
        watch: told of each case, from this thread.
        cancel: a way to stop. What is under way is dropped, what is done stays.

    Returns:
        State of every input. A case that fails is a row of it, not an error.

    Raises:
        WriteError: the output folder is locked, full or not writable.
        ModelError: no worker can be made ready.
        DeviceMemoryError: loading the model alone takes more memory than a case may.
        CancelledError: a stop was asked for.
    """
    settings = settings or BatchSettings()
    cancel = cancel or CancelToken()
    with only_driver(output) as lease, Ledger(output, folder_key(output)) as ledger:
        driver = _Driver(output, task, ledger, lease, settings.retry_failed, watch)
        limits = _limits(settings)
        jobs = driver.jobs(plan.cases)
        try:
            if scheduler:
                ended = run_on_cluster(jobs, task, limits, scheduler, cancel, driver.saw)
            else:
                ended = run_local(jobs, task, limits, settings.workers, cancel, driver.saw)
            with closing(ended):  # workers end before the folder is swept, whatever is raised here
                for job, outcome in ended:
                    driver.settle(job, outcome)
        finally:
            ledger.requeue_running()
            sweep(driver.cases)
        for one in plan.refused:
            driver.set_aside(Row(one.name, "", one.state, one.code, one.reason))
        rows = tuple(sorted(driver.rows, key=lambda row: row.case))
        write_summary(output, "medseg batch", rows)
    return BatchReport(output, rows)


def _limits(settings: BatchSettings) -> Limits:
    memory = settings.memory_gb
    memory_bytes = memory_share_bytes(settings.workers) if memory is None else int(memory * 1e9)
    return Limits(settings.timeout_s, memory_bytes, recycle_after=settings.recycle_after)


@dataclass
class _Driver:
    """The one place that changes the ledger and the output folder."""

    output: Path
    task: CaseTask
    ledger: Ledger
    lease: Path
    retry_failed: bool
    watch: Callable[[CaseEvent], None]
    rows: list[SummaryRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        for folder in (self.cases, self.failed):
            folder.mkdir(exist_ok=True)
        sweep(self.cases)
        for folder in (self.failed, self.output):
            sweep_files(folder)
        self.ledger.requeue_running()
        self.identity = plain_data(self.task.identity())

    @property
    def cases(self) -> Path:
        return self.output / CASES_FOLDER

    @property
    def failed(self) -> Path:
        return self.output / FAILED_FOLDER

    def jobs(self, cases: tuple[Case, ...]) -> Iterator[Job]:
        """Cases that are still to be done; the others are settled on the way."""
        for case in cases:
            try:
                key = self._key(case)
            except ReadError as error:
                self.set_aside(Row(case.name, "", "failed", error.code, str(error)))
                continue
            except OSError as error:
                reason = f"expected readable files, got: {error.strerror or type(error).__name__}"
                self.set_aside(Row(case.name, "", "failed", "NOT_READABLE", reason))
                continue
            if self._settled_before(case.name, key):
                continue
            known = self.ledger.row(case.name)
            self.ledger.write(Row(case.name, key, "running", attempts=(known.attempts if known else 0) + 1))
            yield Job(case, key, self.cases, self.lease)

    def _key(self, case: Case) -> str:
        """Content of the inputs, and all that decides what comes out; names do not count."""
        content = [
            [
                source.series_uid,
                *([] if source.volume is None else [str(source.volume)]),
                *sorted(self.ledger.sha256(path) for path in source.files),
            ]
            for source in case.sources
        ]
        text = json.dumps([content, self.identity], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _settled_before(self, name: str, key: str) -> bool:
        manifest = self._whole_result(name, key)
        if manifest is not None:
            # A driver killed between publishing and this left the record of an earlier failure.
            (self.failed / f"{name}.json").unlink(missing_ok=True)
            self._note(Row(name, key, "done"), manifest.get("facts", {}))
            return True
        record = read_own_json(self.failed / f"{name}.json")
        if record is not None and record.get("key") == key and not self.retry_failed:
            self._remove_stale(name)
            self._note(Row(name, key, "failed", str(record.get("code")), str(record.get("reason"))))
            return True
        return False

    def _whole_result(self, name: str, key: str) -> dict[str, Any] | None:
        """The manifest of a result that is there, whole, and of this key."""
        folder = self.cases / name
        manifest = read_own_json(folder / MANIFEST_FILE)
        if manifest is None or manifest.get("key") != key or manifest.get("format") != MANIFEST_FORMAT:
            return None
        files = manifest.get("files")
        if not isinstance(files, dict):
            return None
        try:
            whole = all(self.ledger.sha256(folder / path) == files[path]["sha256"] for path in files)
        except (OSError, KeyError, TypeError):
            return None
        return manifest if whole else None

    def saw(self, name: str, progress: Progress) -> None:
        """A case is under way."""
        self.watch(CaseEvent(name, "running", progress=progress))

    def settle(self, job: Job, outcome: Outcome) -> None:
        """Publish what a case has given, or write down why it has given nothing."""
        answer, known = outcome.answer, self.ledger.row(job.case.name)
        row = Row(
            job.case.name, job.key, "failed" if answer.code else "done", answer.code, answer.reason,
            known.attempts if known else 1, outcome.seconds, outcome.peak_bytes,
        )  # fmt: skip
        if answer.code == "DISK_FULL":
            raise WriteError(
                "DISK_FULL", "expected room for the results, got a full disk; free some and resume"
            )
        if answer.code or outcome.part is None:
            self.set_aside(row)
            return
        publish(outcome.part, self.cases / row.name, self._manifest(row, answer))
        (self.failed / f"{row.name}.json").unlink(missing_ok=True)
        self._note(row, answer.facts)

    def _manifest(self, row: Row, answer: Answer) -> dict[str, Any]:
        return {
            "format": MANIFEST_FORMAT,
            "case": row.name,
            "key": row.key,
            "state": "done",
            "made_by": self.identity,
            "files": plain_data(answer.files),
            "facts": plain_data(answer.facts),
        }

    def set_aside(self, row: Row) -> None:
        """Record an input that gave no result; an older result of other settings goes."""
        write_json(
            self.failed / f"{row.name}.json",
            {"format": MANIFEST_FORMAT, "case": row.name, "key": row.key, "state": row.state,
             "code": row.code, "reason": row.reason},
            sort_keys=True,
        )  # fmt: skip
        self._remove_stale(row.name)
        self._note(row)

    def _remove_stale(self, name: str) -> None:
        """Remove the result that other settings or another input gave a case that has failed now."""
        stale = self.cases / name
        if stale.exists():
            part = new_part(self.cases, name)
            stale.rename(part / "old")
            shutil.rmtree(part, ignore_errors=True)

    def _note(self, row: Row, facts: Mapping[str, Any] | None = None) -> None:
        known = self.ledger.row(row.name)
        if known is not None and row.seconds == 0 and (known.key, known.state) == (row.key, row.state):
            pass
        else:
            attempts = max(row.attempts, known.attempts if known else 0)
            self.ledger.write(replace(row, attempts=attempts))
        folder = f"{CASES_FOLDER}/{row.name}" if row.state == "done" else ""
        words = ", ".join(
            f"{name} {value}" for name, value in (facts or {}).items() if isinstance(value, (int, float, str))
        )
        self.rows.append(SummaryRow(row.name, row.state, row.code, row.reason, folder, words))
        self.watch(CaseEvent(row.name, row.state, row.code, row.reason, seconds=row.seconds))
