"""The Correct panel in a real window: each tool from click to voxel, locks, undo, and work that survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from phantoms import Sphere, label_map
from qtpy.QtCore import Qt

from medseg import Geometry, InstanceVolume, LabelVolume, Proposal, Volume
from napari_plugin.correct import CorrectPanel
from napari_plugin.drafts import Draft, Session, abandoned, drafts_folder
from napari_plugin.history import history_of
from napari_plugin.layers import image_layer, labels_layer, labels_of
from napari_plugin.tools import BACKGROUND, GrowTool, ScribbleTool, Tool
from napari_plugin.wire_tool import WireTool

MakeViewer = Callable[..., Any]
WIRE, GROW, SCRIBBLE, SLICES = 1, 2, 3, 4
SPACING = (1.0, 1.0, 2.0)


@pytest.fixture(autouse=True)
def _own_drafts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def phantom() -> tuple[Volume, LabelVolume]:
    """Two bright balls with noise: the liver is labelled already, the spleen is not."""
    geometry = Geometry.from_spacing((48, 44, 24), SPACING)
    truth = label_map(geometry, {"liver": Sphere((14, 22, 24), 8), "spleen": Sphere((34, 22, 24), 7)})
    noise = np.random.default_rng(0).normal(0, 4, geometry.shape)
    image = np.array([0.0, 100.0, 100.0])[truth.array] + noise
    drawn = np.where(truth.array == 1, truth.array, 0)
    return Volume(image.astype(np.float32), geometry, "CT"), LabelVolume(drawn, geometry, truth.labels)


def spleen() -> np.ndarray:
    geometry = Geometry.from_spacing((48, 44, 24), SPACING)
    return label_map(geometry, {"spleen": Sphere((34, 22, 24), 7)}).array > 0


class Desk:
    """A window with the phantom and the panel, and a hand that clicks."""

    def __init__(self, viewer: Any, qtbot: Any, labels: LabelVolume | None = None) -> None:
        self.viewer, self.qtbot = viewer, qtbot
        scan, drawn = phantom()
        data, words, _ = image_layer(scan, "scan", contrast_limits=(0, 120))
        self.scan = viewer.add_image(data, **words)
        data, words, _ = labels_layer(drawn if labels is None else labels, "organs", scan)
        self.labels = viewer.add_labels(data, **words)
        self.panel = CorrectPanel(viewer)

    def take(self, tool: int, label_id: int | None = 2) -> Any:
        chosen = self.panel.chosen
        chosen.labels.setCurrentIndex(chosen.labels.findData(label_id))
        self.panel.tool_choice.setCurrentIndex(tool)
        return self.panel.tool

    def position(self, *ijk: int) -> Any:
        """Where the viewer shows a voxel of the file."""
        (i, j, k), (ni, nj, _) = ijk, labels_of(self.labels).geometry.shape
        return self.scan.data_to_world((k, nj - 1 - j, ni - 1 - i))

    def click(self, *ijk: int) -> None:
        """Through the viewer's own callbacks, as napari calls them."""
        event = SimpleNamespace(button=1, modifiers=(), position=self.position(*ijk), type="mouse_press")
        self.viewer.dims.point = event.position
        for callback in self.viewer.mouse_drag_callbacks:
            if callback.__qualname__.startswith("on_click"):
                press = callback(self.viewer, event)
                next(press)
                event.type = "mouse_release"
                next(press, None)

    def settle(self) -> None:
        wire = self.panel.tools[0]
        assert isinstance(wire, WireTool)
        self.qtbot.waitUntil(lambda: self.panel.is_settled and not wire.is_busy, timeout=200_000)

    def apply(self) -> None:
        self.panel.enter()
        self.settle()

    def shows(self, name: str) -> bool:
        return name in self.viewer.layers and self.viewer.layers[name].visible

    @property
    def array(self) -> np.ndarray:
        return labels_of(self.labels).array


@pytest.fixture
def desk(make_napari_viewer: MakeViewer, qtbot: Any) -> Desk:
    return Desk(make_napari_viewer(), qtbot)


def slow_down(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = tool.work()
    assert compute is not None

    def slowly() -> Proposal:
        time.sleep(0.4)
        return compute()

    monkeypatch.setattr(tool, "work", lambda: slowly)


def crash(session: Session) -> None:
    """What the system does to the lock of a process that was killed."""
    assert session._lock is not None
    session._lock.unlock()


def dice(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()))


# ---------------------------------------------------------------------- the tools


def test_click_grow_apply_undo(desk: Desk) -> None:
    before = desk.array.copy()
    tool = desk.take(GROW)
    assert not desk.panel.apply_button.isEnabled()
    assert "preview" in desk.panel.apply_button.toolTip()
    desk.click(34, 22, 12)
    desk.settle()
    assert np.array_equal(desk.array, before)  # a preview writes nothing
    assert desk.shows("Preview")
    desk.apply()
    assert dice(desk.array == 2, spleen()) > 0.97
    assert not desk.shows("Preview")
    assert np.array_equal(desk.array == 1, before == 1)
    desk.panel.undo()
    assert np.array_equal(desk.array, before)
    desk.panel.redo()
    assert dice(desk.array == 2, spleen()) > 0.97
    assert isinstance(tool, GrowTool)


def test_real_keys_and_a_real_click(desk: Desk) -> None:
    """As the window hands them on: Esc cancels, Return applies, Ctrl+Z undoes."""
    desk.viewer.window.show()
    canvas = desk.viewer.window._qt_window._qt_viewer.canvas.native
    desk.viewer.dims.point = desk.position(34, 22, 12)
    desk.viewer.scene.camera.center = desk.position(34, 22, 12)
    desk.take(GROW)
    before = desk.array.copy()
    for key, applies in ((Qt.Key.Key_Escape, False), (Qt.Key.Key_Return, True)):
        desk.qtbot.mouseMove(canvas, canvas.rect().center())
        desk.qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=canvas.rect().center())
        desk.settle()
        assert desk.shows("Preview")
        desk.qtbot.keyClick(canvas, key)
        desk.settle()
        assert not desk.shows("Preview")
        assert (dice(desk.array == 2, spleen()) > 0.97) == applies
    desk.qtbot.keyClick(canvas, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert np.array_equal(desk.array, before)
    desk.labels.mode = "polygon"  # whose own Enter and Esc stay napari's
    desk.qtbot.keyClick(canvas, Qt.Key.Key_Escape)
    desk.labels.mode = "pan_zoom"
    desk.qtbot.keyClick(canvas, Qt.Key.Key_Escape)
    assert "Nothing was changed" in desk.panel.said.text()


def test_the_slider_is_live(desk: Desk) -> None:
    tool = desk.take(GROW)
    assert isinstance(tool, GrowTool)
    desk.click(34, 22, 12)
    counts = []
    for value in (20, 80, 300):  # of a noise of 4, tolerances of 1.2, 4.8 and 18
        tool.slider.setValue(value)
        desk.settle()
        counts.append(int((desk.viewer.layers["Preview"].data > 0).sum()))
    assert counts == sorted(counts)
    assert counts[0] < counts[1] < counts[2]
    desk.panel.cancel_preview()
    assert not desk.shows("Preview")
    tool.slider.setValue(100)
    desk.settle()
    assert not desk.shows("Preview")  # the click was forgotten too


def test_the_preview_lies_where_the_labels_will(desk: Desk) -> None:
    desk.take(GROW)
    desk.click(34, 22, 12)
    desk.settle()
    preview = desk.viewer.layers["Preview"]
    seen = np.array([preview.data_to_world(p) for p in np.argwhere(preview.data > 0)])
    desk.apply()
    written = np.array([desk.labels.data_to_world(p) for p in np.argwhere(desk.labels.data == 2)])
    assert seen == pytest.approx(written)


def test_live_wire_closes_and_fills_one_slice(desk: Desk) -> None:
    tool = desk.take(WIRE)
    assert isinstance(tool, WireTool)
    for i, j in ((34, 15), (41, 22), (34, 29), (27, 22)):
        desk.click(i, j, 12)  # the second comes while the first is being worked on
    desk.settle()
    assert desk.shows("Live wire")
    tool.move((12, 20, 10))
    desk.panel.enter()  # closes
    desk.settle()
    desk.apply()  # applies
    found = desk.array == 2
    assert set(np.argwhere(found)[:, 2]) == {12}
    assert dice(found[:, :, 12], spleen()[:, :, 12]) > 0.9
    assert not desk.shows("Live wire")


def test_live_wire_of_a_coronal_slice(desk: Desk) -> None:
    from napari_plugin.views import show_plane

    show_plane(desk.viewer, "coronal")
    desk.take(WIRE)
    for i, k in ((34, 8), (40, 12), (34, 16), (28, 12)):
        desk.click(i, 22, k)
        desk.settle()
    desk.click(34, 22, 8)  # where it began: closes
    desk.settle()
    desk.apply()
    found = desk.array == 2
    assert set(np.argwhere(found)[:, 1]) == {22}
    assert dice(found[:, 22], spleen()[:, 22]) > 0.85


def test_a_point_of_the_wire_is_taken_back(desk: Desk) -> None:
    tool = desk.take(WIRE)
    assert isinstance(tool, WireTool)
    desk.click(34, 15, 12)
    desk.click(41, 22, 12)
    desk.settle()
    short = tool.way.copy()
    desk.click(10, 10, 12)
    desk.settle()
    tool.take_back()
    desk.settle()
    assert np.array_equal(tool.way, short)
    desk.click(34, 29, 5)
    assert "another slice" in desk.panel.said.text()


@pytest.mark.parametrize("method", ["edges", "intensities"])
def test_scribbles_divide_what_is_in_view(desk: Desk, method: str) -> None:
    tool = desk.take(SCRIBBLE)
    assert isinstance(tool, ScribbleTool)
    assert tool.layer is not None
    assert desk.viewer.layers.selection.active is tool.layer
    assert str(tool.layer.mode) == "paint"
    tool.method.setCurrentText(method)
    desk.viewer.dims.point = desk.position(34, 22, 12)
    show = desk.scan.data.shape
    strokes = tool.layer.data
    z, y, x = 12, 43 - 22, 47 - 34
    strokes[z - 2 : z + 3, y, x - 3 : x + 4] = 2
    strokes[[z - 6, z + 6], y - 12 : y + 13, x] = BACKGROUND
    strokes[z - 2 : z + 3, [y - 12, y + 12], :] = BACKGROUND
    strokes[z - 2 : z + 3, :, x + 11] = BACKGROUND
    strokes[z - 2 : z + 3, :, x - 11] = BACKGROUND
    desk.panel.preview()
    desk.settle()
    assert desk.panel.proposal is not None, desk.panel.said.text()
    desk.panel.apply()
    desk.settle()
    assert show == desk.scan.data.shape
    assert dice(desk.array == 2, spleen()) > 0.9
    assert not strokes[tool.layer.data > 0].any()  # wiped off after Apply
    desk.panel.tool_choice.setCurrentIndex(0)
    assert not {"Scribbles", "Preview", "Live wire"} & {layer.name for layer in desk.viewer.layers}


def test_one_kind_of_stroke_is_answered_in_words(desk: Desk) -> None:
    tool = desk.take(SCRIBBLE)
    desk.panel.preview()
    desk.settle()
    assert "NO_SCRIBBLES" in desk.panel.said.text()
    assert isinstance(tool, ScribbleTool)


def test_slices_between_are_filled(desk: Desk) -> None:
    truth = spleen()
    array = desk.array.copy()
    for k in (9, 12, 15):
        array[:, :, k][truth[:, :, k]] = 2
    data, _, _ = labels_layer(LabelVolume(array, labels_of(desk.labels).geometry), "x")
    desk.labels.data = data
    desk.take(SLICES)
    desk.panel.preview()
    desk.settle()
    desk.apply()
    found = desk.array == 2
    assert np.array_equal(found[:, :, [9, 12, 15]], truth[:, :, [9, 12, 15]])
    assert dice(found[:, :, 9:16], truth[:, :, 9:16]) > 0.85


# ---------------------------------------------------------------------- what must not happen


def test_a_locked_structure_keeps_every_voxel(desk: Desk) -> None:
    desk.take(GROW)
    desk.panel.chosen.locks.item(0).setCheckState(
        desk.panel.chosen.locks.item(0).checkState().__class__.Checked
    )
    assert history_of(desk.labels).locked == {1}
    before = desk.array.copy()
    desk.click(14, 22, 12)
    desk.settle()
    desk.apply()
    assert np.array_equal(desk.array == 1, before == 1)
    assert (desk.array != before).sum() < 60  # what the liver's edge leaves to the spleen


def test_background_erases_what_is_not_locked(desk: Desk) -> None:
    desk.take(GROW, -1)
    desk.click(14, 22, 12)
    desk.settle()
    desk.apply()
    assert (desk.array == 1).sum() < 0.03 * (phantom()[1].array == 1).sum()


def test_a_preview_of_labels_that_changed_meanwhile_is_held(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.labels.data[3, 5:9, 5:9] = 2
    desk.labels.data[7, 5:9, 5:9] = 2
    tool = desk.take(SLICES)
    slow_down(tool, monkeypatch)
    desk.panel.preview()
    desk.labels.paint((5, 30, 30), 1)
    desk.settle()
    assert not desk.shows("Preview")
    assert "held" in desk.panel.said.text()
    assert desk.panel.held_button.isVisibleTo(desk.panel)
    desk.panel.show_held()
    assert desk.shows("Preview")


@pytest.mark.parametrize("closed", ["scan", "organs"])
def test_a_layer_closed_while_a_preview_is_made_does_no_harm(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    tool = desk.take(GROW)
    assert isinstance(tool, GrowTool)
    tool.seed = (12, 21, 13)
    slow_down(tool, monkeypatch)
    desk.panel.preview()
    desk.viewer.layers.remove(closed)
    desk.settle()
    assert not desk.shows("Preview")
    assert "held" in desk.panel.said.text()
    desk.panel.apply()
    desk.settle()
    assert not desk.panel.preview_button.isEnabled()


def test_only_the_newest_question_is_answered(desk: Desk) -> None:
    tool = desk.take(GROW)
    assert isinstance(tool, GrowTool)
    desk.click(34, 22, 12)
    for value in range(10, 400, 10):
        tool.slider.setValue(value)
    desk.settle()
    late = int((desk.viewer.layers["Preview"].data > 0).sum())
    desk.panel.preview()
    desk.settle()
    assert int((desk.viewer.layers["Preview"].data > 0).sum()) == late


def test_a_layer_without_a_place_gets_that_of_its_scan(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    desk = Desk(make_napari_viewer(), qtbot)
    desk.viewer.layers.remove("organs")
    own = desk.viewer.add_labels(np.zeros(desk.scan.data.shape, np.uint8), name="own")
    desk.panel.chosen.new_name.setText("spleen")
    desk.panel.chosen.add_label()
    desk.panel.tool_choice.setCurrentIndex(GROW)
    desk.labels = own
    desk.click(34, 22, 12)
    desk.settle()
    desk.apply()
    assert dice(labels_of(own).mask("spleen"), spleen()) > 0.97


def test_labels_of_another_grid_are_refused_in_words(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    desk = Desk(make_napari_viewer(), qtbot)
    other = LabelVolume(np.zeros((5, 6, 7), np.uint8), Geometry.from_spacing((5, 6, 7)))
    data, words, _ = labels_layer(other, "elsewhere")
    desk.viewer.add_labels(data, **words)
    desk.panel.chosen.layers.setCurrentText("elsewhere")
    desk.panel.tool_choice.setCurrentIndex(GROW)
    assert "GRID_MISMATCH" in desk.panel.said.text()
    desk.panel.preview()
    assert not desk.shows("Preview")


def test_without_a_scan_the_buttons_say_why(make_napari_viewer: MakeViewer) -> None:
    panel = CorrectPanel(make_napari_viewer())
    assert not panel.preview_button.isEnabled()
    assert "Open a scan first" in panel.preview_button.toolTip()
    panel.tool_choice.setCurrentIndex(GROW)
    panel.preview()
    panel.apply()
    panel.undo()
    assert "undo" in panel.undo_button.text().lower()


def test_new_labels_and_new_objects(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    scan, drawn = phantom()
    objects = InstanceVolume(drawn.array, drawn.geometry, drawn.labels, classes={1: 1})
    desk = Desk(make_napari_viewer(), qtbot, objects)
    desk.take(GROW, -2)
    desk.click(34, 22, 12)
    desk.settle()
    desk.apply()
    assert dice(desk.array == 2, spleen()) > 0.97
    back = labels_of(desk.labels)
    assert isinstance(back, InstanceVolume)
    assert back.classes[2] in back.labels.ids
    desk.panel.chosen.new_layer()
    assert desk.panel.chosen.layer is not None
    assert desk.panel.chosen.layer.name == "scan labels"
    assert labels_of(desk.panel.chosen.layer).geometry.is_close(scan.geometry)


# ---------------------------------------------------------------------- work that survives


def test_a_draft_comes_back_as_it_was(tmp_path: Path) -> None:
    _, drawn = phantom()
    objects = InstanceVolume(drawn.array, drawn.geometry, drawn.labels, classes={1: 2})
    session = Session(tmp_path)
    session.save(0, Draft("Doe^Jane", drawn))
    session.save(1, Draft("lesions", objects))
    session.save(0, Draft("Doe^Jane", drawn))
    assert not any("Doe" in path.name for path in tmp_path.rglob("*"))
    assert abandoned(tmp_path) == []  # its process lives
    crash(session)
    (left,) = abandoned(tmp_path)
    first, second = left.read()
    assert (first.title, second.title) == ("Doe^Jane", "lesions")
    for draft, truth in ((first, drawn), (second, objects)):
        assert np.array_equal(draft.labels.array, truth.array)
        assert draft.labels.geometry.is_close(truth.geometry, 1e-4)
        assert draft.labels.labels == truth.labels
    assert isinstance(second.labels, InstanceVolume)
    assert second.labels.classes == {1: 2}
    left.drop()
    assert abandoned(tmp_path) == []


def test_a_damaged_draft_is_left_out(tmp_path: Path) -> None:
    _, drawn = phantom()
    session = Session(tmp_path)
    for number in range(3):
        session.save(number, Draft(f"layer {number}", drawn))
    crash(session)
    (session.folder / "1.nii.gz").write_bytes(b"cut short")
    (session.folder / "2.json").write_text("{")
    (left,) = abandoned(tmp_path)
    assert [draft.title for draft in left.read()] == ["layer 0"]


WORK_AND_DIE = """
import os, sys
sys.path.insert(0, {tests!r})
import napari
from test_correct import Desk, GROW

class Bot:
    def waitUntil(self, done, timeout):
        while not done():
            napari.qt.get_qapp().processEvents()

desk = Desk(napari.Viewer(show=False), Bot())
desk.take(GROW)
desk.click(34, 22, 12)
desk.settle()
desk.apply()
desk.panel.autosave.saved.connect(lambda: print("SAVED", flush=True))
napari.run(force=True)
"""


def test_work_of_a_killed_process_is_offered_and_comes_back(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    script = tmp_path / "session.py"
    script.write_text(WORK_AND_DIE.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as child:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line)
            if "SAVED" in line:
                break
        child.send_signal(signal.SIGKILL)
    assert "SAVED" in said[-1], "".join(said)
    viewer = make_napari_viewer()
    scan, _ = phantom()
    data, words, _ = image_layer(scan, "scan")
    viewer.add_image(data, **words)
    panel = CorrectPanel(viewer)
    assert panel.recovery.isVisibleTo(panel)
    assert "organs" in panel.recovery.words.text()
    panel.recovery.recover()
    qtbot.waitUntil(lambda: "organs" in viewer.layers and not panel.autosave.is_busy, timeout=60_000)
    back = labels_of(viewer.layers["organs"])
    assert dice(back.mask("spleen"), spleen()) > 0.97
    assert dice(back.mask("liver"), phantom()[1].array == 1) == 1
    assert not panel.recovery.isVisibleTo(panel)
    qtbot.waitUntil(lambda: len(list(drafts_folder().iterdir())) == 1, timeout=10_000)  # now this session's
    assert CorrectPanel(viewer).autosave.left == []


def test_discarded_work_is_gone(make_napari_viewer: MakeViewer) -> None:
    session = Session()
    session.save(0, Draft("organs", phantom()[1]))
    crash(session)
    panel = CorrectPanel(make_napari_viewer())
    assert panel.recovery.isVisibleTo(panel)
    panel.recovery.discard()
    assert not panel.recovery.isVisibleTo(panel)
    assert abandoned() == []


def test_a_full_disk_is_said_and_nothing_is_lost(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg import WriteError

    def full(*_: Any) -> None:
        raise WriteError("DISK_FULL", "expected room for the file, got a full disk; free some space")

    monkeypatch.setattr(Session, "save", full)
    desk.labels.paint((5, 5, 5), 1)
    desk.panel.autosave.save_now()
    desk.qtbot.waitUntil(lambda: not desk.panel.autosave.is_busy, timeout=10_000)
    assert "DISK_FULL" in desk.panel.said.text()
    assert desk.labels.data[5, 5, 5] == 1


def test_a_look_at_the_panel(desk: Desk, tmp_path: Path) -> None:
    """What a user sees: the preview has the colour of its structure."""
    desk.viewer.window.add_dock_widget(desk.panel, name="Correct", area="right")
    desk.take(GROW)
    desk.click(34, 22, 12)
    desk.settle()
    picture = desk.viewer.screenshot(canvas_only=False, flash=False)
    colour = np.asarray(desk.labels.get_color(2))[:3] * 255
    near = np.abs(picture[..., :3].astype(float) - colour * 0.8 - 0.2 * 200).max(axis=-1) < 60
    assert near.sum() > 200
    if place := os.environ.get("MEDSEG_PICTURES"):
        from imageio.v3 import imwrite

        imwrite(Path(place) / "correct.png", picture)
