"""What every network that a recipe may name promises, whoever wrote it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer
from small_models import make_card
from tiny_bundle import tiny_inference, write_tiny_bundle
from torch import Tensor, nn

import medseg
from medseg.errors import ModelError
from medseg.inference.slab_inferer import SlabInferer
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model, load_model
from medseg.models.networks import build_network, network_target
from medseg.models.segformer3d import SegFormer3D
from medseg.models.weights import load_into

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MONAI on numpy, torch on its own scripts
    pytest.mark.filterwarnings("ignore:.*indexing argument.*:UserWarning"),  # MONAI's SwinUNETR
]

CHANNELS, CLASSES = 2, 3


@dataclass(frozen=True)
class Case:
    """A small network of a kind.

    Attributes:
        target: its name.
        arguments: beside the channels.
        window: that it takes; its sides differ.
        unused: parameters that take no part in the answer.
    """

    target: str
    arguments: dict[str, Any]
    window: tuple[int, int, int]
    unused: tuple[str, ...] = ()


def dyn_unet(**more: Any) -> dict[str, Any]:
    sizes = {"kernel_size": [3, [1, 3, 3], 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}
    return {"spatial_dims": 3, "filters": [4, 8, 16], **sizes, **more}


CASES = [
    Case(
        "UNet",
        {"spatial_dims": 3, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1, "norm": "batch"},
        (8, 4, 12),
    ),
    Case("DynUNet", dyn_unet(res_block=True), (12, 8, 20)),
    Case("SegResNet", {"init_filters": 8, "blocks_down": [1, 1, 2], "blocks_up": [1, 1]}, (8, 4, 12)),
    Case("SwinUNETR", {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4}, (64, 32, 32)),
    Case(
        "MedNeXt",
        {"init_filters": 4, "kernel_size": 3, "blocks_bottleneck": 1}
        | {f"blocks_{way}": [1, 1, 1, 1] for way in ("down", "up")},
        (32, 16, 48),
        unused=("dummy_tensor",),
    ),
    Case(
        "SegFormer3D",
        {"features": [4, 8, 10, 16], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_features": 12},
        (37, 33, 46),
    ),
]


def made(case: Case, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        channels = {"in_channels": CHANNELS, "out_channels": CLASSES}
        network, dropped = build_network(case.target, case.arguments | channels)
    assert dropped == ()
    return network.eval()


def image(shape: tuple[int, ...], batch: int = 1, channels: int = CHANNELS) -> Tensor:
    return torch.randn((batch, channels, *shape), generator=torch.Generator().manual_seed(3))


def longer(window: tuple[int, int, int]) -> tuple[int, int, int]:
    """A volume that takes two windows."""
    return (window[0], window[1] + 5, window[2])


@pytest.fixture(params=CASES, ids=lambda case: case.target)
def case(request: pytest.FixtureRequest) -> Case:
    assert isinstance(request.param, Case)
    return request.param


def test_answers_have_the_size_of_the_window_and_are_the_same_again(case: Case) -> None:
    network = made(case)
    with torch.inference_mode():
        for turned in set(itertools.permutations(case.window)):
            shown = image(turned, batch=1)
            scores = network(shown.clone())
            assert scores.shape == (1, CLASSES, *turned)
            assert scores.isfinite().all()
            assert torch.equal(network(shown.clone()), scores)


def test_an_answer_does_not_depend_on_its_neighbours_in_a_batch(case: Case) -> None:
    network, pair = made(case), image(case.window, batch=2)
    with torch.inference_mode():
        together = network(pair.clone())
        assert float((together[1:] - network(pair[1:].clone())).abs().max()) < 1e-4


def test_weights_make_the_network(case: Case) -> None:
    one, other, shown = made(case), made(case, seed=1), image(case.window)
    with torch.inference_mode():
        scores = one(shown.clone())
        assert not torch.equal(other(shown.clone()), scores)
        load_into(other, one.state_dict())
        assert torch.equal(other(shown.clone()), scores)


def test_every_parameter_learns(case: Case) -> None:
    network = made(case).train()
    weights = torch.randn(1, CLASSES, 1, 1, 1, generator=torch.Generator().manual_seed(4))
    (network(image(case.window)) * weights).square().mean().backward()
    untouched = [
        name
        for name, parameter in network.named_parameters()
        if name not in case.unused and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    assert untouched == []
    silent = [n for n, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
    assert set(silent) <= {n for n, _ in network.named_parameters() if n.endswith("bias")}  # before a norm


def test_the_engine_answers_as_monai(case: Case) -> None:
    network = made(case)
    shown = image(longer(case.window))
    options: dict[str, Any] = {"roi_size": case.window, "overlap": 0.25, "mode": "gaussian"}
    with torch.no_grad():
        expected = SlidingWindowInferer(**options)(shown, network)
        found = SlabInferer(**options)(shown, network)
    assert isinstance(expected, Tensor)
    assert float((found - expected).abs().max()) < 1e-4


def test_a_model_of_it_segments(case: Case) -> None:
    card = make_card(CLASSES - 1, SlidingWindow(case.window, 0.25, "gaussian"), in_channels=CHANNELS)
    shape = longer(case.window)
    geometry = medseg.Geometry.from_spacing(shape, (1.0, 1.0, 1.0))
    volumes = [medseg.Volume(part.numpy(), geometry) for part in image(shape)[0]]
    with torch.no_grad():
        expected = SlidingWindowInferer(case.window, overlap=0.25, mode="gaussian")(image(shape), made(case))
    found = medseg.predict(volumes, Model(card, made(case)), medseg.InferenceSettings(backend="torch"))
    assert isinstance(expected, Tensor)
    best = expected[0].topk(2, dim=0).values
    is_clear = (best[0] - best[1] > 1e-4).numpy()
    assert is_clear.mean() > 0.99
    assert (found.array == expected[0].argmax(0).numpy())[is_clear].all()


# ------------------------------------------------------------------------- SegFormer3D


def test_segformer3d_has_the_published_size() -> None:
    """Perera et al. 2024, table 1: 4.51 million parameters for four images and three classes."""
    count = sum(parameter.numel() for parameter in SegFormer3D(4, 3).parameters())
    assert count == pytest.approx(4.51e6, rel=0.005)


@pytest.mark.parametrize("shape", [(16, 16, 16), (21, 18, 37)])
def test_segformer3d_takes_any_size_from_16_voxels_on(shape: tuple[int, int, int]) -> None:
    with torch.inference_mode():
        assert made(CASES[-1])(image(shape)).shape == (1, CLASSES, *shape)


def test_every_token_sees_every_other() -> None:
    """A voxel in one corner changes the answer in the opposite one."""
    network, shown = made(CASES[-1]), image((48, 48, 48))
    with torch.inference_mode():
        before = network(shown)[..., -1, -1, -1].clone()
        shown[..., 0, 0, 0] += 50
        assert float((network(shown)[..., -1, -1, -1] - before).abs().max()) > 1e-6


@pytest.mark.parametrize("wrong", [{"heads": [1, 2]}, {"heads": [3, 2, 5, 8]}])
def test_impossible_arguments_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="SegFormer3D") as caught:
        build_network("SegFormer3D", {"in_channels": 1, "out_channels": 2} | wrong)
    assert caught.value.code == "BAD_NETWORK"


def test_a_bundle_names_segformer3d(tmp_path: Path) -> None:
    inference = tiny_inference()
    inference["network_def"] = {
        "_target_": network_target("SegFormer3D"), "in_channels": 1, "out_channels": 4, **CASES[-1].arguments
    }  # fmt: skip
    model = load_model(write_tiny_bundle(tmp_path / "transformer", inference=inference), device="cpu")
    assert isinstance(model.network, SegFormer3D)
    assert model.card.network.target == "medseg.models.segformer3d.SegFormer3D"


@pytest.mark.parametrize(
    "name", ["medseg.training.SegFormer3D", "other.UNet", "medseg.models.segformer3d.UNet"]
)
def test_no_other_class_is_ever_made(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_network(name, {})
    assert caught.value.code == "UNKNOWN_NETWORK"
