"""Between the pointer and voxels: which voxel was clicked, which slice and which part of it is in view."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Plane:
    """A slice of a layer.

    Attributes:
        axis: which axis of the layer's array the slice is cut across.
        number: which slice.
    """

    axis: int
    number: int

    @property
    def kept(self) -> tuple[int, int]:
        """The axes that lie in the slice, ascending."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    def pixel(self, voxel: Voxel) -> tuple[int, int]:
        """Where in the slice a voxel lies."""
        first, second = self.kept
        return voxel[first], voxel[second]

    def voxels(self, pixels: Any) -> Any:
        """`(n, 3)` voxels of pixels `(n, 2)`."""
        return np.insert(np.asarray(pixels), self.axis, self.number, axis=1)

    def cut(self, array: Any) -> Any:
        """The slice of an array; a view."""
        return np.take(array, self.number, axis=self.axis)


def voxel_at(layer: Layer, position: Any) -> Voxel | None:
    """The voxel of a layer at a position of the viewer's world; None beside it."""
    index = np.rint(np.asarray(layer.world_to_data(position))[-3:]).astype(int)
    if (index < 0).any() or (index >= layer.data.shape).any():
        return None
    return int(index[0]), int(index[1]), int(index[2])


def shown_plane(viewer: Viewer, layer: Layer) -> Plane:
    """The slice of a layer that the viewer shows; the nearest one where it shows none."""
    more = viewer.dims.ndim - 3
    axis = max(0, viewer.dims.order[-3] - more)
    index = np.asarray(layer.world_to_data(viewer.dims.point))[-3:]
    return Plane(axis, int(np.clip(round(float(index[axis])), 0, layer.data.shape[axis] - 1)))


def box_in_view(viewer: Viewer, layer: Layer) -> tuple[Voxel, Voxel]:
    """First voxel, and the one after the last, of what the shown slice shows; whole along the third axis."""
    plane = shown_plane(viewer, layer)
    corners = np.asarray(layer.corner_pixels)[:, -3:]
    low = np.clip(corners.min(axis=0), 0, np.array(layer.data.shape) - 1)
    high = np.clip(corners.max(axis=0) + 1, low + 1, layer.data.shape)
    low[plane.axis], high[plane.axis] = 0, layer.data.shape[plane.axis]
    (a, b, c), (d, e, f) = (tuple(int(n) for n in corner) for corner in (low, high))
    return (a, b, c), (d, e, f)


def on_click(tell: Callable[[Any], None]) -> Callable[[Viewer, Any], Generator[None]]:
    """A callback for the viewer that tells the position of clicks; a drag is no click."""

    def pressed(_viewer: Viewer, event: Any) -> Generator[None]:
        is_first_button = event.button == 1 and not event.modifiers
        position = tuple(event.position)
        yield
        was_dragged = False
        while event.type == "mouse_move":
            was_dragged = True
            yield
        if is_first_button and not was_dragged:
            tell(position)

    return pressed
