"""Separating nuclei in 1024 x 1024 x 512 voxels from Zarr to Zarr: seconds and peak memory.

The store is made once, out of mirrored copies of 3,000 touching nuclei in 256^3 voxels. Run:
`python benchmarks/instances_big.py FOLDER` (`--shape 256 256 256` for a quick look).
"""

from __future__ import annotations

import argparse
import itertools
import resource
import shutil
import time
from pathlib import Path

import numpy as np
from instances_speed import touching_nuclei

from medseg.instances.decode import Watch
from medseg.instances.ome_zarr import create_label_store, open_store
from medseg.instances.settings import SeparationSettings
from medseg.instances.store import separate_store
from medseg.progress import Progress

TILE = 256
SPACING_MM = (0.001, 0.001, 0.001)
CHOICE = SeparationSettings(diameter_mm=0.018, numbering="position")


def make_store(path: Path, shape: tuple[int, int, int]) -> None:
    """A mask of the shape, tile by tile."""
    import zarr

    tile = touching_nuclei(TILE, 3000).astype(np.uint8)
    plain = zarr.create_array(str(path) + ".grid", shape=shape, chunks=(128,) * 3, dtype="u1")
    store = open_store(str(path) + ".grid", spacing_mm=SPACING_MM)
    stored = create_label_store(path, store, plain.dtype, (128, 128, 128))
    for place in itertools.product(*[range(0, n, TILE) for n in shape]):
        flips = tuple(slice(None, None, -1 if p // TILE % 2 else 1) for p in place)
        stored[tuple(slice(p, p + TILE) for p in place)] = tile[flips]
    shutil.rmtree(str(path) + ".grid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 1024, 1024))
    choice = parser.parse_args()
    i, j, k = choice.shape
    source, target = choice.folder / f"nuclei_{i}_{j}_{k}.zarr", choice.folder / "objects.zarr"
    if not source.exists():
        make_store(source, (i, j, k))
    shutil.rmtree(target, ignore_errors=True)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def tell(progress: Progress) -> None:
        print(f"\r{progress.stage}: {progress.done}/{progress.total}   ", end="", flush=True)

    began = time.perf_counter()
    done = separate_store(open_store(source), target, 1, settings=CHOICE, watch=Watch(tell))
    spent = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"\n{i} x {j} x {k} voxels: {len(done.voxels)} objects in {spent:.0f} s, peak {peak:.2f} GB resident"
    )
    print(f"(of the process; {base:.2f} GB before the run)")


if __name__ == "__main__":
    main()
