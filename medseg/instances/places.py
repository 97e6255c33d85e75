"""Where the objects of a big volume lie, summed up block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.instances.grid import Triple
from medseg.instances.ome_zarr import Store


class ObjectPlaces:
    """Boxes and sums of positions of objects 1, 2, …; grows with objects, not with voxels.

    Args:
        count: number of objects.
    """

    def __init__(self, count: int) -> None:
        self.start = np.full((count, 3), np.iinfo(np.int64).max, dtype=np.int64)
        self.stop = np.zeros((count, 3), dtype=np.int64)
        self._sums = np.zeros((count, 3))

    def add(self, ids: npt.NDArray[Any], first: Triple) -> None:
        """Take in a block.

        Args:
            ids: `(z, y, x)` objects, 0 elsewhere.
            first: its first voxel on the whole grid.
        """
        where = np.nonzero(ids)
        found, place = np.unique(ids[where], return_inverse=True)
        rows = found.astype(np.int64) - 1
        for axis in range(3):
            index = where[axis] + first[axis]
            self._sums[rows, axis] += np.bincount(place, weights=index, minlength=len(rows))
            low = np.full(len(rows), np.iinfo(np.int64).max, dtype=np.int64)
            high = np.zeros(len(rows), dtype=np.int64)
            np.minimum.at(low, place, index)
            np.maximum.at(high, place, index + 1)
            self.start[rows, axis] = np.minimum(self.start[rows, axis], low)
            self.stop[rows, axis] = np.maximum(self.stop[rows, axis], high)

    def centroids_mm(
        self, voxels: npt.NDArray[np.int64], template: Store
    ) -> tuple[tuple[float, float, float], ...]:
        """Mean of the voxel centres of every object along z, y, x.

        Args:
            voxels: size of each object.
            template: store that gives spacing and origin.
        """
        index = self._sums / np.maximum(voxels, 1)[:, None]
        world = index * np.array(template.spacing_mm) + np.array(template.origin_mm)
        return tuple((float(z), float(y), float(x)) for z, y, x in world)
