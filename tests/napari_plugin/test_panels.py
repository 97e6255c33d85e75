"""The panels in a real window: what a user clicks, and what then stands on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from phantoms import Sphere, label_map
from qtpy.QtCore import QTimer

from medseg import Geometry, LabelVolume, Volume, read_labels
from napari_plugin.export import ExportPanel
from napari_plugin.layers import labels_layer, labels_of, position_of, world_of
from napari_plugin.panel import Panel
from napari_plugin.readers import scan_layer
from napari_plugin.samples import head_mri
from napari_plugin.segment import SegmentPanel
from napari_plugin.study import StudyPanel
from napari_plugin.views import edge_letters, say_true_coordinates, show_plane

MakeViewer = Callable[..., Any]


def settle(qtbot: Any, panel: Panel, seconds: float = 120) -> None:
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=int(seconds * 1000))


def head(viewer: Any) -> Any:
    data, words, _ = head_mri()[0]
    return viewer.add_image(data, **words)


@pytest.mark.filterwarnings("ignore::medseg.ReadNotice")  # napari shows them; here they say "resampled"
def test_the_tilted_series_is_listed_and_loaded(
    make_napari_viewer: MakeViewer, qtbot: Any, shared_data: Path
) -> None:
    viewer = make_napari_viewer()
    panel = StudyPanel(viewer)
    panel.open(shared_data / "dicom")
    settle(qtbot, panel)
    rows = panel.table.rowCount()
    assert rows == len(panel.series) > 10
    tilted = next(n for n, one in enumerate(panel.series) if one.geometry == "tilted" and one.readable)
    panel.table.selectRow(tilted)
    assert panel.load_button.isEnabled()
    panel.load()
    settle(qtbot, panel)
    assert len(viewer.layers) == 1
    assert viewer.layers[0].data.ndim == 3
    refused = [n for n, one in enumerate(panel.series) if not one.readable]
    panel.table.selectRow(refused[0])
    assert not panel.load_button.isEnabled()
    assert panel.series[refused[0]].reason in panel.load_button.toolTip()


def test_a_folder_of_junk_is_answered_in_words(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    (tmp_path / "readme.txt").write_text("no scan")
    panel = StudyPanel(make_napari_viewer())
    panel.open(tmp_path)
    settle(qtbot, panel)
    assert "[" in panel.said.text()
    assert panel.copy.isVisibleTo(panel)


def test_segment_cancel_and_segment_again(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    panel = SegmentPanel(viewer)
    assert not panel.run_button.isEnabled()
    assert "Open a scan first" in panel.run_button.toolTip()
    scan = head(viewer)
    panel.models.setCurrentText("brain-mri")
    assert panel.run_button.isEnabled()
    panel.run()
    assert panel.run_button.text() == "Cancel"
    panel.run()
    assert "already" in panel.said.text()
    panel.cancel()
    settle(qtbot, panel)
    assert panel.run_button.text() == "Run"
    assert len(viewer.layers) == 1
    gaps = Heartbeat()
    panel.run()
    settle(qtbot, panel)
    assert len(gaps.seconds) > 3
    assert panel.result is not None
    labels = viewer.layers["brain-mri labels"]
    assert labels.data.shape == scan.data.shape
    names = labels_of(labels).labels.names
    assert "left hippocampus" in {name.lower() for name in names.values()}
    assert "not stated" not in panel.card.text()


class Heartbeat:
    """Times between ticks of the window's own clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = time.monotonic()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(10)

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds.append(now - self._last)
        self._last = now


def two_balls() -> tuple[Volume, LabelVolume]:
    geometry = Geometry.from_spacing((40, 40, 20), (1.0, 1.0, 2.0))
    labels = label_map(geometry, {"liver": Sphere((12, 20, 20), 6), "spleen": Sphere((29, 23, 22), 4)})
    return Volume(labels.array.astype(np.float32) * 100, geometry, "CT"), labels


def test_what_was_painted_is_exported_and_read_back(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    scan, labels = two_balls()
    data, words, _ = labels_layer(labels, "organs", scan)
    layer = viewer.add_labels(data, **words)
    layer.paint((10, 20, 12), 1)
    panel = ExportPanel(viewer)
    assert not panel.kinds["dicom-seg"].isEnabled()
    panel.export(tmp_path / "out")
    settle(qtbot, panel)
    back = read_labels(tmp_path / "out" / "labels.nii.gz")
    assert np.array_equal(back.array, labels_of(layer).array)
    assert back.labels.names == labels.labels.names
    layer.undo()
    assert np.array_equal(labels_of(layer).array, labels.array)


def test_a_layer_that_was_moved_is_refused_in_words(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    scan, labels = two_balls()
    data, words, _ = labels_layer(labels, "organs", scan)
    layer = viewer.add_labels(data, **words)
    layer.translate = np.add(layer.translate, 5)
    panel = ExportPanel(viewer)
    panel.export(tmp_path / "out")
    settle(qtbot, panel)
    assert "GEOMETRY_CHANGED" in panel.said.text()
    assert not (tmp_path / "out").exists()


def test_the_status_bar_says_where_the_file_says(make_napari_viewer: MakeViewer) -> None:
    viewer = make_napari_viewer()
    affine = np.eye(4)
    affine[:2, :2] = np.array([[0.8, -0.6], [0.6, 0.8]]) * 2
    scan = Volume(np.ones((5, 6, 7), np.float32), Geometry((5, 6, 7), affine), "MR")
    data, words, _ = scan_layer(scan)
    layer = viewer.add_image(data, **words)
    say_true_coordinates(layer)
    position = position_of(layer, scan.geometry.to_world((2, 3, 4)))
    status = layer.get_status(position, world=True)
    right, anterior, superior = scan.geometry.to_world((2, 3, 4))
    assert f"R {right:.1f}  A {anterior:.1f}  S {superior:.1f} mm: 1" in status["coordinates"]
    assert world_of(layer, position) == pytest.approx((right, anterior, superior))


def test_heads_are_up_in_every_plane(make_napari_viewer: MakeViewer) -> None:
    viewer = make_napari_viewer()
    StudyPanel(viewer)
    scan, _ = two_balls()
    data, words, _ = scan_layer(scan)
    viewer.add_image(data, **words)
    for plane, letters in (
        ("axial", "top A \u00b7 left R \u00b7 right L"),
        ("coronal", "top S \u00b7 left R \u00b7 right L"),
        ("sagittal", "top S \u00b7 left A \u00b7 right P"),
    ):
        show_plane(viewer, plane)
        assert edge_letters(viewer) == letters
        assert viewer.canvas.overlays.text.text == letters
        assert viewer.scene.camera.orientation2d[0] == ("down" if plane == "axial" else "up")
