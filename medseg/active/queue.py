"""A queue of cases and its state, as a value that is kept in one JSON file.

Nothing is computed here. The file holds names of files below its own folder, as they are; names of
cases are numbers, so that no training file is called like a patient.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.errors import ReadError
from medseg.files import write_json

STATE_FILE = "medseg-queue.json"
WORK_FOLDER = "medseg-queue"
"""Beside the cases: corrected labels, predictions, models."""

WAITING, PREDICTED, CORRECTED, HELD_OUT, FAILED = "waiting", "predicted", "corrected", "held out", "failed"
STATES = (WAITING, PREDICTED, CORRECTED, HELD_OUT, FAILED)
"""Nothing known, a model's guess, labels to learn from, labels to score with, not readable."""

PAINTS = ("classes", "objects")
_VERSION = 1


@dataclass(frozen=True)
class QueueCase:
    """One scan of a queue.

    Attributes:
        name: `case-001`, … for good.
        path: of its file, or of the folder that holds its series; below the queue's folder, with slashes.
        series_uid: which series of that folder; empty for an image file.
        state: one of `STATES`.
        is_held_out: its labels are for the score alone; decided once, and never changed by a training.
        uncertainty: 0 (sure) to 1 of the last prediction; None where there is none.
        model: which model predicted it.
        reason: why it failed.
    """

    name: str
    path: str = field(repr=False)
    series_uid: str = field(default="", repr=False)
    state: str = WAITING
    is_held_out: bool = False
    uncertainty: float | None = None
    model: str = ""
    reason: str = ""

    @property
    def is_labelled(self) -> bool:
        """Whether a person has corrected it."""
        return self.state in (CORRECTED, HELD_OUT)


@dataclass(frozen=True)
class Round:
    """One training.

    Attributes:
        model: folder of the model, below `WORK_FOLDER`.
        learned_from: corrected cases that it saw.
        held_out: cases that the score was measured on; the model never saw them.
        score: mean Dice of classes, or F1 of objects at IoU 0.5; None where nothing was held out.
    """

    model: str
    learned_from: int
    held_out: int
    score: float | None


@dataclass(frozen=True)
class CaseQueue:
    """Cases, trainings, and where they lie.

    Attributes:
        folder: that was opened.
        cases: in the order of their names.
        rounds: trainings, oldest first.
        start: model to begin with, by name or path; empty to begin from nothing.
        paints: `"classes"`, ids mean structures, or `"objects"`, every object has its own.
    """

    folder: Path
    cases: tuple[QueueCase, ...] = ()
    rounds: tuple[Round, ...] = ()
    start: str = ""
    paints: str = "classes"

    @property
    def model(self) -> str:
        """The newest model: of the last round, or the one to begin with; empty where there is none."""
        return str(self.work / self.rounds[-1].model) if self.rounds else self.start

    @property
    def work(self) -> Path:
        """Where labels, predictions and models of the queue lie."""
        return self.folder / WORK_FOLDER

    def case(self, name: str) -> QueueCase:
        """The case of a name.

        Raises:
            ReadError: `NO_SUCH_CASE`.
        """
        for one in self.cases:
            if one.name == name:
                return one
        raise ReadError("NO_SUCH_CASE", f"expected a case of the queue, got {name!r}; choose from the list")

    def with_case(self, case: QueueCase) -> CaseQueue:
        """The queue with a case in place of that of its name."""
        return replace(self, cases=tuple(case if one.name == case.name else one for one in self.cases))

    def labels_file(self, case: QueueCase) -> Path:
        """Where corrected labels of a case lie, or are to lie."""
        return self.work / "labels" / f"{case.name}.nii.gz"

    def image_file(self, case: QueueCase) -> Path:
        """Where the scan of a corrected case lies as training reads it."""
        return self.work / "images" / f"{case.name}.nii.gz"

    def prediction_file(self, case: QueueCase) -> Path:
        """Where the last prediction of a case lies."""
        return self.work / "predictions" / f"{case.name}.nii.gz"

    def to_do(self) -> tuple[QueueCase, ...]:
        """Cases that wait for a person, the one that teaches most first.

        Held-out cases come in step with the others, so that there is a score from early on, and in the
        order of their names: chosen by doubt, they would not stand for the rest. The others come by
        uncertainty, those that no model has seen in the middle.
        """
        open_ = [one for one in self.cases if one.state in (WAITING, PREDICTED)]
        held_out = [one for one in open_ if one.is_held_out]
        others = sorted((one for one in open_ if not one.is_held_out), key=_doubt)
        whole = [len([one for one in self.cases if one.is_held_out is held]) for held in (True, False)]
        done = [whole[0] - len(held_out), whole[1] - len(others)]
        ordered: list[QueueCase] = []
        while held_out or others:
            is_turn = done[0] * max(1, whole[1]) < done[1] * whole[0]
            chosen = held_out if held_out and (is_turn or not others) else others
            done[0 if chosen is held_out else 1] += 1
            ordered.append(chosen.pop(0))
        return tuple(ordered)


def _doubt(case: QueueCase) -> tuple[float, str]:
    return (-case.uncertainty if case.uncertainty is not None else -0.5, case.name)


def merged(queue: CaseQueue, found: Mapping[tuple[str, str], str], held_out_fraction: float) -> CaseQueue:
    """A queue with the cases that a folder holds now; those that it knew stay as they are.

    Args:
        queue: as it was kept.
        found: (path, series) to the reason why it cannot be read, empty where it can.
        held_out_fraction: share of all cases to be held out, at least one of three; filled up from cases that
            no person has seen, by a hash of their paths.
    """
    known = {(one.path, one.series_uid) for one in queue.cases}
    cases = list(queue.cases)
    for (path, series), reason in found.items():
        if (path, series) not in known:
            state = FAILED if reason else WAITING
            cases.append(QueueCase(f"case-{len(cases) + 1:03}", path, series, state, reason=reason))
    usable = [one for one in cases if one.state != FAILED]
    wanted = round(held_out_fraction * len(usable))
    if held_out_fraction > 0 and len(usable) >= 3:
        wanted = max(1, wanted)
    missing = max(0, wanted - sum(one.is_held_out for one in usable))
    free = [one for one in usable if not one.is_held_out and one.state == WAITING]
    for one in sorted(free, key=lambda case: _chance(case.path, case.series_uid))[:missing]:
        cases[cases.index(one)] = replace(one, is_held_out=True)
    return replace(queue, cases=tuple(cases))


def _chance(path: str, series: str) -> float:
    """A number in 0..1 that a path alone decides."""
    return int.from_bytes(hashlib.sha256(f"{path}\n{series}".encode()).digest()[:4]) / 2**32


def read_queue(folder: Path) -> CaseQueue:
    """The queue that a folder keeps; an empty one where it keeps none.

    Raises:
        ReadError: `BAD_QUEUE`, the file is damaged or of another version.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return CaseQueue(folder)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise ValueError
        cases = tuple(_case(one) for one in data["cases"])
        rounds = tuple(Round(**one) for one in data["rounds"])
        if data["paints"] not in PAINTS:
            raise ValueError
        return CaseQueue(folder, cases, rounds, str(data["start"]), data["paints"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(
            "BAD_QUEUE", f"expected the state of a queue in {STATE_FILE}, got another; restore or remove it"
        ) from error


def _case(data: Mapping[str, Any]) -> QueueCase:
    case = QueueCase(**data)
    inside = not Path(case.path).is_absolute() and ".." not in Path(case.path).parts
    doubt = case.uncertainty
    if case.state not in STATES or not inside or (doubt is not None and not math.isfinite(doubt)):
        raise ValueError
    return case


def save_queue(queue: CaseQueue) -> Path:
    """Keep a queue in its folder; the file is whole or as before.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    data = {
        "version": _VERSION,
        "start": queue.start,
        "paints": queue.paints,
        "cases": [asdict(one) for one in queue.cases],
        "rounds": [asdict(one) for one in queue.rounds],
    }
    path = queue.folder / STATE_FILE
    write_json(path, data)
    return path
