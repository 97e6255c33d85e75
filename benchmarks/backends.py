"""One window on every backend beside eager torch: seconds, working memory, agreement.

The sides take turns (A, B, A, B), each time in a process of its own; least times count, ratios are to
eager torch in float32. Networks: `unet`, MONAI's UNet of 25 classes; `plain` and `resenc`, nnU-Net's of 25
classes; these with random weights, of which the agreement in bf16 and int8 says little. `brain` is the
bundled model brain-mri, trained, on its sample scan: there int8 is judged as `--precision int8` judges
itself (0.998 of voxels, Dice 0.995 of every class).

Run: `python benchmarks/backends.py` (`--networks unet brain`, `--sides torch openvino`, `--window 64` for
a quick look, `--threads 2`, `--repeats 3`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from engine_child import network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.inference.predictor import Precision, Predictor

NETWORKS = ("unet", "plain", "resenc", "brain")
SIDES = ("torch", "openvino", "torch-bf16", "openvino-bf16", "openvino-int8")
CLASSES = 25
SAMPLE = Path(__file__).resolve().parents[1] / "sample_volumes" / "colin27_t1.nii.gz"


def subject(name: str, side: int) -> tuple[nn.Module, tuple[int, int, int], Tensor]:
    """Network, window, and the windows `(9, 1, i, j, k)` that it sees."""
    import torch

    if name != "brain":
        size = (side, side, side)
        windows = torch.randn((9, 1, *size), generator=torch.Generator().manual_seed(0))
        return network(name, CLASSES).requires_grad_(requires_grad=False), size, windows
    import medseg
    from medseg.inference.backends.int8 import sample_windows
    from medseg.preprocess.prepare import prepare_channels

    model = medseg.load_model("brain-mri", device="cpu")
    size = model.card.window.size
    image = torch.from_numpy(np.ascontiguousarray(prepare_channels((medseg.read(SAMPLE),), model.card)))
    return model.network, size, sample_windows(image[None], size, model.card.window.padding_value)


def make(job: dict[str, Any], module: nn.Module, size: tuple[int, int, int], windows: Tensor) -> Predictor:
    """The side of a job."""
    from medseg.inference.backends.convert import convert_module
    from medseg.inference.backends.int8 import quantise
    from medseg.inference.backends.openvino_backend import OpenVinoPredictor, compile_network
    from medseg.inference.predictor import TorchPredictor

    backend, _, precision = job["side"].partition("-")
    kind: Precision = "bf16" if precision == "bf16" else "f32"
    if backend == "torch":
        return TorchPredictor(module, "cpu", precision=kind, channels_last=bool(precision))
    converted = convert_module(module, 1, size)
    if precision == "int8":
        converted = quantise(converted, [w[None] for n, w in enumerate(windows) if n % 3 != 1])
    return OpenVinoPredictor(compile_network(converted, kind, job["threads"]), job["side"])


def child(job: dict[str, Any]) -> None:
    """One side: times of an answer, and the labels of the windows that int8 does not see."""
    import torch

    torch.set_num_threads(job["threads"])
    module, size, windows = subject(job["network"], job["window"])
    with torch.inference_mode():
        predictor = make(job, module, size, windows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        labels = [predictor(windows[n : n + 1].clone())[0].float().argmax(0).numpy() for n in (1, 4, 7)]
        wall = cpu = float("inf")
        for _ in range(job["calls"]):
            given = windows[:1].clone()
            began, spent = time.perf_counter(), time.process_time()
            predictor(given)
            wall = min(wall, time.perf_counter() - began)
            cpu = min(cpu, time.process_time() - spent)
    np.save(job["labels"], np.stack(labels))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"wall": wall, "cpu": cpu, "grown_mb": grown / 1024}))


def measure(network: str, choice: argparse.Namespace, folder: Path) -> None:
    """All sides of a network in turn, and the table."""
    from medseg.inference.backends.int8 import agreement

    best: dict[str, dict[str, float]] = {}
    for _ in range(choice.repeats):
        for side in choice.sides:
            job = {
                "network": network,
                "side": side,
                "window": choice.window,
                "threads": choice.threads,
                "calls": choice.calls,
                "labels": str(folder / f"{side}.npy"),
            }
            done = subprocess.run(
                [sys.executable, __file__, "--child", json.dumps(job)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                print(f"{network} {side}: failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            before = best.setdefault(side, found)
            best[side] = {key: min(before[key], value) for key, value in found.items()}
    for side, times in best.items():
        line = f"{network:8} {side:14} {times['wall']:8.3f} {times['cpu']:8.3f} {times['grown_mb']:9.0f}"
        if side != "torch" and "torch" in best:
            exact = np.load(folder / "torch.npy")
            equal = agreement([exact], [np.load(folder / f"{side}.npy")])
            ratios = (best["torch"][key] / times[key] for key in ("wall", "cpu"))
            line += "".join(f" {ratio:7.2f}" for ratio in ratios) + f"  {equal.words}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.child:
        child(json.loads(choice.child))
        return
    print("network  side             wall s    cpu s  grown MB  x wall   x cpu  labels beside torch")
    for name in choice.networks:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, choice, Path(folder))


if __name__ == "__main__":
    main()
