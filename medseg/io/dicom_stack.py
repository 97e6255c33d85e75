"""Planes of labels that lie anywhere: the grid that they span, and their place on a given grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.geometry import MAX_VOXELS, FloatArray, Geometry

TOLERANCE_VOXELS = 0.02
"""How far a plane may lie from the grid's, in voxels: decimal strings round, series jitter."""


def grid_of_planes(affines: Sequence[FloatArray], size: tuple[int, int], gap_mm: float) -> Geometry:
    """The grid that evenly spaced parallel planes span; planes may be missing between others.

    Args:
        affines: 4x4 per plane, (column, row, mm across) -> world RAS mm.
        size: columns, rows.
        gap_mm: distance of neighbours where only one plane is there, or where the gaps leave it open.

    Returns:
        Axes (column, row, slice); sheared where the planes are tilted against their stack.

    Raises:
        ReadError: `MIXED_ORIENTATION` where planes are not parallel and alike, `VARIABLE_SPACING` where
            they are uneven.
    """
    first = affines[0]
    if any(np.abs(affine[:3, :3] - first[:3, :3]).max() > 1e-3 for affine in affines):
        raise ReadError(
            "MIXED_ORIENTATION", "expected parallel planes of one spacing, got others; split the object"
        )
    origins = np.array([affine[:3, 3] for affine in affines])
    along = origins @ first[:3, 2]
    heights, where = np.unique(np.round(along, 3), return_index=True)
    step = first[:3, 2] * gap_mm
    count = 1
    if len(heights) > 1:
        gaps = np.diff(heights)
        unit = gap_mm if _multiples(gaps, gap_mm) else float(gaps.min())
        span = heights[-1] - heights[0]
        count = round(span / unit) + 1
        if not _multiples(gaps, unit) or count > 100 * len(heights) + 10_000:
            raise _uneven()
        step = (origins[where[-1]] - origins[where[0]]) / (count - 1)
    lowest = origins[where[0]]
    expected = lowest + np.round((along - heights[0]) / max(float(step @ first[:3, 2]), 1e-9))[:, None] * step
    pixel = np.linalg.norm(first[:3, :2], axis=0).min()
    if np.abs(origins - expected).max() > max(TOLERANCE_VOXELS * pixel, 2e-3):
        raise _uneven()
    if size[0] * size[1] * count > MAX_VOXELS // 64:
        raise ReadError("TOO_LARGE", "expected a stack of planes of sane size, got a larger one")
    affine = first.copy()
    affine[:3, 2], affine[:3, 3] = step, lowest
    return Geometry((size[0], size[1], count), affine)


def _multiples(gaps: FloatArray, unit: float) -> bool:
    times = gaps / unit
    return bool((np.round(times) >= 1).all() and np.abs(times - np.round(times)).max() <= 0.05)


def _uneven() -> ReadError:
    return ReadError(
        "VARIABLE_SPACING",
        "expected evenly spaced planes, got uneven ones; pass the grid of the images that they belong to",
    )


def place_on_grid(
    labels: npt.NDArray[Any], affine: FloatArray, grid: Geometry, array: npt.NDArray[Any]
) -> None:
    """Write the labels of one plane into a volume, where they are not 0.

    Args:
        labels: `(columns, rows)`.
        affine: 4x4, (column, row, mm across) -> world RAS mm.
        grid: of the volume.
        array: its voxels, written to.

    Raises:
        ReadError: `OFF_GRID` where a labelled pixel is not a voxel of the grid, `SEGMENTS_OVERLAP`
            where another label is there already.
    """
    column, row = np.nonzero(labels)
    matrix = np.linalg.inv(grid.affine) @ affine
    exact = np.stack([column, row], axis=1) @ matrix[:3, :2].T + matrix[:3, 3]
    index = np.round(exact).astype(np.intp)
    inside = (index >= 0) & (index < np.array(grid.shape))
    if np.abs(exact - index).max() > 5 * TOLERANCE_VOXELS or not inside.all():
        raise ReadError(
            "OFF_GRID",
            "expected planes that lie on the grid's own, got some beside it; pass the grid of the images "
            "that they belong to, or none",
        )
    values = labels[column, row]
    at = (index[:, 0], index[:, 1], index[:, 2])
    there = array[at]
    if ((there != 0) & (there != values)).any():
        raise ReadError(
            "SEGMENTS_OVERLAP",
            "expected segments without a common pixel, got some that overlap, which one label map cannot "
            "hold; read them one by one with `only`",
        )
    array[at] = values
