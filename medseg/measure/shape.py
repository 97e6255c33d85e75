"""The form of objects: diameters as radiologists draw them, roundness, extent, distance to the next.

All in world mm, from each object's own box, so that sheared grids are right and memory is bounded by the
largest object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.measure.regions import Region, measure_regions
from medseg.volume import LabelVolume

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """Form of one object.

    Attributes:
        equivalent_diameter_mm: diameter of the ball of the same volume.
        longest_diameter_mm: longest distance between two points of the largest axial section, from voxel
            edge to voxel edge (RECIST 1.1: Eisenhauer et al., Eur J Cancer 2009).
        perpendicular_diameter_mm: extent of that section across the longest diameter (as for WHO's and
            RECIST's short axis).
        sphericity: (36 pi V^2)^(1/3) / A of the marching-cubes mesh (IBSI: Zwanenburg et al., Radiology
            2020); 1 for a ball in theory, about 0.92 for one of voxels, whose surface is stepped.
        box_mm: extent along the world's x, y, z, from voxel edge to voxel edge.
        nearest_neighbour_mm: distance of its centroid to the nearest other one; None for a single object.
    """

    equivalent_diameter_mm: float
    longest_diameter_mm: float
    perpendicular_diameter_mm: float
    sphericity: float
    box_mm: tuple[float, float, float]
    nearest_neighbour_mm: float | None


def measure_shapes(labels: LabelVolume, regions: tuple[Region, ...] | None = None) -> dict[int, Shape]:
    """Measure the form of every object (or class) of a map.

    Args:
        labels: one id per object.
        regions: `measure_regions(labels)` where it is at hand.

    Returns:
        Id -> shape, ascending.

    Raises:
        VolumeError: a negative id, or an object without a class.
    """
    regions = measure_regions(labels) if regions is None else regions
    neighbours = _neighbours_mm(np.array([region.centroid_mm for region in regions]).reshape(-1, 3))
    shapes = {}
    for region, neighbour in zip(regions, neighbours, strict=True):
        part = tuple(slice(a, b) for a, b in zip(region.box_start, region.box_stop, strict=True))
        mask = labels.array[part] == region.id
        shapes[region.id] = _shape(mask, labels.geometry, region.volume_mm3, neighbour)
    return shapes


def _shape(mask: Mask, geometry: Geometry, volume_mm3: float, neighbour_mm: float | None) -> Shape:
    matrix = geometry.affine[:3, :3]
    longest, across = section_diameters_mm(mask, geometry)
    # the extent of a voxel along a world axis is the sum of what its three edges reach there
    reach = np.abs(matrix).sum(axis=1)
    centres = np.argwhere(mask) @ matrix.T
    x, y, z = np.ptp(centres, axis=0) + reach
    return Shape(
        equivalent_diameter_mm=(6 * volume_mm3 / math.pi) ** (1 / 3),
        longest_diameter_mm=longest,
        perpendicular_diameter_mm=across,
        sphericity=sphericity(mask, matrix),
        box_mm=(float(x), float(y), float(z)),
        nearest_neighbour_mm=neighbour_mm,
    )


def axial_axis(geometry: Geometry) -> int:
    """Voxel axis that runs closest to the world's z (head to foot): its sections are axial."""
    return int(np.argmax([code in "IS" for code in geometry.axis_codes]))


def section_diameters_mm(mask: npt.NDArray[Any], geometry: Geometry) -> tuple[float, float]:
    """Longest diameter and the one across it, in the axial section of largest area.

    Args:
        mask: `(i, j, k)` any part of the grid; above 0 is inside.
        geometry: the grid; only its axes count.

    Returns:
        Both in mm, from voxel edge to voxel edge; zeros for an empty mask.
    """
    axis = axial_axis(geometry)
    sections = np.moveaxis(np.asarray(mask > 0), axis, 0)
    areas = sections.sum(axis=(1, 2))
    if not areas.any():
        return 0.0, 0.0
    section = sections[int(np.argmax(areas))]
    edges = np.delete(geometry.affine[:3, :3], axis, axis=1)
    corners = _outer_corners(section) @ edges.T
    between = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    a, b = np.unravel_index(int(np.argmax(between)), between.shape)
    longest = float(between[a, b])
    normal = np.cross(edges[:, 0], edges[:, 1])
    across = np.cross(normal / np.linalg.norm(normal), (corners[b] - corners[a]) / longest)
    return longest, float(np.ptp(corners @ across))


def _outer_corners(section: Mask) -> Floats:
    """`(n, 2)` corners of pixels that lie on the convex hull of a section, in pixel indices."""
    from scipy.spatial import ConvexHull

    rows, columns = np.nonzero(section)
    # only the outer pixels of each row can lie on the hull
    firsts = np.unique(rows, return_index=True)[1]
    lasts = np.append(firsts[1:], len(rows)) - 1
    ends = np.concatenate([firsts, lasts])
    pixels = np.stack([rows[ends], columns[ends]], axis=1).astype(np.float64)
    offsets = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)])
    corners = (pixels[:, None] + offsets).reshape(-1, 2)
    return np.asarray(corners[ConvexHull(corners).vertices])


def sphericity(mask: npt.NDArray[Any], matrix: Floats) -> float:
    """(36 pi V^2)^(1/3) / A of the marching-cubes mesh of a mask.

    Args:
        mask: `(i, j, k)`; above 0 is inside, outside the array is outside.
        matrix: `(3, 3)` voxel axes in mm.

    Returns:
        0..1; NaN for an empty mask.
    """
    from skimage.measure import marching_cubes

    padded = np.pad(np.asarray(mask > 0), 1)
    if not padded.any():
        return math.nan
    vertices, faces, _, _ = marching_cubes(padded.astype(np.float32), 0.5)
    triangles = (vertices.astype(np.float64) @ matrix.T)[faces]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(normals, axis=1).sum() / 2
    volume = abs((triangles[:, 0] * normals).sum()) / 6
    return float((36 * math.pi * volume**2) ** (1 / 3) / area)


def _neighbours_mm(centroids: Floats) -> list[float | None]:
    """Distance of each centroid to the nearest other one; None where it is alone."""
    from scipy.spatial import KDTree

    if len(centroids) < 2:
        return [None] * len(centroids)
    distances, _ = KDTree(centroids).query(centroids, k=2)
    return [float(d) for d in distances[:, 1]]
