"""Classical separation of real and synthetic nuclei: F1 at IoU 0.5, and a picture of what came out.

    python benchmarks/instances_nuclei.py --data ../shared/data --picture nuclei.png

`img3d` is StarDist's synthetic demo (51 objects), `1135` a crop of real confocal nuclei (GoNuclear, those
of at least 50 voxels after halving in y and x). Settings are the same for both but for the diameter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.instances.foreground import bright_foreground
from medseg.instances.separate import separate
from medseg.instances.settings import SeparationSettings
from medseg.labels import colour_of_id
from medseg.volume import Volume

Array = npt.NDArray[Any]


def stardist(data: Path) -> tuple[Volume, Array, float]:
    """Image, truth, expected diameter in mm; voxels are taken for 2:1:1 um."""
    import tifffile

    image = tifffile.imread(data / "instances/stardist/img3d.tif")
    truth = tifffile.imread(data / "instances/stardist/mask3d.tif")
    return Volume(image, Geometry.from_spacing(image.shape, (0.002, 0.001, 0.001))), truth, 0.015


def gonuclear(data: Path) -> tuple[Volume, Array, float]:
    """Image smoothed and halved in y and x, truth likewise, expected diameter in mm."""
    import h5py
    from scipy import ndimage

    with h5py.File(data / "instances/gonuclear/1135_mini.h5") as file:
        raw, label = file["raw"][()].astype(np.float32), file["label"][()]
        spacing = [float(w) / 1000 for w in file["raw"].attrs["element_size_um"]]
    image = ndimage.gaussian_filter(raw, (0.5, 1, 1))[:, ::2, ::2]
    truth = label[:, ::2, ::2].astype(np.int64)
    sizes = np.bincount(truth.ravel())
    truth = np.where(sizes[truth] >= 50, truth, 0)
    grid = Geometry.from_spacing(image.shape, (spacing[0], 2 * spacing[1], 2 * spacing[2]))
    return Volume(image, grid), truth, 0.0045


def f1(truth: Array, found: Array) -> float:
    """Objects that share more than half of their union, over the mean number of objects."""
    keys, shared = np.unique(
        np.stack([truth.ravel(), found.ravel()]).astype(np.int64), axis=1, return_counts=True
    )
    both = (keys > 0).all(axis=0)
    sizes, others = np.bincount(truth.ravel()), np.bincount(found.ravel())
    union = sizes[keys[0, both]] + others[keys[1, both]] - shared[both]
    hits = int((shared[both] > union / 2).sum())
    return 2 * hits / int((sizes[1:] > 0).sum() + (others[1:] > 0).sum())


def coloured(labels: Array, image: Array) -> Array:
    """The middle slice: grey image, and objects in their colours over it."""
    plane, grey = labels[len(labels) // 2], image[len(image) // 2].astype(float)
    low, high = np.percentile(grey, (1, 99.5))
    base = np.clip((grey - low) / (high - low), 0, 1)[..., None] * 255 * np.ones(3)
    colours = np.array([(0, 0, 0), *(colour_of_id(n) for n in range(1, int(labels.max()) + 1))])
    mixed = np.where(plane[..., None] > 0, 0.45 * base + 0.55 * colours[plane], base)
    return np.asarray(mixed.astype(np.uint8).repeat(4, 0).repeat(4, 1))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    choice = parser.parse_args()
    rows = []
    for name, (image, truth, diameter) in (
        ("img3d", stardist(choice.data)),
        ("1135", gonuclear(choice.data)),
    ):
        mask = bright_foreground(image, sigma_mm=0.05 * diameter)
        small = 0.05 * np.pi / 6 * diameter**3
        panels = [coloured(np.zeros_like(truth), image.array), coloured(truth, image.array)]
        for way, settings in {
            "components": SeparationSettings(min_volume_mm3=small),
            "distance": SeparationSettings(diameter_mm=diameter, min_volume_mm3=small),
            "intensity": SeparationSettings(
                diameter_mm=diameter, height="intensity", smoothing_fraction=0.15, min_volume_mm3=small
            ),
        }.items():
            found = separate(mask, 1, settings=settings, image=image)
            score = f1(truth, found.array)
            true_count = len(np.unique(truth)) - 1
            print(f"{name:8}{way:12}{len(found.classes):5} objects of {true_count:3}  F1 {score:.2f}")
            panels.append(coloured(found.array, image.array))
        rows.append(panels)
    if choice.picture is not None:
        from PIL import Image

        wide = [np.concatenate(panels, axis=1) for panels in rows]
        width = max(row.shape[1] for row in wide)
        padded = [np.pad(row, ((0, 8), (0, width - row.shape[1]), (0, 0))) for row in wide]
        Image.fromarray(np.concatenate(padded)).save(choice.picture)


if __name__ == "__main__":
    main()
