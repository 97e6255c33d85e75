"""Masks that may overlap, as one label image: where two claim a voxel, the better one has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.instances.grid import Triple, triple

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object before anything else competes for its voxels.

    Attributes:
        start: first voxel of the crop on the grid.
        mask: `(i, j, k)` true where the object is, on the crop.
        score: how sure the detector is, 0..1.
        class_id: what it is.
        box: `(2, 3)` detected corners in voxels of the grid; the mask need not fill it.
    """

    start: Triple
    mask: npt.NDArray[np.bool_]
    score: float
    class_id: int
    box: npt.NDArray[np.float64]

    @property
    def voxels(self) -> int:
        """How many voxels the object claims."""
        return int(self.mask.sum())

    @property
    def place(self) -> tuple[slice, slice, slice]:
        """Where the crop lies on the grid."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))
        return i, j, k


def flatten_masks(
    masks: Iterable[ObjectMask], shape: Triple, min_voxels: float = 1
) -> tuple[npt.NDArray[np.uint32], tuple[ObjectMask, ...]]:
    """One image of ids from masks that may overlap.

    A mask takes the voxels that no better one has; what is left below `min_voxels` is dropped, and its
    voxels go to the next mask that claims them. Ids are 1, 2, … by falling score, then by place of the
    crop, so the order in which masks come does not count.

    Args:
        masks: inside the grid.
        shape: voxels of the grid.
        min_voxels: fewest voxels of an object.

    Returns:
        `(i, j, k)` ids, and the masks that kept any voxel: object 1 is the first of them.
    """
    ids = np.zeros(shape, dtype=np.uint32)
    kept: list[ObjectMask] = []
    for mask in sorted(masks, key=_rank):
        free = mask.mask & (ids[mask.place] == 0)
        if int(free.sum()) >= max(min_voxels, 1):
            kept.append(mask)
            ids[mask.place][free] = len(kept)
    return ids, tuple(kept)


def merge_touching(
    ids: npt.NDArray[np.uint32], kept: Sequence[ObjectMask]
) -> tuple[npt.NDArray[np.uint32], tuple[ObjectMask, ...]]:
    """Make one object of those of a class that touch, by a face, an edge or a corner: the surest of them.

    Args:
        ids: `(i, j, k)` as `flatten_masks` gives them; left as they are.
        kept: object 1 is the first of them.

    Returns:
        `(i, j, k)` ids, and the masks that gave their names to what is left, in the same order.
    """
    import cc3d

    classes = np.array([0, *(mask.class_id for mask in kept)], dtype=np.uint32)
    pieces = cc3d.connected_components(classes[ids], connectivity=26)
    surest = np.full(int(pieces.max(initial=0)) + 1, len(kept) + 1, dtype=np.int64)
    inside = ids > 0
    np.minimum.at(surest, pieces[inside], ids[inside])
    names = np.unique(surest[1:])
    table = np.zeros(len(surest), dtype=np.uint32)
    table[1:] = np.searchsorted(names, surest[1:]) + 1
    return table[pieces], tuple(kept[int(name) - 1] for name in names)


def _rank(mask: ObjectMask) -> tuple[float, Triple, Triple, bytes]:
    return -mask.score, mask.start, triple(mask.mask.shape), mask.mask.tobytes()


@dataclass(frozen=True)
class AxisScale:
    """How voxels of one grid lie on another with parallel axes: index * scale + shift.

    Attributes:
        scale: voxels of the other grid per voxel of the first, along i, j, k; above 0.
        shift: where voxel 0 lies on the other grid.
    """

    scale: tuple[float, float, float]
    shift: tuple[float, float, float]


def mask_on_grid(
    logits: Logits,
    frame: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    grid: tuple[AxisScale, Triple],
    threshold: float,
) -> tuple[Triple, npt.NDArray[np.bool_]]:
    """The object of one crop, drawn on the grid of the scan.

    Logits are interpolated linearly between the middles of the crop's cells, then decided.

    Args:
        logits: `(s, s, s)` of the crop's cells.
        frame: middle and half sides of the crop, each `(3,)`, in voxels of the detector's grid.
        grid: how the scan's voxels lie on the detector's grid, and how many there are.
        threshold: on logits.

    Returns:
        First voxel and mask of the smallest part of the grid that holds the object; an empty mask where
        there is none.
    """
    scale, shape = grid
    weights: list[Any] = []
    firsts: list[int] = []
    for axis in range(3):
        middle, half = float(frame[0][axis]), float(frame[1][axis])
        low, high = ((middle + side * half - scale.shift[axis]) / scale.scale[axis] for side in (-1, 1))
        first, stop = max(0, int(np.ceil(low))), min(shape[axis], int(np.floor(high)) + 1)
        if stop <= first:
            return (0, 0, 0), np.zeros((0, 0, 0), dtype=bool)
        at = np.arange(first, stop) * scale.scale[axis] + scale.shift[axis]
        cells = ((at - middle) / half + 1) / 2 * logits.shape[axis] - 0.5
        weights.append(_linear_weights(cells, logits.shape[axis]))
        firsts.append(first)
    drawn = np.einsum("ai,bj,ck,ijk->abc", *weights, logits, optimize=True) > threshold
    return _trimmed(triple(firsts), drawn)


def _linear_weights(cells: npt.NDArray[np.float64], count: int) -> Logits:
    """Weights `(n, count)` of linear interpolation at some cells, level beyond the outermost ones."""
    inside = np.clip(cells, 0, count - 1)
    lower = np.minimum(np.floor(inside).astype(int), max(count - 2, 0))
    upper = np.minimum(lower + 1, count - 1)
    share = inside - lower
    weights = np.zeros((len(cells), count), dtype=np.float32)
    rows = np.arange(len(cells))
    weights[rows, lower] += 1 - share
    weights[rows, upper] += share
    return weights


def _trimmed(start: Triple, mask: npt.NDArray[np.bool_]) -> tuple[Triple, npt.NDArray[np.bool_]]:
    """The part of a mask that is not empty all around."""
    where: Sequence[Any] = np.nonzero(mask)
    if not len(where[0]):
        return start, np.zeros((0, 0, 0), dtype=bool)
    low = [int(w.min()) for w in where]
    high = [int(w.max()) + 1 for w in where]
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return triple([a + b for a, b in zip(start, low, strict=True)]), mask[part]
