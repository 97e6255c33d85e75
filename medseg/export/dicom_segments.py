"""Which segments a result has, in what order, under which tracking identifiers.

SEG, report and RTSTRUCT of one result all follow this plan, so that their numbers, names and
tracking identifiers agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import WriteError
from medseg.export.dicom_uids import uid_of
from medseg.export.segment_codes import Term, term_of
from medseg.geometry import require_same_grid
from medseg.labels import Label, LabelSet, colour_of_id
from medseg.measure.regions import DENSE_ID_LIMIT, class_of_each, occurring_ids
from medseg.volume import InstanceVolume, LabelVolume

MAX_SEGMENTS = 65535
"""Segment Number (0062,0004) is an unsigned 16-bit integer."""

_NOTHING = Label(1, "segmentation", colour_of_id(1))
"""Stands in an empty result that has not even the names of classes: a SEG needs one segment."""


@dataclass(frozen=True)
class Segment:
    """One segment, ROI or measurement group.

    Attributes:
        number: from 1, without gaps.
        name: at most 64 characters, no backslash.
        term: its words in a vocabulary, and its colour.
        tracking_uid: the same in every object of a result, another in any other result.
        kind: `"class"` for what carries a class and belongs to no object, `"object"` for one instance.
        id: of the class or object in the result.
    """

    number: int
    name: str
    term: Term
    tracking_uid: str
    kind: Literal["class", "object"]
    id: int


def segments_of(
    labels: LabelVolume, instances: InstanceVolume | None, digest: str
) -> tuple[tuple[Segment, ...], LabelVolume]:
    """Plan the segments and mark every voxel with the number of its segment.

    A class is one segment. Where objects of a class were separated, each object is a segment in
    its place; voxels of that class in no object (left out as too small, say) stay a segment of the
    class. Classes without a voxel have no segment, but a result without any voxel names them all.

    Args:
        labels: classes.
        instances: objects on the same grid, or None.
        digest: see `dicom_uids.result_digest`.

    Returns:
        Segments by number, and a label map of their numbers (0 for none) on the labels' grid.

    Raises:
        GeometryError: labels and instances lie on two grids.
        VolumeError: a negative id, or an object without a class.
        WriteError: `TOO_MANY_SEGMENTS`.
    """
    outside = labels.array
    objects: dict[int, int] = {}
    if instances is not None:
        require_same_grid(labels.geometry, instances.geometry, "labels and instances")
        objects = dict(class_of_each(instances, occurring_ids(instances.array)))
        outside = np.where(instances.array > 0, 0, labels.array)
    class_ids = [int(i) for i in occurring_ids(outside)]
    if not class_ids and not objects:
        class_ids = list(labels.labels.ids) or [_NOTHING.id]
    entries = _ordered(class_ids, objects)
    if len(entries) > MAX_SEGMENTS:
        raise WriteError(
            "TOO_MANY_SEGMENTS",
            f"expected at most {MAX_SEGMENTS} segments in a DICOM object, got {len(entries)}; "
            "raise the smallest volume of an object, or write NIfTI",
        )
    known = labels.labels if len(labels.labels) or objects else LabelSet((_NOTHING,))
    names = {label.id: label for label in known.completed([*class_ids, *objects.values()])}
    separated = set(objects.values())
    segments = []
    for number, (kind, one) in enumerate(entries, start=1):
        label = names[objects[one] if kind == "object" else one]
        ending = f" {one}" if kind == "object" else " (rest)" if one in separated else ""
        name = long_string(label.name, 64 - len(ending)) + ending
        uid = uid_of("track", digest, kind, str(one))
        segments.append(Segment(number, name, term_of(label), uid, kind, one))
    numbers = _numbered(outside, {s.id: s.number for s in segments if s.kind == "class"}, len(segments))
    if instances is not None and objects:
        of_object = {s.id: s.number for s in segments if s.kind == "object"}
        inside = _numbered(instances.array, of_object, len(segments))
        numbers = np.where(instances.array > 0, inside, numbers)
    return tuple(segments), LabelVolume(numbers, labels.geometry)


def _ordered(class_ids: list[int], objects: dict[int, int]) -> list[tuple[Literal["class", "object"], int]]:
    """(kind, id) by class, each class before its objects."""
    entries: list[tuple[int, int, int, Literal["class", "object"]]] = [(i, 0, i, "class") for i in class_ids]
    entries += [(class_id, 1, one, "object") for one, class_id in objects.items()]
    return [(kind, one) for _, _, one, kind in sorted(entries)]


def _numbered(array: npt.NDArray[Any], number_of: dict[int, int], count: int) -> npt.NDArray[Any]:
    """Each id replaced by its segment's number, 0 elsewhere; 8 bits where these suffice."""
    dtype = np.uint8 if count < 256 else np.uint16
    ids = np.array(sorted(number_of), dtype=np.int64)
    numbers = np.array([number_of[int(i)] for i in ids], dtype=dtype)
    highest = int(array.max()) if array.size else 0
    if np.array_equal(ids, numbers) and highest <= count and array.dtype == dtype:
        return array
    if highest < DENSE_ID_LIMIT:
        table = np.zeros(max(highest, int(ids[-1]) if len(ids) else 0) + 1, dtype=dtype)
        table[ids] = numbers
        return np.asarray(table[array])
    place = np.clip(np.searchsorted(ids, array), 0, max(len(ids) - 1, 0))
    return np.where(ids[place] == array, numbers[place], 0).astype(dtype)


def long_string(text: str, limit: int = 64) -> str:
    """A text that a DICOM LO element can hold: no backslash, no control characters, not too long."""
    return "".join(c for c in text.replace("\\", "/") if c.isprintable())[:limit].strip() or "unnamed"
