"""What the annotation tools cost: one answer each, in processor time, on a phantom of the size asked for.

python benchmarks/annotation.py --size 512 512 120 --spacing 0.8 0.8 2.5
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from medseg import (
    GrowSettings,
    LiveWire,
    Proposal,
    ScribbleSettings,
    accept_proposal,
    fill_outline,
    grow_region,
    grow_scribbles,
    interpolate_slices,
)


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Processor time of the fastest of several runs; what else the machine does counts little."""
    taken = []
    for _ in range(repeats):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def phantom(size: tuple[int, ...]) -> tuple[Any, Any]:
    """An ellipsoid of a third of the size in noise, and its mask."""
    axes = [np.linspace(-1.5, 1.5, n) ** 2 for n in size]
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= 0.25
    noise = np.random.default_rng(0).normal(0, 10, size)
    return (inside * 100 + noise).astype(np.float32), inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 120))
    parser.add_argument("--spacing", type=float, nargs=3, default=(0.8, 0.8, 2.5))
    parser.add_argument("--box", type=int, nargs=3, default=(160, 160, 64), help="box of the scribbles")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    size, mm = tuple(given.size), tuple(given.spacing)
    image, truth = phantom(size)
    middle = tuple(n // 2 for n in size)
    plane = image[:, :, middle[2]]
    wire = LiveWire(plane, middle[:2], mm[:2])
    way = wire.to((0, 0))
    box = tuple(slice(m - b // 2, m - b // 2 + b) for m, b in zip(middle, given.box, strict=True))
    strokes = np.zeros(given.box, np.uint16)
    strokes[tuple(slice(b // 2 - 3, b // 2 + 4) for b in given.box)] = 1
    strokes[0], strokes[-1] = 2, 2
    sparse = truth.copy()
    drawn = np.arange(size[2]) % 6 == 0
    sparse[:, :, ~drawn] = False
    labels = np.zeros(size, np.uint16)
    proposal = Proposal((0, 0, 0), truth.astype(np.int32))
    rows = (
        ("live wire, a click", lambda: LiveWire(plane, middle[:2], mm[:2])),
        ("live wire, a move", lambda: wire.to((0, 0))),
        ("live wire, filled", lambda: fill_outline(way, plane.shape)),
        ("grow, 30 mm", lambda: grow_region(image, middle, mm, GrowSettings(50, 30))),
        ("grow, 60 mm", lambda: grow_region(image, middle, mm, GrowSettings(50, 60))),
        *(
            (f"scribbles by {method}", lambda method=method: grow_scribbles(
                image[box], strokes, 2, mm, ScribbleSettings(method=method)))
            for method in ("edges", "intensities")
        ),
        ("every 6th slice filled", lambda: interpolate_slices(sparse, 2, mm)),
        ("apply to the whole", lambda: accept_proposal(labels, proposal, (3,))),
    )  # fmt: skip
    print(f"{' x '.join(map(str, size))} voxels of {' x '.join(map(str, mm))} mm; scribbles in {given.box}")
    for name, work in rows:
        print(f"{name:26} {seconds(work, given.repeats) * 1000:9.1f} ms")


if __name__ == "__main__":
    main()
