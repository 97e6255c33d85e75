"""One row per class or per object: how big, where, how bright.

One pass over the voxels in slabs of bounded size; no mask of the whole volume is made per label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import VolumeError
from medseg.geometry import require_same_grid
from medseg.volume import InstanceVolume, LabelVolume, Volume

SLAB_VOXELS = 2**21
"""Voxels looked at together; bounds the working memory to about 100 MB."""

DENSE_ID_LIMIT = 2**22
"""Ids below this are counted in a table; above, they are sorted."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """One class or one object, measured.

    Attributes:
        id: integer in the voxels.
        class_id: its class; equal to `id` where the region is a class.
        name: name of the class.
        voxels: number of voxels.
        volume_mm3: voxels times the volume of one.
        centroid_mm: mean of the voxel centres in the world, RAS+ mm.
        box_start: first voxel index along i, j, k.
        box_stop: one past the last voxel index along i, j, k.
        touches_border: whether it reaches a face of the grid, so that it may go on beyond.
        kind: `"class"` for a whole class, `"object"` for one instance.
        mean: mean intensity; None without an image or without a finite voxel in it.
        minimum: lowest intensity, or None.
        maximum: highest intensity, or None.
        std: standard deviation of the intensity over the voxels (divided by n), or None.
        score: how sure the detector of an object is, 0..1; None where none was asked.
    """

    id: int
    class_id: int
    name: str
    voxels: int
    volume_mm3: float
    centroid_mm: tuple[float, float, float]
    box_start: tuple[int, int, int]
    box_stop: tuple[int, int, int]
    touches_border: bool
    kind: Literal["class", "object"] = "class"
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    std: float | None = None
    score: float | None = None

    @property
    def volume_ml(self) -> float:
        """Volume in millilitres."""
        return self.volume_mm3 / 1000


def measure_regions(labels: LabelVolume, image: Volume | None = None) -> tuple[Region, ...]:
    """Measure every class of a label map, or every object of an instance map.

    Args:
        labels: what to measure. An `InstanceVolume` gives one region per object, any other
            `LabelVolume` one per class that occurs. A class without a name is called `label ID`.
        image: intensities on the same grid. Voxels that are not finite are left out of the
            intensities, not of the volume.

    Returns:
        Regions, ascending by id; none for an empty map.

    Raises:
        GeometryError: image and labels lie on two grids.
        VolumeError: a negative id, or an object whose class is not given.
    """
    if image is not None:
        require_same_grid(labels.geometry, image.geometry, "labels and image")
    ids = occurring_ids(labels.array)
    sums = _Sums(ids, image is not None)
    for offset, slab, values in slabs(labels.array, None if image is None else image.array):
        sums.add(offset, slab, values)
    return _rows(labels, sums)


def occurring_ids(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Ids above 0 that occur, ascending, in the array's own type.

    Args:
        array: `(i, j, k)` integers.

    Raises:
        VolumeError: an id is negative.
    """
    if array.size and array.dtype.kind == "i" and int(array.min()) < 0:
        raise VolumeError(
            "NEGATIVE_LABEL", "expected ids of 0 (background) and above, got a negative one; relabel the map"
        )
    highest = int(array.max()) if array.size else 0
    if highest < DENSE_ID_LIMIT:
        seen = np.zeros(highest + 1, dtype=bool)
        for _, slab, _ in slabs(array, None):
            seen[slab.ravel()] = True
        found = np.flatnonzero(seen).astype(array.dtype)
    else:
        parts = [np.unique(slab) for _, slab, _ in slabs(array, None)]
        found = np.unique(np.concatenate(parts))
    return found[found > 0]


def index_of_ids(ids: npt.NDArray[Any], values: npt.NDArray[Any]) -> Integers:
    """Place of each value in `ids`.

    Args:
        ids: `(n,)` ascending ids.
        values: `(m,)`, each one of `ids`.

    Returns:
        `(m,)` places, 0..n-1.
    """
    if len(ids) and int(ids[-1]) < DENSE_ID_LIMIT:
        table = np.zeros(int(ids[-1]) + 1, dtype=np.int64)
        table[ids] = np.arange(len(ids))
        return np.asarray(table[values])
    return np.asarray(np.searchsorted(ids, values), dtype=np.int64)


def slabs(
    array: npt.NDArray[Any], other: npt.NDArray[Any] | None
) -> Iterator[tuple[tuple[int, int, int], npt.NDArray[Any], Any]]:
    """Parts of bounded size of one or two arrays, cut along the axis that is slowest in memory.

    Args:
        array: `(i, j, k)`.
        other: `(i, j, k)` of the same shape, or None.

    Yields:
        Index of the part's first voxel, the part, and the same part of the other (or None).
    """
    axis = int(np.argmax(np.abs(array.strides)))
    thickness = max(1, SLAB_VOXELS * array.shape[axis] // max(1, array.size))
    for start in range(0, array.shape[axis], thickness):
        part = tuple(slice(start, start + thickness) if a == axis else slice(None) for a in range(3))
        offset = (start if axis == 0 else 0, start if axis == 1 else 0, start if axis == 2 else 0)
        yield offset, array[part], None if other is None else other[part]


class _Sums:
    """Tables that grow with the number of ids, filled slab by slab."""

    def __init__(self, ids: npt.NDArray[Any], with_image: bool) -> None:
        n = len(ids)
        self.ids = ids
        self.voxels = np.zeros(n, dtype=np.int64)
        self.index_sum = np.zeros((3, n))
        self.start = np.full((3, n), np.iinfo(np.int64).max, dtype=np.int64)
        self.stop = np.zeros((3, n), dtype=np.int64)
        self.with_image = with_image
        self.finite = np.zeros(n, dtype=np.int64)
        self.mean = np.zeros(n)
        self.squares = np.zeros(n)
        self.minimum = np.full(n, np.inf)
        self.maximum = np.full(n, -np.inf)

    def add(
        self, offset: tuple[int, int, int], slab: npt.NDArray[Any], values: npt.NDArray[Any] | None
    ) -> None:
        """Take in the voxels of one slab."""
        where = np.nonzero(slab)
        if not len(where[0]):
            return
        place = index_of_ids(self.ids, slab[where])
        n = len(self.ids)
        self.voxels += np.bincount(place, minlength=n)
        for axis in range(3):
            index = where[axis] + offset[axis]
            self.index_sum[axis] += np.bincount(place, weights=index, minlength=n)
            np.minimum.at(self.start[axis], place, index)
            np.maximum.at(self.stop[axis], place, index + 1)
        if values is not None:
            self._add_intensities(place, values[where].astype(np.float64))

    def _add_intensities(self, place: Integers, values: Floats) -> None:
        """Merge means and squared deviations (Chan, Golub & LeVeque 1979: no cancellation)."""
        good = np.isfinite(values)
        if not good.all():
            place, values = place[good], values[good]
        n = len(self.ids)
        count = np.bincount(place, minlength=n)
        total = np.maximum(self.finite + count, 1)
        mean = np.bincount(place, weights=values, minlength=n) / np.maximum(count, 1)
        squares = np.bincount(place, weights=(values - mean[place]) ** 2, minlength=n)
        shift = mean - self.mean
        self.squares += squares + shift**2 * self.finite * count / total
        self.mean += shift * count / total
        self.finite += count
        np.minimum.at(self.minimum, place, values)
        np.maximum.at(self.maximum, place, values)


def _rows(labels: LabelVolume, sums: _Sums) -> tuple[Region, ...]:
    if not len(sums.ids):
        return ()
    geometry = labels.geometry
    centroids = geometry.to_world((sums.index_sum / sums.voxels).T)
    border = (sums.start.min(axis=0) == 0) | (sums.stop == np.array(geometry.shape)[:, None]).any(axis=0)
    std = np.sqrt(sums.squares / np.maximum(sums.finite, 1))
    kind: Literal["class", "object"] = "object" if isinstance(labels, InstanceVolume) else "class"
    names = labels.labels.names
    scores = labels.scores if isinstance(labels, InstanceVolume) else {}
    rows = []
    for n, (region_id, class_id) in enumerate(class_of_each(labels, sums.ids)):
        bright = sums.with_image and sums.finite[n] > 0
        rows.append(
            Region(
                id=region_id,
                class_id=class_id,
                name=names.get(class_id, f"label {class_id}"),
                voxels=int(sums.voxels[n]),
                volume_mm3=float(sums.voxels[n] * geometry.voxel_volume_mm3),
                centroid_mm=(float(centroids[n, 0]), float(centroids[n, 1]), float(centroids[n, 2])),
                box_start=(int(sums.start[0, n]), int(sums.start[1, n]), int(sums.start[2, n])),
                box_stop=(int(sums.stop[0, n]), int(sums.stop[1, n]), int(sums.stop[2, n])),
                touches_border=bool(border[n]),
                kind=kind,
                mean=float(sums.mean[n]) if bright else None,
                minimum=float(sums.minimum[n]) if bright else None,
                maximum=float(sums.maximum[n]) if bright else None,
                std=float(std[n]) if bright else None,
                score=scores.get(region_id),
            )
        )
    return tuple(rows)


def class_of_each(labels: LabelVolume, ids: npt.NDArray[Any]) -> tuple[tuple[int, int], ...]:
    """(id, class id) of every id; the id itself where `labels` holds classes.

    Raises:
        VolumeError: an object has no class.
    """
    whole = [int(i) for i in ids]
    if not isinstance(labels, InstanceVolume):
        return tuple((i, i) for i in whole)
    missing = [i for i in whole if i not in labels.classes]
    if missing:
        raise VolumeError(
            "OBJECT_WITHOUT_CLASS",
            f"expected a class for every object, got none for {len(missing)}, first {missing[0]}; "
            "complete InstanceVolume.classes",
        )
    return tuple((i, labels.classes[i]) for i in whole)
