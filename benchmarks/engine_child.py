"""One side of an engine benchmark in a process of its own; prints one line of JSON.

Called by `engine_speed.py` and `engine_memory.py`: side, case and sizes as JSON in the only argument.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def phantom(shape: list[int], dtype: str = "float32", seed: int = 0) -> Array:
    """A smooth bright ellipsoid with texture in slightly noisy air, made plane by plane.

    Args:
        shape: voxels.
        dtype: whole numbers are in thousandths.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    result = np.empty(shape, dtype)
    unit = 1 if result.dtype.kind == "f" else 1000
    i, j = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[:2])
    disc = (i[:, None] / 0.85) ** 2 + (j[None] / 0.7) ** 2
    for k in range(shape[2]):
        depth = 0.2 * ((k + 0.5) / shape[2] * 2 - 1) ** 2
        texture = np.sin(i[:, None] * 40 + k / 9) * np.cos(j[None] * 33 - k / 7)
        plane = np.where(disc + depth < 1, 1 + 0.3 * texture, 0.0)
        result[:, :, k] = (plane + rng.normal(0, 0.02, plane.shape)) * unit
    return result


def network(name: str, classes: int) -> Any:
    """`unet`: MONAI's UNet, classes at full width. `light`: its body of 16 features and a 1x1x1 head.

    `plain`, `resenc`: nnU-Net's PlainConvUNet and ResEnc-M of six stages. `tiny`: 16 features and a head,
    almost no arithmetic.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    if name == "tiny":
        body: nn.Module = nn.Conv3d(1, 16, 3, padding=1)
        return nn.Sequential(body, nn.ReLU(), nn.Conv3d(16, classes, 1)).eval()
    if name in ("plain", "resenc"):
        return nnunet_network(name, classes)
    from monai.networks.nets.unet import UNet

    width = classes if name == "unet" else 16
    body = UNet(3, 1, width, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    return (body if name == "unet" else nn.Sequential(body, nn.Conv3d(16, classes, 1))).eval()


def nnunet_network(name: str, classes: int) -> Any:
    """`plain`: PlainConvUNet, two convolutions a stage. `resenc`: the residual encoder of size M."""
    from medseg.models.conv_blocks import LayerStyle, Stage
    from medseg.models.plain_conv_unet import PlainConvUNet
    from medseg.models.residual_encoder_unet import ResidualEncoderUNet

    widths, residual = (32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)
    blocks = residual if name == "resenc" else (2,) * len(widths)
    stages = [
        Stage(width, (3, 3, 3), (1, 1, 1) if n == 0 else (2, 2, 2), count)
        for n, (width, count) in enumerate(zip(widths, blocks, strict=True))
    ]
    decoder = (1 if name == "resenc" else 2,) * (len(widths) - 1)
    kind = ResidualEncoderUNet if name == "resenc" else PlainConvUNet
    return kind(1, classes, stages, decoder, LayerStyle()).eval()


def script(job: dict[str, Any]) -> None:
    """Write the network as TorchScript, for an environment that lacks its class."""
    import torch

    net = network(job["network"], job["classes"]).requires_grad_(requires_grad=False)
    window = torch.zeros(1, 1, *(job["window"],) * 3)
    with torch.inference_mode():
        trace: Any = torch.jit.trace
        trace(net, window, check_trace=False).save(job["script"])


def model_of(job: dict[str, Any]) -> Any:
    """A model in memory."""
    from medseg.labels import LabelSet
    from medseg.models.card import Card, NetworkRecipe, SlidingWindow
    from medseg.models.loading import Model

    classes = job["classes"]
    card = Card(
        name="benchmark",
        version="1",
        description="random weights",
        licence="Apache-2.0",
        modality="",
        labels=LabelSet.from_names({c: f"class {c}" for c in range(1, classes)}),
        output_ids=tuple(range(classes)),
        in_channels=1,
        orientation=None,
        spacing_mm=tuple(job["grid_mm"]) if job.get("grid_mm") else None,
        intensity=(),
        window=SlidingWindow((job["window"],) * 3, job.get("overlap", 0.5), "gaussian"),
        activation="softmax",
        home="scores-linear",
        network=NetworkRecipe("in memory", {}, "none"),
    )
    return Model(card, network(job["network"], classes).requires_grad_(requires_grad=False))


def joined(job: dict[str, Any]) -> Any:
    """Five parts, as TotalSegmentator has them, of that many classes together."""
    from medseg.labels import LabelSet
    from medseg.models.joining import join_models

    shares = [job["classes"] // 5 + (n < job["classes"] % 5) for n in range(5)]
    parts = []
    for number, classes in enumerate(shares):
        part = model_of(job | {"classes": 1 + classes, "parts": False})
        labels = LabelSet.from_names({c: f"class {number} {c}" for c in range(1, 1 + classes)})
        parts.append(replace(part, card=replace(part.card, labels=labels, home="logits-linear")))
    return join_models(parts)


def by_medseg(job: dict[str, Any], image: Array) -> dict[str, Any]:
    """`medseg.predict`'s way, with the plan's figure beside."""
    from medseg.geometry import Geometry
    from medseg.inference.predict import plan_case, predict_planned
    from medseg.inference.settings import InferenceSettings
    from medseg.volume import Volume

    model = joined(job) if job.get("parts") else model_of(job)
    settings = InferenceSettings(device="cpu", **job.get("settings", {}))
    volume = Volume(image, Geometry.from_spacing(image.shape, job.get("source_mm", (1, 1, 1))))
    if job.get("warm", True):  # conversion and trial are kept on disk: not the sliding window's time
        plan_case([volume], model, settings)
        side = job["window"]
        small = Volume(image[:side, :side, :side].copy(), Geometry.from_spacing((side,) * 3))
        one = replace(model, card=replace(model.card, spacing_mm=None))
        predict_planned([small], one, settings, plan_case([small], one, settings))
    base = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    plan = plan_case([volume], model, settings)
    labels = predict_planned([volume], model, settings, plan).labels.array
    return measured(job, labels, (wall, cpu, base)) | {
        "windows": plan.windows.count,
        "backend": plan.backend.words,
        "planned": plan.peak_bytes,
        "box": list(plan.box.shape),
    }


def by_monai(job: dict[str, Any], image: Array) -> dict[str, Any]:
    """`sliding_window_inference` in eager torch, then argmax."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    net = network(job["network"], job["classes"])
    window = (job["window"],) * 3
    with torch.inference_mode():
        if job.get("warm", True):
            net(torch.zeros(1, 1, *window))
        base = resident()
        wall, cpu = time.perf_counter(), time.process_time()
        scores = sliding_window_inference(
            torch.from_numpy(image)[None, None],
            window,
            1,
            net,
            overlap=job.get("overlap", 0.5),
            mode="gaussian",
        )
        labels = scores[0].argmax(0).to(torch.uint8).numpy()
    return measured(job, labels, (wall, cpu, base))


def by_nnunet(job: dict[str, Any], image: Array) -> dict[str, Any]:
    """nnU-Net's predictor, then argmax; in its own environment, the network as TorchScript."""
    from types import SimpleNamespace

    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - job.get("overlap", 0.5),
        use_mirroring=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    load: Any = torch.jit.load
    predictor.network = load(job["script"])
    predictor.allowed_mirroring_axes = None
    predictor.configuration_manager = SimpleNamespace(patch_size=[job["window"]] * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=job["classes"])
    with torch.inference_mode():
        for _ in range(2):  # TorchScript looks at its graph in its first two calls
            predictor.network(torch.zeros(1, 1, *[job["window"]] * 3))
    base = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    scores = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)[None])
    labels = scores.argmax(0).to(torch.uint8).numpy()
    return measured(job, labels, (wall, cpu, base))


def resident() -> int:
    """Memory in RAM now; the highest so far counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(job: dict[str, Any], labels: Array, began: tuple[float, float, int]) -> dict[str, Any]:
    """Times, memory, and the labels in a file if asked for."""
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    if job.get("labels"):
        np.save(job["labels"], labels)
    return {"wall": wall, "cpu": cpu, "peak": peak, "base": began[2]}


def main() -> None:
    """Run one side."""
    import torch

    job = json.loads(sys.argv[1])
    torch.set_num_threads(job.get("threads", 2))
    if job["side"] == "script":
        script(job)
        return
    image = phantom(job["shape"], job.get("dtype", "float32"))
    sides = {"medseg": by_medseg, "monai": by_monai, "nnunet": by_nnunet}
    print(json.dumps(sides[job["side"]](job, image)))


if __name__ == "__main__":
    main()
