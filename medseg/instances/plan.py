"""From settings to a height map, a merge rule and blocks."""

from __future__ import annotations

import math

from medseg.errors import SettingsError
from medseg.geometry import Geometry
from medseg.instances.decode import MergeRule
from medseg.instances.fields import smoothing_reach
from medseg.instances.gaps import joining_offsets
from medseg.instances.grid import MAX_BLOCK_VOXELS, BlockGrid, Triple, default_grid
from medseg.instances.heights import (
    ArrayLike,
    ClassMask,
    DistanceHeight,
    FlatHeight,
    HeightMap,
    IntensityHeight,
    brightness_range,
)
from medseg.instances.settings import SeparationSettings

Spacing = tuple[float, float, float]


def height_map(
    labels: ArrayLike,
    image: ArrayLike | None,
    class_id: int,
    spacing_mm: Spacing,
    settings: SeparationSettings,
) -> HeightMap:
    """The heights that settings ask for.

    Args:
        labels: `(i, j, k)` classes.
        image: `(i, j, k)` intensities; used by the height `intensity` only.
        class_id: the class.
        spacing_mm: size of a voxel along each axis.
        settings: how.

    Raises:
        VolumeError: labels that are no integers; an image that is not finite in the class.
        SettingsError: the height `intensity` without an image.
    """
    mask = ClassMask(labels, class_id)
    if not settings.splits:
        return FlatHeight(mask)
    if settings.height == "distance":
        # An object up to twice as thick as expected keeps its own middle.
        cap_mm = settings.diameter_mm if settings.diameter_mm > 0 else math.inf
        return DistanceHeight(mask, spacing_mm, settings.smoothing_mm, cap_mm)
    if image is None:
        raise SettingsError(
            "IMAGE_NEEDED", "expected an image with height intensity, got none; pass the scan"
        )
    blocks = default_grid(mask.labels.shape).blocks
    return IntensityHeight(
        mask, image, spacing_mm, settings.smoothing_mm, *brightness_range(image, mask, blocks)
    )


def merge_rule(geometry: Geometry, settings: SeparationSettings) -> MergeRule:
    """The merge rule that settings ask for."""
    joining = joining_offsets(geometry.spacing_mm, settings.merge_gap_mm, settings.merge_dilation_voxels)
    # A volume that is exactly the limit, but for rounding, is kept.
    min_voxels = settings.min_volume_mm3 / geometry.voxel_volume_mm3 * (1 - 1e-9)
    return MergeRule(
        h=settings.persistence,
        min_voxels=min_voxels,
        by_volume=settings.numbering == "volume",
        joining=joining if len(joining[0]) else None,
    )


def smoothing_margin(spacing_mm: Spacing, settings: SeparationSettings) -> Triple:
    """Voxels around the bounding box of a class that its heights depend on.

    One voxel of background is as good as any number for the distance; the smoothing sees more.
    """
    i, j, k = smoothing_reach(spacing_mm, settings.smoothing_mm)
    return i + 1, j + 1, k + 1


def block_grid(source: HeightMap) -> BlockGrid:
    """Blocks for a volume in memory: whole where it is small or where heights look through all of it.

    Raises:
        SettingsError: too large to be one block, and no diameter that says how far heights look.
    """
    shape = source.shape
    if all(reach < size for reach, size in zip(source.reach, shape, strict=True)):
        return default_grid(shape)
    if math.prod(shape) > MAX_BLOCK_VOXELS:
        raise SettingsError(
            "DIAMETER_NEEDED",
            f"expected diameter_mm for a class of {math.prod(shape)} voxels, got 0; give the diameter of a "
            "typical object",
        )
    return BlockGrid(shape, shape)
