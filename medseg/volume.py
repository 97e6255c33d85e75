"""Arrays that know where they lie: intensities, labels, objects.

Array axes are (i, j, k) as stored, the order of `Geometry`. Values are frozen: an operation
returns a new value, and arrays are shared, not copied, so do not write into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.labels import LabelSet

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class _OnGrid:
    """Voxels and where they lie."""

    array: Array
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(
                "GRID_MISMATCH",
                f"expected an array of shape {self.geometry.shape}, got {self.array.shape}; "
                "pass its own geometry",
            )

    def reorient(self, codes: str) -> Self:
        """The same voxels with axes along other directions, such as `"RAS"`; a view."""
        axes, flips = self.geometry.orientation_steps(codes)
        turned = self.array.transpose(axes)
        array = np.flip(turned, flips) if flips else turned
        return replace(self, array=array, geometry=self.geometry.reorient(codes))

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Self:
        """The part from `start` up to, not including, `stop`, in voxels; a view.

        Raises:
            GeometryError: the part is empty or reaches outside.
        """
        geometry = self.geometry.crop(start, stop)
        part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        return replace(self, array=self.array[part], geometry=geometry)


@dataclass(frozen=True, eq=False)
class Volume(_OnGrid):
    """Intensities on a grid.

    Attributes:
        array: `(i, j, k)`, any real number type.
        geometry: where the voxels lie.
        modality: `"MR"`, `"CT"`, … as in DICOM, or empty where unknown.
        source: name of where it came from, without a patient's name; for records only.
        notes: what its reader had to assume; for records only.

    Raises:
        GeometryError: array and geometry disagree in shape.
        VolumeError: the array holds no real numbers.
    """

    modality: str = ""
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.array.dtype.kind not in "iufb":
            raise VolumeError("BAD_VOXELS", f"expected real numbers, got voxels of type {self.array.dtype}")

    def pad(self, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Self:
        """The volume with voxels of one value added at both ends of each axis.

        Raises:
            GeometryError: a padding below 0.
            VolumeError: the voxels' type cannot hold the value.
        """
        kind = self.array.dtype
        if kind.kind in "iu" and not (np.iinfo(kind).min <= value <= np.iinfo(kind).max):
            raise VolumeError(
                "BAD_VOXELS", f"expected a value that {kind} can hold, got {value}; pad a wider type"
            )
        geometry = self.geometry.pad(before, after)
        widths = list(zip(before, after, strict=True))
        return replace(self, array=np.pad(self.array, widths, constant_values=value), geometry=geometry)


@dataclass(frozen=True, eq=False)
class LabelVolume(_OnGrid):
    """Integer classes on a grid; 0 is background.

    Attributes:
        array: `(i, j, k)`, any integer type.
        geometry: where the voxels lie.
        labels: what the integers mean; it may hold classes that do not occur.

    Raises:
        GeometryError: array and geometry disagree in shape.
        VolumeError: the array holds no integers.
    """

    labels: LabelSet = field(default_factory=LabelSet)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.array.dtype.kind not in "iu":
            raise VolumeError(
                "NOT_LABELS",
                f"expected integer labels, got voxels of type {self.array.dtype}; round them first",
            )

    def mask(self, name_or_id: str | int) -> npt.NDArray[np.bool_]:
        """Where one class is, `(i, j, k)`.

        Raises:
            VolumeError: no class of that name or id.
        """
        return np.asarray(self.array == self.labels.find(name_or_id).id)

    def present_ids(self) -> tuple[int, ...]:
        """Ids above 0 that occur in the voxels, ascending."""
        found: set[int] = set()
        for plane in np.moveaxis(self.array, int(np.argmax(self.array.strides)), 0):
            found.update(np.unique(plane).tolist())  # a plane fits the processor's cache; the whole is slow
        return tuple(sorted(i for i in found if i > 0))


@dataclass(frozen=True, eq=False)
class InstanceVolume(LabelVolume):
    """A label map whose ids are objects.

    Attributes:
        classes: object id -> id of its class in `labels`. Every object that occurs is here.
        scores: object id -> how sure its detector is, 0..1; empty where objects were not detected.
    """

    classes: dict[int, int] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    def mask(self, name_or_id: str | int) -> npt.NDArray[np.bool_]:
        """Where the objects of one class are, `(i, j, k)`.

        Raises:
            VolumeError: no class of that name or id.
        """
        wanted = self.labels.find(name_or_id).id
        objects = [object_id for object_id, class_id in self.classes.items() if class_id == wanted]
        return np.asarray(np.isin(self.array, objects))
