"""The wire: as cheap as another Dijkstra's, straight where nothing changes, else along the edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from medseg.annotate.live_wire import LiveWire, edge_costs, fill_outline, live_wire, snap_to_edge
from medseg.annotate.settings import LiveWireSettings
from medseg.errors import VolumeError

FAST = settings(deadline=None, max_examples=30)


def disc(
    shape: tuple[int, int], centre: tuple[float, float], radius_mm: float, mm: tuple[float, float]
) -> np.ndarray:
    rows, columns = np.indices(shape)
    return np.asarray(np.hypot((rows - centre[0]) * mm[0], (columns - centre[1]) * mm[1]) <= radius_mm)


def is_connected(way: np.ndarray) -> bool:
    return bool((np.abs(np.diff(way, axis=0)).max(axis=1) == 1).all())


def cost_of(way: np.ndarray, costs: np.ndarray, mm: tuple[float, float]) -> float:
    steps = np.hypot(*(np.diff(way, axis=0) * mm).T)
    at = costs[tuple(way.T)]
    return float((steps * (at[1:] + at[:-1]) / 2).sum())


def cheapest(
    costs: np.ndarray, mm: tuple[float, float], start: tuple[int, int], stop: tuple[int, int]
) -> float:
    """Dijkstra of another library, over the graph written out."""
    number = np.arange(costs.size).reshape(costs.shape)
    heads, tails, weights = [], [], []
    for (r, c), (dr, dc) in itertools.product(np.ndindex(costs.shape), ((0, 1), (1, 0), (1, 1), (1, -1))):
        s, d = r + dr, c + dc
        if s < costs.shape[0] and 0 <= d < costs.shape[1]:
            heads.append(number[r, c])
            tails.append(number[s, d])
            weights.append(math.hypot(dr * mm[0], dc * mm[1]) * (costs[r, c] + costs[s, d]) / 2)
    graph = coo_array((weights, (heads, tails)), shape=(costs.size, costs.size))
    return float(dijkstra(graph, directed=False, indices=number[start])[number[stop]])


@FAST
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3), st.floats(0.3, 3))
def test_no_way_is_cheaper(seed: int, row_mm: float, column_mm: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(9, 11))
    start, stop = (0, int(rng.integers(11))), (8, int(rng.integers(11)))
    way = LiveWire(image, start, (row_mm, column_mm)).to(stop)
    costs = edge_costs(image, (row_mm, column_mm))
    assert tuple(way[0]) == start
    assert tuple(way[-1]) == stop
    assert is_connected(way)
    mm = (row_mm, column_mm)
    assert cost_of(way, costs, mm) == pytest.approx(cheapest(costs, mm, start, stop))


def test_on_an_even_image_the_way_is_straight() -> None:
    way = live_wire(np.full((20, 30), 7.0), [(5, 2), (5, 27)], (1, 1))
    assert np.array_equal(way, [(5, c) for c in range(2, 28)])


def test_the_way_follows_the_edge_round_a_corner() -> None:
    image = np.zeros((60, 60))
    image[10:50, 10:50] = 100
    way = live_wire(image, [(10, 30), (30, 10)], (1, 1))
    to_edge = np.minimum(np.abs(way[:, 0] - 9.5), np.abs(way[:, 1] - 9.5))
    assert to_edge.max() <= 1.5
    assert len(way) >= 35  # the corner is kept, where a straight line has 21 pixels


@pytest.mark.parametrize("mm", [(1.0, 1.0), (2.0, 0.7)])
def test_four_clicks_outline_a_disc(mm: tuple[float, float]) -> None:
    truth = disc((80, 120), (40, 60), 25, mm)
    image = truth * 100.0 + np.random.default_rng(1).normal(0, 10, truth.shape)
    away = [round(25 / step) for step in mm]
    clicks = [(40 - away[0], 60), (40, 60 + away[1]), (40 + away[0], 60), (40, 60 - away[1])]
    points = [snap_to_edge(image, click, mm) for click in clicks]
    found = fill_outline(live_wire(image, points, mm, closed=True), truth.shape)
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    straight = fill_outline(points, truth.shape)
    assert dice > 0.95
    assert dice > 2 * (straight & truth).sum() / (straight.sum() + truth.sum()) + 0.1


def test_a_click_beside_an_edge_moves_onto_it() -> None:
    image = np.zeros((40, 40))
    image[:, 20:] = 50
    assert snap_to_edge(image, (11, 18), (1, 1))[1] in (19, 20)
    assert snap_to_edge(image, (11, 18), (1, 1))[0] == 11
    assert snap_to_edge(image, (11, 5), (1, 1)) == (11, 5)
    assert snap_to_edge(image, (11, 18), (1, 1), LiveWireSettings(snap_pixels=0)) == (11, 18)


def test_beyond_its_reach_the_wire_is_straight() -> None:
    way = LiveWire(np.zeros((10, 100)), (5, 5), (1, 1), LiveWireSettings(reach_pixels=8)).to((5, 90))
    assert np.array_equal(way, [(5, c) for c in range(5, 91)])


def test_an_outline_of_whole_pixels_is_filled_with_its_border() -> None:
    mask = fill_outline([(2, 3), (2, 7), (6, 7), (6, 3)], (10, 12))
    truth = np.zeros((10, 12), bool)
    truth[2:7, 3:8] = True
    assert np.array_equal(mask, truth)
    assert fill_outline([(4, 4)], (10, 12)).sum() == 1
    assert not fill_outline([(20, 20), (25, 20), (25, 30)], (10, 12)).any()


@FAST
@given(st.integers(3, 12), st.floats(4, 30))
def test_a_filled_polygon_has_its_area(corners: int, radius: float) -> None:
    angles = np.arange(corners) * 2 * np.pi / corners
    outline = np.stack([40 + radius * np.cos(angles), 41 + radius * np.sin(angles)], axis=1)
    area = corners / 2 * radius**2 * math.sin(2 * math.pi / corners)
    length = 2 * corners * radius * math.sin(math.pi / corners)
    assert abs(fill_outline(outline, (81, 83)).sum() - area) <= length / 2 + 2


def test_intensities_that_are_not_finite_do_no_harm() -> None:
    image = np.zeros((20, 20))
    image[3, 3], image[4, 4] = np.nan, np.inf
    assert is_connected(live_wire(image, [(0, 0), (19, 19)], (1, 1)))


@pytest.mark.parametrize(
    ("shape", "point", "code"),
    [
        ((5, 5), (5, 0), "OUTSIDE_SLICE"),
        ((5, 5), (-1, 0), "OUTSIDE_SLICE"),
        ((5, 5, 5), (1, 1), "NOT_A_SLICE"),
    ],
)
def test_what_is_no_pixel_is_refused(shape: tuple[int, ...], point: tuple[int, int], code: str) -> None:
    with pytest.raises(VolumeError) as caught:
        LiveWire(np.zeros(shape), point, (1, 1))
    assert caught.value.code == code


def test_no_points_are_refused() -> None:
    for ask in (lambda: live_wire(np.zeros((4, 4)), [], (1, 1)), lambda: fill_outline([], (4, 4))):
        with pytest.raises(VolumeError) as caught:
            ask()
        assert caught.value.code == "NO_POINTS"
