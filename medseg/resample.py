"""The one place where voxels are interpolated.

Everything is centre-aligned: a world point keeps its world position. Grids whose axes are
parallel are handled one axis after another, the rest by one trilinear look-up per voxel.
Outside the source's field of view (half a voxel beyond its outer centres) stands a fill value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.volume import LabelVolume, Volume

ANTI_ALIAS_FACTOR = 2.0
"""Going down by more than this, a volume is blurred first; up to it, linear weights suffice."""

BAND_BYTES = 64_000_000
"""Voxels of the source or the target, whichever are more, that are resampled together."""

_TRUNCATE = 4.0
"""Standard deviations at which a Gaussian ends."""

_PARALLEL_TOLERANCE_VOXELS = 1e-3
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


ANISOTROPY_FACTOR = 3.0
"""Voxels are anisotropic where the coarsest spacing exceeds the finest by more than this (nnU-Net)."""

_SAME_SPACING = 1 + 1e-5
"""An affine of float32 makes spacings that nearly agree of such that do."""

_SPLINE_POLE = math.sqrt(3) - 2
"""Of the cubic B-spline's recursive prefilter (Unser 1999)."""

_SPLINE_MARGIN = 24
"""Voxels after which that filter has forgotten its start: the pole's power is 2e-14."""

_BAND_ROWS = 64
"""Rows of an interpolation matrix that are multiplied together, with the columns that they need."""


@dataclass(frozen=True)
class AxisMap:
    """Where the centres of a target axis lie between the centres of a source axis.

    Attributes:
        lower: `(n,)` source index at or below each target centre.
        weight: `(n,)` float32 share of the source voxel after `lower`, 0..1.
        inside: `(n,)` whether the centre lies in the source's field of view.
        size: number of source voxels.
    """

    lower: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_]
    size: int

    @property
    def upper(self) -> npt.NDArray[np.int64]:
        """`(n,)` source index after `lower`, the last one at the end."""
        return np.minimum(self.lower + 1, self.size - 1)

    @property
    def nearest(self) -> npt.NDArray[np.int64]:
        """`(n,)` source index that is closest; the upper one at equal distance."""
        return np.where(self.weight >= 0.5, self.upper, self.lower)

    @property
    def snapped(self) -> AxisMap:
        """The same axis brought over by the nearest voxel instead of interpolation."""
        return replace(self, lower=self.nearest, weight=np.zeros_like(self.weight))


def axis_maps(source: Geometry, target: Geometry) -> tuple[AxisMap, AxisMap, AxisMap] | None:
    """How to go from one grid to another axis by axis, or None where axes are not parallel.

    Args:
        source: grid that holds values.
        target: grid that wants values; its axis codes must be the source's.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    skew = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
    reach = np.abs(skew) @ (np.array(target.shape) - 1)
    if reach.max() > _PARALLEL_TOLERANCE_VOXELS or np.diag(matrix)[:3].min() <= 0:
        return None
    maps = []
    for axis in range(3):
        position = matrix[axis, axis] * np.arange(target.shape[axis]) + matrix[axis, 3]
        # Rounding noise of the two affines must not push a centre over a voxel's border.
        position = np.round(position, 6)
        size = source.shape[axis]
        inside = (position >= -0.5) & (position <= size - 0.5)
        clamped = np.clip(position, 0, size - 1)
        lower = np.floor(clamped).astype(np.int64)
        maps.append(AxisMap(lower, (clamped - lower).astype(np.float32), inside, size))
    return maps[0], maps[1], maps[2]


def edge_map(source_size: int, target_size: int) -> AxisMap:
    """An axis of another number of voxels over the same extent, edges on edges.

    Args:
        source_size: voxels that hold values.
        target_size: voxels that want values.
    """
    position = source_size / target_size * (np.arange(target_size) + 0.5) - 0.5
    clamped = np.clip(position, 0, source_size - 1)
    lower = np.floor(clamped).astype(np.int64)
    weight = (clamped - lower).astype(np.float32)
    return AxisMap(lower, weight, np.ones(target_size, dtype=bool), source_size)


def coarse_axis(spacing_mm: Sequence[float], other_mm: Sequence[float]) -> int | None:
    """The one axis along which voxels are far coarser, as nnU-Net decides it; None where there is none.

    Args:
        spacing_mm: of the grid that holds values; it counts where it is anisotropic, ...
        other_mm: of the wanted grid; ... else this one.
    """
    for spacing in (spacing_mm, other_mm):
        if max(spacing) / min(spacing) > ANISOTROPY_FACTOR * _SAME_SPACING:
            coarsest = [axis for axis in range(3) if max(spacing) / spacing[axis] < _SAME_SPACING]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resize(
    array: npt.NDArray[np.float32], shape: Sequence[int], *, order: int = 3, nearest_axis: int | None = None
) -> npt.NDArray[np.float32]:
    """Another number of voxels over the same extent, edges on edges.

    The same as `skimage.transform.resize(mode="edge", anti_aliasing=False)` to rounding, one axis after
    another: linear, or cubic B-splines on an image continued by its border, clipped to its range.

    Args:
        array: `(i, j, k)` float32.
        shape: wanted voxels.
        order: 1 or 3.
        nearest_axis: an axis brought over by the nearest voxel; then every plane across it is resized,
            and clipped to its range, by itself.

    Returns:
        `(i, j, k)` float32; the array itself where nothing changes.
    """
    if tuple(shape) == array.shape:
        return array
    ends = None if nearest_axis is None else tuple(a for a in range(3) if a != nearest_axis)
    low, high = array.min(axis=ends, keepdims=True), array.max(axis=ends, keepdims=True)
    for axis in sorted(range(3), key=lambda a: shape[a] / array.shape[a]):
        along = edge_map(array.shape[axis], shape[axis])
        if axis == nearest_axis:
            array = array.take(along.nearest, axis)
            low, high = low.take(along.nearest, axis), high.take(along.nearest, axis)
        elif order == 1:
            array = _interpolate_axis(array, along, axis)
        elif array.shape[axis] != shape[axis]:
            array = _multiplied(array, spline_matrix(array.shape[axis], shape[axis]), axis)
    return np.clip(array, low, high, out=array) if order == 3 else array


def spline_matrix(source_size: int, target_size: int) -> npt.NDArray[np.float64]:
    """`(target, source)`: weights of cubic B-spline interpolation, edges on edges.

    The image is continued by its border values. The prefilter is the exact inverse of the B-spline's
    samples 1/6, 4/6, 1/6, two recursive filters whose pole is `sqrt(3) - 2` (Unser 1999, Splines).
    """
    padded = np.pad(np.eye(source_size), ((_SPLINE_MARGIN,) * 2, (0, 0)), mode="edge")
    forth = np.empty_like(padded)
    forth[0] = padded[0] / (1 - _SPLINE_POLE)
    for row in range(1, len(padded)):
        forth[row] = padded[row] + _SPLINE_POLE * forth[row - 1]
    back = np.empty_like(padded)
    back[-1] = -_SPLINE_POLE * forth[-1] / (1 - _SPLINE_POLE)
    for row in range(len(padded) - 2, -1, -1):
        back[row] = _SPLINE_POLE * (back[row + 1] - forth[row])
    position = source_size / target_size * (np.arange(target_size) + 0.5) - 0.5 + _SPLINE_MARGIN
    lower = np.floor(position).astype(int)
    t = (position - lower)[:, None]
    taps = ((1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3)
    result = np.zeros((target_size, source_size))
    for offset, tap in enumerate(taps):
        result += tap * back[lower - 1 + offset]
    return result


def _multiplied(
    array: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64], axis: int
) -> npt.NDArray[np.float32]:
    """A matrix applied along an axis, in bands: what lies farther off than the prefilter reaches is 0."""
    shape = list(array.shape)
    shape[axis] = len(matrix)
    result = np.empty(shape, dtype=np.float32)
    for first in range(0, len(matrix), _BAND_ROWS):
        rows = matrix[first : first + _BAND_ROWS]
        near = np.flatnonzero((np.abs(rows) > 1e-12).any(axis=0))
        columns = slice(int(near[0]), int(near[-1]) + 1)
        band = rows[:, columns].astype(np.float32)
        inside: list[slice] = [slice(None)] * 3
        inside[axis] = columns
        target: list[slice] = [slice(None)] * 3
        target[axis] = slice(first, first + len(rows))
        part = array[tuple(inside)]
        if axis == 2:
            result[tuple(target)] = part @ band.T
        elif axis == 1:
            result[tuple(target)] = band @ part
        else:
            result[tuple(target)] = np.tensordot(band, part, axes=1)
    return result


def resample_volume(
    volume: Volume, geometry: Geometry, *, fill: float | None = 0.0, smooth: bool = True
) -> Volume:
    """Intensities on another grid, linearly interpolated.

    Where the target is coarser by more than a factor of 2 along an axis, the source is first
    smoothed along it by a Gaussian of variance `(f^2 - 1) / (8 ln 2)` voxels^2, `f` the factor
    (Cardoso et al., MICCAI 2015, for a scanner whose slice profile's width is its spacing).

    Args:
        volume: source.
        geometry: wanted grid, any orientation.
        fill: value outside the source's field of view; None goes on with the value at its border.
        smooth: whether the source is smoothed as above.

    Returns:
        float32 volume on `geometry`.
    """
    turned = volume.reorient(geometry.axis_codes)
    sigmas = _sigmas(turned.geometry, geometry) if smooth else (0.0, 0.0, 0.0)
    maps = axis_maps(turned.geometry, geometry)
    if maps is None:
        array = _smoothed(turned.array.astype(np.float32, copy=False), sigmas)
        result = _look_up(array, turned.geometry, geometry, order=1, fill=fill)
    else:
        result = _by_bands(turned.array, maps, sigmas)
        for axis, along in enumerate(maps):
            if fill is not None and not along.inside.all():
                result[(slice(None),) * axis + (~along.inside,)] = fill
    return replace(volume, array=result, geometry=geometry)


def _by_bands(
    array: npt.NDArray[Any], maps: tuple[AxisMap, AxisMap, AxisMap], sigmas: tuple[float, float, float]
) -> npt.NDArray[np.float32]:
    """Smoothed and interpolated, some target planes at a time, so that no second volume is made."""
    along = maps[2]
    result = np.empty(tuple(len(m.lower) for m in maps), dtype=np.float32)
    order = _cheapest_order(maps)
    reach = math.ceil(_TRUNCATE * sigmas[2]) + 1
    plane_voxels = max(array.size / len(along.lower), result[:, :, 0].size)
    planes = max(1, int(BAND_BYTES / (4 * plane_voxels)))
    for first in range(0, len(along.lower), planes):
        band = slice(first, first + planes)
        start = max(0, int(along.lower[band][0]) - reach)
        stop = min(along.size, int(along.upper[band][-1]) + 1 + reach)
        part = _smoothed(array[:, :, start:stop].astype(np.float32), sigmas)
        near = AxisMap(along.lower[band] - start, along.weight[band], along.inside[band], stop - start)
        for axis in order:
            part = _interpolate_axis(part, near if axis == 2 else maps[axis], axis)
        result[:, :, band] = part
    return result


def resample_labels(labels: LabelVolume, geometry: Geometry) -> LabelVolume:
    """Labels on another grid, each voxel takes the nearest; 0 outside the field of view.

    Args:
        labels: source; an `InstanceVolume` stays one.
        geometry: wanted grid, any orientation.
    """
    turned = labels.reorient(geometry.axis_codes)
    maps = axis_maps(turned.geometry, geometry)
    if maps is None:
        result = _look_up(turned.array, turned.geometry, geometry, order=0, fill=0)
    else:
        result = turned.array[np.ix_(*(m.nearest for m in maps))]
        result = _filled(result, maps, 0)
    return replace(labels, array=result, geometry=geometry)


def _sigmas(source: Geometry, target: Geometry) -> tuple[float, float, float]:
    """Standard deviations of the smoothing before going down, in voxels of the source; 0 for none."""
    sigmas = []
    for axis in range(3):
        factor = target.spacing_mm[axis] / source.spacing_mm[axis]
        is_smoothed = factor > ANTI_ALIAS_FACTOR + 1e-3 and source.shape[axis] > 1
        sigmas.append(math.sqrt(factor**2 - 1) / _FWHM_PER_SIGMA if is_smoothed else 0.0)
    return sigmas[0], sigmas[1], sigmas[2]


def _smoothed(array: npt.NDArray[np.float32], sigmas: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter1d

    for axis, sigma in enumerate(sigmas):
        if sigma > 0:
            array = gaussian_filter1d(array, sigma, axis=axis, mode="nearest", truncate=_TRUNCATE)
    return array


def _cheapest_order(maps: tuple[AxisMap, AxisMap, AxisMap]) -> list[int]:
    """Axes that shrink most come first, so that the rest has less to do."""
    return sorted(range(3), key=lambda axis: len(maps[axis].lower) / maps[axis].size)


def _interpolate_axis(array: npt.NDArray[np.float32], along: AxisMap, axis: int) -> npt.NDArray[np.float32]:
    is_between = along.weight.any()
    if not is_between and np.array_equal(along.lower, np.arange(array.shape[axis])):
        return array
    low = array.take(along.lower, axis)
    if not is_between:
        return low
    shape = [1, 1, 1]
    shape[axis] = -1
    difference = array.take(along.upper, axis)
    difference -= low
    difference *= along.weight.reshape(shape)
    low += difference
    return low


def _filled(array: npt.NDArray[Any], maps: tuple[AxisMap, AxisMap, AxisMap], fill: float) -> npt.NDArray[Any]:
    if all(m.inside.all() for m in maps):
        return np.ascontiguousarray(array)
    inside = np.ix_(*(m.inside for m in maps))
    result = np.full(array.shape, fill, dtype=array.dtype)
    result[inside] = array[inside]
    return result


def _look_up(
    array: npt.NDArray[Any], source: Geometry, target: Geometry, *, order: int, fill: float | None
) -> npt.NDArray[Any]:
    """One look-up per voxel, plane by plane to bound the memory; any relative orientation."""
    from scipy.ndimage import map_coordinates

    matrix = np.linalg.inv(source.affine) @ target.affine
    result = np.empty(target.shape, dtype=array.dtype)
    i, j = np.meshgrid(np.arange(target.shape[0]), np.arange(target.shape[1]), indexing="ij")
    limit = np.array(source.shape).reshape(3, 1, 1)
    for k in range(target.shape[2]):
        points = np.stack([i, j, np.full_like(i, k)]).reshape(3, -1)
        at = (matrix[:3, :3] @ points + matrix[:3, 3:]).reshape(3, *i.shape)
        inside = ((at >= -0.5) & (at <= limit - 0.5)).all(axis=0)
        clamped = np.clip(at, 0, limit - 1)
        if order == 0:
            nearest = np.floor(clamped + 0.5).astype(np.int64)
            values = array[tuple(np.minimum(nearest, limit - 1))]
        else:
            values = map_coordinates(array, clamped, order=1, mode="nearest")
        result[:, :, k] = values if fill is None else np.where(inside, values, fill)
    return result
