"""Planes of labels that lie anywhere: the grid that they span, and their place on a given grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.geometry import MAX_VOXELS, FloatArray, Geometry
from medseg.io.dicom_source import DicomSource

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
        raise _off_grid()
    values = labels[column, row]
    at = (index[:, 0], index[:, 1], index[:, 2])
    require_free(array[at], values)
    array[at] = values


def require_free(there: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    """Return if no voxel holds another label already.

    Raises:
        ReadError: `SEGMENTS_OVERLAP`.
    """
    if ((there != 0) & (there != values)).any():
        raise ReadError(
            "SEGMENTS_OVERLAP",
            "expected segments without a common voxel, got some that overlap, which one label map cannot "
            "hold; read them one by one with `only`",
        )


def slice_of_points(points_mm: FloatArray, source: DicomSource) -> tuple[int, FloatArray]:
    """The slice that points lie on, and where on it.

    Args:
        points_mm: `(n, 3)` RAS.
        source: slices.

    Returns:
        Place in `source.slices`, and `(n, 2)` of (column, row), fractional.

    Raises:
        ReadError: `OFF_GRID` where they lie on none.
    """
    heights = [_on_plane(points_mm, plane.affine)[:, 2] for plane in source.slices]
    away = [float(np.abs(height).max()) for height in heights]
    nearest = int(np.argmin(away))
    on_it = _on_plane(points_mm, source.slices[nearest].affine)
    if away[nearest] > 5 * TOLERANCE_VOXELS * min(source.slices[nearest].pixel_spacing_mm):
        raise _off_grid()
    return nearest, on_it[:, :2]


def place_on_slice(
    labels: npt.NDArray[Any], affine: FloatArray, source: DicomSource, planes: npt.NDArray[Any]
) -> None:
    """Write the labels of one plane onto the slice that it lies on, where they are not 0.

    Args:
        labels: `(columns, rows)`.
        affine: 4x4, (column, row, mm across) -> world RAS mm.
        source: slices.
        planes: `(slices, columns, rows)`, written to.

    Raises:
        ReadError: `OFF_GRID`, `SEGMENTS_OVERLAP`.
    """
    column, row = np.nonzero(labels)
    pixels = np.stack([column, row, np.zeros_like(row)], axis=1)
    nearest, exact = slice_of_points(pixels @ affine[:3, :3].T + affine[:3, 3], source)
    index = np.round(exact).astype(np.intp)
    inside = (index >= 0) & (index < planes.shape[1:])
    if np.abs(exact - index).max() > 5 * TOLERANCE_VOXELS or not inside.all():
        raise _off_grid()
    at = (np.full(len(index), nearest), index[:, 0], index[:, 1])
    values = labels[column, row]
    require_free(planes[at], values)
    planes[at] = values


def _on_plane(points_mm: FloatArray, affine: FloatArray) -> FloatArray:
    """(column, row, mm across) of world points."""
    return np.asarray((points_mm - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T)


def labels_from_slices(planes: npt.NDArray[Any], source: DicomSource) -> npt.NDArray[Any]:
    """Labels of tilted or uneven slices on the grid that their volume was resampled to.

    The way back of `labels_on_slices`: every voxel takes the nearest pixel of the nearest slice, or 0
    where it lies outside all of them, further from the outer ones than half their distance.

    Args:
        planes: `(slices, columns, rows)`, in order of `source.slices`.
        source: slices, and the grid.

    Returns:
        `(i, j, k)` on `source.grid`, of the planes' type.
    """
    grid = source.grid
    array = np.zeros(grid.shape, dtype=planes.dtype)
    normal = source.slices[0].affine[:3, 2]
    heights = np.array([plane.affine[:3, 3] @ normal for plane in source.slices])
    gaps = np.abs(np.diff(heights)) if len(heights) > 1 else np.array([np.inf])
    corner = np.stack(np.meshgrid(np.arange(grid.shape[0]), np.arange(grid.shape[1]), indexing="ij"), axis=-1)
    for k in range(grid.shape[2]):
        middle = grid.to_world([(grid.shape[0] - 1) / 2, (grid.shape[1] - 1) / 2, k]) @ normal
        nearest = int(np.argmin(np.abs(heights - middle)))
        if abs(heights[nearest] - middle) > gaps[max(0, min(nearest, len(gaps)) - 1) :][:2].max() / 2 + 1e-3:
            continue
        matrix = np.linalg.inv(source.slices[nearest].affine) @ grid.affine
        at = np.floor(corner @ matrix[:2, :2].T + matrix[:2, 2] * k + matrix[:2, 3] + 0.5 + 1e-4).astype(
            np.intp
        )
        within = ((at >= 0) & (at < planes.shape[1:])).all(axis=-1)
        column, row = at[within].T
        array[:, :, k][within] = planes[nearest, column, row]
    return array


def _off_grid() -> ReadError:
    return ReadError(
        "OFF_GRID",
        "expected planes that lie on the grid's own, got some beside it; pass the grid or the source of the "
        "images that they belong to, or none",
    )
