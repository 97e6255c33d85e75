"""The state of a queue: kept whole, merged without forgetting, ordered so that a person's time counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.active.queue import (
    CORRECTED,
    FAILED,
    HELD_OUT,
    PAINTS,
    PREDICTED,
    STATE_FILE,
    STATES,
    WAITING,
    CaseQueue,
    QueueCase,
    Round,
    merged,
    read_queue,
    save_queue,
)
from medseg.errors import ReadError, WriteError

FAST = settings(deadline=None, max_examples=50)
numbers = st.one_of(st.none(), st.floats(0, 1))


@st.composite
def queues(draw: st.DrawFn) -> CaseQueue:
    count = draw(st.integers(0, 12))
    cases = []
    for number in range(count):
        is_held_out = draw(st.booleans())
        state = draw(st.sampled_from([WAITING, PREDICTED, FAILED, HELD_OUT if is_held_out else CORRECTED]))
        doubt = draw(st.floats(0, 1)) if state == PREDICTED else None
        cases.append(
            QueueCase(f"case-{number:03}", f"a/{number}.nii.gz", "", state, is_held_out, doubt, "m", "r")
        )
    rounds = tuple(Round(f"models/round-{n:03}", n, n, draw(numbers)) for n in range(draw(st.integers(0, 3))))
    return CaseQueue(
        Path("x"), tuple(cases), rounds, draw(st.sampled_from(["", "nuclei"])), draw(st.sampled_from(PAINTS))
    )


@FAST
@given(queues())
def test_what_is_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, queue: CaseQueue) -> None:
    queue = replace(queue, folder=tmp_path_factory.mktemp("queue"))
    save_queue(queue)
    assert read_queue(queue.folder) == queue
    assert [path.name for path in queue.folder.iterdir()] == [STATE_FILE]


@FAST
@given(queues())
def test_every_open_case_comes_once_and_by_doubt(queue: CaseQueue) -> None:
    order = queue.to_do()
    open_ = [one for one in queue.cases if one.state in (WAITING, PREDICTED)]
    assert sorted(one.name for one in order) == sorted(one.name for one in open_)
    doubts = [one.uncertainty for one in order if not one.is_held_out and one.uncertainty is not None]
    assert doubts == sorted(doubts, reverse=True)
    held = [one.name for one in order if one.is_held_out]
    assert held == sorted(held)


def test_held_out_cases_come_in_step() -> None:
    cases = tuple(QueueCase(f"case-{n:03}", f"{n}", is_held_out=n >= 8) for n in range(10))
    order = [one.is_held_out for one in CaseQueue(Path("x"), cases).to_do()]
    assert not order[0]
    assert [sum(order[: n + 1]) for n in (0, 4, 9)] == [0, 1, 2]


found_paths = st.dictionaries(
    st.tuples(st.text("abc/", min_size=1, max_size=5), st.just("")),
    st.sampled_from(["", "too old"]),
    max_size=15,
)


@FAST
@given(found_paths, found_paths)
def test_cases_seen_before_stay_as_they_are(
    before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]
) -> None:
    first = merged(CaseQueue(Path("x")), before, 0.3)
    again = merged(first, before, 0.3)
    assert again == first
    more = merged(first, {**before, **after}, 0.3)
    held_out = {one.name for one in more.cases if one.is_held_out}
    assert {one.name for one in first.cases if one.is_held_out} <= held_out
    assert [one.path for one in more.cases[: len(first.cases)]] == [one.path for one in first.cases]
    assert len({one.name for one in more.cases}) == len(more.cases)
    usable = [one for one in more.cases if one.state != FAILED]
    assert len(usable) < 3 or any(one.is_held_out for one in usable)
    assert all(one.reason and one.state == FAILED for one in more.cases if one not in usable)


def test_about_the_wanted_share_is_held_out() -> None:
    queue = merged(CaseQueue(Path("x")), {(f"scan {n}.nii.gz", ""): "" for n in range(1000)}, 0.2)
    assert sum(one.is_held_out for one in queue.cases) == 200


def test_what_a_person_or_a_model_has_seen_is_not_held_out_afterwards() -> None:
    seen = tuple(QueueCase(f"case-{n:03}", f"{n}", state=(CORRECTED, PREDICTED)[n % 2]) for n in range(10))
    queue = merged(CaseQueue(Path("x"), seen), {(f"new {n}", ""): "" for n in range(3)}, 0.2)
    assert {one.path[:3] for one in queue.cases if one.is_held_out} == {"new"}
    assert queue.cases[:10] == seen


def test_names_of_cases_tell_nothing() -> None:
    queue = merged(CaseQueue(Path("x")), {("doe^jane.nii.gz", ""): ""}, 0)
    (case,) = queue.cases
    for file in (queue.labels_file(case), queue.image_file(case), queue.prediction_file(case)):
        assert "jane" not in str(file)
    assert "jane" not in repr(queue)


WHOLE: dict[str, object] = {"version": 1, "cases": [], "rounds": [], "start": "", "paints": "classes"}
HOSTILE = ({"path": "/etc/passwd"}, {"path": "../b"}, {"path": "b", "state": "x"}, {"path": "b", "more": 1})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({**WHOLE, "version": 2}),
        json.dumps({**WHOLE, "cases": 3}),
        json.dumps({**WHOLE, "paints": "walls"}),
        *(json.dumps({**WHOLE, "cases": [{"name": "case-001", **one}]}) for one in HOSTILE),
    ],
)
def test_a_damaged_or_hostile_state_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(ReadError) as caught:
        read_queue(tmp_path)
    assert caught.value.code == "BAD_QUEUE"


def test_an_unknown_case_and_a_place_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    queue = CaseQueue(tmp_path / "missing")
    with pytest.raises(ReadError, match="case of the queue"):
        queue.case("case-001")
    with pytest.raises(WriteError):
        save_queue(queue)
    assert read_queue(tmp_path) == CaseQueue(tmp_path)
    assert len(STATES) == 5
