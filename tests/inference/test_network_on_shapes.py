"""A network run on shapes alone does what it does for real, and is left as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import write_scripted
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.inference.backends.work import answer_flops
from medseg.inference.memory import activation_bytes
from medseg.inference.shapes import run_on_shapes
from medseg.models.networks import build_network
from medseg.models.scripted import load_scripted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MONAI on numpy, torch on its scripts

DYN_UNET = {
    "spatial_dims": 3,
    "kernel_size": [3, 3, 3],
    "strides": [1, 2, [2, 2, 1]],
    "upsample_kernel_size": [2, [2, 2, 1]],
    "filters": [4, 8, 16],
    "norm_name": "instance",
    "res_block": True,
}
UNET = {"spatial_dims": 3, "channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 2}
CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "UNet": (UNET, (8, 12, 16)),
    "DynUNet": (DYN_UNET, (8, 12, 16)),
    "SegResNet": ({"init_filters": 8, "blocks_down": [1, 2], "blocks_up": [1]}, (8, 12, 14)),
    "SegResNetDS": ({"init_filters": 8, "blocks_down": [1, 1], "norm": "INSTANCE"}, (8, 12, 16)),
    "BasicUNet": ({"features": [4, 4, 8, 8, 8, 4]}, (32, 16, 33)),
    "AttentionUnet": ({"spatial_dims": 3, "channels": [4, 8, 16], "strides": [2, 2]}, (8, 12, 16)),
    "SwinUNETR": ({"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 4}, (64, 32, 32)),
}


def made(name: str) -> nn.Module:
    network, _ = build_network(name, CASES[name][0] | {"in_channels": 2, "out_channels": 3})
    return network.eval()


class Real(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own hook on subclasses
    """Notes names and shapes of what a network does with numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (list, tuple)) else [result]
        shapes = [tuple(one.shape) for one in made if isinstance(one, Tensor)]
        self.seen.append((func.overloadpacket.__name__, shapes[:1]))
        return result


@pytest.mark.filterwarnings("ignore:.*indexing argument.*:UserWarning")  # MONAI's SwinUNETR
@pytest.mark.parametrize("name", sorted(CASES))
def test_convolutions_and_largest_shapes_are_those_of_a_real_run(name: str) -> None:
    network, window = made(name), CASES[name][1]
    seen: list[tuple[str, list[tuple[int, ...]]]] = []

    def note(operation: str, _args: Sequence[Any], given: Sequence[Tensor]) -> None:
        seen.append((operation, [tuple(one.shape) for one in given][:1]))

    run_on_shapes(network, 2, window, note)
    with torch.no_grad(), Real() as real:
        network(torch.zeros(1, 2, *window))
    kinds = {"convolution", "cat", "native_batch_norm", "mm", "addmm", "upsample_trilinear3d", "leaky_relu_"}
    assert [one for one in seen if one[0] in kinds] == [one for one in real.seen if one[0] in kinds]
    assert sum(one[0] == "convolution" for one in seen) > 4


@pytest.mark.parametrize("name", ["DynUNet", "UNet"])
def test_a_network_is_left_as_it_was_also_where_a_layer_has_two_names(name: str) -> None:
    network, window = made(name), CASES[name][1]
    image = torch.randn(1, 2, *window)
    with torch.no_grad():
        before = network(image)
        activation_bytes(network, 2, window)
        answer_flops(network, 2, window)
        assert torch.equal(network(image), before)
    every = (p for module in network.modules() for p in module.parameters(recurse=False))
    assert {p.device.type for p in every} == {"cpu"}


def test_work_of_known_layers() -> None:
    layer = nn.Conv3d(2, 5, 3, stride=2, padding=1)
    assert answer_flops(layer, 2, (8, 8, 8)) == 2 * 5 * 2 * 27 * 4**3
    assert answer_flops(nn.ConvTranspose3d(2, 5, 2, 2), 2, (8, 8, 8)) == 2 * 2 * 5 * 8 * 8**3
    assert answer_flops(nn.Linear(8, 6), 2, (8, 8, 8)) == 2 * 8 * 6 * 2 * 8**2


def test_joined_features_count_and_what_is_changed_in_place_does_not() -> None:
    class Joins(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            doubled = torch.cat([image, image], 1)
            return nn.functional.leaky_relu_(doubled)

    assert activation_bytes(Joins(), 2, (4, 5, 6)) == (2 + 4) * 120 * 4


def test_a_compiled_network_is_counted_too(tmp_path: Path) -> None:
    network = load_scripted(write_scripted(tmp_path / "tiny.ts"))
    small, large = (activation_bytes(network, 1, (16, 16, k)) for k in (16, 32))
    assert small > 2 * 16**3 * 4
    assert large == pytest.approx(2 * small, rel=0.01)  # statistics of norms do not grow


def test_a_window_that_a_network_refuses_is_refused() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        activation_bytes(made("DynUNet"), 2, (7, 9, 11))
    with pytest.raises(RuntimeError):
        activation_bytes(made("UNet"), 5, (8, 12, 16))


def test_common_networks_do_not_load_the_compiler_of_torch() -> None:
    """It takes two seconds of every first run."""
    code = (
        "import sys, torch; from medseg.inference.memory import activation_bytes; "
        "net = torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3, 2, 1), torch.nn.InstanceNorm3d(4), "
        "torch.nn.LeakyReLU(inplace=True), torch.nn.ConvTranspose3d(4, 2, 2, 2), torch.nn.BatchNorm3d(2), "
        "torch.nn.PReLU(), torch.nn.GroupNorm(2, 2), torch.nn.Upsample(scale_factor=2)).eval(); "
        "assert activation_bytes(net, 1, (8, 8, 8)) > 0; "
        "sys.exit('torch._dynamo' in sys.modules or 'sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
