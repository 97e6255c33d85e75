"""Label maps on which published implementations were run (see `benchmarks/metric_oracles.py`).

Made from whole numbers only, so that every version of numpy makes the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[Any]

SHAPE = (36, 40, 24)
SPACING_MM = (1.0, 1.0, 1.0)


def _ball(shape: tuple[int, int, int], centre: npt.NDArray[np.int64], radius: int) -> npt.NDArray[np.bool_]:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return np.asarray(((index - centre) ** 2).sum(axis=-1) <= radius**2)


def crowded_objects(seed: int) -> tuple[Labels, Labels]:
    """Prediction and reference of crowded balls: moved, missed, invented, cut in two, lumped."""
    random = np.random.RandomState(seed)
    reference, prediction = np.zeros((2, *SHAPE), dtype=np.uint16)
    centres = np.stack([random.randint(3, n - 3, 30) for n in SHAPE], axis=1)
    radii = random.randint(2, 6, 30)
    for label_id, (centre, radius) in enumerate(zip(centres, radii, strict=True), start=1):
        reference[_ball(SHAPE, centre, radius)] = 3 * label_id
        fate = random.randint(0, 8)
        moved = centre + random.randint(-1, 2, 3)
        if fate > 0:  # 0: missed
            prediction[_ball(SHAPE, moved, max(1, radius + random.randint(-1, 2)))] = 100 + label_id
        if fate == 1:  # cut in two
            half = _ball(SHAPE, moved, radius)
            half[: moved[0]] = False
            prediction[half] = 200 + label_id
        if fate == 2 and label_id > 1:  # lumped with the one before
            prediction[prediction == 100 + label_id] = 99 + label_id
    for extra in range(3):
        centre = np.array([random.randint(0, n) for n in SHAPE])
        prediction[_ball(SHAPE, centre, 2)] = 300 + extra
    return prediction, reference


def scattered_lesions(seed: int) -> tuple[Labels, Labels]:
    """Prediction and reference masks of lesions with satellites, misses and inventions."""
    random = np.random.RandomState(1000 + seed)
    reference, prediction = np.zeros((2, *SHAPE), dtype=np.uint8)
    for _ in range(random.randint(0, 6)):
        centre = np.array([random.randint(2, n - 2) for n in SHAPE])
        radius = random.randint(0, 6)
        reference[_ball(SHAPE, centre, radius)] = 1
        if random.randint(0, 3):  # a satellite some voxels off
            reference[_ball(SHAPE, centre + np.array([radius + random.randint(2, 7), 0, 0]), 1)] = 1
        if random.randint(0, 4):
            prediction[_ball(SHAPE, centre + random.randint(-2, 3, 3), radius)] = 1
    for _ in range(random.randint(0, 3)):
        centre = np.array([random.randint(0, n) for n in SHAPE])
        prediction[_ball(SHAPE, centre, random.randint(0, 3))] = 1
    return prediction, reference
