"""Height maps: what makes the middle of an object a mountain and the neck between two a saddle.

A height map answers for any block of a volume with the same bits as for the whole: it reads as
far beyond the block as its `reach` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError, VolumeError
from medseg.instances.basins import BACKGROUND
from medseg.instances.fields import (
    BoolArray,
    Float32Array,
    distance_reach,
    distance_to_background,
    smooth,
    smoothing_reach,
)
from medseg.instances.grid import Block, Triple, triple


class ArrayLike(Protocol):
    """What is read block by block: a numpy array, a memory map, a Zarr array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of a voxel."""

    def __getitem__(self, slices: tuple[slice, slice, slice], /) -> Any:
        """A part of the array."""


class HeightMap(Protocol):
    """Heights of a volume, block by block."""

    @property
    def shape(self) -> Triple:
        """Voxels of the volume."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis."""

    @property
    def reach(self) -> Triple:
        """Voxels beyond a block that its heights depend on."""

    def heights(self, block: Block) -> Float32Array:
        """`block.shape` float32 heights, minus infinity where there is no object."""


def read_block(array: ArrayLike, block: Block) -> npt.NDArray[Any]:
    """A part of an array as numpy has it.

    Raises:
        ReadError: the store under it is cut short or damaged.
    """
    try:
        part = np.asarray(array[block.slices])
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise ReadError(
            "STORE_DAMAGED",
            f"expected readable voxels from {block.start} to {block.stop}, got a damaged or cut-off part; "
            "copy the store again",
        ) from error
    if part.shape != block.shape:
        raise ReadError(
            "STORE_DAMAGED", f"expected {block.shape} voxels, got {part.shape}; copy the store again"
        )
    return part


@dataclass(frozen=True)
class ClassMask:
    """Where one class of a label map is.

    Attributes:
        labels: `(i, j, k)` integers or booleans.
        class_id: id of the class; every other value, negative ones too, is background.

    Raises:
        VolumeError: the array is not three-dimensional, or holds no integers.
    """

    labels: ArrayLike
    class_id: int

    def __post_init__(self) -> None:
        if len(self.labels.shape) != 3 or np.dtype(self.labels.dtype).kind not in "iub":
            raise VolumeError(
                "NOT_LABELS",
                f"expected a three-dimensional array of integer labels, got {len(self.labels.shape)} axes "
                f"of type {self.labels.dtype}; pass one label map",
            )

    def read(self, block: Block) -> BoolArray:
        """`block.shape` whether a voxel is of the class."""
        return np.asarray(read_block(self.labels, block) == self.class_id)


@dataclass(frozen=True)
class FlatHeight:
    """The same height everywhere in the class: objects are its connected components.

    Attributes:
        mask: the class.
        spacing_mm: size of a voxel along each axis; without a slope it does not matter.
    """

    mask: ClassMask
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> Triple:
        """Voxels of the volume."""
        return triple(self.mask.labels.shape)

    @property
    def reach(self) -> Triple:
        """Nothing beyond a block matters."""
        return 0, 0, 0

    def heights(self, block: Block) -> Float32Array:
        """0 in the class."""
        return np.where(self.mask.read(block), np.float32(0), BACKGROUND)


@dataclass(frozen=True)
class DistanceHeight:
    """Depth below the surface in mm, smoothed.

    Attributes:
        mask: the class.
        spacing_mm: size of a voxel along each axis.
        sigma_mm: standard deviation of the smoothing; 0 for none.
        cap_mm: greater depths are taken for this; infinite where any depth may occur. A finite one
            is needed for volumes that are cut into blocks.
    """

    mask: ClassMask
    spacing_mm: tuple[float, float, float]
    sigma_mm: float = 0.0
    cap_mm: float = math.inf

    @property
    def shape(self) -> Triple:
        """Voxels of the volume."""
        return triple(self.mask.labels.shape)

    @property
    def reach(self) -> Triple:
        """How far the distance looks, and the smoothing of it."""
        return triple(
            [
                min(n, a + b)
                for n, a, b in zip(
                    self.shape,
                    distance_reach(self.spacing_mm, self._cap_mm),
                    smoothing_reach(self.spacing_mm, self.sigma_mm),
                    strict=True,
                )
            ]
        )

    @property
    def _cap_mm(self) -> float:
        # A distance longer than the volume's diagonal does not occur.
        sizes = [n * w for n, w in zip(self.shape, self.spacing_mm, strict=True)]
        return min(self.cap_mm, float(np.linalg.norm(sizes)))

    def heights(self, block: Block) -> Float32Array:
        """Smoothed depth in the class."""
        region = block.grown(self.reach, self.shape)
        mask = self.mask.read(region)
        if not mask[block.within(region)].any():
            return np.full(block.shape, BACKGROUND)
        field = distance_to_background(mask, self.spacing_mm, self._cap_mm)
        smooth(field, self.spacing_mm, self.sigma_mm)
        field[~mask] = BACKGROUND
        return np.ascontiguousarray(field[block.within(region)])


@dataclass(frozen=True)
class IntensityHeight:
    """Smoothed brightness in parts of its range, after the Voronoi-Otsu recipe of clEsperanto.

    Attributes:
        mask: the class.
        image: `(i, j, k)` intensities on the same grid, or other heights.
        spacing_mm: size of a voxel along each axis.
        sigma_mm: standard deviation of the smoothing; 0 for none.
        low: brightness of height 0.
        high: brightness of height 1.
    """

    mask: ClassMask
    image: ArrayLike
    spacing_mm: tuple[float, float, float]
    sigma_mm: float = 0.0
    low: float = 0.0
    high: float = 1.0

    @property
    def shape(self) -> Triple:
        """Voxels of the volume."""
        return triple(self.mask.labels.shape)

    @property
    def reach(self) -> Triple:
        """How far the smoothing looks."""
        return smoothing_reach(self.spacing_mm, self.sigma_mm)

    def heights(self, block: Block) -> Float32Array:
        """Smoothed brightness in the class.

        Raises:
            VolumeError: the image holds voxels that are not finite there.
        """
        mask = self.mask.read(block)
        if not mask.any():
            return np.full(block.shape, BACKGROUND)
        region = block.grown(self.reach, self.shape)
        field = np.ascontiguousarray(read_block(self.image, region), dtype=np.float32)
        scale = np.float32(1 / (self.high - self.low))
        field = (field - np.float32(self.low)) * scale
        smooth(field, self.spacing_mm, self.sigma_mm)
        return masked_heights(np.ascontiguousarray(field[block.within(region)]), mask)


def masked_heights(field: Float32Array, mask: BoolArray) -> Float32Array:
    """The field with minus infinity outside the mask, in place.

    Raises:
        VolumeError: a value inside the mask is not finite.
    """
    field[~mask] = BACKGROUND
    if not np.isfinite(field.max(initial=0.0)) or np.isneginf(field[mask]).any():
        raise VolumeError(
            "NOT_FINITE", "expected finite heights in the class, got NaN or infinite ones; replace them first"
        )
    return field


def brightness_range(
    image: ArrayLike, mask: ClassMask, blocks: Sequence[Block], low_part: float = 0.01
) -> tuple[float, float]:
    """Brightness between which all but a small part of the class's voxels lie.

    Two passes, the second one a histogram of 4096 bins: whole numbers, so blocks change nothing.

    Args:
        image: `(i, j, k)` intensities.
        mask: the class.
        blocks: parts that cover the volume.
        low_part: part of the voxels below the first, and above the second number.

    Returns:
        The two numbers; they differ.

    Raises:
        VolumeError: a voxel of the class is not finite.
    """
    low, high = math.inf, -math.inf
    for block in blocks:
        values = read_block(image, block)[mask.read(block)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not low <= high:
        return 0.0, 1.0
    if not (math.isfinite(low) and math.isfinite(high)):
        raise VolumeError(
            "NOT_FINITE", "expected finite intensities in the class, got NaN or infinity; replace them first"
        )
    if low == high:
        return low, low + 1.0
    counts = np.zeros(4096, dtype=np.int64)
    for block in blocks:
        values = read_block(image, block)[mask.read(block)]
        counts += np.histogram(values, bins=4096, range=(low, high))[0]
    parts = np.cumsum(counts) / counts.sum()
    edges = np.linspace(low, high, 4097)
    first = int(np.searchsorted(parts, low_part))
    last = int(np.searchsorted(parts, 1 - low_part))
    return float(edges[first]), float(edges[min(last + 1, 4096)])
