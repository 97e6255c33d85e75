"""From a folder of images and labels to a model, in one call: look, plan, learn, validate, publish.

Everything under way lies in `FOLDER.partial`; stopped, or killed, the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medseg.errors import DeviceMemoryError, MedsegError
from medseg.files import write_json
from medseg.models.loading import choose_device
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.training.dataset import list_dataset
from medseg.training.dataset_check import CheckedDataset, check_dataset, require_sound
from medseg.training.fingerprint import Fingerprint, fingerprint_of
from medseg.training.fitting import (
    CHECKS,
    affordable,
    fitted_plan,
    halves,
    is_short_of_memory,
    seconds_per_case,
    seconds_per_step,
)
from medseg.training.folds import splits
from medseg.training.optimise import Row, optimise, polynomial_rate, read_log, write_logs
from medseg.training.plan import CPU_BUDGET, Plan, gpu_budget, make_plan
from medseg.training.plan_bundle import (
    BundleFiles,
    bundle_files,
    published_network,
    training_network,
    write_planned_bundle,
    write_torchscript,
)
from medseg.training.plan_file import read_plan, require_fit
from medseg.training.plan_task import PlanTask
from medseg.training.prepared import prepare_cases
from medseg.training.scoring import Scored, Watch, class_means
from medseg.training.settings import TrainingSettings
from medseg.training.start import Start, read_start
from medseg.training.training_report import Story, write_training_report
from medseg.training.workplace import require_new, threads, workplace

LEAST_GAIN = 0.002
"""A score that is better by less is no better."""


@dataclass(frozen=True)
class Trained:
    """What came out.

    Attributes:
        folder: the bundle.
        cases: that were learned from or held out.
        held_out: cases that were scored by a network that never saw them.
        scores: class to mean Dice (of objects: F1) over these; empty where none was held out.
        faults: of the dataset, in words.
        steps: of the optimiser, of all folds together.
    """

    folder: Path
    cases: int
    held_out: int
    scores: dict[str, float]
    faults: tuple[str, ...]
    steps: int


@dataclass(frozen=True)
class _Schedule:
    """How long and how fast a plan is learned; see `medseg.training.optimise.Schedule`."""

    plan: Plan
    seed: int
    weight_decay: float = 1e-4
    averaging: float = 0.99
    frozen_fraction: float = 0.7

    @property
    def steps(self) -> int:
        return self.plan.steps

    @property
    def check_every(self) -> int:
        return max(1, -(-self.plan.steps // CHECKS))

    def learning_rate_at(self, step: int) -> float:
        warm_up = max(1, min(100, self.plan.steps // 20))
        return polynomial_rate(self.plan.learning_rate, step, self.plan.steps, warm_up)

    def is_frozen_at(self, step: int) -> bool:
        """BatchNorm, where a plan has it, settles before the end, as in the bundled models."""
        return step >= round(self.frozen_fraction * self.plan.steps)


@dataclass(frozen=True, eq=False)
class _Fold:
    """One network, learned and judged.

    Attributes:
        network: as it is published.
        scored: held-out cases.
        history: rows of its log.
    """

    network: nn.Module
    scored: list[Scored]
    history: list[Row]


def train(
    dataset: str | Path,
    folder: str | Path,
    settings: TrainingSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
    tell: Callable[[str], None] = lambda _words: None,
    start: str | Path | None = None,
) -> Trained:
    """Train a model on images and labels.

    Args:
        dataset: in one of the layouts of `medseg.training.dataset`.
        folder: bundle to make; must not exist.
        settings: how.
        progress: told while cases are checked and prepared, and before every step.
        cancel: looked at as often.
        tell: told in sentences what a person should know: faults, the plan, every check.
        start: model to start from, by name or folder (`medseg.training.start`); its classes come first, and
            those that the labels do not show stay.

    Returns:
        Where the bundle is, and how well it does.

    Raises:
        ReadError: `NOT_A_DATASET`, `BAD_DATASET_LIST`, `BAD_PLAN`, `TRAINING_CHANGED`, `CHECKPOINT_DAMAGED`.
        VolumeError: `DATASET_FAULTS`, naming every one.
        WriteError: the folder exists, or cannot be written; the last checkpoint is still whole.
        ModelError: `LOSS_NOT_FINITE`; `CANNOT_CONTINUE`, the model to start from does not fit; a network of
            the plan that cannot be made.
        ModelNotFoundError: there is no model to start from.
        DeviceMemoryError: the smallest patch is too large for the device, or memory ran out later.
        CancelledError: a stop was asked for; the same call goes on.
    """
    settings, folder = settings or TrainingSettings(), Path(folder)
    require_new(folder)  # what is wrong with the call is told before hours are spent
    if settings.plan:
        read_plan(Path(settings.plan))
    watch = Watch(progress, cancel, tell)
    device = choose_device(settings.device)
    before = None if start is None else read_start(start, device)
    checked = check_dataset(list_dataset(dataset), settings.labels, progress, cancel)
    checked = require_sound(checked, tell, skip_faulty=settings.skip_faulty)
    if before is not None:
        checked = before.continued(checked)
    fingerprint = fingerprint_of(checked)
    about = _about(folder, settings, fingerprint)
    with workplace(folder, _words(checked, settings, before)) as partial, threads(settings.threads):
        write_json(partial / "fingerprint.json", asdict(fingerprint))
        plan = _plan(fingerprint, settings, partial, device, before)
        card = bundle_files(plan, fingerprint, about).card
        complete = None if before is None else before.completion(checked)
        prepared = prepare_cases(checked, card, partial / "prepared", progress, cancel, complete)
        parts = splits(checked.cases, settings.folds, settings.seed)

        def task(plan: Plan, number: int) -> PlanTask:
            card = bundle_files(plan, fingerprint, about).card
            split = parts[number]
            learned_from = [prepared[n] for n in split.training]
            held_out = [checked.cases[n] for n in split.held_out]
            seed = settings.seed + number
            made = PlanTask(plan, card, checked, (learned_from, held_out), seed, device, watch)
            made.start = before
            return made

        if not (partial / "plan.json").exists():
            plan = _fitted(plan, lambda one: task(one, 0), settings.minutes, len(parts), watch)
            write_json(partial / "plan.json", asdict(plan))
        folds = []
        for number in range(len(parts)):
            if len(parts) > 1:
                tell(f"network {number + 1} of {len(parts)}")
            folds.append(_learn(task(plan, number), partial / f"fold_{number}", settings, watch))
        found = [one for fold in folds for one in fold.scored]
        faults = tuple(fault.words for fault in checked.faults)
        histories = [fold.history for fold in folds]
        story = Story(about["name"], settings.licence, plan, fingerprint, histories, found, faults)
        files = bundle_files(plan, fingerprint, about)
        _publish(folds, files, story, partial, scripted=settings.export == "torchscript")
    steps = sum(int(rows[-1]["step"]) for rows in histories)
    return Trained(folder, len(checked.cases), len(found), class_means(found), faults, steps)


def _about(folder: Path, settings: TrainingSettings, fingerprint: Fingerprint) -> dict[str, Any]:
    """What the metadata say of the model."""
    names = ", ".join(one.name for one in fingerprint.classes)
    return {
        "name": "-".join(folder.resolve().name.split()),
        "version": "1",
        "changelog": {"1": "trained by medseg"},
        "task": f"Segmentation of {names}",
        "description": f"{names}; trained by medseg on {fingerprint.cases} case(s)",
        "authors": "not stated",
        "copyright": "not stated",
        "license": settings.licence,
        "references": ["Isensee et al., nnU-Net, Nature Methods 18, 2021"],
    }


def _words(checked: CheckedDataset, settings: TrainingSettings, start: Start | None) -> str:
    """Everything that decides what a training gives."""
    digests = [f"{one.name} {one.image_sha256} {one.label_sha256} {one.fold}" for one in checked.facts]
    data = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    given = asdict(read_plan(Path(settings.plan))) if settings.plan else {}
    classes = {str(i): name for i, name in checked.class_names.items()}
    from_model = {} if start is None else {"start": start.words}
    return json.dumps(
        from_model | {"data": data, "classes": classes, "plan": given, "settings": asdict(settings)}
    )


def _plan(
    fingerprint: Fingerprint, settings: TrainingSettings, partial: Path, device: str, start: Start | None
) -> Plan:
    """The plan that was begun with, or the one given, or a new one."""
    if (partial / "plan.json").exists():
        return read_plan(partial / "plan.json")
    if settings.plan:
        plan = read_plan(Path(settings.plan))
        require_fit(plan, fingerprint)
    else:
        cuda = torch.cuda.mem_get_info()[1] if device == "cuda" else 0
        budget = gpu_budget(cuda) if cuda else CPU_BUDGET
        plan = make_plan(fingerprint, budget, settings.network, bfloat16=halves(device))
        plan = plan if start is None else start.planned(plan)
    if settings.learning_rate:
        plan = replace(plan, learning_rate=settings.learning_rate)
    return replace(plan, steps=settings.steps) if settings.steps else plan


def _fitted(plan: Plan, task: Callable[[Plan], PlanTask], minutes: float, folds: int, watch: Watch) -> Plan:
    """A plan that fits into memory, with as many steps as fit into the time unless it says how many."""
    plan, seconds = fitted_plan(plan, lambda one: seconds_per_step(task(one)), watch.tell)
    if not plan.steps:
        tried = task(plan)
        pace = (seconds, seconds_per_case(tried))
        steps, looked_at = affordable(minutes, pace, folds, len(tried.held_out))
        plan = replace(plan, steps=steps, check_cases=looked_at)
    sides = " x ".join(map(str, plan.patch))
    spacing = " x ".join(f"{s:.3g}" for s in plan.spacing_mm)
    watch.tell(
        f"plan: {plan.network['_target_'].rpartition('.')[2]}, {plan.batch} patches of {sides} voxels of "
        f"{spacing} mm; {plan.steps} steps of {seconds:.2g} s for each of {folds} network(s)"
    )
    return plan


def _learn(task: PlanTask, folder: Path, settings: TrainingSettings, watch: Watch) -> _Fold:
    """Train one network and judge it with the model's own windows."""

    def is_over(history: Sequence[Row]) -> bool:
        return has_settled(history, settings.patience)

    if task.start is None:
        schedule = _Schedule(task.plan, task.seed)
    else:
        watch.tell(task.start.into(training_network(task.plan), task.plan.network["out_channels"]).words)
        schedule = _Schedule(task.plan, task.seed, frozen_fraction=0.0)  # a few scans' statistics are worse
    try:
        network = optimise(task, schedule, folder, watch.tell, is_over=is_over)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MedsegError) or not is_short_of_memory(error):
            raise
        raise DeviceMemoryError(
            "NO_MEMORY",
            "expected memory for another step, got too little; close programs and repeat the call, which "
            "goes on from the last checkpoint, or begin anew with a smaller patch (--plan)",
        ) from error
    watch.progress(Progress("train", task.plan.steps, task.plan.steps))
    history = read_log(folder / "log.csv")
    if history[-1]["step"] < task.plan.steps:
        watch.tell(f"[PLATEAU] no better score in {settings.patience} checks: ended early")
    return _Fold(published_network(task.plan, network), task.scores(network), history)


def has_settled(history: Sequence[Row], patience: int) -> bool:
    """Whether the best score lies so many checks back.

    Args:
        history: rows of the log.
        patience: checks; 0 never ends early.
    """
    scores = [row["score"] for row in history if np.isfinite(row.get("score", np.nan))]
    if not patience or len(scores) <= patience:
        return False
    return max(scores[-patience:]) < max(scores[:-patience]) + LEAST_GAIN


def _publish(
    folds: Sequence[_Fold], files: BundleFiles, story: Story, partial: Path, *, scripted: bool
) -> None:
    """Write the bundle below the folder of work in progress."""
    bundle = partial / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    history = {"scores": class_means(story.scored), "faults": list(story.faults)}
    networks = [fold.network.cpu() for fold in folds]
    write_planned_bundle(bundle, networks, story.plan, files, history)
    for number, fold in enumerate(folds):
        write_logs(fold.history, bundle / "docs", number)
    for name in ("plan.json", "fingerprint.json"):
        shutil.copyfile(partial / name, bundle / "configs" / name)
    write_training_report(story, bundle / "docs")
    if scripted:
        write_torchscript(bundle / "models" / "model.ts", networks, story.plan, files)
