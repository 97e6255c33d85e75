"""Heads of many balls: twelve structures and more in a fluid in a skull, for tests of atlases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.training.brain_labels import HeadLabels, HeadMap, head_labels

SHAPE = (72, 80, 64)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
PLACES: dict[tuple[int, int], tuple[tuple[float, float, float], float]] = {
    (10, 49): ((12, 0, 0), 8),
    (11, 50): ((12, 20, 12), 7),
    (12, 51): ((30, 8, 2), 8),
    (13, 52): ((30, -10, 4), 6),
    (17, 53): ((26, -12, -16), 7),
    (18, 54): ((26, 12, -18), 6),
    (4, 43): ((12, -16, 18), 7),
    (7, 46): ((16, -38, -18), 9),
}
"""(left id, right id) -> centre in mm from the head's middle, on its right side, and radius in mm."""

MIDDLE: dict[int, tuple[tuple[float, float, float], float]] = {14: ((0, 2, -14), 5), 16: ((0, -20, -30), 8)}
LABELS: HeadLabels = head_labels([0, 24, 507, *MIDDLE, *(side for pair in PLACES for side in pair)])


def ball_head(seed: int, wobble_mm: float = 2.5) -> HeadMap:
    """A head whose structures lie a little elsewhere than in others.

    Args:
        seed: which head.
        wobble_mm: standard deviation of every centre along each axis.
    """
    rng = np.random.default_rng(seed)
    index = np.moveaxis(np.indices(SHAPE), 0, -1)
    points = (index - (np.array(SHAPE) - 1) / 2) * 2.0
    labels = np.zeros(SHAPE, np.int64)
    radius = np.linalg.norm(points / [1.0, 1.15, 0.9], axis=-1)
    labels[radius < 62] = 507
    labels[radius < 54] = 24
    balls = [(one, centre, size) for one, (centre, size) in MIDDLE.items()]
    for (left, right), ((x, y, z), size) in PLACES.items():
        balls += [(left, (-x, y, z), size), (right, (x, y, z), size)]
    for label, centre, size in balls:
        moved = np.array(centre) + rng.normal(0, wobble_mm, 3)
        labels[np.linalg.norm(points - moved, axis=-1) < size * rng.uniform(0.9, 1.1)] = label
    return HeadMap(np.searchsorted(LABELS.source_ids, labels).astype(np.uint8), AFFINE)


def image_of(head: HeadMap, seed: int, noise: float = 0.03) -> npt.NDArray[np.float32]:
    """An image of a head: one intensity for each tissue, some noise."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(0.1, 0.9, int(LABELS.tissue.max()) + 1)
    rng.shuffle(levels)
    image = levels[LABELS.tissue][head.source] + rng.normal(0, noise, head.source.shape)
    return image.astype(np.float32)


def truth_of(head: HeadMap) -> npt.NDArray[np.uint8]:
    """The model's labels of a head."""
    return np.where(LABELS.channel > 0, LABELS.source_ids, 0).astype(np.uint8)[head.source]
