"""Scores of many classes to labels on a finer grid: nnU-Net's scikit-image way against medseg's.

    python benchmarks/labels_home.py [--classes 25] [--shape 128 128 96] [--zoom 2] [--repeats 3]

nnU-Net resizes every class linearly in float64 and takes the highest (`resample_data_or_seg`, then
`argmax`). medseg interpolates only the classes of a block that could win, a few planes at a time. Each
way runs in a process of its own, on one thread; the scores are the same smooth blobs on background.
Printed: processor seconds (best of the repeats, which alternate), memory above the scores, and the
share of equal labels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PLANES = 16
"""Planes of the card's grid that arrive together, as in a run."""


def scores_of_blobs(classes: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """`(classes, i, j, k)`: smooth scores whose foreground is about a tenth of the volume."""
    rng = np.random.default_rng(5)
    axes = np.meshgrid(*[np.linspace(0, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    scores = np.empty((classes, *shape), dtype=np.float32)
    for channel in range(classes):
        centre, reach = rng.uniform(0.15, 0.85, 3), rng.uniform(0.07, 0.13)
        far = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) / reach**2
        scores[channel] = 6 - 6 * far if channel else np.cos(9 * far)
    return np.maximum(scores, -12, out=scores)


def by_scikit_image(scores: npt.NDArray[np.float32], shape: tuple[int, ...]) -> Any:
    """Labels as nnU-Net makes them."""
    from skimage.transform import resize

    home = np.zeros((len(scores), *shape), dtype=scores.dtype)
    double = scores.astype(float)
    for channel in range(len(scores)):
        home[channel] = resize(double[channel], shape, 1, mode="edge", anti_aliasing=False)
    return home.argmax(0).astype(np.uint8)


def by_medseg(scores: npt.NDArray[np.float32], shape: tuple[int, ...]) -> Any:
    """Labels as a run of medseg makes them."""
    import torch

    from medseg.geometry import Geometry
    from medseg.inference.home import Decision, parallel_maps
    from medseg.inference.linear_home import ScoresHome

    target = Geometry.from_spacing(shape)
    zoom = np.array(shape) / scores.shape[1:]
    affine = np.diag([*zoom, 1.0])
    affine[:3, 3] = zoom / 2 - 0.5
    grid = Geometry(scores.shape[1:], affine)
    ids = tuple(range(len(scores)))
    decision = Decision(ids, "none", None, None, np.dtype(np.uint8), ids)
    home = ScoresHome(parallel_maps(grid, target), decision)
    tensor = torch.from_numpy(scores)
    for start in range(0, scores.shape[3], PLANES):
        home.feed(tensor[..., start : start + PLANES], start)
    return home.labels()


WAYS = {"scikit-image": by_scikit_image, "medseg": by_medseg}


def highest_bytes() -> int:
    """The most memory that this process has held since `forget_highest`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def child(way: str, shape: tuple[int, ...], classes: int, zoom: int, file: Path) -> None:
    """One run of one way: seconds and memory as JSON, labels into a file."""
    scores = scores_of_blobs(classes, shape)
    WAYS[way](scores[:, :8, :8, :8], (16, 16, 16))  # imports and thread pools are not what is measured
    Path("/proc/self/clear_refs").write_text("5")
    before, began = highest_bytes(), time.process_time()
    labels = WAYS[way](scores, tuple(n * zoom for n in shape))
    seconds = time.process_time() - began
    print(json.dumps({"seconds": seconds, "bytes": highest_bytes() - before}))
    np.save(file, labels)


def main() -> None:
    """Run both ways in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--shape", type=int, nargs=3, default=[128, 128, 96])
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child[0], tuple(asked.shape), asked.classes, asked.zoom, Path(asked.child[1]))
        return
    told: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.repeats):
            for way in WAYS:
                command = [sys.executable, __file__, "--child", way, f"{folder}/{way}.npy"]
                for name in ("classes", "zoom", "shape"):
                    value = getattr(asked, name)
                    command += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
                one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=one_thread)
                told[way].append(json.loads(done.stdout))
        first, other = (np.load(f"{folder}/{way}.npy") for way in WAYS)
    best = {way: min(run["seconds"] for run in runs) for way, runs in told.items()}
    print(f"{asked.classes} classes, {asked.shape} x {asked.zoom}, foreground {(first > 0).mean():.2f}")
    print(f"{'way':14}{'CPU s':>9}{'times':>8}{'extra MB':>10}")
    for way, runs in told.items():
        extra = max(run["bytes"] for run in runs) / 1e6
        print(f"{way:14}{best[way]:>9.2f}{best['scikit-image'] / best[way]:>8.1f}{extra:>10.0f}")
    print(f"equal labels: {(first == other).mean():.7f} ({int((first != other).sum())} differ)")


if __name__ == "__main__":
    main()
