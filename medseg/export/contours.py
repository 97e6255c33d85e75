"""Outlines of a mask along the edges of its pixels, holes tied to their rim by a channel.

The enclosed area is exactly that of the pixels, and every pixel centre is clearly inside or
outside, so that filling the outline gives the mask back in any reader. Coordinates are (column,
row) with pixel centres at whole numbers, so edges run at halves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Point = tuple[float, float]
Corner = tuple[int, int]

_STEPS: tuple[Corner, ...] = ((1, 0), (0, 1), (-1, 0), (0, -1))
"""Right, down, left, up: the foreground lies to the right of the way (rows grow downwards)."""

_CHANNEL = 0.25
"""Where a channel crosses a pixel, from its upper edge: never through a pixel's centre."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Closed polygons around the 4-connected parts of a mask.

    A hole is no polygon of its own: a channel of no width leads from the rim to the hole and back
    (the keyhole technique of DICOM PS3.3 C.8.8.6.3), so that each polygon encloses its part alone.

    Args:
        mask: `(rows, columns)`.

    Returns:
        Per part, `(points, 2)` of (column, row), the first point not repeated at the end.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    inner = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    rims, holes = _loops(inner)
    shift = np.array([left - 1.5, top - 1.5])
    return [np.array(polygon) + shift for polygon in _tied(inner, rims, holes)]


def _loops(mask: npt.NDArray[np.bool_]) -> tuple[list[list[Corner]], list[list[Corner]]]:
    """Every corner (x, y) of every rim (clockwise) and every hole.

    Pixel (row, column) has corners (column, row) to (column + 1, row + 1).
    """
    ahead = _edges(mask)
    rims: list[list[Corner]] = []
    holes: list[list[Corner]] = []
    while ahead:
        loop, twice_area = _walk(ahead, next(iter(ahead)))
        (rims if twice_area > 0 else holes).append(loop)
    return rims, holes


def _edges(mask: npt.NDArray[np.bool_]) -> dict[Corner, list[int]]:
    """Directed unit edges with foreground to their right: start corner -> directions, by rows."""
    found: list[tuple[int, int, int]] = []
    below = np.nonzero(mask[1:] & ~mask[:-1])
    found += [(int(y) + 1, int(x), 0) for y, x in zip(*below, strict=True)]
    above = np.nonzero(mask[:-1] & ~mask[1:])
    found += [(int(y) + 1, int(x) + 1, 2) for y, x in zip(*above, strict=True)]
    leftwards = np.nonzero(mask[:, :-1] & ~mask[:, 1:])
    found += [(int(y), int(x) + 1, 1) for y, x in zip(*leftwards, strict=True)]
    rightwards = np.nonzero(mask[:, 1:] & ~mask[:, :-1])
    found += [(int(y) + 1, int(x) + 1, 3) for y, x in zip(*rightwards, strict=True)]
    ahead: dict[Corner, list[int]] = {}
    for y, x, way in sorted(found):
        ahead.setdefault((x, y), []).append(way)
    return ahead


def _walk(ahead: dict[Corner, list[int]], start: Corner) -> tuple[list[Corner], int]:
    """Follow the edges from `start` home; used ones are taken out. Returns corners and twice the area."""
    loop: list[Corner] = []
    twice_area = 0
    at, first = start, ahead[start][0]
    before = first - 1
    while True:
        ways = ahead[at]
        # where two ways lead on, two parts touch at a corner: turn right, around the own part
        way = ways[0] if len(ways) == 1 else (before + 1) % 4
        ways.remove(way)
        if not ways:
            del ahead[at]
        loop.append(at)
        to = (at[0] + _STEPS[way][0], at[1] + _STEPS[way][1])
        twice_area += at[0] * to[1] - to[0] * at[1]
        at, before = to, way
        # at a start that two parts share, the loop goes on if turning right is still open
        if at == start and (way + 1) % 4 not in ahead.get(at, ()):
            return loop, twice_area


def _tied(
    mask: npt.NDArray[np.bool_], rims: list[list[Corner]], holes: list[list[Corner]]
) -> list[list[Point]]:
    """Rims with their holes, each hole tied to what lies to the left of it, as polygons of turns."""
    points: list[Point] = []
    follows: list[int] = []
    upward: dict[Corner, int] = {}
    starts = []
    for loop in (*rims, *holes):
        starts.append(len(points))
        for place, (x, y) in enumerate(loop):
            following = loop[(place + 1) % len(loop)]
            if following == (x, y - 1):
                upward[following] = len(points)
            follows.append(len(points) + 1)
            points.append((float(x), float(y)))
        follows[-1] = starts[-1]
    for hole, start in zip(holes, starts[len(rims) :], strict=True):
        x, y = min(hole)
        edge = x - 1
        while mask[y, edge]:
            edge -= 1
        rim_end = upward[edge + 1, y]
        # the hole's leftmost side goes down from its corner: find the visit that does
        hole_end = next(
            start + place
            for place, corner in enumerate(hole)
            if corner == (x, y) and hole[(place + 1) % len(hole)] == (x, y + 1)
        )
        tie = len(points)
        rim_point, hole_point = (edge + 1.0, y + _CHANNEL), (float(x), y + _CHANNEL)
        points += [rim_point, hole_point, hole_point, rim_point]
        follows += [tie + 1, follows[hole_end], tie + 3, follows[rim_end]]
        follows[rim_end], follows[hole_end] = tie, tie + 2
    return [_turns(points, follows, start) for start in starts[: len(rims)]]


def _turns(points: list[Point], follows: list[int], start: int) -> list[Point]:
    """The closed way from `start`, without the points at which it goes straight on."""
    way = [start]
    while (following := follows[way[-1]]) != start:
        way.append(following)
    closed = np.array([points[node] for node in way])
    arriving = closed - np.roll(closed, 1, axis=0)
    leaving = np.roll(closed, -1, axis=0) - closed
    straight = (arriving * leaving[:, ::-1] * (1, -1)).sum(axis=1) == 0
    straight &= (arriving * leaving).sum(axis=1) > 0
    return [(float(x), float(y)) for x, y in closed[~straight]]


def area(polygon: npt.NDArray[Any]) -> float:
    """Enclosed area in squared units of the points (the shoelace formula)."""
    x, y = polygon[:, 0], polygon[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
