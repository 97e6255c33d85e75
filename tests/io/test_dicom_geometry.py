"""How slices lie: closed-form stacks, and laws that hold for any orientation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medseg.io.dicom_geometry import PLACE_TOLERANCE_MM, stack_geometry
from medseg.io.dicom_records import Plane

ANY_ANGLES = st.tuples(*[st.floats(-3.0, 3.0)] * 3)


def triple(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def turn(angles: tuple[float, float, float]) -> np.ndarray:
    """3x3 rotation: about x, then y, then z."""
    (a, b, c), eye = angles, np.eye(3)
    about_x = np.array([eye[0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], eye[1], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], eye[2]])
    return np.asarray(about_z @ about_y @ about_x)


def stack(
    places: list[float],
    drift: tuple[float, float] = (0.0, 0.0),
    angles: tuple[float, float, float] = (0.0, 0.0, 0.0),
    thickness: float | None = None,
) -> tuple[Plane, ...]:
    """Planes at places along the normal, shifted in-plane by `drift` per mm."""
    rotation = turn(angles)
    planes = []
    for z in places:
        position = rotation @ np.array([drift[0] * z - 20, drift[1] * z + 30, z + 7])
        planes.append(
            Plane(
                frame=0,
                tile=None,
                rows=12,
                columns=10,
                position_mm=triple(position),
                row_direction=triple(rotation[:, 0]),
                column_direction=triple(rotation[:, 1]),
                pixel_spacing_mm=(0.75, 0.5),
                thickness_mm=thickness,
                spacing_between_mm=None,
                slope=1.0,
                intercept=0.0,
                keys={},
            )
        )
    return tuple(planes)


@settings(deadline=None, max_examples=50)
@given(ANY_ANGLES, st.floats(0.2, 12), st.integers(2, 30), st.randoms(use_true_random=False))
def test_an_even_stack_is_regular_in_any_orientation_and_order(angles, gap, count, random) -> None:  # type: ignore[no-untyped-def]  # strategies
    planes = list(stack([gap * n for n in range(count)], angles=angles))
    order = list(range(count))
    random.shuffle(order)
    found = stack_geometry(tuple(planes[n] for n in order))
    assert found.kind == "regular"
    assert [order[n] for n in found.order] == list(range(count))
    assert np.allclose(found.gaps_mm, gap, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(ANY_ANGLES, st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
def test_a_steady_shift_is_a_tilt(angles: tuple[float, float, float], across: float, down: float) -> None:
    found = stack_geometry(stack([3.0 * n for n in range(8)], (across, down), angles))
    tilt = float(np.hypot(across, down))
    assume(abs(tilt - 1e-3) > 1e-9)  # on the border, rounding decides
    assert found.kind == ("tilted" if tilt > 1e-3 else "regular")
    assert np.allclose(found.drift_mm[-1], (21 * across, 21 * down), atol=1e-6)
    assert np.allclose(found.gaps_mm, 3.0)


def test_one_slice_moved_by_more_than_the_tolerance_is_not_regular() -> None:
    places = [2.0 * n for n in range(6)]
    places[3] += 1.5 * PLACE_TOLERANCE_MM
    assert stack_geometry(stack(places)).kind == "variable"
    places[3] = 6.0 + 0.5 * PLACE_TOLERANCE_MM
    assert stack_geometry(stack(places)).kind == "regular"


@pytest.mark.parametrize(
    ("places", "thickness", "kind"),
    [
        ([0, 5, 10, 20, 25], None, "missing"),
        ([0, 5, 10, 20, 25], 5.0, "missing"),
        ([0, 1, 2, 3, 7, 8], None, "missing"),
        ([0, 5, 15], None, "missing"),
        ([0, 2, 4, 6.7, 9], None, "variable"),
        ([0, 2, 4, 6, 9.5, 13], None, "variable"),
        ([0, 0, 0], None, "not a volume"),
        ([0, 1, 1, 2], None, "duplicate"),
        ([4.0], None, "not a volume"),
    ],
)
def test_kinds_of_uneven_stacks(places: list[float], thickness: float | None, kind: str) -> None:
    found = stack_geometry(stack(places, thickness=thickness))
    assert found.kind == kind
    assert (found.problem is None) == (kind == "variable")


def test_thick_slices_fill_a_wide_gap() -> None:
    """A head of thin slices at the base and thick ones above lacks nothing."""
    thin, thick = stack([0, 5, 10], thickness=5.0), stack([20, 30, 40], thickness=10.0)
    assert stack_geometry(thin + thick).kind == "variable"


def test_two_slices_are_judged_by_what_they_state() -> None:
    near, far = stack([0, 5]), stack([0, 15])
    stated = tuple(replace(p, spacing_between_mm=5.0) for p in far)
    assert stack_geometry(near).kind == stack_geometry(far).kind == "regular"
    assert stack_geometry(stated).kind == "missing"


def test_the_list_of_gaps_says_where() -> None:
    found = stack_geometry(stack([0, 5, 10, 20, 25]))
    assert found.problem is not None
    assert found.problem.code == "MISSING_SLICES"
    assert "10.00 mm after slice 3" in found.problem.reason
