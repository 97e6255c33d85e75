"""Labels that something else made block by block, joined into one label image.

Each block is given with one voxel of its neighbours around it. A voxel that two blocks share, one
as its own and one as margin, has a label in both: those two labels are one object. So nothing is
guessed from labels that merely touch, and an object is never split at a face on which its blocks
agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import VolumeError
from medseg.instances.basins import Int64Array
from medseg.instances.compiled import compiled
from medseg.instances.decode import Watch
from medseg.instances.graph import find_parent
from medseg.instances.grid import Block, BlockGrid

BlockLabels = Callable[[Block], npt.NDArray[Any]]
"""Labels of a part of the volume, of its shape, 0 for background; names hold within one call only."""

MARGIN = (1, 1, 1)


def stitch(segment: BlockLabels, grid: BlockGrid, watch: Watch | None = None) -> npt.NDArray[np.uint32]:
    """Segment a volume block by block and join what the blocks share.

    Exact wherever two blocks agree on the voxels that both see: then no object is split and none merged.

    Args:
        segment: gives labels of a block with its margin; called once for each.
        grid: how the volume is cut.
        watch: who is told, and who may stop the work.

    Returns:
        `grid.shape` uint32 ids from 1 without gaps, numbered by the first voxel.

    Raises:
        VolumeError: labels of another shape, negative ones, or no integers.
        CancelledError: a stop was asked for.
    """
    watch = watch or Watch()
    out = np.zeros(grid.shape, dtype=np.int64)
    places, names = [], []
    taken = 0
    for number, block in enumerate(grid.blocks):
        watch.step("segment blocks", number, len(grid.blocks))
        region = block.grown(MARGIN, grid.shape)
        labels = _checked(segment(region), region)
        used = np.unique(labels[labels > 0])
        renamed = np.where(labels > 0, np.searchsorted(used, labels) + taken + 1, 0)
        taken += len(used)
        out[block.slices] = renamed[block.within(region)]
        renamed[block.within(region)] = 0
        margin = np.nonzero(renamed)
        at = [axis + start for axis, start in zip(margin, region.start, strict=True)]
        places.append(np.ravel_multi_index(at, grid.shape))
        names.append(renamed[margin])
    parent = np.arange(taken + 1)
    flat = out.reshape(-1)
    _unite(flat[np.concatenate(places)], np.concatenate(names), parent)
    ids = np.zeros(grid.shape, dtype=np.uint32)
    _number(flat, parent, ids.reshape(-1))
    return ids


def _checked(labels: npt.NDArray[Any], region: Block) -> npt.NDArray[Any]:
    if labels.shape != region.shape or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise VolumeError(
            "NOT_LABELS",
            f"expected labels of 0 and above of shape {region.shape}, got {labels.shape} of type "
            f"{labels.dtype}; give integers for the whole part that was asked for",
        )
    return labels


@compiled
def _unite(own: Int64Array, other: Int64Array, parent: Int64Array) -> None:
    """Join the labels that two blocks give to one voxel; background joins nothing."""
    for n in range(len(own)):
        if own[n] and other[n]:
            one, two = find_parent(parent, own[n]), find_parent(parent, other[n])
            parent[max(one, two)] = min(one, two)


@compiled
def _number(labels: Int64Array, parent: Int64Array, ids: npt.NDArray[np.uint32]) -> None:
    """Ids 1, 2, … in the order of first voxels."""
    id_of = np.zeros(len(parent), dtype=np.int64)
    count = 0
    for n in range(len(labels)):
        if labels[n]:
            root = find_parent(parent, labels[n])
            if not id_of[root]:
                count += 1
                id_of[root] = count
            ids[n] = id_of[root]
