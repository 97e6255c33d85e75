"""Which lesion is it, how many nuclei are there: one class of a label map as objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, SettingsError, VolumeError
from medseg.geometry import Geometry, require_same_grid
from medseg.instances.grid import Block, triple
from medseg.instances.settings import SeparationSettings
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.volume import InstanceVolume, LabelVolume, Volume

# What needs numba is imported inside the functions: loading it costs a second that `--help` should not pay.


def separate(
    labels: LabelVolume,
    class_name: str | int | Sequence[str | int],
    *,
    settings: SeparationSettings | None = None,
    image: Volume | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> InstanceVolume:
    """Tell the objects of a class apart.

    Objects never cross classes. Every voxel of the class belongs to one object, but for objects
    below the least volume, which become background. Values of the array that are not the class,
    negative ones and unnamed ones too, are background. A class without voxels has no objects; a
    class that fills the volume is one object. The same input gives the same ids.

    Args:
        labels: classes on a grid.
        class_name: name or id of the class; or several, whose objects are then numbered one class
            after another.
        settings: how; by default connected components, the largest first.
        image: intensities on the same grid; needed for the height `intensity`.
        progress: told after every block.
        cancel: looked at before every block.

    Returns:
        Objects on the same grid, ids 1, 2, … without gaps, uint32; `classes` gives each its class.

    Raises:
        VolumeError: no such class; the labels are objects already; the image is not finite there.
        SettingsError: a class named twice; no image for the height `intensity`.
        GeometryError: the image lies on another grid; distances are asked for on a sheared grid.
        CancelledError: a stop was asked for.
    """
    settings = settings or SeparationSettings()
    if isinstance(labels, InstanceVolume):
        raise VolumeError(
            "ALREADY_OBJECTS", "expected a label map of classes, got separated objects; pass the classes"
        )
    names = [class_name] if isinstance(class_name, str | int) else list(class_name)
    class_ids = [labels.labels.find(name).id for name in names]
    if not class_ids or len(set(class_ids)) != len(class_ids):
        raise SettingsError(
            "BAD_CLASSES", "expected one or more classes, each once; got none or one twice; name each once"
        )
    check_grid(labels.geometry, settings)
    if settings.height == "intensity":
        if image is None:
            raise SettingsError(
                "IMAGE_NEEDED", "expected an image with height intensity, got none; pass the scan"
            )
        require_same_grid(labels.geometry, image.geometry, "labels and image")
    objects = np.zeros(labels.array.shape, dtype=np.uint32)
    classes: dict[int, int] = {}
    for class_id in class_ids:
        count = _place_objects(
            objects,
            (labels, class_id, len(classes)),
            settings,
            None if image is None else image.array,
            (progress, cancel),
        )
        classes |= dict.fromkeys(range(len(classes) + 1, len(classes) + count + 1), class_id)
    return InstanceVolume(objects, labels.geometry, labels.labels, classes)


def check_grid(geometry: Geometry, settings: SeparationSettings) -> None:
    """Return if distances on the grid can be measured axis by axis, where settings ask for them.

    Raises:
        GeometryError: the grid is sheared and the settings split objects or join them by a gap.
    """
    if not geometry.is_orthogonal and (settings.splits or settings.merge_gap_mm > 0):
        raise GeometryError(
            "NOT_ORTHOGONAL",
            "expected voxel axes at right angles to measure distances along them, got a sheared grid "
            "(gantry tilt); resample the labels, or split and join nothing",
        )


def _place_objects(
    objects: npt.NDArray[np.uint32],
    what: tuple[LabelVolume, int, int],
    settings: SeparationSettings,
    image: npt.NDArray[Any] | None,
    watchers: tuple[ProgressCallback, CancelToken | None],
) -> int:
    """Write the objects of one class.

    Args:
        objects: the ids of all classes; written into.
        what: label map, class id, and the number of ids that are taken already.
        settings: how.
        image: intensities on the same grid.
        watchers: who is told, and who may stop the work.

    Returns:
        How many objects there are.
    """
    from medseg.instances.decode import Watch, decode
    from medseg.instances.plan import block_grid, height_map, merge_rule, smoothing_margin

    labels, class_id, taken = what
    box = bounding_box(labels.array == class_id)
    if box is None:
        return 0
    geometry = labels.geometry
    box = box.grown(smoothing_margin(geometry.spacing_mm, settings), geometry.shape)
    arrays = labels.array[box.slices], None if image is None else image[box.slices]
    source = height_map(*arrays, class_id, geometry.spacing_mm, settings)
    found, kept = decode(source, merge_rule(geometry, settings), block_grid(source), Watch(*watchers))
    for number, plane in enumerate(found, start=box.start[0]):
        there = plane > 0
        objects[number][box.slices[1:]][there] = plane[there] + np.uint32(taken)
    return len(kept.voxels)


def bounding_box(mask: npt.NDArray[np.bool_]) -> Block | None:
    """Smallest block that holds a mask `(i, j, k)`; None for an empty one."""
    low, high = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        places = np.flatnonzero(mask.any(axis=others))
        if not len(places):
            return None
        low.append(int(places[0]))
        high.append(int(places[-1]) + 1)
    return Block(triple(low), triple(high))
