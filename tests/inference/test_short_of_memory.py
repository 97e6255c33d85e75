"""A device that is full: the run gives something up and goes on where it stood, or says what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_card, random_model, threshold_model
from torch import Tensor, nn

from medseg.errors import DeviceMemoryError, ModelError, VolumeError
from medseg.geometry import Geometry
from medseg.inference import answer as answers
from medseg.inference import slab as slabs
from medseg.inference.backends.choose import make_predictor
from medseg.inference.plan import plan_inference
from medseg.inference.predict import plan_case, predict, predict_planned
from medseg.inference.predictor import Predictor
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.labels import LabelSet
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.progress import Progress
from medseg.volume import Volume


def noise(shape: tuple[int, int, int] = (20, 18, 22)) -> Volume:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape))


class Full:
    """A predictor whose device is full at some calls."""

    def __init__(self, inner: Predictor, when: set[int]) -> None:
        self.inner, self.when, self.calls = inner, when, 0
        self.device, self.description = inner.device, inner.description
        self.channels_last = inner.channels_last

    def __call__(self, windows: Tensor) -> Tensor:
        self.calls += 1
        if self.calls in self.when:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(windows)


def filled(monkeypatch: pytest.MonkeyPatch, when: set[int]) -> list[Full]:
    made: list[Full] = []

    def make(*arguments: Any) -> Full:
        made.append(Full(make_predictor(*arguments), when))
        return made[-1]

    monkeypatch.setattr(answers, "make_predictor", make)
    return made


def test_the_run_goes_on_with_the_window_at_which_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    volume, model = noise(), random_model(make_card())
    expected = predict(volume, model).array
    made = filled(monkeypatch, {1, 7, 8})
    reports: list[Progress] = []
    found = predict(volume, model, progress=reports.append).array
    assert np.array_equal(found, expected)
    count = plan_inference(volume.geometry, model).windows.count
    assert made[0].calls == count + 3
    assert [r.done for r in reports] == list(range(count + 1))


def test_nothing_left_to_give_up_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    filled(monkeypatch, set(range(100)))
    with pytest.raises(DeviceMemoryError) as caught:
        predict(noise(), random_model(make_card()))
    assert caught.value.code == "OUT_OF_MEMORY"


def test_slab_that_does_not_fit_is_no_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(slabs.Slab, "__init__", full)
    with pytest.raises(DeviceMemoryError) as caught:
        predict(noise(), random_model(make_card()))
    assert caught.value.code == "OUT_OF_MEMORY"


def test_few_planes_at_a_time_change_nothing() -> None:
    model = random_model(make_card(spacing_mm=(1.4, 1.3, 1.2)))
    volume, choice = noise(), InferenceSettings()
    plan = plan_case([volume], model, choice)
    results = [
        predict_planned([volume], model, choice, replace(plan, flush_planes=n), Listener()).labels.array
        for n in (1, 3, 16)
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_lower_limit_makes_the_plan_smaller_before_it_refuses() -> None:
    geometry = Geometry.from_spacing((300, 300, 300))
    labels = LabelSet.from_names({i: f"class {i}" for i in range(1, 48)})
    card = make_card(3, labels=labels, output_ids=tuple(range(48)), window=SlidingWindow((16, 16, 16), 0.5))
    model = random_model(card)
    free = plan_inference(geometry, model)
    with pytest.raises(DeviceMemoryError) as caught:
        plan_inference(geometry, model, InferenceSettings(max_memory_gb=0.2))
    need = float(str(caught.value).split("allow ")[1].split(" GB")[0])
    assert need * 1e9 < free.peak_bytes
    small = plan_inference(geometry, model, InferenceSettings(max_memory_gb=need + 0.01))
    assert small.flush_planes < free.flush_planes
    assert small.peak_bytes <= (need + 0.01) * 1e9


@pytest.mark.parametrize("shape", [(2000, 9, 8), (9, 2000, 8), (8, 9, 2000)])
def test_two_thousand_slices_along_any_axis_need_a_thin_slab(shape: tuple[int, int, int]) -> None:
    volume, model = noise(shape), threshold_model(window=SlidingWindow((8, 8, 8), 0.0))
    plan = plan_inference(volume.geometry, model)
    assert plan.axis == shape.index(2000)
    assert plan.memory.slab <= 3 * 4 * 72 * 8
    assert np.array_equal(predict(volume, model).array, (volume.array > 0.5).astype(np.uint8))


@pytest.mark.parametrize("shape", [(3, 5, 2), (2, 40, 7)])
def test_volume_smaller_than_a_window(shape: tuple[int, int, int]) -> None:
    volume, model = noise(shape), threshold_model(window=SlidingWindow((16, 16, 16), 0.5, "gaussian"))
    assert np.array_equal(predict(volume, model).array, (volume.array > 0.5).astype(np.uint8))


def test_one_voxel_thick_is_refused() -> None:
    with pytest.raises(VolumeError) as caught:
        predict(noise((30, 30, 1)), threshold_model())
    assert caught.value.code == "TOO_THIN"


@pytest.mark.parametrize("first_bad", [1, 5])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_network_that_breaks_late_is_found(first_bad: int, value: float) -> None:
    class Breaks(nn.Module):
        calls = 0

        def forward(self, image: Tensor) -> Tensor:
            self.calls += image.device.type != "meta"
            bad = image * value if self.calls >= first_bad else image
            return torch.cat((bad, image), 1)

    with pytest.raises(ModelError) as caught:
        predict(noise(), Model(make_card(1), Breaks().eval()))
    assert caught.value.code == "NETWORK_NAN"
