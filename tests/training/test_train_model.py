"""From a folder of images and labels to a model that segments: learned, resumed, spoiled, published."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sphere_datasets import ball_and_box, write_dataset
from torch import Tensor, nn

import medseg
from medseg.cli.main import run
from medseg.errors import DeviceMemoryError, ModelError, ReadError, VolumeError, WriteError
from medseg.measure.overlap import label_overlaps
from medseg.progress import Progress
from medseg.training.fitting import TRIAL_STEPS
from medseg.training.optimise import optimise, read_log
from medseg.training.plan_loss import planned_loss
from medseg.training.recipe import TrainingRecipe
from medseg.training.settings import TrainingSettings
from medseg.training.train_model import Trained, train
from medseg.training.workplace import workplace

FEW = TrainingSettings(steps=6, threads=1, device="cpu", seed=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("spheres") / "data", 6)


@pytest.fixture(scope="module")
def learned(dataset: Path) -> Trained:
    settings = TrainingSettings(steps=100, threads=1, device="cpu", patience=0)
    return train(dataset, dataset.parent / "learned", settings)


def weights(folder: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(folder / "models" / "model.pt", weights_only=True)
    return loaded


def is_same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ------------------------------------------------------------------------------ learning


def test_spheres_are_learned_and_the_model_is_ready_for_other_scans(learned: Trained) -> None:
    assert learned.held_out == 1
    assert min(learned.scores.values()) > 0.9
    image, truth = ball_and_box(77)
    result = medseg.segment(image, medseg.load_model(learned.folder, device="cpu"))
    assert result.labels.labels.names == {1: "ball", 2: "box"}
    for overlap in label_overlaps(result.labels, truth).values():
        assert overlap.dice > 0.9


def test_a_command_without_flags_but_time_makes_a_model(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", str(dataset), "-o", str(tmp_path / "mine"), "--minutes", "0.1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cases"], told["held_out"]) == (6, 1)
    assert set(told["scores"]) == {"ball", "box"}
    scan = str(dataset / "images" / "case_00.nii.gz")
    assert run(["segment", scan, "--model", str(tmp_path / "mine"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "labels.nii.gz").exists()


# ------------------------------------------------------------------------------- resumed

STEPS = 6

KILLED = f"""
import json, os, signal, sys
import medseg.files
from medseg.training import fitting, optimise, train_model
from medseg.training.settings import TrainingSettings

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def learn(out, step, write):
    flush, written = os.fsync, []
    train_model.CHECKS = 3
    optimise.SAVE_EVERY_S = 0.0  # a checkpoint at every step, between the checks too

    def at(progress):
        if progress.stage == "train" and progress.done == step:
            die()

    def fsync(file):
        written.append(file)
        if len(written) == write:
            die()  # all is in the hidden file, which has not taken its place
        flush(file)

    medseg.files.os.fsync = fsync
    settings = TrainingSettings(steps={STEPS}, threads=1, device="cpu", seed=3, patience=0)
    train_model.train(sys.argv[1], out, settings, at)

for out, step, write in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        learn(out, step, write)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("count", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_at_any_step_and_in_any_write_it_resumes_to_the_weights_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("medseg.training.train_model.CHECKS", 3)
    settings = replace(FEW, patience=0)
    data = write_dataset(tmp_path / "data", 2)
    once = train(data, tmp_path / "once", settings).folder
    chance = np.random.default_rng(count)
    steps = chance.integers(1, STEPS, count).tolist()
    # Words, fingerprint and plan come first, then a checkpoint for every step, log and curves three times.
    writes = [6, *(4 + chance.integers(0, STEPS + 6, count)).tolist()]
    moments = [*((step, 0) for step in steps), *((-1, write) for write in writes)]
    runs = [[str(tmp_path / f"killed{n}"), *moment] for n, moment in enumerate(moments)]
    words = [sys.executable, "-c", KILLED, str(data), json.dumps(runs)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(runs), done.stderr
    for out in (Path(str(words[0])) for words in runs):
        assert not out.exists()
        killed = train(data, out, settings).folder
        assert is_same(once, killed)
        logs = [read_log(folder / "docs" / "log_0.csv") for folder in (once, killed)]
        figures = [[(row["step"], row["loss"], row["score"]) for row in log] for log in logs]
        assert figures[0] == figures[1]
        assert not out.with_name(f"{out.name}.partial").exists()


def test_another_training_of_the_same_name_is_refused(dataset: Path, tmp_path: Path) -> None:
    train(dataset, tmp_path / "mine", FEW)
    with pytest.raises(WriteError) as caught:
        train(dataset, tmp_path / "mine", FEW)
    assert caught.value.code == "OUTPUT_EXISTS"
    (tmp_path / "other.partial").mkdir()
    (tmp_path / "other.partial" / "begun_with.json").write_text("{}")
    with pytest.raises(ReadError) as changed:
        train(dataset, tmp_path / "other", FEW)
    assert changed.value.code == "TRAINING_CHANGED"


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path) -> None:
    with workplace(tmp_path / "mine", "the same words") as partial:
        with (
            pytest.raises(WriteError, match="another process") as caught,
            workplace(tmp_path / "mine", "the same words"),
        ):
            pass
        assert caught.value.code == "TRAINING_LOCKED"
        (partial / "bundle").mkdir()
    assert (tmp_path / "mine").is_dir()
    assert not partial.exists()


# ------------------------------------------------------------------------------- spoiled


def at_step(number: int, do: Callable[[], object]) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if (progress.stage, progress.done) == ("train", number):
            do()

    return report


def test_a_case_that_is_lost_while_training_is_named_and_set_aside(dataset: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def spoil() -> None:
        for place in sorted((tmp_path / "mine.partial" / "prepared").iterdir())[:2]:
            (place / "image.npy").write_bytes(b"no longer")

    done = train(dataset, tmp_path / "mine", FEW, at_step(2, spoil), tell=told.append)
    lost = [words for words in told if "CASE_LOST" in words]
    assert lost
    assert all("case_0" in words for words in lost)
    assert done.steps == 6


def filling_the_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, no file can be finished any more."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr("medseg.files.os.fsync", full)


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WriteError) as caught:
        train(dataset, tmp_path / "mine", FEW, at_step(3, filling_the_disk(monkeypatch)))
    assert caught.value.code == "DISK_FULL"
    monkeypatch.undo()
    checkpoint = torch.load(tmp_path / "mine.partial" / "fold_0" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 3
    assert train(dataset, tmp_path / "mine", FEW).steps == 6


def test_a_full_disk_when_cases_are_prepared_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_arguments: object) -> None:
        raise OSError("17472 requested and 4096 written")  # as numpy has it, without a number

    monkeypatch.setattr("medseg.training.prepared.np.save", short)
    with pytest.raises(WriteError, match="a full disk") as caught:
        train(dataset, tmp_path / "mine", FEW)
    assert caught.value.code == "DISK_FULL"


def test_a_full_disk_when_the_model_is_written_costs_nothing(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WriteError) as caught:
        train(dataset, tmp_path / "mine", FEW, at_step(FEW.steps, filling_the_disk(monkeypatch)))
    assert caught.value.code == "DISK_FULL"
    assert not (tmp_path / "mine").exists()
    monkeypatch.undo()
    told: list[str] = []
    assert train(dataset, tmp_path / "mine", FEW, tell=told.append).steps == FEW.steps
    assert not any(words.startswith("step") for words in told)  # nothing was learned again


def test_memory_that_runs_out_later_is_named_and_the_same_call_goes_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_arguments: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    def run_out() -> None:
        monkeypatch.setattr("medseg.training.plan_task.planned_loss", too_large)

    with pytest.raises(DeviceMemoryError, match="goes on from the last checkpoint") as caught:
        train(dataset, tmp_path / "mine", FEW, at_step(3, run_out))
    assert caught.value.code == "NO_MEMORY"
    monkeypatch.undo()
    assert train(dataset, tmp_path / "mine", FEW).steps == FEW.steps


def test_ctrl_c_keeps_what_was_learned_and_says_how_to_go_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", str(dataset), "-o", str(tmp_path / "mine"), "--steps", "4", "--threads", "1"]
    with monkeypatch.context() as patch:
        steps = iter(range(100))

        def pressed(*arguments: Any) -> Tensor:
            if next(steps) == TRIAL_STEPS + 2:
                raise KeyboardInterrupt
            return planned_loss(*arguments)

        patch.setattr("medseg.training.plan_task.planned_loss", pressed)
        assert run(words) == 130
    said = capsys.readouterr().err
    assert "error [CANCELLED]: stopped on request; what was done is kept in mine.partial" in said
    assert run(words) == 0
    said = capsys.readouterr().err
    assert "goes on after step 2 of 4" in said
    assert "step 2," not in said


def test_a_class_that_is_never_drawn_is_not_scored(dataset: Path, tmp_path: Path) -> None:
    data = shutil.copytree(dataset, tmp_path / "data")
    names = {"background": 0, "ball": 1, "box": 2, "ghost": 3}
    (data / "dataset.json").write_text(json.dumps({"labels": names}))
    done = train(data, tmp_path / "mine", FEW)
    assert set(done.scores) == {"ball", "box"}
    assert any("CLASS_MISSING" in words for words in done.faults)


def test_faults_stop_a_training_all_at_once_or_cost_their_cases(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 4)
    (data / "labels" / "case_01.nii.gz").unlink()
    (data / "images" / "case_02.nii.gz").write_bytes(b"nothing")
    with pytest.raises(VolumeError) as caught:
        train(data, tmp_path / "mine", FEW)
    assert caught.value.code == "DATASET_FAULTS"
    assert "case_01.nii.gz" in str(caught.value)
    assert "case_02.nii.gz" in str(caught.value)
    assert not (tmp_path / "mine.partial").exists()
    kept = TrainingSettings(steps=2, threads=1, device="cpu", skip_faulty=True)
    assert train(data, tmp_path / "mine", kept).cases == 2


def test_a_single_case_is_learned_and_nothing_is_claimed(tmp_path: Path) -> None:
    done = train(write_dataset(tmp_path / "data", 1), tmp_path / "mine", FEW)
    assert (done.held_out, done.scores) == (0, {})
    assert any("ONE_CASE" in words for words in done.faults)


class _Broken:
    """A task whose loss is no number."""

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        loss: Tensor = network(torch.ones(1)).sum()
        return loss * float("nan") if step == 1 else loss

    def check(self, _network: nn.Module) -> dict[str, float]:
        return {}


def test_a_loss_that_is_no_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="step 1") as caught:
        optimise(_Broken(), TrainingRecipe(steps=3, check_every=1), tmp_path, lambda _line: None)
    assert caught.value.code == "LOSS_NOT_FINITE"


def test_a_damaged_checkpoint_is_named(dataset: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        train(dataset, tmp_path / "mine", FEW, at_step(3, stop))
    checkpoint = tmp_path / "mine.partial" / "fold_0" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ReadError) as caught:
        train(dataset, tmp_path / "mine", FEW)
    assert caught.value.code == "CHECKPOINT_DAMAGED"


# ----------------------------------------------------------------------------- published


def test_the_plan_and_the_fingerprint_stay_with_the_model(learned: Trained) -> None:
    configs = learned.folder / "configs"
    assert json.loads((configs / "plan.json").read_text())["steps"] == 100
    assert json.loads((configs / "fingerprint.json").read_text())["cases"] == 6
    rows = read_log(learned.folder / "docs" / "log_0.csv")
    assert np.diff([row["step"] for row in rows]).min() > 0
    assert rows[-1]["loss"] < rows[0]["loss"]
    (events,) = (learned.folder / "docs" / "tensorboard" / "fold_0").iterdir()
    assert events.name.startswith("events.out.tfevents")


def test_the_report_stands_alone_and_the_card_tells_data_figures_and_licence(learned: Trained) -> None:
    page = (learned.folder / "docs" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    card = (learned.folder / "docs" / "README.md").read_text()
    for words in ("## Data", "6 cases", "| ball | 1 |", "## Licence", "not stated", "Not a medical device"):
        assert words in card
