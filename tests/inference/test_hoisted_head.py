"""A pointwise last layer done once per voxel gives the scores of doing it in every window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from small_models import make_card
from torch import Tensor, nn

from medseg.geometry import Geometry
from medseg.inference.answer import make_answerer, model_parts
from medseg.inference.hoist import split_head
from medseg.inference.plan import plan_inference
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.labels import LabelSet
from medseg.models.card import Card, SlidingWindow
from medseg.models.loading import Model
from medseg.volume import Volume

CLASSES = 11
WINDOW = SlidingWindow((8, 8, 8), 0.5, "gaussian")


def wide_card(**changes: Any) -> Card:
    labels = LabelSet.from_names({i: f"class {i}" for i in range(1, CLASSES)})
    return make_card(3, labels=labels, output_ids=tuple(range(CLASSES)), window=WINDOW, **changes)


def wide_network(features: int = 4, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv3d(1, features, 3, padding=1), nn.PReLU(), nn.Conv3d(features, CLASSES, 1)
        )
    return network.eval().requires_grad_(requires_grad=False)


def noise(shape: tuple[int, int, int] = (20, 13, 17)) -> Volume:
    return Volume(
        np.random.default_rng(0).normal(size=shape).astype(np.float32), Geometry.from_spacing(shape)
    )


def monai_scores(volume: Volume, network: Any) -> Tensor:
    image = torch.from_numpy(volume.array)[None, None]
    with torch.inference_mode():
        scores = sliding_window_inference(image, WINDOW.size, 1, network, overlap=0.5, mode="gaussian")
    assert isinstance(scores, Tensor)
    return scores[0]


def clear(scores: Tensor) -> np.ndarray[Any, Any]:
    best = scores.topk(2, dim=0).values
    return (best[0] - best[1] > 1e-4).numpy()


@pytest.mark.parametrize("order", ["scores-linear", "labels-nearest"])
def test_same_labels_as_monai_with_few_sums(order: str) -> None:
    model = Model(wide_card(home=order), wide_network())
    assert model_parts(model, WINDOW.size).channels == 4
    volume = noise()
    expected = monai_scores(volume, model.network)
    found = predict(volume, model).array
    assert np.array_equal(found[clear(expected)], expected.argmax(0).numpy()[clear(expected)])


@pytest.mark.parametrize("order", ["scores-linear", "logits-linear"])
def test_same_labels_on_a_finer_source(order: str) -> None:
    """Head, softmax and interpolation in blocks against doing all at once without hoisting."""
    network = wide_network()
    card = wide_card(home=order, spacing_mm=(2.0, 2.0, 2.0))
    volume = Volume(noise((30, 26, 41)).array, Geometry.from_spacing((30, 26, 41), (1.0, 1.2, 0.8)))
    hoisted = predict(volume, Model(card, network)).array
    whole = predict(volume, Model(card, Unsplit(network).eval())).array
    assert (hoisted == whole).mean() > 0.9999


class Unsplit(nn.Module):
    """Hides a network's last layer behind an addition of nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        answer: Tensor = self.network(image) + 0.0
        return answer


def test_a_network_that_learns_on_is_split_as_it_is_now() -> None:
    network = wide_network()
    split = split_head(network, 1, WINDOW.size)
    assert split is not None
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter)  # as moving a network does: new memory, same parameter
    again = split_head(network, 1, WINDOW.size)
    assert again is split
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.allclose(split.head(split.body(image)[0]), network(image)[0], atol=1e-4)


def test_a_head_that_is_not_last_stays() -> None:
    assert split_head(Unsplit(wide_network()).eval(), 1, WINDOW.size) is None
    relu = nn.Sequential(*wide_network(), nn.ReLU()).eval()
    assert split_head(relu, 1, WINDOW.size) is None


def test_a_layer_that_is_used_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv3d(1, 1, 1)

        def forward(self, image: Tensor) -> Tensor:
            answer: Tensor = self.layer(self.layer(image))
            return answer

    assert split_head(Twice().eval(), 1, WINDOW.size) is None


def test_as_many_features_as_classes_are_not_worth_it() -> None:
    model = Model(wide_card(), wide_network(features=CLASSES))
    assert model_parts(model, WINDOW.size).head is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SegResNet", {"spatial_dims": 3, "init_filters": 8, "in_channels": 1, "out_channels": CLASSES}),
        (
            "DynUNet",
            {
                "spatial_dims": 3,
                "in_channels": 1,
                "out_channels": CLASSES,
                "kernel_size": [3, 3, 3],
                "strides": [1, 2, 2],
                "upsample_kernel_size": [2, 2],
                "filters": [6, 8, 8],
            },
        ),
        ("BasicUNet", {"in_channels": 1, "out_channels": CLASSES, "features": (6, 6, 6, 6, 6, 6)}),
    ],
)
def test_networks_of_monai_are_split(name: str, arguments: dict[str, Any]) -> None:
    from monai.networks import nets

    network = getattr(nets, name)(**arguments).eval().requires_grad_(requires_grad=False)
    split = split_head(network, 1, (32, 32, 32))
    assert split is not None
    assert split.features < CLASSES
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(split.head(split.body(image)[0]), network(image)[0], atol=1e-4)
    shared = {id(p) for p in network.parameters()}
    assert {id(p) for p in split.body.parameters()} <= shared


def test_folds_are_averaged_over_joined_features() -> None:
    networks = [wide_network(seed=seed) for seed in (1, 2)]
    model = Model(wide_card(), networks[0], members=(networks[1],))
    assert model_parts(model, WINDOW.size).channels == 8
    expected = torch.stack([monai_scores(noise(), network) for network in networks]).mean(0)
    found = predict(noise(), model).array
    assert np.array_equal(found[clear(expected)], expected.argmax(0).numpy()[clear(expected)])


@pytest.mark.parametrize("features", [4, CLASSES])
def test_mirrored_windows_are_averaged(features: int) -> None:
    """As nnU-Net's test-time augmentation: mean over all sets of the allowed axes."""
    network = wide_network(features)
    second = wide_network(features, seed=5)
    model = Model(wide_card(mirror_axes=(0, 2)), network, members=(second,))

    def mirrored(image: Tensor) -> Tensor:
        sets: list[list[int]] = [[], [2], [4], [2, 4]]
        answers = [one(image.flip(axes)).flip(axes) for axes in sets for one in (network, second)]
        return torch.stack(answers).mean(0)

    expected = monai_scores(noise(), mirrored)
    found = predict(noise(), model, InferenceSettings(mirror=True)).array
    assert np.array_equal(found[clear(expected)], expected.argmax(0).numpy()[clear(expected)])
    plain = predict(noise(), replace(model, card=wide_card()), InferenceSettings(mirror=True)).array
    assert not np.array_equal(found, plain)


def test_planned_slab_counts_features() -> None:
    shape = Geometry.from_spacing((40, 40, 40))
    few = plan_inference(shape, Model(wide_card(), wide_network(4))).memory
    many = plan_inference(shape, Model(wide_card(), wide_network(CLASSES))).memory
    assert few.slab * (CLASSES + 1) == many.slab * 5


def test_constant_windows_are_answered_once() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            if image.device.type != "meta":  # the plan looks at shapes alone
                calls.append(1)
            return torch.cat((0.1 - image, image), 1)

    array = np.zeros((8, 8, 80), dtype=np.float32)
    array[:, :, :4] = 1.0
    volume = Volume(array + np.float32(0.5), Geometry.from_spacing(array.shape))
    model = Model(make_card(1, window=SlidingWindow((8, 8, 8), 0.0)), Counting().eval())
    found = predict(volume, model).array
    assert np.array_equal(found, np.ones_like(found))
    assert len(calls) == 2
    answerer = make_answerer(model, (8, 8, 8), InferenceSettings(), model_parts(model, (8, 8, 8)))
    window = torch.full((1, 1, 8, 8, 8), 2.0)
    first = answerer(window.clone()).clone()
    assert torch.equal(answerer(window.clone()), first)
    assert len(calls) == 3
