"""Networks by name on one small task: size, work, time of a window, Dice after an equal budget.

    python benchmarks/networks.py [--minutes 3] [--only NAME]... [--folder FOLDER] [--threads 1]

The task is that of `benchmarks/brain_task.py` (16 synthesised brains of 8 classes, 4 others held out). Each
network has the size that `medseg train` gives it on a CPU, and learns for the same minutes of processor
time: whole brains on 6 mm, moved and mirrored, AdamW, a rate that falls to 0 as the time is spent, Dice and
cross entropy. `Dice` is the mean over classes and held-out brains, through the engine. A budget this short
favours what learns fast; it does not tell which network is best in the end.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from brain_task import CLASSES, MAPS, mean_dice, read_test, write_task
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import medseg
from medseg.models.networks import build_network
from medseg.training.loss import dice_and_cross_entropy
from medseg.training.networks_by_name import NETWORKS, network_arguments
from medseg.training.optimise import polynomial_rate
from medseg.training.plan import CPU_BUDGET, levels
from medseg.training.plan_loss import answers

WINDOW = (32, 40, 32)
"""Voxels; the whole of a brain on that spacing."""

OTHER_WINDOWS = {"SwinUNETR": (32, 64, 32), "MedNeXt": (32, 48, 32)}
"""Of networks that take other multiples; the image is padded."""

SPACING_MM = 6.0
BATCH = 2
RATES = {"SwinUNETR": 1e-3, "SegFormer3D": 1e-3, "MedNeXt": 1e-3}
"""Highest learning rate where not 3e-3; transformers do not take that."""

Pair = tuple[Tensor, Tensor]
"""Image `(i, j, k)` of mean 0 and deviation 1, and classes `(i, j, k)`."""


@dataclass(frozen=True)
class Row:
    """What the table tells of a network."""

    name: str
    parameters: int
    flops: int
    seconds: float
    steps: int
    dice: float

    def __str__(self) -> str:
        return (
            f"{self.name:12}{self.parameters / 1e6:>9.2f}{self.flops / 1e9:>9.1f}{self.seconds:>10.3f}"
            f"{self.steps:>8}{self.dice:>8.3f}"
        )


def window_of(name: str) -> tuple[int, int, int]:
    return OTHER_WINDOWS.get(name, WINDOW)


def made(name: str) -> nn.Module:
    """The network that `medseg train --network NAME` would take for this window on a CPU."""
    window = window_of(name)
    strides, kernels = levels(window, (SPACING_MM,) * 3, CPU_BUDGET.deepest)
    features = [min(CPU_BUDGET.widest, CPU_BUDGET.width * 2**n) for n in range(len(strides))]
    definition = network_arguments(name, (1, len(CLASSES) + 1), (strides, kernels, features))
    arguments = {key: value for key, value in definition.items() if not key.startswith("_")}
    torch.manual_seed(0)
    return build_network(definition["_target_"], arguments)[0]


def standardised(volume: medseg.Volume) -> Tensor:
    image = torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32))
    return (image - image.mean()) / image.std()


def drawn(pairs: Sequence[Pair], window: Sequence[int], rng: np.random.Generator) -> Pair:
    """A batch of brains, moved a little, mirrored by chance, padded to the window."""
    images, classes = [], []
    for _ in range(BATCH):
        image, truth = pairs[int(rng.integers(len(pairs)))]
        mirrored = [axis for axis in range(3) if rng.random() < 0.5]
        shifts = [int(shift) for shift in rng.integers(-2, 3, 3)]
        pads = [n for a, w in zip(image.shape[::-1], window[::-1], strict=True) for n in (0, w - a)]
        moved = [part.flip(mirrored).roll(shifts, (0, 1, 2)) for part in (image, truth)]
        images.append(F.pad(moved[0] * float(rng.uniform(0.8, 1.25)), pads))
        classes.append(F.pad(moved[1], pads))
    return torch.stack(images)[:, None], torch.stack(classes)


def learn(network: nn.Module, name: str, pairs: Sequence[Pair], seconds: float) -> int:
    """Train for so many seconds of processor time; steps of the optimiser."""
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    rng, began, steps, spent = np.random.default_rng(0), time.process_time(), 0, 0.0
    while spent < seconds:
        rate = polynomial_rate(RATES.get(name, 3e-3), int(1000 * spent / seconds), 1000, 50)
        for group in optimiser.param_groups:
            group["lr"] = rate
        image, truth = drawn(pairs, window_of(name), rng)
        optimiser.zero_grad(set_to_none=True)
        loss = dice_and_cross_entropy(answers(network.train()(image))[0], truth)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        steps, spent = steps + 1, time.process_time() - began
    return steps


def score(
    network: nn.Module, window: tuple[int, int, int], test: Sequence[tuple[medseg.Volume, medseg.LabelVolume]]
) -> float:
    """Mean Dice of held-out brains through the engine's sliding window."""
    inferer = medseg.SlabInferer(window, overlap=0.5, mode="gaussian", output="labels")
    found = []
    for volume, truth in test:
        with torch.no_grad():
            labels = inferer(standardised(volume)[None, None], network.eval())[0, 0].numpy()
        found.append(mean_dice(medseg.LabelVolume(labels, truth.geometry, truth.labels), truth))
    return float(np.mean(found))


def measured(name: str, pairs: Sequence[Pair], test: Sequence[tuple[medseg.Volume, medseg.LabelVolume]],
             minutes: float) -> Row:  # fmt: skip
    """One row of the table."""
    network = made(name).eval()
    window = torch.randn(1, 1, *window_of(name), generator=torch.Generator().manual_seed(0))
    times = []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(window)
        for _ in range(3):
            began = time.process_time()
            network(window)
            times.append(time.process_time() - began)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    steps = learn(network, name, pairs, 60 * minutes)
    return Row(
        name, parameters, counter.get_total_flops(), min(times), steps, score(network, window_of(name), test)
    )


def main() -> None:
    """Print one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--maps", type=Path, default=MAPS)
    parser.add_argument("--folder", type=Path, help="keep the task here; a temporary one if not given")
    parser.add_argument("--minutes", type=float, default=3.0, help="of processor time for each network")
    parser.add_argument("--only", action="append", choices=sorted(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        write_task(folder, asked.maps, SPACING_MM)
        files = sorted((folder / "train" / "images").iterdir())
        truths = [medseg.read_labels(folder / "train" / "labels" / file.name) for file in files]
        pairs = [
            (standardised(medseg.read(file)), torch.from_numpy(truth.array.astype(np.int64)))
            for file, truth in zip(files, truths, strict=True)
        ]
        test = read_test(folder)
    print(f"{asked.minutes:g} minutes of processor time each, {asked.threads} thread(s)")
    print(f"{'network':12}{'Mparam':>9}{'GFLOP':>9}{'s/window':>10}{'steps':>8}{'Dice':>8}", flush=True)
    for name in asked.only or NETWORKS:
        print(measured(name, pairs, test, asked.minutes), flush=True)


if __name__ == "__main__":
    main()
