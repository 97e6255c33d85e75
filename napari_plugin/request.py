"""What one run is asked for, the model that it takes, and what it is expected to cost."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from medseg import (
    CancelToken,
    Card,
    InferenceSettings,
    Model,
    SeparationSettings,
    Volume,
    estimate_seconds,
    load_model,
    plan_case,
)
from napari_plugin.layers import origin_of
from napari_plugin.panel import duration

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image

LOOK_WINDOWS = 8
"""A first look takes about as many."""


@dataclass(frozen=True)
class Request:
    """What one run was asked for; it does not change while the run lasts.

    Attributes:
        layers: where the scans were taken from.
        arrays: what these layers held then.
        scans: the scans themselves, in the order of the model's channels.
        model: name of the model.
        card: what it says of itself.
        settings: how to run it.
        separate: classes whose objects are told apart, and how.
    """

    layers: tuple[Image, ...]
    arrays: tuple[Any, ...]
    scans: tuple[Volume, ...]
    model: str
    card: Card
    settings: InferenceSettings
    separate: dict[str, SeparationSettings]

    def is_current(self, viewer: Viewer) -> bool:
        """Whether the layers are still there and hold what was segmented."""
        return all(
            layer in viewer.layers and layer.data is array and origin_of(layer) is not None
            for layer, array in zip(self.layers, self.arrays, strict=True)
        )


@lru_cache(maxsize=1)
def loaded(name: str, _version: str, device: str) -> Model:
    """A model, kept for the next run.

    Args:
        name: of the model.
        _version: fingerprint of its recipe; another one is loaded anew.
        device: where to.

    Raises:
        ModelNotFoundError: it was removed meanwhile.
        ModelError: it is damaged.
    """
    return load_model(name, device=device)


def is_worth_a_look(asked: Request, model: Model) -> bool:
    """Whether a run is so long that a first look, on a coarse grid, comes much sooner than the result.

    Args:
        asked: what will run.
        model: the loaded model.
    """
    if asked.card.detection is not None or asked.card.separation is not None:
        return False
    return plan_case(asked.scans, model, asked.settings).windows.count > LOOK_WINDOWS


def expected(asked: Request, cancel: CancelToken) -> str:
    """Time, memory and plan of a run, in words.

    Args:
        asked: what would run.
        cancel: looked at before each step.

    Raises:
        DeviceMemoryError: the machine has too little memory for it.
        ModelError: the model is damaged.
    """
    card = asked.card
    if card.separation is not None and not (asked.settings.object_diameter_mm or card.separation.diameter_mm):
        return "Time and memory are known once the size of the objects is: state it below, or run."
    model = loaded(asked.model, card.sha256, asked.settings.device)
    plan = plan_case(asked.scans, model, asked.settings)
    cancel.check()
    seconds = estimate_seconds(model, plan, asked.settings, cancel)
    return f"Expected: about {duration(seconds)}, {plan.peak_bytes / 1e9:.1f} GB of memory.\n{plan.sentence}"
