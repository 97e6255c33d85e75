"""What readers make of stored voxels, whatever the format: intensities or label ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError, VolumeError
from medseg.geometry import Geometry
from medseg.io.notices import notify
from medseg.labels import MAX_LABEL_ID, LabelSet
from medseg.volume import Array, LabelVolume, Volume

LABEL_TYPES = (np.uint8, np.uint16, np.int32)
"""Label maps are kept in the first of these that holds their largest id."""

BLOCK = 2**22
"""Voxels looked at in one go, so that a check needs no second volume."""


def _blocks(array: Array) -> Iterator[Array]:
    """Views that together are the whole array, which must be contiguous in some order."""
    flat = array.ravel(order="K")
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def _count_not_finite(array: Array) -> int:
    if array.dtype.kind != "f":
        return 0
    return sum(block.size - int(np.isfinite(block).sum()) for block in _blocks(array))


def rescaled(array: Array, slope: float, intercept: float) -> Array:
    """Stored values times slope plus intercept.

    Whole slopes and intercepts keep integers whole (int16 or int32, by range): a CT stored as
    unsigned with intercept -1024 stays exact in 2 bytes. Otherwise float32 for types of up to 16
    bit and float32, float64 for wider ones. Slope 1, intercept 0 return the array itself.

    Args:
        array: stored values, any shape, contiguous.
        slope: finite, not 0.
        intercept: finite.

    Raises:
        ReadError: `BAD_RESCALE` where values leave the range of the float type.
    """
    if (slope, intercept) == (1.0, 0.0):
        return array
    whole = _rescaled_whole(array, slope, intercept)
    if whole is not None:
        return whole
    narrow = array.dtype.itemsize <= 2 or array.dtype == np.float32
    with np.errstate(all="ignore"):
        scaled: Array = array.astype(np.float32 if narrow else np.float64)
        np.multiply(scaled, slope, out=scaled, casting="same_kind")
        np.add(scaled, intercept, out=scaled, casting="same_kind")
    if _count_not_finite(scaled) > _count_not_finite(array):
        raise ReadError("BAD_RESCALE", "expected a scaling within the range of floats; repair the header")
    return scaled


def _rescaled_whole(array: Array, slope: float, intercept: float) -> Array | None:
    factors = (slope, intercept)
    if array.dtype.kind not in "iu" or not all(f.is_integer() and abs(f) <= MAX_LABEL_ID for f in factors):
        return None
    ends = [int(v) * int(slope) + int(intercept) for v in (array.min(), array.max())]
    for kind in (np.int16, np.int32):
        limits = np.iinfo(kind)
        if limits.min <= min(ends) and max(ends) <= limits.max:
            # steps between may wrap around; modulo 2^n the end is right, since it fits
            whole: Array = array.astype(kind)
            np.multiply(whole, np.array(int(slope)).astype(kind), out=whole)
            np.add(whole, np.array(int(intercept)).astype(kind), out=whole)
            return whole
    return None


def plain_type(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The little-endian type in which every format can store these voxels without loss.

    `bool` becomes uint8, half floats float32, floats of more than 8 bytes float64.
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        return np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    return dtype.newbyteorder("<")


def as_volume(array: Array, geometry: Geometry, source: str) -> Volume:
    """Intensities, all finite.

    NaN and infinities mark voxels outside the field of view in files of SPM and FSL. They take the
    smallest finite value of the volume, as background has, and a `NOT_FINITE` notice tells how many.

    Args:
        array: `(i, j, k)`, owned by the caller: non-finite voxels are mended in place.
        geometry: where the voxels lie.
        source: name of the format, for records.

    Raises:
        ReadError: `ALL_NAN` where no voxel is finite.
    """
    bad = _count_not_finite(array)
    if bad == array.size:
        raise ReadError("ALL_NAN", "expected an image, got no finite voxel at all; export it again")
    if bad:
        lowest = min(float(np.min(b, where=np.isfinite(b), initial=np.inf)) for b in _blocks(array))
        for block in _blocks(array):
            block[~np.isfinite(block)] = lowest
        notify("NOT_FINITE", f"{bad} voxels were NaN or infinite and took the smallest value, {lowest:g}")
    return Volume(array, geometry, source=source)


def as_labels(array: Array, geometry: Geometry, labels: LabelSet) -> LabelVolume:
    """A label map in the smallest type of `LABEL_TYPES`; ids without a name get one.

    Args:
        array: `(i, j, k)`, integers, or floats that hold whole numbers.
        geometry: where the voxels lie.
        labels: names that the file holds, perhaps none.

    Raises:
        VolumeError: `NOT_LABELS` for fractions, NaN, negative ids, or ids above 2^31 - 1.
    """
    ids = label_ids(array)
    return LabelVolume(ids, geometry, labels.completed(_present(ids)))


def label_ids(array: Array) -> Array:
    """The same ids in the smallest type of `LABEL_TYPES`; the array itself if it has that type.

    Raises:
        VolumeError: `NOT_LABELS` for fractions, NaN, negative ids, or ids above 2^31 - 1.
    """
    if array.dtype.kind == "f" and not all(bool((np.rint(b) == b).all()) for b in _blocks(array)):
        raise VolumeError(
            "NOT_LABELS",
            "expected whole label ids, got fractions or NaN; is this an image or an interpolated map?",
        )
    lowest, highest = float(array.min()), float(array.max())
    if lowest < 0 or highest > MAX_LABEL_ID:
        raise VolumeError(
            "NOT_LABELS",
            f"expected label ids from 0 to 2^31 - 1, got {lowest:g} to {highest:g}; is this an image?",
        )
    kind = next(t for t in LABEL_TYPES if highest <= np.iinfo(t).max)
    return array.astype(kind, copy=False)


def _present(ids: Array) -> tuple[int, ...]:
    """Ids that occur, ascending."""
    if ids.dtype == np.int32:
        found: set[int] = set()
        for block in _blocks(ids):
            found.update(int(i) for i in np.unique(block))
        return tuple(sorted(found))
    seen: npt.NDArray[np.bool_] = np.zeros(np.iinfo(ids.dtype).max + 1, dtype=bool)
    for block in _blocks(ids):
        seen[block] = True
    return tuple(int(i) for i in np.flatnonzero(seen))
