"""Which backend runs a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.inference.predictor import Precision, Predictor, TorchPredictor

if TYPE_CHECKING:
    from torch import nn

    from medseg.inference.settings import InferenceSettings
    from medseg.models.loading import Model


def make_predictor(
    module: nn.Module, model: Model, window: tuple[int, int, int], settings: InferenceSettings
) -> Predictor:
    """A predictor for one module of a model.

    Args:
        module: the model's network, one of its members, or the part of either before the head; on
            `model.device`, in evaluation mode.
        model: gives device, input channels and fingerprints (for caches on disk).
        window: voxels of a window along i, j, k.
        settings: the user's wishes.
    """
    del window, settings
    precision: Precision = "f32" if model.device == "cpu" else "f16"
    return TorchPredictor(module, model.device, precision=precision)
