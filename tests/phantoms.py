"""Bodies whose volume and surface are known by formula, drawn on any grid.

A voxel belongs to a body where its centre does. Drawing knows nothing of axes: it asks the grid
where each centre lies in the world, so that oblique, anisotropic and sheared grids are right too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.volume import LabelVolume, Volume

Point = tuple[float, float, float]
Mask = npt.NDArray[np.bool_]


class Body(Protocol):
    """Something that has an inside."""

    @property
    def volume_mm3(self) -> float: ...

    @property
    def surface_mm2(self) -> float: ...

    def contains(self, world_mm: npt.NDArray[np.float64]) -> Mask:
        """Which of the points `(..., 3)` in RAS mm lie inside or on the surface."""


@dataclass(frozen=True)
class Sphere:
    centre_mm: Point
    radius_mm: float

    @property
    def volume_mm3(self) -> float:
        return 4 / 3 * math.pi * self.radius_mm**3

    @property
    def surface_mm2(self) -> float:
        return 4 * math.pi * self.radius_mm**2

    def contains(self, world_mm: npt.NDArray[np.float64]) -> Mask:
        offset = world_mm - np.asarray(self.centre_mm)
        return np.asarray((offset**2).sum(axis=-1) <= self.radius_mm**2)


@dataclass(frozen=True)
class Box:
    """Sides along the world's axes, whatever the grid's are."""

    centre_mm: Point
    sides_mm: Point

    @property
    def volume_mm3(self) -> float:
        return math.prod(self.sides_mm)

    @property
    def surface_mm2(self) -> float:
        a, b, c = self.sides_mm
        return 2 * (a * b + b * c + c * a)

    def contains(self, world_mm: npt.NDArray[np.float64]) -> Mask:
        offset = np.abs(world_mm - np.asarray(self.centre_mm))
        return np.asarray((offset <= np.asarray(self.sides_mm) / 2).all(axis=-1))


@dataclass(frozen=True)
class Ellipsoid:
    """Half axes along the world's axes."""

    centre_mm: Point
    half_axes_mm: Point

    @property
    def volume_mm3(self) -> float:
        return 4 / 3 * math.pi * math.prod(self.half_axes_mm)

    @property
    def surface_mm2(self) -> float:
        """Carlson's form of Legendre's formula (DLMF 19.33.2): the surface of any ellipsoid."""
        from scipy.special import elliprg

        a, b, c = (1 / h**2 for h in self.half_axes_mm)
        return float(self.volume_mm3 * 3 * elliprg(a, b, c))

    def contains(self, world_mm: npt.NDArray[np.float64]) -> Mask:
        offset = (world_mm - np.asarray(self.centre_mm)) / np.asarray(self.half_axes_mm)
        return np.asarray((offset**2).sum(axis=-1) <= 1)


def rotation(axis: Point, degrees: float) -> npt.NDArray[np.float64]:
    """3x3 rotation around an axis, by Rodrigues' formula."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    turned: npt.NDArray[np.float64] = (
        np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    )
    return turned


def oblique_grid(
    shape: tuple[int, int, int] = (48, 44, 40),
    spacing_mm: Point = (0.8, 1.1, 1.7),
    centre_mm: Point = (7.0, -12.0, 30.0),
    degrees: float = 23.0,
) -> Geometry:
    """An anisotropic grid turned around (1, 2, 3); its middle lies at `centre_mm`."""
    affine = np.eye(4)
    affine[:3, :3] = rotation((1, 2, 3), degrees) * np.asarray(spacing_mm)
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine)


def centre_mm(geometry: Geometry) -> Point:
    """World position of the middle of a grid."""
    x, y, z = geometry.to_world((np.array(geometry.shape) - 1) / 2)
    return float(x), float(y), float(z)


def world_of_voxels(geometry: Geometry) -> npt.NDArray[np.float64]:
    """World position `(i, j, k, 3)` of every voxel's centre."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    return geometry.to_world(index)


def mask_of(body: Body, geometry: Geometry) -> Mask:
    """Which voxel centres lie in a body, `(i, j, k)`."""
    return body.contains(world_of_voxels(geometry))


def label_map(geometry: Geometry, bodies: dict[str, Body]) -> LabelVolume:
    """Bodies as classes 1, 2, … in the order given; a later one lies over an earlier one."""
    world = world_of_voxels(geometry)
    array = np.zeros(geometry.shape, dtype=np.uint8)
    for label_id, body in enumerate(bodies.values(), start=1):
        array[body.contains(world)] = label_id
    return LabelVolume(array, geometry, LabelSet.from_names(dict(enumerate(bodies, start=1))))


def touching_spheres(radius_mm: float = 6.0, centre: Point = (0.0, 0.0, 0.0)) -> tuple[Sphere, Sphere]:
    """Two equal spheres that meet in one point, side by side along the world's x axis."""
    x, y, z = centre
    return Sphere((x - radius_mm, y, z), radius_mm), Sphere((x + radius_mm, y, z), radius_mm)


def linear_ramp(geometry: Geometry, slope: Point = (0.5, -0.25, 0.125), offset: float = 10.0) -> Volume:
    """A volume whose intensity is `offset + slope . world`, in float64: exact under interpolation."""
    array = world_of_voxels(geometry) @ np.asarray(slope) + offset
    return Volume(array, geometry)
