"""Small datasets with a truth by formula: a bright ball and a brighter box in noise, on any grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from phantoms import Body, Box, Sphere, centre_mm, label_map

from medseg.geometry import Geometry
from medseg.io.formats import write_labels, write_volume
from medseg.labels import LabelSet
from medseg.volume import LabelVolume, Volume

CLASSES = {1: "ball", 2: "box"}
BRIGHTNESS = np.array([0.0, 100.0, 200.0])
GRID = Geometry.from_spacing((28, 26, 24), (1.0, 1.0, 1.0))


def ball_and_box(number: int, grid: Geometry = GRID) -> tuple[Volume, LabelVolume]:
    """Case `number`: places and sizes vary, brightness tells the classes apart."""
    chance = np.random.default_rng(number)
    x, y, z = centre_mm(grid)
    a, b = chance.uniform(-1.5, 1.5, (2, 3))
    bodies: dict[str, Body] = {
        "ball": Sphere((x - 6 + a[0], y + a[1], z + a[2]), float(chance.uniform(4, 5.5))),
        "box": Box((x + 6 + b[0], y + b[1], z + b[2]), (7.0, float(chance.uniform(7, 10)), 8.0)),
    }
    labels = label_map(grid, bodies)
    noise = chance.normal(0, 8, grid.shape)
    return Volume((BRIGHTNESS[labels.array] + noise).astype(np.float32), grid), labels


def write_dataset(
    folder: Path, cases: int = 4, make: Callable[[int], tuple[Volume, LabelVolume]] = ball_and_box
) -> Path:
    """`images/case_00.nii.gz` … with `labels/` of the same names."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(cases):
        image, labels = make(number)
        write_volume(image, folder / "images" / f"case_{number:02}.nii.gz")
        write_labels(labels, folder / "labels" / f"case_{number:02}.nii.gz")
    return folder


NUCLEI_GRID = Geometry.from_spacing((44, 40, 36), (0.0005,) * 3)


def numbered_balls(number: int, grid: Geometry = NUCLEI_GRID) -> tuple[Volume, LabelVolume]:
    """Case `number`: a dozen bright balls of about 10 voxels that nearly touch, each with its own id."""
    chance = np.random.default_rng(number)
    ids = np.zeros(grid.shape, dtype=np.int32)
    index = np.indices(grid.shape)
    wanted = 9 + number % 4
    while ids.max() < wanted:
        middle, radius = chance.uniform(5, np.array(grid.shape) - 5), chance.uniform(4.5, 5.5)
        distance = np.sqrt(sum((a - m) ** 2 for a, m in zip(index, middle, strict=True)))
        if not ids[distance < radius + 0.5].any():
            ids[distance < radius] = ids.max() + 1
    noise = chance.normal(0, 12, grid.shape)
    image = Volume((100 * (ids > 0) + noise).astype(np.float32), grid)
    return image, LabelVolume(ids, grid, LabelSet.unnamed(range(1, wanted + 1)))
