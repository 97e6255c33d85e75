"""Separating 3,000 touching nuclei in 256^3 voxels, one thread: medseg beside scikit-image, in one run.

Both get the same mask and the same smoothed distance; scikit-image splits it by h-maxima and
watershed. Nothing in either uses a second thread. Run: `python benchmarks/instances_speed.py`
(`--size 128 --nuclei 375` for a quick look).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.instances.basins import BACKGROUND
from medseg.instances.decode import MergeRule, decode
from medseg.instances.fields import distance_to_background, smooth
from medseg.instances.grid import Block, BlockGrid
from medseg.instances.separate import separate
from medseg.instances.settings import SeparationSettings
from medseg.labels import LabelSet
from medseg.volume import LabelVolume

SPACING_MM = (1.0, 1.0, 1.0)
DIAMETER_MM = 18.0
CHOICE = SeparationSettings(diameter_mm=DIAMETER_MM, numbering="position")
Array = npt.NDArray[Any]


def touching_nuclei(size: int, count: int, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Ellipsoids on a jittered lattice that is too narrow for them."""
    rng = np.random.default_rng(seed)
    per_axis = int(np.ceil(count ** (1 / 3)))
    pitch = size / per_axis
    lattice = np.stack(np.meshgrid(*[np.arange(per_axis)] * 3, indexing="ij"), -1).reshape(-1, 3)
    centres = (rng.permutation(lattice)[:count] + 0.5) * pitch + rng.uniform(-0.1, 0.1, (count, 3)) * pitch
    mask = np.zeros((size, size, size), bool)
    for centre in centres:
        radii = rng.uniform(0.48, 0.6, 3) * pitch
        low = np.maximum(0, np.floor(centre - radii)).astype(int)
        high = np.minimum(size, np.ceil(centre + radii) + 1).astype(int)
        axes = np.ogrid[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)) <= 1
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] |= inside
    return mask


class OneField:
    """A ready height map, so that only the decoding is timed."""

    def __init__(self, field: npt.NDArray[np.float32]) -> None:
        self._field = field
        self.shape = (field.shape[0], field.shape[1], field.shape[2])
        self.reach, self.spacing_mm = (0, 0, 0), SPACING_MM

    def heights(self, block: Block) -> npt.NDArray[np.float32]:
        """A part of the field."""
        return np.ascontiguousarray(self._field[block.slices])


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least processor time of a few runs, and the last answer; other work on the machine counts little."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        answer = work()
        times.append(time.process_time() - began)
    return min(times), answer


def height_of(mask: Array) -> npt.NDArray[np.float32]:
    field = smooth(distance_to_background(mask, SPACING_MM, DIAMETER_MM), SPACING_MM, CHOICE.smoothing_mm)
    field[~mask] = BACKGROUND
    return field


def by_scikit_image(field: npt.NDArray[np.float32], mask: Array) -> Array:
    """h-maxima, labelled, as markers of a watershed."""
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    filled = np.where(mask, field, np.float32(0))
    markers = label(h_maxima(filled, CHOICE.persistence), connectivity=3)
    return np.asarray(watershed(-filled, markers, connectivity=3, mask=mask))


def scipy_height(mask: Array) -> npt.NDArray[np.float32]:
    from scipy import ndimage

    field = ndimage.distance_transform_edt(mask, SPACING_MM).astype(np.float32)
    sigma = [CHOICE.smoothing_mm / w for w in SPACING_MM]
    return np.asarray(ndimage.gaussian_filter(field, sigma, truncate=3.0), dtype=np.float32)


def same_objects(one: Array, other: Array) -> float:
    """F1 of objects that overlap by more than half of their union."""
    sizes, others = np.bincount(one.ravel()), np.bincount(other.ravel())
    key = one.astype(np.int64) * len(others) + other
    keys, shared = np.unique(key[(one > 0) & (other > 0)], return_counts=True)
    union = sizes[keys // len(others)] + others[keys % len(others)] - shared
    return float(2 * (shared > union / 2).sum() / ((sizes[1:] > 0).sum() + (others[1:] > 0).sum()))


def peak_bytes(work: Callable[[], Any]) -> int:
    """How far the resident memory rises above where it is now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")

    def read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    before = read("VmRSS")
    kept = work()
    del kept
    return read("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--nuclei", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    choice = parser.parse_args()
    mask = touching_nuclei(choice.size, choice.nuclei)
    labels = LabelVolume(
        mask.astype(np.uint8),
        Geometry.from_spacing(mask.shape, SPACING_MM),
        LabelSet.from_names({1: "nucleus"}),
    )
    small = LabelVolume(labels.array[:20, :20, :20], Geometry.from_spacing((20, 20, 20)), labels.labels)
    separate(small, 1, settings=CHOICE)  # compiles
    grid = BlockGrid(labels.geometry.shape, labels.geometry.shape)
    field = height_of(mask)
    decode(
        OneField(field[:20, :20, :20]), MergeRule(CHOICE.persistence), BlockGrid((20, 20, 20), (20, 20, 20))
    )

    ours, (found, objects) = seconds(
        lambda: decode(OneField(field), MergeRule(CHOICE.persistence), grid), choice.repeats
    )
    theirs, peer = seconds(lambda: by_scikit_image(field, mask), 1)
    ours_all, _ = seconds(lambda: separate(labels, 1, settings=CHOICE), choice.repeats)
    theirs_all, _ = seconds(lambda: by_scikit_image(scipy_height(mask), mask), 1)
    peak = peak_bytes(lambda: separate(labels, 1, settings=CHOICE))

    print(f"{choice.size}^3 voxels, {mask.mean():.0%} foreground, {choice.nuclei} nuclei drawn")
    print(f"{'':34}{'medseg':>10}{'scikit-image':>14}{'ratio':>8}")
    print(f"{'height map to objects, CPU s':34}{ours:10.2f}{theirs:14.2f}{theirs / ours:8.1f}")
    print(f"{'mask to objects, CPU s':34}{ours_all:10.2f}{theirs_all:14.2f}{theirs_all / ours_all:8.1f}")
    print(f"{'objects':34}{len(objects.voxels):10}{int(peer.max()):14}")
    print(f"same objects (F1 at IoU 0.5): {same_objects(found, peer):.4f}")
    print(
        f"peak memory above the label map: {peak / mask.size:.1f} bytes per voxel (separate, mask to objects)"
    )


if __name__ == "__main__":
    main()
