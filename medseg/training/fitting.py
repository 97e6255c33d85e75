"""A plan cut to the machine: tried, made smaller where memory is short, as long as time allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from medseg.errors import DeviceMemoryError, MedsegError, ModelError
from medseg.training.plan import FACTORS, Plan, Shape, leaves_one_voxel
from medseg.training.plan_task import CHECK_OVERLAP, PlanTask

TRIAL_STEPS = 3
CHECKS = 10
"""Looks at the held-out cases in the course of a training, the last one included."""

CHECKS_SHARE = 0.2
LAST_LOOK = 3.0
FEWEST_STEPS = 50
"""So many are learned even where time is over sooner."""

SMALLEST_SIDE = 16
SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_cpu")


def fitted_plan(
    plan: Plan, trial: Callable[[Plan], float], tell: Callable[[str], None]
) -> tuple[Plan, float]:
    """Try a plan; while memory is short, take a sample less in a batch, then a smaller patch.

    Args:
        plan: to try.
        trial: seconds of a step of a plan; raises what lack of memory raises.
        tell: told of every change.

    Returns:
        The plan that fits, and seconds of one of its steps.

    Raises:
        DeviceMemoryError: `NO_MEMORY`, nothing fits.
        ModelError: `BAD_NETWORK`, the network does not take such patches.
    """
    while True:
        try:
            return plan, trial(plan)
        except (MemoryError, RuntimeError, ValueError) as error:
            if isinstance(error, MedsegError):
                raise
            if not is_short_of_memory(error):
                sides = " x ".join(map(str, plan.patch))
                raise ModelError(
                    "BAD_NETWORK",
                    f"expected a network that learns from patches of {sides} voxels, got: {error}; change "
                    "the patch or the network",
                ) from error
            smaller = smaller_plan(plan)
            if smaller is None:
                raise DeviceMemoryError(
                    "NO_MEMORY",
                    "expected memory for a single small patch, got too little; close programs, or choose "
                    "--network UNet",
                ) from error
            plan = smaller
            sides = " x ".join(map(str, plan.patch))
            tell(f"[SMALLER_PLAN] memory is short: now {plan.batch} patch(es) of {sides} voxels a step")


def is_short_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory: torch's CPU has no class of its own for it."""
    words = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        w in words for w in SHORT_OF_MEMORY
    )


def smaller_plan(plan: Plan) -> Plan | None:
    """One sample less, or else a patch with its longest side halved; None where that is too small."""
    if plan.batch > 1:
        return replace(plan, batch=plan.batch - 1)
    longest = max(range(3), key=lambda axis: plan.patch[axis])
    factor = _factor(plan)[longest]
    half = plan.patch[longest] // 2 // factor * factor
    if half < max(SMALLEST_SIDE, factor):
        return None
    sides = [half if axis == longest else n for axis, n in enumerate(plan.patch)]
    patch = (sides[0], sides[1], sides[2])
    return None if leaves_one_voxel(_name(plan), patch) else replace(plan, patch=patch)


def _name(plan: Plan) -> str:
    target: str = plan.network["_target_"]
    return target.rpartition(".")[2]


def _factor(plan: Plan) -> Shape:
    """What a patch of the plan's network is a multiple of: its own number, or the product of its strides."""
    if own := FACTORS.get(_name(plan)):
        return own, own, own
    strides = [s if isinstance(s, (list, tuple)) else (s, s, s) for s in plan.network.get("strides", [16, 1])]
    i, j, k = (math.prod(int(s[axis]) for s in strides) for axis in range(3))
    return i, j, k


def seconds_per_step(task: PlanTask) -> float:
    """Time of a step of the optimiser on real samples; weights are thrown away.

    Args:
        task: what is learned.
    """
    network: nn.Module = task.build().train()
    optimiser = torch.optim.AdamW(network.parameters())
    times = []
    for step in range(TRIAL_STEPS):
        began = time.monotonic()
        optimiser.zero_grad(set_to_none=True)
        task.loss(network, step).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimiser.step()
        times.append(time.monotonic() - began)
    return min(times)


def seconds_per_case(task: PlanTask) -> float:
    """Time of a look at one held-out case while training; 0 where none is held out.

    Args:
        task: what is learned.
    """
    if not task.held_out:
        return 0.0
    network = task.build().eval()
    began = time.monotonic()
    task.scores(network, CHECK_OVERLAP, most=1)
    return time.monotonic() - began


def affordable(minutes: float, pace: tuple[float, float], folds: int, held_out: int) -> tuple[int, int]:
    """How many steps, and how many cases a check may look at, fit into a time budget.

    Checks take a fifth of the time at most, and look at one case at least. The last look, at all held-out
    cases with the model's own windows, is about three times as long for each. Learning has half of the time
    at least.

    Args:
        minutes: for all folds.
        pace: seconds of a step, and of a look at one case.
        folds: networks.
        held_out: cases of each fold.
    """
    seconds = 60 * minutes / folds
    step, case = pace
    looked_at = held_out
    if case * CHECKS * held_out > CHECKS_SHARE * seconds:
        looked_at = max(1, int(CHECKS_SHARE * seconds / (case * CHECKS)))
    left = seconds - case * (CHECKS * looked_at + LAST_LOOK * held_out)
    return max(FEWEST_STEPS, int(max(left, seconds / 2) / step)), looked_at


def halves(device: str) -> bool:
    """Whether convolutions are faster in bfloat16: on CUDA, and on processors with matrix units for it."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device == "cpu" and _has_amx()


def _has_amx() -> bool:
    """Linux alone tells."""
    info = Path("/proc/cpuinfo")
    return info.exists() and " amx_bf16 " in info.read_text(encoding="utf-8", errors="replace")
