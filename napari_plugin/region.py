"""The region of a scan that is to be segmented: what the view shows, or a box drawn as a shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg import GeometryError
from napari_plugin.canvas import box_in_view
from napari_plugin.layers import DISPLAY_CODES, checked_origin

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer, Shapes

WHOLE, VIEW = "whole scan", "what the view shows"
SHAPES = "box in "
"""Before the name of a layer of shapes."""

Box = tuple[int, int, int, int, int, int]


def region_choices(viewer: Viewer) -> list[str]:
    """What a user may choose from now."""
    shapes = [layer.name for layer in viewer.layers if hasattr(layer, "add_rectangles")]
    return [WHOLE, VIEW, *(SHAPES + name for name in shapes)]


def chosen_box(viewer: Viewer, scan: Layer, choice: str) -> Box | None:
    """Voxels of the scan that a choice means: i from, to, j from, to, k from, to; None for all.

    Args:
        viewer: napari's.
        scan: an image layer of ours.
        choice: one of `region_choices`.

    Raises:
        GeometryError: `EMPTY_REGION`, no box is drawn, or it lies beside the scan.
    """
    if choice == WHOLE:
        return None
    if choice == VIEW:
        low, high = (np.array(corner) for corner in box_in_view(viewer, scan))
    else:
        low, high = _drawn(viewer.layers[choice.removeprefix(SHAPES)], scan)
    low, high = np.clip(low, 0, scan.data.shape), np.clip(high, 0, scan.data.shape)
    if (high <= low).any():
        raise GeometryError("EMPTY_REGION", "expected a region in the scan, got one beside it; move it")
    return _stored(scan, low, high)


def _drawn(shapes: Shapes, scan: Layer) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
    """First voxel and the one after the last around all shapes; flat ones reach through the whole scan."""
    if not len(shapes.data):
        raise GeometryError(
            "EMPTY_REGION", "expected a box in the layer of shapes, got none; draw a rectangle"
        )
    corners = np.concatenate([np.asarray(one) for one in shapes.data])
    places = np.array([scan.world_to_data(shapes.data_to_world(corner))[-3:] for corner in corners])
    low, high = np.rint(places.min(axis=0)).astype(int), np.rint(places.max(axis=0)).astype(int) + 1
    for axis in range(3):
        if high[axis] - low[axis] == 1:
            low[axis], high[axis] = 0, scan.data.shape[axis]
    return low, high


def _stored(scan: Layer, low: npt.NDArray[np.int_], high: npt.NDArray[np.int_]) -> Box:
    """A box of the layer's array on the grid of the scan as it is stored."""
    geometry = checked_origin(scan).geometry
    shown = geometry.reorient(DISPLAY_CODES)
    ends = [geometry.to_index(shown.to_world(corner[::-1])) for corner in (low, high - 1)]
    first, last = np.rint(np.min(ends, axis=0)).astype(int), np.rint(np.max(ends, axis=0)).astype(int)
    return (
        int(first[0]), int(last[0]) + 1, int(first[1]), int(last[1]) + 1, int(first[2]), int(last[2]) + 1,
    )  # fmt: skip
