"""Corrections in a labels layer: undone object by object, never against a lock, with names that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from napari.layers import Labels

from medseg import Edit, Geometry, InstanceVolume, LabelSet, LabelVolume, MedsegError
from napari_plugin.history import History, history_of
from napari_plugin.layers import labels_layer, labels_of

SHAPE = (6, 10, 10)


def layer(kind: type[LabelVolume] = LabelVolume) -> Labels:
    """Label 1 in a cube, label 2 in another."""
    geometry = Geometry.from_spacing(SHAPE[::-1]).reorient("LPS")  # as the viewer shows it
    array = np.zeros(SHAPE[::-1], np.uint8)
    array[1:4, 1:4, 1:4], array[6:9, 6:9, 1:4] = 1, 2
    names = LabelSet.from_names({1: "liver", 2: "spleen"})
    more: dict[str, Any] = {"classes": {1: 1, 2: 1}} if kind is InstanceVolume else {}
    data, words, _ = labels_layer(kind(array, geometry, names, **more), "labels")
    return Labels(data, **words)


def filled(one: Labels, place: tuple[slice, slice, slice], value: int, **more: Any) -> Edit:
    before = one.data[place].copy()
    start = tuple(p.start for p in place)
    return Edit((start[0], start[1], start[2]), before, np.full_like(before, value, np.uint16), **more)


A = (slice(1, 2), slice(1, 4), slice(1, 4))
B = (slice(1, 2), slice(6, 9), slice(6, 9))


def test_one_objects_edit_is_undone_and_anothers_stays(qapp: Any) -> None:
    one = layer()
    history = history_of(one)
    before = one.data.copy()
    history.do(filled(one, A, 0))
    history.do(filled(one, B, 0))
    assert history.undo(1)
    assert np.array_equal(one.data[A], before[A])
    assert not one.data[B].any()
    assert not history.undo(1)
    assert history.undo()
    assert np.array_equal(one.data, before)
    assert history.redo()
    assert not one.data[B].any()


def test_a_stroke_of_the_brush_is_undone_too(qapp: Any) -> None:
    one = layer()
    history = history_of(one)
    before = one.data.copy()
    one.brush_size = 3
    one.paint((2, 2, 5), 2)
    painted = one.data.copy()
    assert (painted != before).any()
    one.fill((2, 2, 2), 2)
    assert history.undo()
    assert np.array_equal(one.data, painted)
    assert history.undo()
    assert np.array_equal(one.data, before)


def test_what_the_viewers_own_undo_took_back_is_no_step(qapp: Any) -> None:
    one = layer()
    history = history_of(one)
    before = one.data.copy()
    history.do(filled(one, A, 0))
    one.paint((2, 2, 8), 2)
    one.undo()
    assert history.undo()
    assert np.array_equal(one.data, before)


@pytest.mark.parametrize(("brush", "locked"), [(2, 1), (1, 1), (0, 1)])
def test_no_stroke_takes_or_gives_a_voxel_of_a_locked_object(
    qapp: Any, qtbot: Any, brush: int, locked: int
) -> None:
    one = layer()
    history_of(one).lock([locked])
    before = one.data.copy()
    one.brush_size = 5
    one.paint((2, 2, 4), brush)
    assert (one.data == before).mean() < 1
    qtbot.waitUntil(lambda: bool(((one.data == locked) == (before == locked)).all()), timeout=5000)
    changed = one.data != before
    assert changed.any() == (brush == 2)  # its own voxels it may give where nothing is locked


def test_no_edit_changes_a_locked_object(qapp: Any) -> None:
    one = layer()
    history = history_of(one)
    history.lock([1])
    with pytest.raises(MedsegError) as caught:
        history.do(filled(one, A, 0))
    assert caught.value.code == "LOCKED"
    assert (one.data[A] == 1).all()
    history.lock([1], locked=False)
    history.do(filled(one, A, 0))


def test_a_part_gets_a_name_and_a_colour(qapp: Any) -> None:
    one = layer()
    history_of(one).do(filled(one, A, 300, parents={300: 1}))
    assert one.data.max() == 300
    assert labels_of(one).labels.names[300] == "liver 2"
    assert "liver 2" in one.features["name"].tolist()
    assert one.get_color(300)[3] == 1


def test_a_part_of_an_object_has_its_class(qapp: Any) -> None:
    one = layer(InstanceVolume)
    history_of(one).do(filled(one, A, 3, parents={3: 2}))
    back = labels_of(one)
    assert isinstance(back, InstanceVolume)
    assert back.classes == {1: 1, 2: 1, 3: 1}


def test_hidden_objects_are_clear_and_come_back(qapp: Any) -> None:
    for one in (layer(), layer(InstanceVolume)):
        colours = [np.array(one.get_color(i)) for i in (1, 2)]
        history_of(one).hide([2])
        assert one.get_color(2)[3] == 0
        assert np.array_equal(one.get_color(1), colours[0])
        history_of(one).hide([2], hidden=False)
        assert np.array_equal(one.get_color(2), colours[1])


def test_names_follow(qapp: Any) -> None:
    classes, objects = layer(), layer(InstanceVolume)
    history_of(classes).rename(2, "cyst")
    assert labels_of(classes).labels.names == {1: "liver", 2: "cyst"}
    with pytest.raises(MedsegError):
        history_of(classes).rename(2, "liver")
    history_of(objects).rename(2, "cyst")
    back = labels_of(objects)
    assert isinstance(back, InstanceVolume)
    assert back.labels.names == {1: "liver", 2: "spleen", 3: "cyst"}
    assert back.classes == {1: 1, 2: 3}


def test_a_label_that_is_painted_first_is_named_and_seen(qapp: Any) -> None:
    one = layer()
    history = history_of(one)
    one.paint((3, 5, 5), 9)
    assert one.get_color(9)[3] == 1
    assert 9 in labels_of(one).labels
    assert history_of(one) is history
    assert isinstance(history, History)
