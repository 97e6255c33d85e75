"""One training run of any task: resumable, averaged, with BatchNorm frozen for its last part.

What is learned is a `Task`; how fast and how long is a `Schedule`.
"""

from __future__ import annotations

import csv
import io
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medseg.errors import ModelError, ReadError
from medseg.files import whole_file, write_text
from medseg.training.event_file import write_events

MOST_TOLD = 6
"""Figures of a row that are said aloud; all of them stand in the log."""

SAVE_EVERY_S = 300.0
"""Seconds of learning that a crash may cost at most, however far the checks are apart."""

Row = dict[str, float]
"""Figures of one check, by name."""


def endless(_history: Sequence[Row]) -> bool:
    """Never over before the last step."""
    return False


def polynomial_rate(rate: float, step: int, steps: int, warm_up_steps: int) -> float:
    """A learning rate that rises linearly, then falls as (1 - done)^0.9 (Chen et al., DeepLab, 2018).

    Args:
        rate: at its highest.
        step: counted from 0.
        steps: of the run.
        warm_up_steps: of the rise.
    """
    rise = min(1.0, (step + 1) / warm_up_steps)
    fall: float = (1 - step / steps) ** 0.9
    return rate * rise * fall


class Schedule(Protocol):
    """How long, how fast, and what is kept."""

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""

    @property
    def averaging(self) -> float:
        """Decay of the running mean of the weights, which is what is kept."""

    @property
    def check_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def seed(self) -> int:
        """Start of every random choice."""

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""

    def is_frozen_at(self, step: int) -> bool:
        """Whether BatchNorm keeps its statistics at a step."""


class Task(Protocol):
    """What a network learns. The step alone decides what is drawn, so that a resume repeats it."""

    def build(self) -> nn.Module:
        """The network with random weights."""

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Scalar loss of the network on the samples of a step."""

    def check(self, network: nn.Module) -> dict[str, float]:
        """Figures of the network in evaluation mode, for the log."""


def optimise(
    task: Task,
    schedule: Schedule,
    folder: Path,
    report: Callable[[str], None],
    initial: nn.Module | None = None,
    is_over: Callable[[Sequence[Row]], bool] = endless,
) -> nn.Module:
    """Train, or go on with, the network of a task.

    Every `check_every` steps a row goes to `folder/log.csv` and to a file for TensorBoard. Then, and every
    `SAVE_EVERY_S`, the state goes to `folder/checkpoint.pt`, whole or not at all. A second call with the same
    folder resumes: it gives the weights that an undisturbed run gives, since nothing but the step decides
    what is drawn.

    Args:
        task: what is learned.
        schedule: how.
        folder: where checkpoint and log live; made if missing.
        report: told one line per check.
        initial: network to start from; of random weights if left out.
        is_over: whether the rows of the log say that more steps are of no use.

    Returns:
        The network with the averaged weights, in evaluation mode.

    Raises:
        ModelError: `LOSS_NOT_FINITE`, the loss is no longer a number.
        WriteError: `DISK_FULL`, `NOT_WRITABLE`; the last checkpoint is still whole.
        ReadError: `CHECKPOINT_DAMAGED`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(schedule.seed)
    network, average = task.build(), task.build()
    if initial is not None:
        network.load_state_dict(initial.state_dict())
    average.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=schedule.weight_decay)
    checkpoint = folder / "checkpoint.pt"
    start, history, losses, spent = 0, list[Row](), list[float](), 0.0
    if checkpoint.exists():
        state = _read(checkpoint)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        start, history = state["step"], state["history"]
        losses, spent = state.get("losses", []), state.get("spent", 0.0)
        report(f"goes on after step {start} of {schedule.steps}")
    began = saved = time.monotonic()
    for step in range(start, schedule.steps):
        if not losses and is_over(history):
            break
        if schedule.is_frozen_at(step) and not schedule.is_frozen_at(step - 1):
            _copy_statistics(average, network)
        losses.append(_update(network, optimiser, task, schedule, step))
        _move_average(average, network, min(schedule.averaging, (step + 1) / (step + 10)))
        is_check = (step + 1) % schedule.check_every == 0 or step + 1 == schedule.steps
        if is_check:
            row: Row = {
                "step": step + 1,
                "loss": float(np.mean(losses)),
                "seconds_per_step": (spent + time.monotonic() - began) / len(losses),
                "learning_rate": schedule.learning_rate_at(step),
            }
            row |= task.check(average.eval())
            history.append(row)
            write_log(history, folder / "log.csv")  # before the checkpoint, which says that all is done
            write_events(history, folder)
            losses, spent, began = [], 0.0, time.monotonic()
        if is_check or time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step + 1,
                "history": history,
                "losses": losses,
                "spent": spent + saved - began,
            }
            write_state(state, checkpoint)
        if is_check:
            report(", ".join(f"{name} {value:.4g}" for name, value in list(history[-1].items())[:MOST_TOLD]))
    return average.eval()


def _update(
    network: nn.Module, optimiser: torch.optim.Optimizer, task: Task, schedule: Schedule, step: int
) -> float:
    network.train()
    if schedule.is_frozen_at(step):
        freeze_statistics(network)
    for group in optimiser.param_groups:
        group["lr"] = schedule.learning_rate_at(step)
    optimiser.zero_grad(set_to_none=True)
    torch.manual_seed(schedule.seed * 1_000_003 + step)  # for networks with dropout: a resume repeats it
    loss = task.loss(network, step)
    value = float(loss.detach())
    if not np.isfinite(value):
        raise ModelError(
            "LOSS_NOT_FINITE",
            f"expected a finite loss, got {value} at step {step}; lower --learning-rate, or look at the "
            "intensities of the images",
        )
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimiser.step()
    return value


def freeze_statistics(network: nn.Module) -> None:
    """Keep every BatchNorm at its running statistics while the rest trains."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


@torch.no_grad()
def _copy_statistics(source: nn.Module, target: nn.Module) -> None:
    """Take over the BatchNorm statistics of the averaged network, which follow many samples."""
    own = target.state_dict()
    for name, value in source.state_dict().items():
        if "running_" in name:
            own[name].copy_(value)


@torch.no_grad()
def blend(network: nn.Module, other: nn.Module, share: float) -> None:
    """Move every weight towards another network's, in place.

    Between two stages of one run this keeps the gains of both (Wortsman et al., WiSE-FT, CVPR 2022).

    Args:
        network: written into.
        other: of the same layers.
        share: 0 keeps `network`, 1 takes `other`.
    """
    _move_average(network, other, 1 - share)


@torch.no_grad()
def _move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and what belongs to them, whole or not at all: a full disk leaves the file before.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    with whole_file(path) as stream:
        stream.write(buffer.getbuffer())


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ReadError(
            "CHECKPOINT_DAMAGED",
            f"expected a checkpoint in {path.name}, got a damaged file; remove it to begin again",
        ) from error
    return state


def write_log(history: Sequence[Row], path: Path) -> None:
    """Write the rows of a run as a table; a figure that a row lacks stays empty.

    Args:
        history: rows in order.
        path: `.csv` file, replaced whole.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=names)
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def write_logs(history: Sequence[Row], folder: Path, number: int = 0) -> None:
    """Put the log of a run, as a table and for TensorBoard, with a model.

    Args:
        history: rows in order.
        folder: `docs` of a bundle.
        number: of the run: a model may have several.

    Raises:
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
    """
    write_log(history, folder / f"log_{number}.csv")
    events = folder / "tensorboard" / f"fold_{number}"
    events.mkdir(parents=True, exist_ok=True)
    write_events(history, events)


def read_log(path: Path) -> list[Row]:
    """The rows that `write_log` wrote; empty cells are left out."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)
        ]
