"""Distances between the surfaces of two masks: computed once, read by many small functions.

A surface is the marching-cubes surface of the mask, cut into one element per cube of 2x2x2 voxel
centres that holds both inside and outside; the element lies at the cube's centre and weighs with its
area in mm2. This is the definition of Nikolov et al. ("Deep learning to achieve clinically applicable
segmentation of head and neck anatomy", arXiv:1809.04430) and of DeepMind's `surface-distance`, which
BraTS and MONAI's `use_subvoxels` follow too: thin slices do not count more than thick ones, and a mask
that reaches the border of the grid ends there. Areas are those of the mask's own grid, sheared or not.

Empty cases: where both masks are empty there is nothing to measure and every reader says NaN; where one
is, distances are infinite and the surface Dice is 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, SettingsError
from medseg.geometry import Geometry

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

CORNERS = tuple((a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1))
"""Voxels of a 2x2x2 cube; the n-th gives bit n of the cube's code."""

SPARSE_BOX = 500
"""Voxels of the box around two surfaces per surface element above which a search tree is faster than a
distance transform of the box (and much smaller: two specks in far corners)."""

TOLERANCE_ROUNDING = 1e-5
"""Part of a tolerance that rounding of a distance may add without counting."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """From every surface element of one mask to the surface of the other, and back.

    Attributes:
        prediction_mm: `(p,)` distances from the prediction's surface to the reference's, ascending.
        prediction_mm2: `(p,)` areas of the same elements.
        reference_mm: `(r,)` distances from the reference's surface to the prediction's, ascending.
        reference_mm2: `(r,)` areas of the same elements.
    """

    prediction_mm: Floats
    prediction_mm2: Floats
    reference_mm: Floats
    reference_mm2: Floats

    @property
    def both_empty(self) -> bool:
        """Whether neither mask has a surface."""
        return not (self.prediction_mm.size or self.reference_mm.size)

    @property
    def one_empty(self) -> bool:
        """Whether exactly one mask has no surface."""
        return (self.prediction_mm.size == 0) != (self.reference_mm.size == 0)


def surface_distances(
    prediction: npt.NDArray[Any], reference: npt.NDArray[Any], geometry: Geometry
) -> SurfaceDistances:
    """Measure how far the surfaces of two masks lie apart.

    Args:
        prediction: `(i, j, k)`; above 0 is inside.
        reference: `(i, j, k)` on the same grid.
        geometry: that grid; the border of the grid counts as outside.

    Raises:
        GeometryError: a mask does not have the grid's shape.
    """
    require_shape((prediction, reference), geometry)
    areas = _area_of_code(geometry.affine[:3, :3])
    p_corners, p_codes = _elements(prediction)
    r_corners, r_codes = _elements(reference)
    p_mm, r_mm = _distances_mm(p_corners, r_corners, geometry)
    p_order, r_order = np.argsort(p_mm, kind="stable"), np.argsort(r_mm, kind="stable")
    return SurfaceDistances(p_mm[p_order], areas[p_codes][p_order], r_mm[r_order], areas[r_codes][r_order])


def require_shape(masks: Iterable[npt.NDArray[Any]], geometry: Geometry) -> None:
    """Return if masks have the shape of a grid.

    Raises:
        GeometryError: `GRID_MISMATCH`.
    """
    for mask in masks:
        if mask.shape != geometry.shape:
            raise GeometryError(
                "GRID_MISMATCH", f"expected a mask of shape {geometry.shape}, got {mask.shape}; resample it"
            )


def _elements(mask: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Surface of one mask: `(n, 3)` corners, each half a voxel before the voxel of its index; codes."""
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.uint8)
    inside = np.pad(mask[box] > 0, 1)
    codes = np.zeros([n - 1 for n in inside.shape], dtype=np.uint8)
    for bit, corner in enumerate(CORNERS):
        part = tuple(slice(c, c + n) for c, n in zip(corner, codes.shape, strict=True))
        codes |= inside[part].astype(np.uint8) << np.uint8(bit)
    where = np.nonzero((codes != 0) & (codes != 255))
    return np.stack(where, axis=1) + [part.start for part in box], codes[where]


def bounding_box(mask: npt.NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """Smallest part that holds everything above 0; None for an empty mask."""
    inside: Mask = np.asarray(mask > 0)
    hits = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not hits[0].size:
        return None
    i, j, k = (slice(int(h[0]), int(h[-1]) + 1) for h in hits)
    return i, j, k


def _distances_mm(
    some: npt.NDArray[np.int64], others: npt.NDArray[np.int64], geometry: Geometry
) -> tuple[Floats, Floats]:
    """Distance of each corner to the nearest of the others, both ways; inf where there is none."""
    if not len(some) or not len(others):
        return np.full(len(some), math.inf), np.full(len(others), math.inf)
    start = np.minimum(some.min(axis=0), others.min(axis=0))
    box = np.maximum(some.max(axis=0), others.max(axis=0)) + 1 - start
    if not geometry.is_orthogonal or np.prod(box) > SPARSE_BOX * (len(some) + len(others)):
        matrix = geometry.affine[:3, :3]
        return _by_tree(some @ matrix.T, others @ matrix.T)
    first, second = tuple((some - start).T), tuple((others - start).T)
    return (
        _field(second, box, geometry)[first].astype(np.float64),
        _field(first, box, geometry)[second].astype(np.float64),
    )


def _field(
    corners: tuple[npt.NDArray[np.int64], ...], box: npt.NDArray[np.int64], geometry: Geometry
) -> npt.NDArray[np.float32]:
    """Distance in mm of every place of a box to the nearest of the corners."""
    import edt

    elsewhere = np.ones(box, dtype=np.uint8)
    elsewhere[corners] = 0
    return np.asarray(edt.edt(elsewhere, anisotropy=geometry.spacing_mm, parallel=1))


def _by_tree(some: Floats, others: Floats) -> tuple[Floats, Floats]:
    from scipy.spatial import KDTree

    there = KDTree(others, balanced_tree=False).query(some)[0]
    back = KDTree(some, balanced_tree=False).query(others)[0]
    return np.asarray(there), np.asarray(back)


def _area_of_code(matrix: Floats) -> Floats:
    """`(256,)` mm2 of the surface within a cube of each code."""
    codes, triangles = _triangles()
    edges = (triangles[:, 1:] - triangles[:, :1]) @ matrix.T
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    return np.bincount(codes, weights=areas, minlength=256).astype(np.float64)


@cache
def _triangles() -> tuple[npt.NDArray[np.int64], Floats]:
    """`(n,)` codes and their `(n, 3, 3)` triangles in the unit cube.

    Where the faces of a cube leave a choice, the corners that are fewer are cut off one by one, so
    that a mask and its complement have one surface, as in DeepMind's table.
    """
    from skimage.measure import marching_cubes

    codes: list[int] = []
    parts = []
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code
        cube = np.zeros((2, 2, 2))
        for bit, corner in enumerate(CORNERS):
            cube[corner] = fewer >> bit & 1
        vertices, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
        parts.append(vertices[faces].astype(np.float64))
        codes += [code] * len(faces)
    return np.array(codes), np.concatenate(parts)


def hausdorff_mm(distances: SurfaceDistances, percentile: float = 95.0) -> float:
    """Robust Hausdorff distance: the larger of both directions' percentiles, weighted by area.

    Args:
        distances: from `surface_distances`.
        percentile: 100 gives the largest distance of all (Hausdorff), 95 the usual HD95.

    Returns:
        mm; inf where one mask is empty, NaN where both are.

    Raises:
        SettingsError: a percentile outside 0..100.
    """
    if not 0 <= percentile <= 100:
        raise SettingsError("BAD_PERCENTILE", f"expected a percentile from 0 to 100, got {percentile}")
    if distances.both_empty or distances.one_empty:
        return _of_empty(distances, math.inf)
    return max(
        _weighted_percentile(distances.prediction_mm, distances.prediction_mm2, percentile),
        _weighted_percentile(distances.reference_mm, distances.reference_mm2, percentile),
    )


def assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: over both surfaces, weighted by area.

    Returns:
        mm; inf where one mask is empty, NaN where both are.
    """
    if distances.both_empty or distances.one_empty:
        return _of_empty(distances, math.inf)
    weighted = distances.prediction_mm @ distances.prediction_mm2
    weighted += distances.reference_mm @ distances.reference_mm2
    return float(weighted / (distances.prediction_mm2.sum() + distances.reference_mm2.sum()))


def nsd(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Normalised surface Dice: share of both surfaces that lies within a tolerance of the other.

    Args:
        distances: from `surface_distances`.
        tolerance_mm: how far apart two observers may draw the border.

    Returns:
        0..1; 0 where one mask is empty, NaN where both are.

    Raises:
        SettingsError: a tolerance that is negative or not a number.
    """
    if not tolerance_mm >= 0:
        raise SettingsError("BAD_TOLERANCE", f"expected a tolerance of 0 mm or more, got {tolerance_mm}")
    if distances.both_empty or distances.one_empty:
        return _of_empty(distances, 0.0)
    limit = tolerance_mm * (1 + TOLERANCE_ROUNDING)
    near = distances.prediction_mm2[distances.prediction_mm <= limit].sum()
    near += distances.reference_mm2[distances.reference_mm <= limit].sum()
    return float(near / (distances.prediction_mm2.sum() + distances.reference_mm2.sum()))


def _of_empty(distances: SurfaceDistances, where_one_is: float) -> float:
    return where_one_is if distances.one_empty else math.nan


def _weighted_percentile(distances_mm: Floats, areas_mm2: Floats, percentile: float) -> float:
    """Least distance that at least `percentile` of the area lies within; distances ascend."""
    share = np.cumsum(areas_mm2) / areas_mm2.sum()
    place = int(np.searchsorted(share, percentile / 100))
    last = len(distances_mm) - 1
    return float(distances_mm[last if percentile >= 100 else min(place, last)])
