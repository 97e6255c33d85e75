"""What is told before a run: seconds that grow with the windows, and where what is kept lies."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from small_models import make_card
from torch import Tensor, nn

from medseg import (
    CancelledError,
    CancelToken,
    Geometry,
    Model,
    Volume,
    estimate_seconds,
    plan_case,
)
from medseg.inference.settings import InferenceSettings

WINDOW_S = 0.05
TORCH = InferenceSettings(backend="torch")


class Slow(nn.Module):
    """Answers after a known time; the first answer takes longer, as a cold network's does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, windows: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(WINDOW_S * (10 if self.calls == 1 else 1))
        return torch.cat([windows, windows], dim=1)


def test_seconds_are_those_of_a_window_times_their_number() -> None:
    network = Slow().eval()
    model = Model(make_card(1), network)
    volume = Volume(
        np.random.default_rng(0).random((80, 40, 40), np.float32), Geometry.from_spacing((80, 40, 40))
    )
    plan = plan_case((volume,), model, TORCH)
    network.calls = 0
    seconds = estimate_seconds(model, plan, TORCH)
    assert seconds >= plan.windows.count * WINDOW_S
    assert seconds < plan.windows.count * WINDOW_S * 8  # the first, ten times as slow, does not count
    assert network.calls == 2


def test_an_estimate_can_be_stopped() -> None:
    model = Model(make_card(1), Slow().eval())
    volume = Volume(np.zeros((20, 20, 20), np.float32), Geometry.from_spacing((20, 20, 20)))
    plan = plan_case((volume,), model, TORCH)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        estimate_seconds(model, plan, TORCH, cancel)
