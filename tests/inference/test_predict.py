"""Running a model: progress, cancelling, limits, and networks that answer what they should not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import make_card, random_model, threshold_model
from tiny_bundle import tiny_inference, write_tiny_bundle
from torch import Tensor, nn

from medseg.errors import CancelledError, DeviceMemoryError, ModelError, SettingsError
from medseg.geometry import Geometry
from medseg.inference.memory import activation_bytes
from medseg.inference.plan import OPENVINO_BYTES, RUNTIME_BYTES, plan_inference
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.models.card import SlidingWindow
from medseg.models.loading import Model
from medseg.progress import CancelToken, Progress
from medseg.volume import Volume


def noise(shape: tuple[int, int, int] = (20, 18, 22)) -> Volume:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Volume(array, Geometry.from_spacing(shape))


def test_progress_is_told_after_every_window() -> None:
    model = random_model(make_card())
    reports: list[Progress] = []
    predict(noise(), model, progress=reports.append)
    count = plan_inference(noise().geometry, model).windows.count
    assert [r.done for r in reports] == list(range(count + 1))
    assert {(r.stage, r.total) for r in reports} == {("segment", count)}


def test_cancel_stops_before_the_next_window() -> None:
    token = CancelToken()
    reports: list[Progress] = []

    def stop_at_third(progress: Progress) -> None:
        reports.append(progress)
        if progress.done == 3:
            token.cancel()

    with pytest.raises(CancelledError):
        predict(noise(), random_model(make_card()), progress=stop_at_third, cancel=token)
    assert reports[-1].done == 3


def test_threads_and_gradients_are_as_before() -> None:
    before = torch.get_num_threads()
    predict(noise(), random_model(make_card()), InferenceSettings(threads=1))
    assert torch.get_num_threads() == before
    assert not torch.is_inference_mode_enabled()


def test_overlap_of_the_settings_wins() -> None:
    model = random_model(make_card(window=SlidingWindow((8, 8, 8), 0.5)))
    few = plan_inference(noise().geometry, model, InferenceSettings(overlap_fraction=0.0))
    assert few.windows.count < plan_inference(noise().geometry, model).windows.count


def test_input_is_left_alone_even_by_a_network_that_writes_into_it() -> None:
    class Greedy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            image.mul_(2).sub_(1)
            return torch.cat((torch.zeros_like(image), image), dim=1)

    volume = noise()
    kept = volume.array.copy()
    model = Model(make_card(1), Greedy().eval())
    expected = (kept * 2 - 1 > 0).astype(np.uint8)
    assert np.array_equal(predict(volume, model).array, expected)
    assert np.array_equal(volume.array, kept)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float64", ">f4", "bool"])
def test_any_voxel_type_and_memory_order(dtype: str) -> None:
    array = np.asfortranarray((noise().array > 0.5).astype(dtype))
    volume = Volume(array, Geometry.from_spacing(array.shape))
    assert np.array_equal(predict(volume, threshold_model()).array, array.astype(np.uint8))


class Answer(nn.Module):
    """Answers with whatever a function makes of the window."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.make(image)
        return made


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda x: torch.cat((x, x * float("nan")), 1), "NETWORK_NAN"),
        (lambda x: torch.cat((x, x + float("inf")), 1), "NETWORK_NAN"),
        (lambda x: torch.cat((x, x, x), 1), "BAD_OUTPUT"),
        (lambda x: torch.cat((x, x), 1)[..., ::2], "BAD_OUTPUT"),
    ],
)
def test_wrong_answers_are_refused(make: Any, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        predict(noise(), Model(make_card(1), Answer(make).eval()))
    assert caught.value.code == code


def test_window_that_the_network_cannot_take(tmp_path: Path) -> None:
    """A U-Net of two down-samplings by 2 cannot join its halves for windows of 14."""
    from medseg.models.loading import load_model

    tiny = tiny_inference()
    recipe = {
        "inferer": tiny["inferer"] | {"roi_size": [14, 16, 16]},
        "network_def": tiny["network_def"] | {"channels": [4, 4, 4], "strides": [2, 2]},
    }
    model = load_model(write_tiny_bundle(tmp_path / "odd", inference=recipe))
    with pytest.raises(ModelError) as caught:
        predict(noise(), model)
    assert caught.value.code == "BAD_NETWORK"


def test_models_of_several_images_are_refused_for_one() -> None:
    model = random_model(make_card())
    with pytest.raises(ModelError) as caught:
        predict(noise(), replace(model, card=replace(model.card, in_channels=4)))
    assert caught.value.code == "CHANNELS_MISMATCH"


def test_memory_limit_names_the_need_and_the_need_suffices() -> None:
    model = random_model(make_card())
    geometry = noise().geometry
    with pytest.raises(DeviceMemoryError, match=r"allow [\d.]+ GB") as caught:
        plan_inference(geometry, model, InferenceSettings(max_memory_gb=0.1))
    assert caught.value.code == "OVER_MEMORY_LIMIT"
    need = float(str(caught.value).split("allow ")[1].split(" GB")[0])
    plan = plan_inference(geometry, model, InferenceSettings(max_memory_gb=need + 0.1))
    assert f"{plan.windows.count} windows" in plan.sentence


def test_a_plan_beyond_the_machine_is_refused_unless_it_is_allowed() -> None:
    model = random_model(make_card(window=SlidingWindow((16, 16, 16), 0.0)))
    wide = Geometry.from_spacing((4000, 4000, 4000))
    with pytest.raises(DeviceMemoryError) as caught:
        plan_inference(wide, model)
    assert caught.value.code == "OVER_MEMORY_LIMIT"
    assert plan_inference(wide, model, InferenceSettings(max_memory_gb=4096)).peak_bytes > 5e11


def test_planned_memory_of_the_slab_does_not_grow_with_k() -> None:
    model = random_model(make_card(window=SlidingWindow((16, 16, 16), 0.5)))
    low, high = (plan_inference(Geometry.from_spacing((64, 64, k)), model).memory for k in (100, 400))
    assert low.slab == high.slab
    assert low.network == high.network


def test_activations_of_a_chain_are_counted_exactly() -> None:
    """Two pointwise layers in a row: input, first output and second output live together."""
    network = nn.Sequential(nn.ReLU(), nn.Sigmoid())
    assert activation_bytes(network, 2, (4, 5, 6)) == 3 * 2 * 120 * 4
    convolution = nn.Conv3d(2, 20, 1)
    plain = activation_bytes(convolution, 2, (4, 5, 6), reordered=False)
    assert plain == 22 * 120 * 4
    assert activation_bytes(convolution, 2, (4, 5, 6)) == plain + 32 * 120 * 4


@pytest.mark.parametrize(
    ("layer", "channels", "copied"),
    [
        (nn.Conv3d(32, 16, 3, padding=1), 32, 32),  # both copies, before the answer is there
        (nn.Conv3d(16, 64, 3, padding=1), 16, 64),  # that of the answer, beside it
        (nn.Conv3d(32, 32, 3, padding=1, groups=32), 32, 64),
        (nn.ConvTranspose3d(32, 16, 3, padding=1), 32, 32),
    ],
)
def test_copies_of_a_convolution_are_those_that_onednn_makes(
    layer: nn.Module, channels: int, copied: int
) -> None:
    size = (6, 7, 8)
    plain = activation_bytes(layer, channels, size, reordered=False)
    assert activation_bytes(layer, channels, size) == plain + copied * math.prod(size) * 4


def test_a_plan_for_openvino_has_room_for_converting() -> None:
    """torch answers one window to be traced; where that takes more than OpenVINO does, it decides."""
    card = make_card(window=SlidingWindow((256, 256, 256), 0.0))
    network = nn.Sequential(
        nn.ConvTranspose3d(1, 32, 3, padding=1), nn.Conv3d(32, card.out_channels, 3, padding=1)
    )
    allowed = InferenceSettings(backend="openvino", max_memory_gb=4096)
    plan = plan_inference(Geometry.from_spacing((256, 256, 256)), Model(card, network.eval()), allowed)
    assert plan.backend.backend == "openvino"
    traced = activation_bytes(network, 1, (256, 256, 256))
    assert traced > activation_bytes(network, 1, (256, 256, 256), reordered=False) + OPENVINO_BYTES
    assert plan.memory.network > traced


class Widens(nn.Module):
    """Small tensors that live and go, then a large one."""

    def forward(self, image: Tensor) -> Tensor:
        small = torch.cat([image, image], dim=1)
        return torch.cat([image] * (1 + 64 * small.shape[1]), dim=1)


def test_memory_of_small_tensors_is_not_given_back() -> None:
    """An image of 1 MB, two of it for a while, then 129 beside: what was freed stays with the process."""
    size = (64, 64, 64)
    voxels = math.prod(size) * 4
    assert activation_bytes(Widens(), 1, size) == (1 + 2 + 129) * voxels


MEASURE_ONE = """
import json, sys
import torch
from medseg.inference.memory import activation_bytes, resident_bytes
from medseg.models.networks import build_network
name, arguments, size = json.loads(sys.argv[1])
torch.set_num_threads(1)
network, _ = build_network(name, {"in_channels": 1, "spatial_dims": 3} | arguments)
network.eval()
planned = activation_bytes(network, 1, tuple(size))
with torch.inference_mode():
    network(torch.zeros(1, 1, 32, 32, 32))  # loads what stays
    image = torch.randn(1, 1, *size)
    before = resident_bytes() - image.nbytes
    with open("/proc/self/clear_refs", "w") as asked:
        asked.write("5")  # the peak counts from here
    network(image)
with open("/proc/self/status") as told:
    peak = next(int(line.split()[1]) * 1024 for line in told if line.startswith("VmHWM"))
print(json.dumps({"planned": planned, "measured": peak - before}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told by Linux alone")
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SegResNet", {"init_filters": 16, "out_channels": 5, "blocks_down": [1, 2, 2, 4]}),
        (
            "DynUNet",
            {"out_channels": 5, "kernel_size": [3] * 4, "strides": [1, 2, 2, 2],
             "upsample_kernel_size": [2] * 3, "filters": [32, 64, 128, 256]},
        ),
        ("UNet", {"out_channels": 25, "channels": [32, 64, 128], "strides": [2, 2], "norm": "batch"}),
        ("AttentionUnet", {"out_channels": 5, "channels": [16, 32, 64], "strides": [2, 2]}),
    ],
)  # fmt: skip
def test_planned_activations_are_those_of_the_process(name: str, arguments: dict[str, Any]) -> None:
    """Less by no more than code and heap take (`RUNTIME_BYTES`), and not so much more that runs are refused.

    Converting to OpenVINO needs them too: it lets torch answer one window.
    """
    job = json.dumps([name, arguments, [128, 128, 128]])
    command = [sys.executable, "-W", "ignore", "-c", MEASURE_ONE, job]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["measured"] - RUNTIME_BYTES < found["planned"] < 1.2 * found["measured"]


@pytest.mark.parametrize(
    "setting",
    [
        {"device": "tpu"},
        {"overlap_fraction": 1.0},
        {"overlap_fraction": -0.1},
        {"overlap_fraction": float("nan")},
        {"max_memory_gb": 0.0},
        {"threads": -1},
    ],
)
def test_settings_out_of_bounds(setting: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        InferenceSettings(**setting)


MEASURE = """
import json, sys
import numpy as np
from medseg.geometry import Geometry
from medseg.inference.plan import plan_inference
from medseg.inference.predict import predict
from medseg.models.loading import load_model
from medseg.result import peak_memory_bytes
from medseg.volume import Volume
model = load_model(sys.argv[1], device="cpu")
geometry = Geometry.from_spacing((160, 160, int(sys.argv[2])), (1, 1, 1))
volume = Volume(np.random.default_rng(0).integers(0, 999, geometry.shape).astype(np.int16), geometry)
plan = plan_inference(geometry, model)
predict(volume, model)
print(json.dumps({"planned": plan.peak_bytes, "measured": peak_memory_bytes()}))
"""


def measured_peak(bundle: Path, planes: int) -> dict[str, int]:
    command = [sys.executable, "-c", MEASURE, str(bundle), str(planes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="resource is not there")
def test_planned_peak_is_that_of_the_process(tmp_path: Path) -> None:
    """Windows large enough that the run, not the program, decides; and flat in k."""
    tiny = tiny_inference((1.0, 1.0, 1.0))
    names = {str(c): f"structure {c}" for c in range(48)}
    formats = {"outputs": {"pred": {"channel_def": {"0": "background"} | dict(list(names.items())[1:])}}}
    recipe = {
        "preprocessing": tiny["preprocessing"],
        "inferer": tiny["inferer"] | {"roi_size": [96, 96, 96], "overlap": 0.25},
        "network_def": tiny["network_def"] | {"out_channels": 48, "channels": [16, 32]},
    }
    metadata = {"network_data_format": formats, "medseg": {}}
    bundle = write_tiny_bundle(tmp_path / "wide", metadata=metadata, inference=recipe)
    short, long = measured_peak(bundle, 120), measured_peak(bundle, 240)
    for run in (short, long):
        assert abs(run["planned"] / run["measured"] - 1) < 0.15
    assert long["measured"] < 1.15 * short["measured"]
