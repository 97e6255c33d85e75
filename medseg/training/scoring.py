"""How well a model does on held-out cases: whole scans through the production engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from medseg.errors import MedsegError
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.measure.matching import match_table, object_pairs
from medseg.measure.overlap import label_overlaps
from medseg.models.loading import Model
from medseg.pipeline import segment
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.training.case_reading import CaseData, read_case_data
from medseg.training.dataset import Case
from medseg.training.dataset_check import CheckedDataset
from medseg.training.prepared import truth_of
from medseg.volume import LabelVolume, Volume

MATCH_IOU = 0.5
"""Objects that share more than half of what both cover are the same."""


@dataclass(frozen=True)
class Watch:
    """Who listens to a training.

    Attributes:
        progress: told before every step.
        cancel: looked at before every step.
        tell: told of what a person should know, a sentence with a code.
    """

    progress: ProgressCallback = silent
    cancel: CancelToken | None = None
    tell: Callable[[str], None] = field(default=lambda _words: None)


@dataclass(frozen=True, eq=False)
class Scored:
    """A held-out case through the engine.

    Attributes:
        name: of the case.
        scores: class name to Dice; for objects `"F1"`. NaN where neither truth nor prediction has it.
        image: the first image.
        truth: labels of the dataset.
        prediction: labels of the model.
    """

    name: str
    scores: dict[str, float]
    image: Volume
    truth: LabelVolume
    prediction: LabelVolume

    @property
    def mean(self) -> float:
        """Mean over the classes there are; NaN where there is none."""
        there = [score for score in self.scores.values() if np.isfinite(score)]
        return float(np.mean(there)) if there else float("nan")


def score_cases(
    model: Model,
    dataset: CheckedDataset,
    cases: Sequence[Case],
    overlap: float | None,
    watch: Watch,
) -> list[Scored]:
    """Whole cases through the production engine, against their labels.

    Args:
        model: to judge.
        dataset: tells what ids mean.
        cases: to look at; one that can no longer be read is passed over, and told of.
        overlap: of windows; that of the card where None.
        watch: who listens.
    """
    found = []
    for case in cases:
        if watch.cancel is not None:
            watch.cancel.check()
        try:
            data = read_case_data(case)
        except MedsegError as error:
            watch.tell(f"[{error.code}] {case.name} is not checked on: {error}")
            continue
        found.append(_scored(model, dataset, case.name, data, overlap))
    return found


def _scored(
    model: Model, dataset: CheckedDataset, name: str, data: CaseData, overlap: float | None
) -> Scored:
    settings = InferenceSettings(device=model.device, backend="torch", overlap_fraction=overlap, sanity="off")
    truth = truth_of(dataset, data)
    if dataset.has_objects:
        objects = segment(data.images, model, settings).instances or truth
        prediction = LabelVolume(objects.array, objects.geometry)
        scores = {"F1": match_table(object_pairs(prediction, truth), MATCH_IOU).f1}
    else:
        prediction = predict(data.images, model, settings)
        overlaps = label_overlaps(prediction, truth)
        classes = [(i, word) for i, word in dataset.class_names.items() if i not in dataset.unlabelled]
        scores = {word: overlaps[i].dice if i in overlaps else float("nan") for i, word in classes}
    return Scored(name, scores, data.images[0], truth, prediction)


def class_means(found: Sequence[Scored]) -> dict[str, float]:
    """Mean score of every class over the cases that have it."""
    names = dict.fromkeys(name for one in found for name in one.scores)
    rows = {name: [one.scores[name] for one in found if name in one.scores] for name in names}
    finite = {name: [score for score in scores if np.isfinite(score)] for name, scores in rows.items()}
    return {name: float(np.mean(scores)) for name, scores in finite.items() if scores}
