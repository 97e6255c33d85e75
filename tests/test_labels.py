"""Laws of label sets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import VolumeError
from medseg.labels import MAX_LABEL_ID, Code, Label, LabelSet, colour_of_id

ids = st.integers(1, MAX_LABEL_ID)


def test_labels_are_ordered_by_id_whatever_the_order_given() -> None:
    labels = LabelSet.from_names({7: "spleen", 2: "liver", 5: "left kidney"})
    assert labels.ids == (2, 5, 7)
    assert [label.name for label in labels] == ["liver", "left kidney", "spleen"]


def test_background_is_never_a_member() -> None:
    labels = LabelSet.from_names({0: "background", 1: "liver"})
    assert labels.ids == (1,)
    assert 0 not in labels
    assert 1 in labels


@pytest.mark.parametrize(
    "labels",
    [
        (Label(0, "a", (0, 0, 0)),),
        (Label(-1, "a", (0, 0, 0)),),
        (Label(MAX_LABEL_ID + 1, "a", (0, 0, 0)),),
        (Label(1, "", (0, 0, 0)),),
        (Label(1, "  ", (0, 0, 0)),),
        (Label(1, "a", (0, 0, 0)), Label(1, "b", (0, 0, 0))),
        (Label(1, "a", (0, 0, 0)), Label(2, "a", (0, 0, 0))),
    ],
)
def test_a_set_that_means_two_things_is_refused(labels: tuple[Label, ...]) -> None:
    with pytest.raises(VolumeError) as caught:
        LabelSet(labels)
    assert caught.value.code == "BAD_LABELS"


@given(st.dictionaries(ids, st.text("abc xyz", min_size=1).filter(str.strip), max_size=6))
@settings(deadline=None, max_examples=50)
def test_names_go_in_and_come_out(names: dict[int, str]) -> None:
    if len(set(names.values())) == len(names):
        labels = LabelSet.from_names(names)
        assert labels.names == names
        assert len(labels) == len(names)


def test_find_by_name_whatever_its_case_and_by_id() -> None:
    labels = LabelSet.from_names({3: "Left Kidney", 4: "liver"})
    assert labels.find("left kidney").id == 3
    assert labels.find(" LIVER ").id == 4
    assert labels.find(3).name == "Left Kidney"
    assert labels.find("4").name == "liver"


def test_a_number_means_the_id_and_not_a_name_that_looks_like_one() -> None:
    labels = LabelSet.from_names({1: "2", 2: "liver"})
    assert labels.find(2).name == "liver"
    assert labels.find("2").name == "2"  # the words a person typed match a name first


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(VolumeError, match=r"liver.*'splen'") as caught:
        LabelSet.from_names({1: "liver"}).find("splen")
    assert caught.value.code == "UNKNOWN_LABEL"
    with pytest.raises(VolumeError, match="no labels"):
        LabelSet().find(1)


@given(st.sets(ids, max_size=8), st.sets(ids, max_size=8))
@settings(deadline=None, max_examples=50)
def test_completing_adds_what_lacks_and_keeps_what_is_there(known: set[int], occurring: set[int]) -> None:
    labels = LabelSet.from_names({i: f"structure {i}" for i in known})
    full = labels.completed([0, *occurring])
    assert set(full.ids) == known | occurring
    assert all(full.find(i) == labels.find(i) for i in known)
    assert full.completed(occurring) == full


def test_completing_finds_a_free_name() -> None:
    labels = LabelSet.from_names({1: "label 2"})
    full = labels.completed([2])
    assert full.ids == (1, 2)
    assert full.find(1).name == "label 2"


@given(ids)
@settings(deadline=None, max_examples=50)
def test_colours_are_bytes_and_steady(label_id: int) -> None:
    colour = colour_of_id(label_id)
    assert all(0 <= channel <= 255 for channel in colour)
    assert colour == colour_of_id(label_id)


def test_colours_of_forty_labels_differ() -> None:
    colours = [colour_of_id(i) for i in range(1, 41)]
    least = min(
        sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in itertools.combinations(colours, 2)
    )
    assert least > 12


def test_equal_sets_are_equal_and_others_are_not() -> None:
    code = Code("SCT", "10200004", "Liver")
    a = LabelSet((Label(1, "liver", (1, 2, 3), code),))
    assert a == LabelSet((Label(1, "liver", (1, 2, 3), code),))
    assert a != LabelSet((Label(1, "liver", (1, 2, 3)),))
    assert a != LabelSet((Label(2, "liver", (1, 2, 3), code),))
    assert hash(a) == hash(LabelSet(tuple(a)))
