"""Objects corrected by hand: merged, split, deleted, each as a change that can be taken back.

An edit is decided first, from labels that stay as they are, and carried out after. It knows only the
box that it changes, so that a hundred edits of a large volume cost little, and each may be undone alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import VolumeError
from medseg.instances.grid import Block
from medseg.instances.separate import bounding_box, check_grid, separate
from medseg.instances.settings import SeparationSettings
from medseg.labels import LabelSet
from medseg.volume import InstanceVolume, LabelVolume

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of some voxels of a label map.

    Attributes:
        start: first voxel of the box that changes, along i, j, k.
        before: voxels of the box as they were.
        after: voxels of the box as they become.
        parents: id that the edit adds -> id that it was a part of.
    """

    start: tuple[int, int, int]
    before: Array
    after: Array
    parents: Mapping[int, int] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of which voxels change, ascending; without the background."""
        changed = self.before != self.after
        touched = np.union1d(self.before[changed], self.after[changed])
        return tuple(int(i) for i in touched if i != 0)

    def apply(self, array: Array) -> int:
        """Carry the edit out; voxels that another edit has changed meanwhile stay.

        Args:
            array: `(i, j, k)` of the whole map; written into.

        Returns:
            How many voxels changed.
        """
        return _put(array[self._slices], self.before, self.after)

    def revert(self, array: Array) -> int:
        """Take the edit back; voxels that another edit has changed since stay.

        Args:
            array: `(i, j, k)` of the whole map; written into.

        Returns:
            How many voxels changed.
        """
        return _put(array[self._slices], self.after, self.before)

    @property
    def _slices(self) -> tuple[slice, slice, slice]:
        i, j, k = (slice(a, a + n) for a, n in zip(self.start, self.before.shape, strict=True))
        return i, j, k


def _put(part: Array, old: Array, new: Array) -> int:
    there = (part == old) & (old != new)
    part[there] = new[there]
    return int(there.sum())


def edited(labels: LabelVolume, edit: Edit) -> LabelVolume:
    """Labels after an edit, with names and classes for the ids that it adds.

    Args:
        labels: what the edit was decided for; stays as it is.
        edit: what to change.

    Returns:
        The same kind of map; a new object has its parent's class, a new class a name made of its parent's.
    """
    array = labels.array.astype(np.promote_types(labels.array.dtype, edit.after.dtype))
    edit.apply(array)
    if isinstance(labels, InstanceVolume):
        classes = {new: labels.classes[old] for new, old in edit.parents.items() if old in labels.classes}
        return replace(labels, array=array, classes={**labels.classes, **classes})
    return replace(labels, array=array, labels=labels.labels.with_parts(edit.parents))


def delete_objects(labels: LabelVolume, ids: Sequence[int]) -> Edit:
    """Turn objects (or classes) into background.

    Raises:
        VolumeError: `NO_SUCH_OBJECT`, none of the ids occurs.
    """
    box = _box_of(labels, ids)
    before = labels.array[box.slices].copy()
    return Edit(box.start, before, np.where(np.isin(before, ids), before.dtype.type(0), before))


def merge_objects(labels: LabelVolume, ids: Sequence[int]) -> Edit:
    """Make several objects (or classes) one: the first of them.

    Raises:
        VolumeError: `NO_SUCH_OBJECT`, none of the ids occurs; `TOO_FEW_OBJECTS`, fewer than two are named.
    """
    if len(set(ids)) < 2:
        raise VolumeError(
            "TOO_FEW_OBJECTS", "expected two objects or more to merge, got fewer; select them in the table"
        )
    box = _box_of(labels, ids)
    before = labels.array[box.slices].copy()
    return Edit(box.start, before, np.where(np.isin(before, ids), before.dtype.type(ids[0]), before))


def split_object(labels: LabelVolume, object_id: int, settings: SeparationSettings | None = None) -> Edit:
    """Split one object (or class) as `medseg.separate` splits a class.

    Args:
        labels: map that holds it.
        object_id: which; its largest part keeps the id.
        settings: `split_h_mm` says how deep a neck must be; by default only pieces that do not touch
            become objects. Parts below `min_volume_mm3` are deleted.

    Raises:
        VolumeError: `NO_SUCH_OBJECT`.
        GeometryError: distances are asked for on a sheared grid.
    """
    settings = replace(settings or SeparationSettings(), numbering="volume", height="distance")
    box = _box_of(labels, [object_id])
    before = labels.array[box.slices].copy()
    mask = (before == object_id).astype(np.uint8)
    whole = LabelVolume(mask, labels.geometry.crop(box.start, box.stop), LabelSet.from_names({1: "object"}))
    parts = separate(whole, 1, settings=settings)
    return _parted(labels, box, (before, object_id), parts.array)


def split_object_at(labels: LabelVolume, object_id: int, points_mm: Sequence[Sequence[float]]) -> Edit:
    """Split one object (or class) between points that were clicked.

    Each part is what a flood from its point reaches first, deep voxels before shallow ones (watershed on
    the distance to the surface: Meyer, Signal Processing 1994), so that parts meet at the narrowest place.

    Args:
        labels: map that holds it.
        object_id: which; its largest part keeps the id, and so do pieces without a point.
        points_mm: two or more, world RAS+ mm; one beside the object counts for its nearest voxel.

    Raises:
        VolumeError: `NO_SUCH_OBJECT`; `TOO_FEW_POINTS`, not two voxels of the object are named.
        GeometryError: a sheared grid, on which distances cannot be measured along the axes.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import watershed

    check_grid(labels.geometry, SeparationSettings(split_h_mm=1.0))
    box = _box_of(labels, [object_id])
    before = labels.array[box.slices].copy()
    mask = before == object_id
    seeds = np.zeros(mask.shape, np.int32)
    inside = np.argwhere(mask)
    spacing = np.array(labels.geometry.spacing_mm)
    for point in points_mm:
        index = labels.geometry.to_index(point) - box.start
        nearest = inside[np.argmin((((inside - index) * spacing) ** 2).sum(axis=1))]
        if not seeds[tuple(nearest)]:
            seeds[tuple(nearest)] = seeds.max() + 1
    if seeds.max() < 2:
        raise VolumeError(
            "TOO_FEW_POINTS",
            "expected points in two voxels of the object or more, got fewer; click once in each part",
        )
    depth = distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    parts = watershed(-depth, seeds, mask=mask)
    parts[mask & (parts == 0)] = np.bincount(parts[parts > 0]).argmax()
    return _parted(labels, box, (before, object_id), parts)


def _parted(labels: LabelVolume, box: Block, whole: tuple[Array, int], parts: Array) -> Edit:
    """The edit that gives parts ids of their own.

    Args:
        labels: the whole map.
        box: where the object lies.
        whole: voxels of the box, and the object's id.
        parts: 1, 2, ... in the box; voxels of the object that are of no part are deleted.
    """
    before, object_id = whole
    sizes = np.bincount(parts.ravel().astype(np.int64))
    sizes[0] = 0
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    first = _first_free_id(labels)
    new_ids = [object_id, *range(first, first + len(order) - 1)] if len(order) else []
    kind = np.promote_types(before.dtype, np.min_scalar_type(max([0, *new_ids])))
    after = np.where(before == object_id, 0, before).astype(kind)
    for part, new_id in zip(order, new_ids, strict=True):
        after[parts == part] = new_id
    return Edit(box.start, before, after, dict.fromkeys(new_ids[1:], object_id))


def _first_free_id(labels: LabelVolume) -> int:
    named = labels.classes if isinstance(labels, InstanceVolume) else labels.labels.ids
    highest: int = max([int(labels.array.max(initial=0)), *named])
    return highest + 1


def _box_of(labels: LabelVolume, ids: Sequence[int]) -> Block:
    """Smallest block that holds some ids.

    Raises:
        VolumeError: `NO_SUCH_OBJECT`, none of them occurs.
    """
    mask: Mask = labels.array == ids[0] if len(ids) == 1 else np.isin(labels.array, ids)
    box = bounding_box(mask)
    if box is None:
        raise VolumeError(
            "NO_SUCH_OBJECT", f"expected an object of id {', '.join(map(str, ids))}, got none; measure anew"
        )
    return box
