"""Lines that snap to edges, and the areas that they enclose.

The live wire of Barrett & Mortensen 1997 (doi:10.1016/S1361-8415(97)85005-0): the cheapest way over
a slice, where a step costs less the stronger the edge is that it stands on. Cheapest ways are Dijkstra's,
with diagonal steps and with the length of each step in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.draw import line
from skimage.graph import MCP_Geometric
from skimage.measure import grid_points_in_poly

from medseg.annotate.intensities import as_finite, edge_strength
from medseg.annotate.settings import LiveWireSettings
from medseg.errors import VolumeError

Path2D = npt.NDArray[np.intp]
"""`(n, 2)` pixels, each a neighbour of the one before."""

_CLEAR_EDGE = 99.0
"""Percentile of edge strength from which on an edge is as good as any."""


class LiveWire:
    """Cheapest ways from one anchor to every pixel of a slice.

    Making it costs a tenth of a second for 512 x 512 pixels; asking it for a way costs nothing.

    Args:
        image: `(rows, columns)` of one slice.
        anchor: pixel where the wire is fixed.
        spacing_mm: size of a pixel along both axes.
        settings: how edges attract it.

    Raises:
        VolumeError: `NOT_A_SLICE`, another number of axes; `OUTSIDE_SLICE`, the anchor.
    """

    def __init__(
        self,
        image: npt.NDArray[Any],
        anchor: Sequence[int],
        spacing_mm: Sequence[float],
        settings: LiveWireSettings | None = None,
    ) -> None:
        settings = settings or LiveWireSettings()
        self.anchor = _inside(image, anchor)
        reach = settings.reach_pixels
        self._start = np.maximum(0, self.anchor - reach)
        self._stop = np.minimum(image.shape, self.anchor + reach + 1)
        (top, left), (bottom, right) = self._start, self._stop
        near = as_finite(image[top:bottom, left:right])
        costs = edge_costs(near, spacing_mm, settings)
        self._ways = MCP_Geometric(costs, sampling=tuple(spacing_mm))
        self._ways.find_costs([tuple(self.anchor - self._start)])

    def to(self, point: Sequence[int]) -> Path2D:
        """The way from the anchor to a pixel, both included.

        Beyond the reach of the settings it goes on straight.

        Args:
            point: pixel of the slice.
        """
        wanted = np.asarray(point, dtype=np.intp)
        nearest = np.clip(wanted, self._start, self._stop - 1)
        way = np.array(self._ways.traceback(tuple(nearest - self._start)), dtype=np.intp) + self._start
        if (wanted == nearest).all():
            return way
        rest = np.stack(line(*nearest, *wanted), axis=1)[1:]
        return np.concatenate([way, rest])


def edge_costs(
    image: npt.NDArray[Any], spacing_mm: Sequence[float], settings: LiveWireSettings | None = None
) -> npt.NDArray[np.float64]:
    """What a mm of a way costs at each pixel: 1 where nothing changes, 1 / attraction on a clear edge.

    Args:
        image: `(rows, columns)`.
        spacing_mm: size of a pixel along both axes.
        settings: smoothing and attraction.
    """
    settings = settings or LiveWireSettings()
    strength = edge_strength(as_finite(image), spacing_mm, settings.smoothing)
    clear = float(np.percentile(strength, _CLEAR_EDGE))
    clear = clear if clear > 0 else float(strength.max())
    share = np.clip(strength / clear, 0, 1) if clear > 0 else strength
    least = 1 / settings.attraction
    return np.asarray(1 - (1 - least) * share, dtype=np.float64)


def snap_to_edge(
    image: npt.NDArray[Any],
    point: Sequence[int],
    spacing_mm: Sequence[float],
    settings: LiveWireSettings | None = None,
) -> tuple[int, int]:
    """The clearest edge near a pixel; the pixel itself where nothing near it changes.

    Args:
        image: `(rows, columns)` of one slice.
        point: pixel of a click.
        spacing_mm: size of a pixel along both axes.
        settings: how near.

    Raises:
        VolumeError: `NOT_A_SLICE`, `OUTSIDE_SLICE`.
    """
    settings = settings or LiveWireSettings()
    middle = _inside(image, point)
    margin = settings.snap_pixels + int(np.ceil(4 * settings.smoothing)) + 1
    start = np.maximum(0, middle - margin)
    stop = np.minimum(image.shape, middle + margin + 1)
    part = as_finite(image[start[0] : stop[0], start[1] : stop[1]])
    strength = edge_strength(part, spacing_mm, settings.smoothing)
    places = np.indices(part.shape).transpose(1, 2, 0) + start
    away = ((places - middle) ** 2).sum(axis=-1)
    strength[away > settings.snap_pixels**2] = -1
    best = np.lexsort((away.ravel(), -strength.ravel()))[0]
    row, column = places.reshape(-1, 2)[best]
    if strength.max() <= 0:
        row, column = middle
    return int(row), int(column)


def live_wire(
    image: npt.NDArray[Any],
    points: Sequence[Sequence[int]],
    spacing_mm: Sequence[float],
    settings: LiveWireSettings | None = None,
    *,
    closed: bool = False,
) -> Path2D:
    """A line along edges through pixels, in their order.

    Args:
        image: `(rows, columns)` of one slice.
        points: pixels to go through; at least one.
        spacing_mm: size of a pixel along both axes.
        settings: how edges attract it.
        closed: whether it comes back to the first pixel.

    Returns:
        `(n, 2)` pixels; a closed line does not repeat its first.

    Raises:
        VolumeError: `NOT_A_SLICE`, `OUTSIDE_SLICE`; `NO_POINTS`.
    """
    if len(points) == 0:
        raise VolumeError("NO_POINTS", "expected at least one point, got none; click on the slice")
    stations = [_inside(image, point) for point in points]
    way = stations[0][None]
    goals = [*stations[1:], *([stations[0]] if closed else [])]
    for goal in goals:
        wire = LiveWire(image, [int(n) for n in way[-1]], spacing_mm, settings)
        way = np.concatenate([way, wire.to([int(n) for n in goal])[1:]])
    return way[:-1] if closed and len(way) > 1 else way


def fill_outline(outline: npt.ArrayLike, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """The pixels within a closed outline, those on it included (even-odd rule).

    Args:
        outline: `(n, 2)` corners in pixels, fractions allowed; the last is joined to the first.
        shape: rows and columns of the slice.

    Raises:
        VolumeError: `NO_POINTS`, an outline without corners.
    """
    corners = np.asarray(outline, dtype=np.float64).reshape(-1, 2)
    if len(corners) == 0:
        raise VolumeError("NO_POINTS", "expected an outline, got no points; click on the slice")
    mask = np.zeros(tuple(shape), dtype=bool)
    low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, shape)
    if (high > low).all():
        box = (int(high[0] - low[0]), int(high[1] - low[1]))
        mask[low[0] : high[0], low[1] : high[1]] = grid_points_in_poly(box, corners - low, binarize=False) > 0
    return mask


def _inside(image: npt.NDArray[Any], point: Sequence[int]) -> Path2D:
    if image.ndim != 2 or len(point) != 2:
        raise VolumeError("NOT_A_SLICE", f"expected a slice and a pixel, got {image.ndim} axes; cut one out")
    place = np.asarray(point, dtype=np.intp)
    if (place < 0).any() or (place >= image.shape).any():
        raise VolumeError(
            "OUTSIDE_SLICE", f"expected a pixel of a slice of {image.shape}, got another; click inside"
        )
    return place
