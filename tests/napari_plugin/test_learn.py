"""The Batch & learn panel in a real window: a folder worked through with a model that learns meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from sphere_datasets import ball_and_box

from medseg import CaseQueue, LabelVolume, QueueCase, TrainingSettings, write_volume
from napari_plugin.layers import labels_layer, labels_of
from napari_plugin.learn import LearnPanel

MakeViewer = Callable[..., Any]
QUICK = TrainingSettings(steps=40, threads=1, device="cpu", patience=0)
WAIT_MS = 250_000


def scans(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        write_volume(ball_and_box(number)[0], folder / f"scan_{number}.nii.gz")
    return folder


class Person:
    """Someone who knows the truth and works with the panel."""

    def __init__(self, viewer: Any, qtbot: Any, folder: Path) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        self.panel = LearnPanel(viewer)
        self.panel.open_folder(folder)
        self.settle()

    def settle(self) -> None:
        self.qtbot.waitUntil(lambda: self.panel.is_settled, timeout=WAIT_MS)

    @property
    def queue(self) -> CaseQueue:
        assert self.panel.queue is not None
        return self.panel.queue

    @property
    def layer(self) -> Any:
        assert self.panel.opened is not None
        return self.panel.opened[2]

    def truth(self, case: QueueCase) -> LabelVolume:
        return ball_and_box(int(case.path.split("_")[1].split(".")[0]))[1]

    def correct_next(self) -> QueueCase:
        self.panel.open_next()
        self.settle()
        assert self.panel.opened is not None, self.panel.said.text()
        case = self.panel.opened[0]
        data, words, _ = labels_layer(self.truth(case), "truth")
        self.layer.data, self.layer.metadata = data, words["metadata"]
        self.panel.save()
        self.settle()
        return self.queue.case(case.name)

    def rows(self) -> list[tuple[str, ...]]:
        table = self.panel.table
        return [
            tuple(table.item(row, column).text() for column in range(table.columnCount()))
            for row in range(table.rowCount())
        ]


@pytest.fixture
def person(make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path) -> Person:
    return Person(make_napari_viewer(), qtbot, scans(tmp_path / "queue", 5))


def test_correct_learn_predict_and_go_on(person: Person, make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    panel = person.panel
    assert [row[1] for row in person.rows()] == ["waiting"] * 5
    assert not panel.learn_button.isEnabled()
    assert "Correct a case first" in panel.learn_button.toolTip()
    states = [person.correct_next().state for _ in range(3)]
    assert set(states) == {"corrected", "held out"}
    panel.learn(QUICK)
    assert panel.learn_button.text() == "Cancel"
    assert not panel.predict_button.isEnabled()
    person.qtbot.waitUntil(lambda: bool(person.queue.rounds), timeout=WAIT_MS)
    person.settle()
    (done,) = person.queue.rounds
    assert done.score is not None
    assert f"score {done.score:.3f}" in panel.score.text()
    predicted = [case for case in person.queue.cases if case.state == "predicted"]
    assert len(predicted) == 2
    assert all(case.uncertainty is not None for case in predicted)
    first = person.queue.to_do()[0]
    panel.open_next()
    person.settle()
    assert panel.opened is not None
    assert panel.opened[0].name == first.name
    assert labels_of(person.layer).labels.names == {1: "ball", 2: "box"}
    assert person.layer.data.any()  # the prediction is there to be corrected
    again = Person(make_napari_viewer(), qtbot, person.queue.folder)
    assert again.queue == person.queue
    assert again.rows() == person.rows()
    assert not again.panel.starts.isEnabled()


def test_a_correction_that_is_not_saved_is_not_dropped_at_once(person: Person) -> None:
    panel = person.panel
    panel.open_case("case-001")
    person.settle()
    person.layer.paint((3, 3, 3), 1)
    layer = person.layer
    panel.open_case("case-002")
    person.settle()
    assert "not saved" in panel.said.text()
    assert person.layer is layer
    panel.open_case("case-002")
    person.settle()
    assert person.layer is not layer
    assert not panel.is_unsaved()


def test_names_of_the_first_case_are_there_in_the_next(person: Person) -> None:
    person.correct_next()
    person.panel.open_next()
    person.settle()
    assert labels_of(person.layer).labels.names == {1: "ball", 2: "box"}
    assert not person.layer.data.any()


def test_empty_labels_and_closed_layers_are_answered_in_words(person: Person) -> None:
    panel = person.panel
    assert not panel.save_button.isEnabled()
    panel.open_next()
    person.settle()
    panel.save()
    person.settle()
    assert "NO_LABELS" in panel.said.text()
    person.viewer.layers.remove(person.layer)
    assert not panel.save_button.isEnabled()
    panel.save()
    assert "No case is open" in panel.said.text()


def test_a_person_overrules_the_model_that_is_still_predicting(person: Person) -> None:
    case = person.correct_next()
    stale = QueueCase(case.name, case.path, state="predicted", uncertainty=0.5)
    person.panel.case_changed.emit(stale)
    person.settle()
    assert person.queue.case(case.name).is_labelled


def test_work_goes_on_while_a_model_learns_and_learning_can_be_stopped(person: Person) -> None:
    while not any(case.state == "corrected" for case in person.queue.cases):
        person.correct_next()
    panel = person.panel
    panel.learn(TrainingSettings(steps=100_000, threads=1, device="cpu"))
    panel.open_next()
    person.qtbot.waitUntil(lambda: not panel.beside.is_busy, timeout=WAIT_MS)
    assert panel.is_busy
    assert panel.is_open()
    panel.cancel()
    person.settle()
    assert person.queue.rounds == ()
    assert panel.learn_button.isEnabled()
    assert panel.learn_button.text() == "Learn"


def test_a_window_closed_while_learning_stops_it(person: Person) -> None:
    while not any(case.state == "corrected" for case in person.queue.cases):
        person.correct_next()
    person.panel.learn(TrainingSettings(steps=100_000, threads=1, device="cpu"))
    job = person.panel.job
    assert job is not None
    person.panel.close()
    person.qtbot.waitUntil(lambda: job.wait(0), timeout=WAIT_MS)


def test_a_damaged_scan_fails_alone(make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path) -> None:
    folder = scans(tmp_path / "queue", 1)
    (folder / "broken.nii.gz").write_bytes(b"junk")
    person = Person(make_napari_viewer(), qtbot, folder)
    broken = next(case for case in person.queue.cases if "broken" in case.path)
    person.panel.open_case(broken.name)
    person.settle()
    assert person.queue.case(broken.name).state == "failed"
    assert person.panel.copy.isVisibleTo(person.panel)
    assert len(person.queue.to_do()) == 1


@pytest.mark.parametrize("kind", ["junk", "state"])
def test_a_folder_that_is_no_queue_is_answered_in_words(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path, kind: str
) -> None:
    folder = scans(tmp_path / "queue", 0 if kind == "junk" else 1)
    (folder / ("readme.txt" if kind == "junk" else "medseg-queue.json")).write_text("no queue")
    panel = LearnPanel(make_napari_viewer())
    panel.open_folder(folder)
    qtbot.waitUntil(lambda: panel.is_settled, timeout=WAIT_MS)
    assert ("NO_CASES" if kind == "junk" else "BAD_QUEUE") in panel.said.text()
    assert panel.queue is None
    assert not panel.next_button.isEnabled()


def test_a_look_at_the_panel(person: Person) -> None:
    """What a user sees: a row per case, the labels on the scan."""
    person.viewer.window.resize(1500, 950)
    person.viewer.window.add_dock_widget(person.panel, name="Batch & learn", area="right")
    person.correct_next()
    picture = person.viewer.screenshot(canvas_only=False, flash=False)
    person.viewer.dims.point = person.layer.data_to_world(np.argwhere(person.layer.data == 1).mean(axis=0))
    assert len(person.rows()) == 5
    picture = person.viewer.screenshot(canvas_only=False, flash=False)
    colour = np.asarray(person.layer.get_color(1))[:3] * 255 * 0.6
    assert (np.abs(picture[..., :3] - colour - 0.4 * 120).max(axis=-1) < 80).sum() > 300
    if place := os.environ.get("MEDSEG_PICTURES"):
        from imageio.v3 import imwrite

        imwrite(Path(place) / "learn.png", picture)
