"""The scores of a model on its own grid, for those who do more with them than decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.inference.answer import make_answerer, model_parts
from medseg.inference.home import Decision
from medseg.inference.plan import InferencePlan
from medseg.inference.predict import torch_state
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener, Stream
from medseg.preprocess.prepare import prepare_channels
from medseg.volume import Volume

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.models.loading import Model


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says, before it is decided.

    Attributes:
        array: `(channels, i, j, k)` float32 scores after the activation.
        grid: where they lie: the card's grid, or the planned part of it.
    """

    array: npt.NDArray[np.float32]
    grid: Geometry


class ScoresKept:
    """Keeps all scores, on the card's grid.

    Args:
        array: `(channels, i, j, k)` float32, written into; a memory map will do.
        decision: makes scores of answers.
        axis: of work.
    """

    def __init__(self, array: npt.NDArray[np.float32], decision: Decision, axis: int) -> None:
        self._array, self._decision, self._axis = array, decision, axis

    def feed(self, values: Tensor, start: int) -> None:
        """Take averaged planes; see `WayHome.feed`."""
        scores = self._decision.activated(values).cpu().numpy()
        place = [slice(None)] * 4
        place[self._axis + 1] = slice(start, start + scores.shape[self._axis + 1])
        self._array[tuple(place)] = scores


def predict_scores(
    volume: Volume,
    model: Model,
    settings: InferenceSettings,
    plan: InferencePlan,
    listener: Listener | None = None,
) -> Scores:
    """Carry a plan out and keep the scores.

    Args:
        volume: the image that was planned for; axes at right angles.
        model: card and network.
        settings: the same as of the plan.
        plan: what to do (`plan_case`).
        listener: progress and cancelling.

    Raises:
        VolumeError: the volume is no scan.
        ModelError: the network answers what it should not.
        DeviceMemoryError: the device is full.
        CancelledError: a stop was asked for.
    """
    import torch

    listener = listener or Listener()
    card = model.card
    image = prepare_channels((volume,), card)[(slice(None), *plan.box.slices)]
    array = np.zeros((card.out_channels, *image.shape[1:]), dtype=np.float32)
    with torch_state(settings.threads):
        parts = model_parts(model, plan.windows.size)
        answerer = make_answerer(model, plan.windows.size, settings, parts, plan.backend)
        head = None if parts.head is None else parts.head.to(answerer.device)
        kept = ScoresKept(array, Decision.of(card, head), plan.axis)
        tensor = torch.from_numpy(np.ascontiguousarray(image))[None]
        Stream(tensor, plan.windows, card.window, answerer, plan.axis, plan.flush_planes).run(
            [kept], replace(listener, note=f"plan: {plan.sentence}")
        )
    return Scores(array, plan.grid.crop(plan.box.start, plan.box.stop))
