"""`SlabInferer` answers as MONAI's `SlidingWindowInferer` with the same arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer, SlidingWindowInferer
from torch import Tensor, nn

import medseg
from medseg.errors import ModelError, SettingsError

OPTIONS: list[dict[str, Any]] = [
    {"roi_size": 8},
    {"roi_size": (8, 6, 10), "overlap": 0.5, "mode": "gaussian"},
    {"roi_size": (8, -1, 10), "overlap": (0.5, 0.25, 0.6), "mode": "gaussian", "sigma_scale": 0.25},
    {"roi_size": (32, 32, 8), "sw_batch_size": 4, "padding_mode": "replicate"},
    {"roi_size": (32, 8, 32), "cval": 0.7, "buffer_steps": 2, "progress": True},
    {"roi_size": (8, 8, 8), "mode": "gaussian", "sigma_scale": (0.1, 0.2, 0.3)},
]


def network(classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.PReLU(), nn.Conv3d(4, classes, 1))
    return made.eval()


def images(batch: int = 1) -> Tensor:
    return torch.randn((batch, 2, 15, 13, 22), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("classes", [3, 9])
def test_same_scores_as_monai(options: dict[str, Any], classes: int) -> None:
    inputs, net = images(2), network(classes)
    with torch.no_grad():
        expected = SlidingWindowInferer(**options)(inputs, net)
        found = medseg.SlabInferer(**options)(inputs, net)
    assert isinstance(expected, Tensor)
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) < 1e-4


def test_labels_are_where_monai_scores_most() -> None:
    inputs, net = images(2), network(9)
    with torch.no_grad():
        expected = SlidingWindowInferer((8, 8, 8), overlap=0.5, mode="gaussian")(inputs, net)
        found = medseg.SlabInferer((8, 8, 8), overlap=0.5, mode="gaussian", output="labels")(inputs, net)
    assert isinstance(expected, Tensor)
    assert found.shape == (2, 1, 15, 13, 22)
    assert found.dtype == torch.uint8
    best = expected.topk(2, dim=1).values
    is_clear = best[:, :1] - best[:, 1:] > 1e-4
    assert torch.equal(found[is_clear].long(), expected.argmax(1, keepdim=True)[is_clear])


def test_any_callable_with_arguments() -> None:
    def shifted(window: Tensor, by: float, *, factor: float) -> Tensor:
        return window * factor + by

    expected = SlidingWindowInferer((8, 8, 8))(images(), shifted, 2.0, factor=3.0)
    found = medseg.SlabInferer((8, 8, 8))(images(), shifted, 2.0, factor=3.0)
    assert isinstance(expected, Tensor)
    assert torch.allclose(found, expected, atol=1e-5)


def test_meta_tensors_keep_their_affine() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    found = medseg.SlabInferer((8, 8, 8))(MetaTensor(images(), affine=affine), network())
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, affine.to(found.affine))


def test_what_only_monai_can_do_is_left_to_it() -> None:
    flat = images()[..., 0]
    net = nn.Conv2d(2, 3, 1).eval()
    with torch.no_grad():
        expected = SlidingWindowInferer((8, 8))(flat, net)
        assert isinstance(expected, Tensor)
        assert torch.equal(medseg.SlabInferer((8, 8))(flat, net), expected)

    def two(window: Tensor) -> tuple[Tensor, Tensor]:
        return window, window * 2

    found = medseg.SlabInferer((8, 8, 8))(images(), two)
    assert isinstance(found, tuple)
    assert torch.allclose(found[1], images() * 2)
    with pytest.raises(SettingsError) as caught:
        medseg.SlabInferer((8, 8, 8), output="labels")(images(), two)
    assert caught.value.code == "NOT_SUPPORTED"


def test_it_is_an_inferer_and_refuses_nonsense() -> None:
    assert isinstance(medseg.SlabInferer(8), Inferer)
    with pytest.raises(SettingsError):
        medseg.SlabInferer(8, output="probabilities")  # type: ignore[arg-type]  # the point

    def broken(window: Tensor) -> Tensor:
        return window * float("nan")

    with pytest.raises(ModelError) as caught:
        medseg.SlabInferer((8, 8, 8))(images(), broken)
    assert caught.value.code == "NETWORK_NAN"
