"""The Segment panel with a tiny model: regions, plans, and everything that may happen while it runs."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from tiny_bundle import TINY_NAMES, write_tiny_bundle

import napari_plugin.segment as module
from medseg import Geometry, Volume, segment
from napari_plugin.layers import labels_of
from napari_plugin.readers import scan_layer
from napari_plugin.region import VIEW, WHOLE, chosen_box
from napari_plugin.request import loaded
from napari_plugin.segment import SegmentPanel
from napari_plugin.views import show_plane

MakeViewer = Callable[..., Any]
MODEL = "tiny"
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])


def settle(qtbot: Any, panel: SegmentPanel, seconds: float = 60) -> None:
    qtbot.waitUntil(lambda: panel.is_settled and not panel._soon.isActive(), timeout=int(seconds * 1000))


def scan(shape: tuple[int, int, int] = (40, 36, 30), codes: str = "RAS") -> Volume:
    """An oblique head-sized box of noise with a bright ball."""
    affine = np.eye(4)
    affine[:3, :3] = TURN * (4.0, 4.5, 5.0)
    geometry = Geometry(shape, affine)
    noise = np.random.default_rng(0).random(shape, np.float32)
    return Volume(noise, geometry, "MR").reorient(codes)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with a tiny one."""
    folder = tmp_path / "models"
    write_tiny_bundle(folder / MODEL)
    monkeypatch.setenv("MEDSEG_MODELS", str(folder))
    loaded.cache_clear()
    return folder


@pytest.fixture
def panel(make_napari_viewer: MakeViewer, models: Path) -> SegmentPanel:
    """A scan, and the tiny model chosen."""
    viewer = make_napari_viewer()
    data, words, _ = scan_layer(scan())
    viewer.add_image(data, **words)
    panel = SegmentPanel(viewer)
    panel.models.setCurrentText(MODEL)
    panel.more.fill({"sanity": "off", "backend": "torch"})
    return panel


class Gate:
    """Holds a run back until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def segment(self, *args: Any, **words: Any) -> Any:
        self.reached.set()
        assert self.opened.wait(60)
        return segment(*args, **words)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(module, "segment", gate.segment)
    return gate


def test_without_a_scan_the_button_says_why(make_napari_viewer: MakeViewer, models: Path) -> None:
    panel = SegmentPanel(make_napari_viewer())
    assert not panel.run_button.isEnabled()
    assert "Open a scan first" in panel.run_button.toolTip()
    assert "Open a scan first" in panel.said.text()
    data, words, _ = scan_layer(scan())
    panel.viewer.add_image(data, **words)
    assert panel.run_button.isEnabled()
    assert "press Run" in panel.said.text()


def test_the_card_is_shown_with_licence_and_structures(panel: SegmentPanel) -> None:
    assert "Licence:" in panel.card.text()
    names = [panel.classes.item(n).text() for n in range(panel.classes.count())]
    assert sorted(names) == sorted(TINY_NAMES.values())


def test_a_first_look_comes_before_the_result_and_goes(panel: SegmentPanel, qtbot: Any) -> None:
    seen: list[str] = []
    panel.viewer.layers.events.inserted.connect(lambda event: seen.append(event.value.name))
    panel.run()
    assert panel.run_button.text() == "Cancel"
    settle(qtbot, panel)
    assert seen == ["first look (coarse)", "tiny labels"]
    assert [layer.name for layer in panel.viewer.layers] == ["MR", "tiny labels"]
    assert panel.result is not None
    assert panel.run_button.text() == "Run"
    asked = panel.request()
    expected = segment(scan(), loaded(MODEL, asked.card.sha256, "auto"), asked.settings)
    assert np.array_equal(labels_of(panel.viewer.layers["tiny labels"]).array, expected.labels.array)


def test_only_the_chosen_structures_come(panel: SegmentPanel, qtbot: Any) -> None:
    panel.classes.item(1).setSelected(True)
    panel.run()
    settle(qtbot, panel)
    names = labels_of(panel.viewer.layers["tiny labels"]).labels.names
    assert list(names.values()) == [panel.classes.item(1).text()]


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LSA"])
def test_a_drawn_box_is_the_region_in_the_scans_own_voxels(
    make_napari_viewer: MakeViewer, models: Path, codes: str
) -> None:
    viewer = make_napari_viewer()
    volume = scan(codes=codes)
    data, words, _ = scan_layer(volume)
    layer = viewer.add_image(data, **words)
    inside = np.zeros(volume.geometry.shape, bool)
    inside[5:9, 7:12, 2:11] = True
    shown = np.argwhere(scan_layer(Volume(inside.astype(np.uint8), volume.geometry))[0])
    low, high = shown.min(axis=0), shown.max(axis=0)
    rectangle = [[low[0], low[1], low[2]], [low[0], low[1], high[2]], [low[0], high[1], high[2]], low]
    other = [[high[0], *corner[1:]] for corner in rectangle]
    viewer.add_shapes(
        [np.array(rectangle), np.array(other)], shape_type="polygon", name="box",
        scale=layer.scale, translate=layer.translate,
    )  # fmt: skip
    assert chosen_box(viewer, layer, "box in box") == (5, 9, 7, 12, 2, 11)
    assert chosen_box(viewer, layer, WHOLE) is None


def test_what_the_view_shows_is_the_region(panel: SegmentPanel, qtbot: Any) -> None:
    panel.viewer.window.show()
    show_plane(panel.viewer, "axial")
    layer = panel.viewer.layers[0]
    full = (0, 40, 0, 36, 0, 30)
    qtbot.waitUntil(lambda: chosen_box(panel.viewer, layer, VIEW) == full, timeout=20000)
    panel.viewer.scene.camera.zoom *= 4
    qtbot.waitUntil(lambda: chosen_box(panel.viewer, layer, VIEW) != full, timeout=20000)
    part = chosen_box(panel.viewer, layer, VIEW)
    assert part is not None
    assert part[1] - part[0] < 40
    assert part[4:] == (0, 30)  # all slices
    panel.region.setCurrentText(VIEW)
    panel.run()
    settle(qtbot, panel)
    array = labels_of(panel.viewer.layers["tiny labels"]).array
    outside = np.ones(array.shape, bool)
    outside[part[0] : part[1], part[2] : part[3]] = False
    assert not array[outside].any()
    assert array.any()


def test_a_shape_beside_the_scan_is_refused_in_words(panel: SegmentPanel) -> None:
    panel.viewer.add_shapes([np.array([[0, 9000, 9000], [0, 9000, 9009], [0, 9009, 9009]])], name="far",
                            shape_type="polygon")  # fmt: skip
    panel.region.setCurrentText("box in far")
    panel.run()
    assert "EMPTY_REGION" in panel.said.text()
    assert not panel.is_busy


def test_time_and_memory_are_told_before_the_run(panel: SegmentPanel, qtbot: Any) -> None:
    panel.show()
    panel._plan_soon()
    qtbot.waitUntil(lambda: panel.plan.text().startswith("Expected: about"), timeout=60000)
    assert "GB of memory" in panel.plan.text()
    assert "windows" in panel.plan.text()
    panel.more.fill({"max_memory_gb": 0.1})
    qtbot.waitUntil(lambda: "OVER_MEMORY_LIMIT" in panel.plan.text(), timeout=60000)
    panel.run()
    settle(qtbot, panel)
    assert "OVER_MEMORY_LIMIT" in panel.said.text()
    assert "name a region" in panel.said.text()
    assert panel.copy.isVisible()
    panel.close()


@pytest.mark.parametrize("harm", ["closed", "changed"])
def test_a_late_result_is_held_and_not_lost(panel: SegmentPanel, qtbot: Any, gate: Gate, harm: str) -> None:
    panel.run()
    assert gate.reached.wait(60)
    layer = panel.viewer.layers[0]
    if harm == "closed":
        panel.viewer.layers.remove(layer)
    else:
        layer.data = layer.data.copy()
    gate.opened.set()
    settle(qtbot, panel)
    assert "tiny labels" not in panel.viewer.layers
    assert "meanwhile" in panel.said.text()
    assert panel.held is not None
    panel.add_button.click()
    assert "tiny labels" in panel.viewer.layers


def test_a_second_run_waits_for_the_first(panel: SegmentPanel, qtbot: Any, gate: Gate) -> None:
    panel.run()
    assert gate.reached.wait(60)
    first = panel.job
    panel.run()
    assert "already" in panel.said.text()
    assert panel.job is first
    panel.cancel()
    assert not panel.run_button.isEnabled()
    gate.opened.set()
    settle(qtbot, panel)
    assert "Stopped" in panel.said.text()
    assert [layer.name for layer in panel.viewer.layers] == ["MR"]
    panel.run()
    settle(qtbot, panel)
    assert "tiny labels" in panel.viewer.layers


def test_a_model_removed_while_it_runs_still_answers_and_is_missed_after(
    panel: SegmentPanel, qtbot: Any, gate: Gate, models: Path
) -> None:
    panel.run()
    assert gate.reached.wait(60)
    shutil.rmtree(models / MODEL)
    gate.opened.set()
    settle(qtbot, panel)
    assert "tiny labels" in panel.viewer.layers
    loaded.cache_clear()
    panel.run()
    settle(qtbot, panel)
    assert "UNKNOWN_MODEL" in panel.said.text()
    assert MODEL not in panel.entries


def test_the_window_may_be_closed_while_it_runs(panel: SegmentPanel, qtbot: Any, gate: Gate) -> None:
    dock = panel.viewer.window.add_dock_widget(panel, name="2 Segment")
    panel.run()
    assert gate.reached.wait(60)
    job = panel.job
    assert job is not None
    panel.viewer.window.remove_dock_widget(dock)
    panel.close()
    gate.opened.set()
    qtbot.waitUntil(lambda: job.wait(0), timeout=60000)
    assert "tiny labels" not in panel.viewer.layers


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError("1/0")])
def test_what_nobody_expected_is_told_with_a_cure(
    panel: SegmentPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_args: Any, **_words: Any) -> Any:
        raise error

    monkeypatch.setattr(module, "segment", broken)
    panel.run()
    settle(qtbot, panel)
    code = "OUT_OF_MEMORY" if isinstance(error, MemoryError) else "INTERNAL"
    assert code in panel.said.text()
    panel._copy_details()
    from qtpy.QtWidgets import QApplication

    assert type(error).__name__ in QApplication.clipboard().text()
    assert panel.run_button.text() == "Run"
    assert panel.run_button.isEnabled()


def test_a_model_of_several_images_asks_for_each(
    panel: SegmentPanel, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noted(source: Any, *_args: Any, **_words: Any) -> Any:
        asked.extend(source)
        raise MemoryError

    monkeypatch.setattr(module, "segment", noted)
    data, words, _ = scan_layer(scan(), "FLAIR of the same head")
    panel.viewer.add_image(data, **words)
    entry = panel.entries[MODEL]
    assert entry.card is not None
    card = replace(entry.card, in_channels=2, channel_names=("T1", "FLAIR"))
    panel.entries[MODEL] = replace(entry, card=card)
    panel._show_card()
    assert len(panel.channels) == 2
    assert panel.form.labelForField(panel.channels[1]).text() == "FLAIR"
    panel.channels[1].setCurrentText("FLAIR of the same head")
    panel.run()
    settle(qtbot, panel)
    assert len(asked) == 2
    panel.models.setCurrentText("brain-mri")
    assert len(panel.channels) == 1
    assert panel.form.labelForField(panel.channels[0]).text() == "Scan"
