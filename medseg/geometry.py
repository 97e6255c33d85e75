"""Where voxels lie: shape and affine, no voxels.

World is RAS+ millimetres, as in nibabel and MONAI. Array axes are (i, j, k) as stored. An index
is a voxel's centre. Everything here maps one `Geometry` to another; voxels follow elsewhere
(`volume` for what only moves them, `resample` for what interpolates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError

FloatArray = npt.NDArray[np.float64]

AXIS_PAIRS = (("L", "R"), ("P", "A"), ("I", "S"))
"""(negative, positive) direction letters of the world's three axes."""

ORTHOGONALITY_TOLERANCE = 1e-3
"""Largest cosine between two voxel axes that still counts as a right angle (0.06 degrees)."""

MAX_VOXELS = 2**36
"""More voxels than this is a broken header, not a scan."""

LARGEST_MM = 1e100
"""Beyond it an affine is a broken header, and its squares overflow."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid in the world.

    Attributes:
        shape: voxels along i, j, k.
        affine: 4x4 float64, voxel index -> world RAS+ mm; read-only.

    Raises:
        GeometryError: a size below 1, an affine that is not 4x4, not finite or singular.
    """

    shape: tuple[int, int, int]
    affine: FloatArray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or any(n < 1 for n in shape) or math.prod(shape) > MAX_VOXELS:
            raise GeometryError(
                "BAD_SHAPE",
                f"expected three sizes of at least 1 voxel and at most 2^36 voxels in all, got {shape}; "
                "check the file's header",
            )
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not (np.abs(affine) < LARGEST_MM).all():  # NaN too
            raise GeometryError("BAD_AFFINE", "expected a finite 4x4 affine, got another; repair the header")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-4:
            raise GeometryError(
                "BAD_AFFINE",
                "expected three independent voxel axes, got a singular affine; repair the header",
            )
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(
                "BAD_AFFINE", "expected a last affine row of 0 0 0 1, got another; repair the header"
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_spacing(cls, shape: Sequence[int], spacing_mm: Sequence[float] = (1.0, 1.0, 1.0)) -> Self:
        """A grid along R, A, S whose first voxel's centre is the world's origin."""
        i, j, k = shape
        return cls((i, j, k), np.diag([*spacing_mm, 1.0]))

    # ------------------------------------------------------------------ what it says of itself

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel; right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def directions(self) -> FloatArray:
        """3x3; column a is the unit vector of voxel axis a in the world."""
        matrix: FloatArray = self.affine[:3, :3]
        unit: FloatArray = matrix / np.linalg.norm(matrix, axis=0)
        return unit

    @property
    def is_orthogonal(self) -> bool:
        """Whether voxel axes are at right angles (no shear, no gantry tilt)."""
        cosines = self.directions.T @ self.directions - np.eye(3)
        return bool(np.abs(cosines).max() <= ORTHOGONALITY_TOLERANCE)

    @property
    def axis_codes(self) -> str:
        """World direction that each voxel axis is closest to, such as `"RAS"` or `"LPI"`."""
        codes = [AXIS_PAIRS[world][sign > 0] for world, sign in self._closest_axes()]
        return "".join(codes)

    def _closest_axes(self) -> list[tuple[int, int]]:
        """(world axis, sign) of every voxel axis, each world axis used once, best total fit."""
        directions = self.directions
        orders = [(a, b, 3 - a - b) for a in range(3) for b in range(3) if a != b]
        best = max(orders, key=lambda order: sum(abs(directions[w, v]) for v, w in enumerate(order)))
        return [(world, 1 if directions[world, voxel] > 0 else -1) for voxel, world in enumerate(best)]

    def is_close(self, other: Geometry, tolerance_voxels: float = 1e-2) -> bool:
        """Whether every voxel of both grids lies at the same place, within a part of a voxel.

        Args:
            other: grid to compare with.
            tolerance_voxels: allowed distance, in this grid's voxels, at the worst corner.
        """
        if self.shape != other.shape:
            return False
        corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        corners = corners * (np.array(self.shape) - 1)
        there = self.to_index(other.to_world(corners))
        return bool(np.abs(there - corners).max() <= tolerance_voxels)

    # ------------------------------------------------------------------ points

    def to_world(self, index: npt.ArrayLike) -> FloatArray:
        """World positions `(..., 3)` in RAS+ mm of voxel indices `(..., 3)`."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world_mm: npt.ArrayLike) -> FloatArray:
        """Voxel indices `(..., 3)`, fractional, of world positions `(..., 3)` in RAS+ mm."""
        points = np.asarray(world_mm, dtype=np.float64) - self.affine[:3, 3]
        return points @ np.linalg.inv(self.affine[:3, :3]).T

    # ------------------------------------------------------------------ other grids

    def crop(self, start: Sequence[int], stop: Sequence[int]) -> Geometry:
        """The part from `start` up to, not including, `stop`; voxels keep their place.

        Raises:
            GeometryError: the part is empty or reaches outside.
        """
        inside = all(0 <= a < b <= n for a, b, n in zip(start, stop, self.shape, strict=True))
        if not inside:
            raise GeometryError(
                "BAD_CROP",
                f"expected a part of {self.shape}, got {tuple(start)} to {tuple(stop)}; choose inside",
            )
        return self._moved([-a for a in start], [b - a for a, b in zip(start, stop, strict=True)])

    def pad(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """The grid with voxels added at both ends of each axis; old voxels keep their place.

        Raises:
            GeometryError: a padding below 0.
        """
        shape = [b + n + a for b, n, a in zip(before, self.shape, after, strict=True)]
        if min(*before, *after) < 0:
            raise GeometryError("BAD_CROP", "expected a padding of 0 or more, got a negative one; use crop")
        return self._moved(before, shape)

    def flip(self, axis: int) -> Geometry:
        """The grid counted from the other end of one axis.

        Raises:
            GeometryError: no such axis.
        """
        if axis not in (0, 1, 2):
            raise GeometryError("BAD_AXIS", f"expected axis 0, 1 or 2, got {axis}; count from the first")
        matrix = np.eye(4)
        matrix[axis, axis], matrix[axis, 3] = -1, self.shape[axis] - 1
        return Geometry(self.shape, self.affine @ matrix)

    def transpose(self, axes: Sequence[int]) -> Geometry:
        """The grid with its axes in another order, as `numpy.transpose` has it.

        Raises:
            GeometryError: `axes` does not name each axis once.
        """
        if sorted(axes) != [0, 1, 2]:
            raise GeometryError("BAD_AXIS", f"expected axes 0, 1 and 2 once each, got {tuple(axes)}")
        a, b, c = axes
        shape = (self.shape[a], self.shape[b], self.shape[c])
        return Geometry(shape, self.affine[:, [a, b, c, 3]])

    def orientation_steps(self, codes: str) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """How to reach other axis codes: transpose by the first, then flip each axis of the second.

        Raises:
            GeometryError: `codes` does not name each world axis once.
        """
        world_of = {letter: world for world, pair in enumerate(AXIS_PAIRS) for letter in pair}
        if len(codes) != 3 or sorted(world_of.get(c, -1) for c in codes) != [0, 1, 2]:
            raise GeometryError(
                "BAD_AXIS_CODES", f"expected codes such as RAS, got {codes!r}; name each axis once"
            )
        closest = self._closest_axes()
        axes = [next(v for v, (w, _) in enumerate(closest) if w == world_of[c]) for c in codes]
        flips = [
            n
            for n, (c, v) in enumerate(zip(codes, axes, strict=True))
            if AXIS_PAIRS[closest[v][0]][closest[v][1] > 0] != c
        ]
        return (axes[0], axes[1], axes[2]), tuple(flips)

    def reorient(self, codes: str) -> Geometry:
        """The same voxels in another order of axes; nothing is interpolated.

        Args:
            codes: wanted directions, such as `"RAS"`.

        Raises:
            GeometryError: `codes` does not name each world axis once.
        """
        axes, flips = self.orientation_steps(codes)
        grid = self.transpose(axes)
        for axis in flips:
            grid = grid.flip(axis)
        return grid

    def respace(self, spacing_mm: Sequence[float]) -> Geometry:
        """A grid over the same field of view with another spacing, centred on the same point.

        The field of view reaches half a voxel beyond the outer centres. The new size is the
        nearest whole number of voxels, at least 1.

        Raises:
            GeometryError: a spacing is not above 0.
        """
        new = np.asarray(spacing_mm, dtype=np.float64)
        if new.shape != (3,) or not np.isfinite(new).all() or new.min() <= 0:
            raise GeometryError("BAD_SPACING", f"expected three spacings above 0 mm, got {tuple(spacing_mm)}")
        extent = np.array(self.shape) * self.spacing_mm
        shape = np.maximum(1, np.floor(extent / new + 0.5 - 1e-6)).astype(int)
        affine = np.eye(4)
        affine[:3, :3] = self.directions * new
        affine[:3, 3] = self.to_world((np.array(self.shape) - 1) / 2) - affine[:3, :3] @ ((shape - 1) / 2)
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)

    def _moved(self, offset: Sequence[int], shape: Sequence[int]) -> Geometry:
        """Same voxel axes; old index 0 becomes `offset`."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world([-o for o in offset])
        return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def require_same_grid(a: Geometry, b: Geometry, what: str) -> None:
    """Return if two grids are the same place by place.

    Args:
        a: first grid.
        b: second grid.
        what: what the two are, for the message, such as `"prediction and reference"`.

    Raises:
        GeometryError: shape or place differ.
    """
    if a.shape != b.shape:
        raise GeometryError(
            "GRID_MISMATCH", f"expected {what} on one grid, got shapes {a.shape} and {b.shape}; resample one"
        )
    if not a.is_close(b):
        raise GeometryError(
            "GRID_MISMATCH", f"expected {what} on one grid, got the same shape at another place; resample one"
        )
