"""A network that learns more classes keeps what it knew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.models.networks import build_network
from medseg.training.transfer import transfer_weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI on numpy

NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "num_res_units": 2, "norm": "batch"},
    "DynUNet": {
        "spatial_dims": 3, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 8],
    },
    "SegResNet": {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "MedNeXt": {
        "init_filters": 4, "kernel_size": 3, "blocks_down": [1, 1, 1, 1], "blocks_bottleneck": 1,
        "blocks_up": [1, 1, 1, 1],
    },
    "SegFormer3D": {
        "features": [4, 8, 10, 16], "depths": [1, 1, 1, 1], "heads": [1, 2, 5, 8], "decoder_features": 6
    },
}  # fmt: skip


def made(name: str, answers: int, seed: int, **more: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network, _ = build_network(name, NETWORKS[name] | {"in_channels": 1, "out_channels": answers} | more)
        for buffer_name, buffer in network.named_buffers():
            if "running" in buffer_name:
                buffer.uniform_(0.5, 1.5)
    return network.eval()


def answers(network: nn.Module) -> Tensor:
    with torch.no_grad():
        image = torch.randn((1, 1, 32, 32, 32), generator=torch.Generator().manual_seed(1))
        scores: Tensor = network(image)
        return scores


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network_takes_everything(name: str) -> None:
    old, new = made(name, 3, seed=0), made(name, 3, seed=1)
    done = transfer_weights(old.state_dict(), new)
    assert set(done.kept) == set(new.state_dict())
    assert (done.widened, done.dropped, done.fresh) == ((), (), ())
    assert torch.equal(answers(new), answers(old))


@pytest.mark.parametrize("name", NETWORKS)
def test_new_classes_leave_the_old_answers_alone(name: str) -> None:
    """MONAI's UNet has whole blocks as wide as its classes: none of them may leak into the old ones."""
    old, new = made(name, 3, seed=0), made(name, 5, seed=1)
    done = transfer_weights(old.state_dict(), new, (3, 5))
    assert done.widened
    assert done.dropped == done.fresh == ()
    found, before = answers(new), answers(old)
    assert found.shape[1] == 5
    assert torch.allclose(found[:, :3], before, atol=1e-6)
    assert not torch.allclose(found[:, 3], found[:, 4])


@pytest.mark.parametrize("name", NETWORKS)
def test_another_head_is_new_and_the_rest_is_kept(name: str) -> None:
    """Two channels, depth and foreground, have nothing to do with three classes."""
    old, new = made(name, 3, seed=0), made(name, 2, seed=1)
    untouched = {key: value.clone() for key, value in new.state_dict().items()}
    done = transfer_weights(old.state_dict(), new)
    assert done.kept
    assert done.dropped == done.fresh
    for key, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[key] if key in done.kept else untouched[key]), key
    assert all(key in done.words for key in done.dropped[:1])


def test_layers_of_other_names_and_sizes_are_named() -> None:
    old, new = made("DynUNet", 3, seed=0), made("DynUNet", 3, seed=1, filters=[4, 8, 12])
    done = transfer_weights(old.state_dict(), new, (3, 3))
    assert "input_block.conv1.conv.weight" in done.kept
    assert "bottleneck.conv1.conv.weight" in done.dropped
    assert "bottleneck.conv1.conv.weight" in done.fresh
    other = transfer_weights({"strange.weight": torch.zeros(3)}, new)
    assert other.kept == ()
    assert other.dropped == ("strange.weight",)
    assert "strange.weight" in other.words


def test_a_side_that_only_looks_like_the_classes_stays() -> None:
    """Features as many as the old classes are not classes: they are as many in the new network."""
    old, new = nn.Conv3d(3, 3, 1), nn.Conv3d(3, 5, 1)
    done = transfer_weights(old.state_dict(), new, (3, 5))
    assert set(done.widened) == {"weight", "bias"}
    assert torch.equal(new.weight[:3], old.weight)
