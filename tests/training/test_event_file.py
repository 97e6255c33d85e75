"""Curves for TensorBoard: its own reader finds every figure at its step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.training.event_file import write_events
from medseg.training.optimise import optimise, read_log
from medseg.training.recipe import TrainingRecipe


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve that TensorBoard sees in a folder: (step, value)."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events: Any = reader.EventAccumulator(str(folder)).Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_every_figure_of_every_row(tmp_path: Path) -> None:
    history = [
        {"step": 100, "seconds_per_step": 0.5, "loss": 0.25, "score left kidney": 0.125},
        {"step": 300_000, "seconds_per_step": 0.25, "loss": float("nan"), "score é": -2.5},
    ]
    for rows in (history[:1], history):
        path = write_events(rows, tmp_path)
    assert [*tmp_path.iterdir()] == [path]
    assert curves(tmp_path) == {
        "seconds_per_step": [(100, 0.5), (300_000, 0.25)],
        "loss": [(100, 0.25)],
        "score/left kidney": [(100, 0.125)],
        "score/é": [(300_000, -2.5)],
    }


def test_times_are_those_of_learning(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_events([{"step": n, "seconds_per_step": n / 10} for n in (10, 20, 50)], tmp_path)
    events: Any = reader.EventAccumulator(str(tmp_path)).Reload().Scalars("seconds_per_step")
    assert [e.wall_time - events[0].wall_time for e in events] == pytest.approx([0, 20, 170], abs=1e-3)


class _Line:
    """The smallest task, interrupted at a step."""

    def __init__(self, ends: int) -> None:
        self.ends = ends

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        if step == self.ends:
            raise KeyboardInterrupt
        loss: Tensor = network(torch.ones(1)).square().sum()
        return loss

    def check(self, _network: nn.Module) -> dict[str, float]:
        return {}


def test_a_resumed_run_goes_on_in_the_same_curve(tmp_path: Path) -> None:
    recipe = TrainingRecipe(steps=6, check_every=2)
    with pytest.raises(KeyboardInterrupt):
        optimise(_Line(3), recipe, tmp_path, lambda _line: None)
    assert [step for step, _ in curves(tmp_path)["loss"]] == [2]
    optimise(_Line(-1), recipe, tmp_path, lambda _line: None)
    rows = read_log(tmp_path / "log.csv")
    found = curves(tmp_path)["loss"]
    assert [step for step, _ in found] == [row["step"] for row in rows] == [2, 4, 6]
    assert [value for _, value in found] == pytest.approx([row["loss"] for row in rows])
