"""What a proposal may change: never a locked label, and nothing outside its box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.annotate.proposal import Proposal, accept_proposal
from medseg.errors import VolumeError
from medseg.instances.grid import triple

ERASE = Proposal.ERASE
FAST = settings(deadline=None, max_examples=50)


def applied(labels: np.ndarray, proposal: Proposal, locked: tuple[int, ...] = ()) -> np.ndarray:
    after = labels.copy()
    accept_proposal(labels, proposal, locked).apply(after)
    return after


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Proposal, tuple[int, ...]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, 5, (5, 6, 7)).astype(np.uint8)
    start = triple([int(n) for n in rng.integers(0, 3, 3)])
    ids = rng.integers(ERASE, 5, (2, 3, 4)).astype(np.int32)
    erasable = frozenset(draw(st.sets(st.integers(1, 4))))
    return labels, Proposal(start, ids, erasable), tuple(draw(st.sets(st.integers(1, 4))))


@FAST
@given(cases())
def test_each_voxel_by_the_rule(case: tuple[np.ndarray, Proposal, tuple[int, ...]]) -> None:
    labels, proposal, locked = case
    after = applied(labels, proposal, locked)
    for place in np.ndindex(labels.shape):
        now, expected = int(labels[place]), int(labels[place])
        own = tuple(p - a for p, a in zip(place, proposal.start, strict=True))
        if all(0 <= p < n for p, n in zip(own, proposal.ids.shape, strict=True)) and now not in locked:
            asked = int(proposal.ids[own])
            if asked > 0 and asked not in locked:
                expected = asked
            if asked == ERASE and (not proposal.erasable or now in proposal.erasable):
                expected = 0
        assert after[place] == expected


@FAST
@given(cases())
def test_taken_back_all_is_as_before(case: tuple[np.ndarray, Proposal, tuple[int, ...]]) -> None:
    labels, proposal, locked = case
    after = labels.copy()
    edit = accept_proposal(labels, proposal, locked)
    changed = edit.apply(after)
    assert changed == (after != labels).sum()
    assert edit.revert(after) == changed
    assert np.array_equal(after, labels)


def test_a_box_beside_the_map_is_refused() -> None:
    with pytest.raises(VolumeError) as caught:
        accept_proposal(np.zeros((4, 4, 4), np.uint8), Proposal((2, 0, 0), np.ones((3, 1, 1), np.int32)))
    assert caught.value.code == "OUTSIDE_IMAGE"


def test_a_label_that_the_type_cannot_hold_asks_for_a_wider_one() -> None:
    edit = accept_proposal(
        np.zeros((4, 4, 4), np.uint8), Proposal((1, 1, 1), np.full((1, 1, 1), 300, np.int32))
    )
    assert edit.after.dtype == np.uint16
    assert edit.ids == (300,)
