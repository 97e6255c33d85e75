"""The slab engine answers as `monai.inferers.sliding_window_inference` does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from small_models import make_card, random_model
from torch import Tensor

from medseg.errors import VolumeError
from medseg.geometry import Geometry
from medseg.inference.answer import make_answerer, model_parts
from medseg.inference.hoist import Head
from medseg.inference.plan import plan_inference
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Stream
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.volume import Volume

Triple = tuple[int, int, int]

CASES = [
    # shape, window, overlap, blend, padding
    ((20, 17, 23), SlidingWindow((8, 8, 8), 0.5, "gaussian")),
    ((20, 17, 23), SlidingWindow((8, 8, 8), 0.25, "constant")),
    ((9, 30, 40), SlidingWindow((8, 12, 20), 0.6, "gaussian", sigma_scale=0.25)),
    ((13, 13, 50), SlidingWindow((13, 6, 16), 0.0, "constant")),
    ((31, 5, 8), SlidingWindow((16, 8, 8), 0.8, "gaussian")),
    ((6, 5, 7), SlidingWindow((16, 16, 16), 0.5, "gaussian", padding_value=0.3)),
    ((6, 5, 7), SlidingWindow((9, 8, 10), 0.5, "gaussian", padding_mode="reflect")),
    ((6, 5, 7), SlidingWindow((16, 16, 16), 0.5, "constant", padding_mode="replicate")),
    ((6, 5, 7), SlidingWindow((8, 8, 8), 0.5, "constant", padding_mode="circular")),
    ((40, 10, 7), SlidingWindow((16, 16, 16), 0.625, "gaussian", padding_mode="replicate")),
    ((12, 12, 61), SlidingWindow((12, 12, 40), 0.7, "gaussian")),
]


def noise(shape: Triple, seed: int = 0) -> Volume:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape))


def monai_scores(volume: Volume, model: Model) -> Tensor:
    recipe = model.card.window
    with torch.inference_mode():
        scores = sliding_window_inference(
            torch.from_numpy(volume.array)[None, None],
            recipe.size,
            1,
            model.network,
            overlap=recipe.overlap_fraction,
            mode=recipe.blend,
            sigma_scale=recipe.sigma_scale,
            padding_mode=recipe.padding_mode,
            cval=recipe.padding_value,
        )
    assert isinstance(scores, Tensor)
    return scores[0]


class Recorder:
    """Keeps the averaged scores."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.planes: list[Tensor] = []

    def feed(self, values: Tensor, start: int) -> None:
        assert start == sum(p.shape[self.axis + 1] for p in self.planes)
        self.planes.append(values.clone())

    def scores(self, head: Head | None) -> Tensor:
        values = torch.cat(self.planes, dim=self.axis + 1)
        return values if head is None else head(values)


def our_scores(volume: Volume, model: Model, axis: int | None = None) -> Tensor:
    plan = plan_inference(volume.geometry, model)
    recorder = Recorder(plan.axis if axis is None else axis)
    parts = model_parts(model, plan.windows.size)
    answerer = make_answerer(model, plan.windows.size, InferenceSettings(), parts)
    image = torch.from_numpy(volume.array)[None, None]
    with torch.inference_mode():
        Stream(image, plan.windows, model.card.window, answerer, recorder.axis, 5).run([recorder])
        return recorder.scores(parts.head)


@pytest.mark.parametrize(("shape", "window"), CASES)
def test_labels_and_scores_equal(shape: Triple, window: SlidingWindow) -> None:
    model = random_model(make_card(window=window))
    volume = noise(shape)
    expected = monai_scores(volume, model)
    scores = our_scores(volume, model)
    assert scores.shape == expected.shape
    assert float((scores - expected).abs().max()) < 1e-4
    labels = predict(volume, model).array
    decided = torch.softmax(expected, 0).argmax(0).numpy()
    best = expected.topk(2, dim=0).values
    is_clear = (best[0] - best[1] > 1e-4).numpy()
    assert np.array_equal(labels[is_clear], decided[is_clear])
    assert is_clear.mean() > 0.99


@pytest.mark.parametrize(("shape", "window"), CASES[:6])
def test_ones_in_ones_out(shape: Triple, window: SlidingWindow) -> None:
    """A network that answers 1 everywhere averages to 1, whatever the weights."""
    model = random_model(make_card(window=window))
    torch.nn.init.zeros_(model.network[2].weight)  # type: ignore[index]  # a Sequential
    torch.nn.init.ones_(model.network[2].bias)  # type: ignore[index]  # a Sequential
    scores = our_scores(noise(shape), model)
    assert torch.allclose(scores, torch.ones_like(scores), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_of_work_gives_the_same_scores(axis: int) -> None:
    model = random_model(make_card(window=SlidingWindow((8, 6, 10), 0.5, "gaussian")))
    volume = noise((21, 17, 26))
    assert float((our_scores(volume, model, axis) - monai_scores(volume, model)).abs().max()) < 1e-4


@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
def test_slab_equals_whole(order: str) -> None:
    """Turned so that k is i, the slabs lie otherwise; the answer is the same."""
    model = random_model(make_card(window=SlidingWindow((8, 8, 8), 0.5, "gaussian"), home=order))
    volume = noise((33, 12, 14))
    whole = monai_scores(volume, model).argmax(0).numpy()
    assert np.array_equal(predict(volume, model).array, whole)


def test_reflecting_more_than_there_is_is_refused() -> None:
    model = random_model(make_card(window=SlidingWindow((32, 8, 8), 0.5, padding_mode="reflect")))
    with pytest.raises(VolumeError) as caught:
        predict(noise((8, 8, 8)), model)
    assert caught.value.code == "TOO_SMALL"


def test_same_input_same_bytes() -> None:
    model = random_model(make_card())
    volume = noise((25, 21, 18))
    assert predict(volume, model).array.tobytes() == predict(volume, model).array.tobytes()
