"""How long a run will take: one window is answered now, the others are counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from medseg.inference.answer import make_answerer, model_parts
from medseg.inference.predict import torch_state
from medseg.inference.settings import InferenceSettings
from medseg.progress import CancelToken

if TYPE_CHECKING:
    from medseg.inference.plan import InferencePlan
    from medseg.models.loading import Model


def estimate_seconds(
    model: Model,
    plan: InferencePlan,
    settings: InferenceSettings | None = None,
    cancel: CancelToken | None = None,
) -> float:
    """Seconds that the windows of a plan will take on this machine as it is now.

    The first answer warms the network up and does not count, the second is timed. Reading, resampling
    and measuring come on top; what else runs beside the windows makes them slower.

    Args:
        model: card and network.
        plan: of `plan_case` or `plan_inference`.
        settings: the same as of the plan.
        cancel: looked at before both answers.

    Raises:
        ModelError: the network answers what it should not.
        DeviceMemoryError: the device is full.
        CancelledError: a stop was asked for.
    """
    import torch

    settings = settings or InferenceSettings()
    size = plan.windows.size
    noise = torch.randn((1, model.card.in_channels, *size), generator=torch.Generator().manual_seed(0))
    seconds = 0.0
    with torch_state(settings.threads):
        answerer = make_answerer(model, size, settings, model_parts(model, size), plan.backend)
        for _ in range(2):
            if cancel is not None:
                cancel.check()
            began = time.perf_counter()
            float(answerer(noise.clone()).sum())  # a device answers later: wait for the numbers
            seconds = time.perf_counter() - began
    return seconds * plan.windows.count
