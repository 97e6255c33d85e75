"""Heights that a network made: its distance to the object's border, where it sees an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError, VolumeError
from medseg.geometry import Geometry
from medseg.instances.basins import BACKGROUND
from medseg.instances.fields import Float32Array
from medseg.instances.grid import Block, Triple, triple
from medseg.resample import AxisMap, axis_maps


@dataclass(frozen=True)
class LearnedHeight:
    """A network's two answers on its own grid, interpolated to the volume's, voxel by voxel.

    The network answered once for the whole volume, and interpolation looks at the eight answers
    around a voxel in a fixed order: any block has the bits of the whole.

    Attributes:
        fields: `(2, i, j, k)` float32 on the network's grid, 0..1: depth below the object's surface in
            parts of the greatest, and how likely a voxel is in an object. A memory map will do.
        maps: from the network's grid to the volume's, per axis.
        spacing_mm: size of the volume's voxels along each axis.
        threshold: a voxel is in an object where the second answer exceeds it.
    """

    fields: npt.NDArray[np.float32]
    maps: tuple[AxisMap, AxisMap, AxisMap]
    spacing_mm: tuple[float, float, float]
    threshold: float = 0.5

    @property
    def shape(self) -> Triple:
        """Voxels of the volume."""
        return triple([len(along.lower) for along in self.maps])

    @property
    def reach(self) -> Triple:
        """Nothing beyond a block matters: the answers around it are at hand."""
        return 0, 0, 0

    def heights(self, block: Block) -> Float32Array:
        """Depth where there is an object.

        Raises:
            VolumeError: the network's answers are not finite.
        """
        inside = self._interpolated(1, block) > np.float32(self.threshold)
        if not inside.any():
            return np.full(block.shape, BACKGROUND)
        depth = self._interpolated(0, block)
        if not np.isfinite(depth).all():
            raise VolumeError(
                "NOT_FINITE", "expected finite answers of the network, got NaN or infinity; check the weights"
            )
        depth[~inside] = BACKGROUND
        return depth

    def _interpolated(self, channel: int, block: Block) -> Float32Array:
        """`block.shape` values of one answer, along the first axis first."""
        lows = [m.lower[a:b] for m, a, b in zip(self.maps, block.start, block.stop, strict=True)]
        highs = [m.upper[a:b] for m, a, b in zip(self.maps, block.start, block.stop, strict=True)]
        starts = [int(low.min()) for low in lows]
        i, j, k = (slice(start, int(high.max()) + 1) for start, high in zip(starts, highs, strict=True))
        values = np.asarray(self.fields[channel, i, j, k], dtype=np.float32)
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = -1
            weight = self.maps[axis].weight[block.start[axis] : block.stop[axis]].reshape(shape)
            low = values.take(lows[axis] - starts[axis], axis)
            rise = values.take(highs[axis] - starts[axis], axis)
            rise -= low
            rise *= weight
            low += rise
            values = low
        return np.ascontiguousarray(values)


def learned_height(
    fields: npt.NDArray[np.float32], grid: Geometry, target: Geometry, threshold: float = 0.5
) -> LearnedHeight:
    """Heights of a volume from a network's answers.

    Args:
        fields: `(2, i, j, k)` as in `LearnedHeight`.
        grid: where the answers lie.
        target: grid of the volume.
        threshold: as in `LearnedHeight`.

    Raises:
        GeometryError: `NOT_ORTHOGONAL`, a sheared grid; `GRID_MISMATCH`, axes that are not parallel.
    """
    require_right_angles(target)
    maps = axis_maps(grid, target)
    if maps is None:
        raise GeometryError("GRID_MISMATCH", "expected parallel grids, got others; resample one")
    return LearnedHeight(fields, maps, target.spacing_mm, threshold)


def require_right_angles(geometry: Geometry) -> None:
    """Return if distances on a grid can be measured axis by axis.

    Raises:
        GeometryError: `NOT_ORTHOGONAL`, they cannot.
    """
    if not geometry.is_orthogonal:
        raise GeometryError(
            "NOT_ORTHOGONAL",
            "expected voxel axes at right angles to measure distances along them, got a sheared grid "
            "(gantry tilt); resample the scan",
        )
