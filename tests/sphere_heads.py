"""A head of nested balls, for tests of training."""

from __future__ import annotations

import numpy as np

from medseg.training.brain_labels import HeadMap, head_labels

LABELS = head_labels([0, 2, 3, 24, 41, 42, 502, 507])
"""Background, white matter and cortex of both sides, fluid, and two kinds of surroundings."""


def sphere_head() -> HeadMap:
    """Nested balls about the middle: white matter, cortex, fluid, skin; left and right differ."""
    index = np.indices((64, 64, 64)) - 31.5
    radius = np.sqrt((index**2).sum(0))
    left = index[0] < 0
    labels = np.zeros((64, 64, 64), np.int64)
    for limit, on_left, on_right in ((30, 507, 507), (26, 24, 24), (22, 3, 42), (14, 2, 41)):
        labels = np.where(radius < limit, np.where(left, on_left, on_right), labels)
    dense = np.searchsorted(LABELS.source_ids, labels).astype(np.uint8)
    return HeadMap(dense, np.diag([2.0, 2.0, 2.0, 1.0]))
