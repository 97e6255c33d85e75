"""Learning curves as SVG: lines over steps that need no script and no other file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from medseg.labels import colour_of_id

WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 150, 14, 34
MOST_LINES = 12
"""More lines would be read by nobody; the first ones are drawn."""

Points = Sequence[tuple[float, float]]


def curve_svg(lines: Mapping[str, Points], unit: str, top: float | None = None) -> str:
    """A picture of curves with axes and a legend.

    Args:
        lines: name to points (step, value); what is not finite is left out.
        unit: of the values, in words.
        top: upper end of the axis; the largest value if left out.
    """
    drawn = {name: _finite(points) for name, points in list(lines.items())[:MOST_LINES]}
    values = [value for points in drawn.values() for _, value in points]
    last = max((step for points in drawn.values() for step, _ in points), default=1.0) or 1.0
    high = top or max(values, default=1.0) or 1.0
    parts = [_axes(last, high, unit)]
    for number, (name, points) in enumerate(drawn.items()):
        colour = "#" + "".join(f"{channel:02x}" for channel in colour_of_id(number + 1))
        places = " ".join(f"{_x(step, last):.1f},{_y(value, high):.1f}" for step, value in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = TOP + 14 + 17 * number
        parts.append(
            f'<rect x="{WIDTH - RIGHT + 14}" y="{y - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{WIDTH - RIGHT + 30}" y="{y}">{escape(name[:22])}</text>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{escape(unit)}" '
        f'font-size="12" font-family="system-ui, sans-serif" fill="#1c2128">{"".join(parts)}</svg>'
    )


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(step, value) for step, value in points if math.isfinite(step) and math.isfinite(value)]


def _x(step: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * step / last


def _y(value: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(value, 0.0), high) / high


def _axes(last: float, high: float, unit: str) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share * high, high)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share * high:.2g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    for step in (0.0, last / 2, last):
        anchor = f'x="{_x(step, last):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle"'
        parts.append(f"<text {anchor}>{step:.0f}</text>")
    parts.append(f'<text x="{middle}" y="{HEIGHT - 3}" text-anchor="middle">step · {escape(unit)}</text>')
    return "".join(parts)
