"""What is done with a queue: find its cases, predict one, keep a correction, learn, score.

Each step gives a value; the caller puts it into its queue and keeps that. So a person may go on
correcting while a model learns.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medseg.active.queue import (
    CORRECTED,
    FAILED,
    HELD_OUT,
    PREDICTED,
    WAITING,
    WORK_FOLDER,
    CaseQueue,
    QueueCase,
    Round,
    merged,
    read_queue,
    save_queue,
)
from medseg.batch.find import find_inputs
from medseg.errors import GeometryError, ModelNotFoundError, ReadError, VolumeError, WriteError
from medseg.files import write_text
from medseg.geometry import require_same_grid
from medseg.inference.settings import InferenceSettings
from medseg.io.dicom_series import read_series
from medseg.io.formats import read_labels, read_volume, write_labels, write_volume
from medseg.labels import LabelSet
from medseg.measure.evaluate import evaluate_instances
from medseg.measure.overlap import label_overlaps, mean_dice
from medseg.models.loading import Model, load_model
from medseg.pipeline import segment
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.result import Result
from medseg.training.annotated import Pair
from medseg.training.fine_tune import fine_tune
from medseg.training.settings import FineTuneSettings, TrainingSettings
from medseg.training.train_model import train
from medseg.volume import InstanceVolume, LabelVolume, Volume

HELD_OUT_FRACTION = 0.2
OBJECT_IOU = 0.5
DATASET_FILE = "dataset.csv"


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """What a model said of a case.

    Attributes:
        case: with its new state.
        labels: classes, or objects where the model finds objects; also in the queue's work folder.
    """

    case: QueueCase
    labels: LabelVolume = field(repr=False)


def open_queue(
    folder: str | Path,
    held_out_fraction: float = HELD_OUT_FRACTION,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> CaseQueue:
    """Find the cases of a folder and go on with the state that it keeps.

    Args:
        folder: image files, and DICOM series in folders of their own or together.
        held_out_fraction: of cases that are seen for the first time, how many are kept for the score.
        progress: told while DICOM files are looked at.
        cancel: a way to stop it.

    Raises:
        ReadError: `NO_CASES`; `BAD_QUEUE`; a folder that cannot be looked into.
        WriteError: the state cannot be kept there.
        CancelledError: a stop was asked for.
    """
    folder = Path(folder).absolute()
    inputs = find_inputs([folder], leave_out=folder / WORK_FOLDER, progress=progress, cancel=cancel)
    found = {}
    for one in inputs:
        source = one.sources[0]
        reason = one.reason or ("several volumes in one series" if source.volume is not None else "")
        path = source.path.absolute().relative_to(folder).as_posix()
        found[path, source.series_uid] = reason if one.code or source.volume is not None else ""
    queue = merged(read_queue(folder), dict(sorted(found.items())), held_out_fraction)
    save_queue(queue)
    return queue


def read_queue_case(queue: CaseQueue, case: QueueCase) -> Volume:
    """The scan of a case.

    Raises:
        ReadError: it is not there any more, or cannot be read.
        GeometryError: it has no usable place.
    """
    path = queue.folder / case.path
    return read_series(path, case.series_uid) if case.series_uid else read_volume(path)


def labels_to_correct(queue: CaseQueue, case: QueueCase, scan: Volume) -> LabelVolume:
    """What a person begins with: the correction so far, the prediction, or nothing with the known names.

    Args:
        queue: that the case is of.
        case: which.
        scan: as it was read.

    Returns:
        On the scan's grid; objects where the queue paints objects.

    Raises:
        ReadError: the labels cannot be read.
        GeometryError: they lie on another grid: the scan was exchanged.
    """
    for file in (queue.labels_file(case), queue.prediction_file(case)):
        if file.exists():
            labels = read_labels(file)
            break
    else:
        labels = LabelVolume(np.zeros(scan.geometry.shape, np.uint16), scan.geometry, _known_names(queue))
    require_same_grid(scan.geometry, labels.geometry, "scan and labels of a case")
    placed = LabelVolume(labels.array, scan.geometry, labels.labels)
    if queue.paints == "classes":
        return placed
    classes = dict.fromkeys(placed.present_ids(), 1)
    return InstanceVolume(placed.array, scan.geometry, LabelSet.from_names({1: "object"}), classes=classes)


def _known_names(queue: CaseQueue) -> LabelSet:
    """Names of the last case that was corrected, so that ids mean the same in all."""
    for case in reversed(queue.cases):
        if case.is_labelled:
            return read_labels(queue.labels_file(case)).labels
    return LabelSet()


def predict_cases(
    queue: CaseQueue,
    done: Callable[[QueueCase], None],
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> int:
    """Let the newest model label every case that no person has corrected.

    Args:
        queue: with a model.
        done: told after each case, of its new state; a scan that cannot be read has failed.
        settings: how to run the model.
        progress: told after each case.
        cancel: a way to stop it; what was told is kept.

    Returns:
        How many were predicted.

    Raises:
        MedsegError: the model is missing or damaged, the disk is full.
        CancelledError: a stop was asked for.
    """
    waiting = [one for one in queue.cases if one.state in (WAITING, PREDICTED)]
    count = 0
    for number, case in enumerate(waiting):
        progress(Progress("predict", number, len(waiting)))
        try:
            told = predict_case(queue, case, settings, cancel=cancel).case
            count += 1
        except (ReadError, GeometryError, VolumeError) as error:
            told = replace(case, state=FAILED, reason=f"{error} [{error.code}]")
        done(told)
    progress(Progress("predict", len(waiting), len(waiting)))
    return count


def predict_case(
    queue: CaseQueue,
    case: QueueCase,
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> CasePrediction:
    """Let the newest model of a queue label a case, and say how sure it is.

    The labels are kept in the queue's work folder.

    Raises:
        ModelNotFoundError: `NO_MODEL`, the queue has none yet; or it is gone.
        ReadError: the scan cannot be read.
        WriteError: the labels cannot be kept.
        MedsegError: as `medseg.segment`.
        CancelledError: a stop was asked for.
    """
    model = _model_of(queue, settings)
    wanted = replace(settings or InferenceSettings(), uncertainty=not _finds_objects(model))
    result = segment(read_queue_case(queue, case), model, wanted, progress=progress, cancel=cancel)
    labels = result.instances if result.instances is not None else result.labels
    file = queue.prediction_file(case)
    _make_folder(file.parent)
    write_labels(labels, file)
    state = case.state if case.is_labelled else PREDICTED
    doubt = uncertainty_of(result)
    return CasePrediction(replace(case, state=state, uncertainty=doubt, model=model.card.name), labels)


def uncertainty_of(result: Result) -> float:
    """How unsure a model is of a case, 0 to 1.

    Of a model of classes the mean entropy over what it calls foreground (over all voxels where it finds
    none); of a model of objects one less the mean score of the objects.

    Args:
        result: with a map of uncertainty, or with scored objects.
    """
    if result.uncertainty is not None:
        inside = result.labels.array > 0
        values = result.uncertainty.array[inside] if inside.any() else result.uncertainty.array
        return float(values.mean(dtype=np.float64))
    scores = [] if result.instances is None else list(result.instances.scores.values())
    return 1 - float(np.mean(scores)) if scores else 1.0


def correct_case(queue: CaseQueue, case: QueueCase, scan: Volume, labels: LabelVolume) -> QueueCase:
    """Keep what a person made of a case: to learn from, or to score with.

    Args:
        queue: that the case is of.
        case: which.
        scan: as it was read.
        labels: corrected, on the scan's grid.

    Returns:
        The case with its new state.

    Raises:
        GeometryError: labels on another grid.
        WriteError: the disk is full or refuses.
    """
    require_same_grid(scan.geometry, labels.geometry, "scan and corrected labels")
    for file in (queue.image_file(case), queue.labels_file(case)):
        _make_folder(file.parent)
    write_volume(scan, queue.image_file(case))
    write_labels(labels, queue.labels_file(case))
    return replace(case, state=HELD_OUT if case.is_held_out else CORRECTED)


def learn_from_queue(
    queue: CaseQueue,
    settings: TrainingSettings | FineTuneSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Round:
    """Train on the corrected cases, and score the new model on those held out.

    Where the queue begins with a model of objects, that one is fine-tuned, from its first state on each time;
    else a model is trained from nothing.

    Args:
        queue: with at least one corrected case that is not held out.
        settings: those of the trainer that it comes to; its own where they are another's.
        progress: told before every step.
        cancel: a way to stop it; the same call goes on, unless other cases were corrected since.

    Raises:
        ReadError: `NOTHING_TO_LEARN`, no case is corrected yet.
        MedsegError: as the trainers.
        CancelledError: a stop was asked for.
    """
    chosen = [one for one in queue.cases if one.state == CORRECTED]
    judges = [one for one in queue.cases if one.state == HELD_OUT]
    if not chosen:
        raise ReadError(
            "NOTHING_TO_LEARN", "expected a corrected case that is not held out, got none; correct one first"
        )
    name = f"models/round-{len(queue.rounds) + 1:03}"
    folder = queue.work / name
    _make_folder(folder.parent)
    start = load_model(queue.start, device="cpu") if queue.start else None

    def learn() -> None:
        if start is not None and start.card.separation is not None:
            files = [(queue.image_file(one), queue.labels_file(one)) for one in chosen]
            pairs = [Pair(read_volume(image), read_labels(labels)) for image, labels in files]
            own = settings if isinstance(settings, FineTuneSettings) else None
            fine_tune(start, pairs, folder, own, progress, cancel)
        else:
            table = _write_dataset(queue, chosen, judges)
            other = settings if isinstance(settings, TrainingSettings) else TrainingSettings()
            train(table, folder, replace(other, labels=queue.paints), progress, cancel)

    try:
        learn()
    except ReadError as error:
        if error.code != "TRAINING_CHANGED":
            raise
        shutil.rmtree(folder.with_name(f"{folder.name}.partial"))  # stopped, and other cases since
        learn()
    score = score_model(queue, folder, judges, progress, cancel)
    return Round(name, len(chosen), len(judges), score)


def score_model(
    queue: CaseQueue,
    model: str | Path,
    judges: Sequence[QueueCase],
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> float | None:
    """Mean over held-out cases of the Dice of their classes, or of the F1 of their objects at IoU 0.5.

    Args:
        queue: whose labels are held to be true.
        model: to judge.
        judges: cases that it has not learned from.
        progress: told after each case.
        cancel: a way to stop it.

    Returns:
        0 to 1; None without a case, or where no case holds anything.

    Raises:
        MedsegError: as `medseg.segment`.
        CancelledError: a stop was asked for.
    """
    loaded = load_model(model)
    scores = []
    for number, case in enumerate(judges):
        progress(Progress("score", number, len(judges)))
        result = segment(read_volume(queue.image_file(case)), loaded, cancel=cancel)
        truth = read_labels(queue.labels_file(case))
        if result.instances is not None:
            scores.append(_objects_f1(result.instances, truth))
        else:
            scores.append(mean_dice(label_overlaps(result.labels, truth)))
    kept = [score for score in scores if np.isfinite(score)]
    return float(np.mean(kept)) if kept else None


def _objects_f1(found: InstanceVolume, truth: LabelVolume) -> float:
    plain = LabelVolume(found.array, found.geometry)
    return evaluate_instances(plain, truth, (OBJECT_IOU,)).by_threshold[0].f1


def _write_dataset(queue: CaseQueue, chosen: Sequence[QueueCase], judges: Sequence[QueueCase]) -> Path:
    """The table that training reads: the held-out cases are those of the queue, never chosen anew."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "image", "label", "split"])
    for case in (*chosen, *judges):
        files = (queue.image_file(case), queue.labels_file(case))
        places = [file.relative_to(queue.work).as_posix() for file in files]
        rows.writerow([case.name, *places, "validation" if case.is_held_out else "training"])
    path = queue.work / DATASET_FILE
    write_text(path, text.getvalue())
    return path


def _model_of(queue: CaseQueue, settings: InferenceSettings | None) -> Model:
    if not queue.model:
        raise ModelNotFoundError(
            "NO_MODEL",
            "expected a model, got none yet; correct a case and learn, or choose one to begin with",
        )
    return load_model(queue.model, device=settings.device if settings is not None else "auto")


def _finds_objects(model: Model) -> bool:
    return model.card.separation is not None or model.card.detection is not None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            "NOT_WRITABLE",
            "expected to write beside the cases, got a refusal; check the folder's permissions",
        ) from error
