"""The Objects panel: rows that lead to their objects, and corrections that can be taken back."""

from __future__ import annotations

import csv
import gc
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from phantoms import Sphere, label_map
from qtpy.QtCore import Qt

from medseg import Geometry, InstanceVolume, LabelSet, LabelVolume, Volume, measure_regions
from napari_plugin.history import history_of
from napari_plugin.layers import labels_layer, labels_of, position_of
from napari_plugin.object_table import COLUMNS, LOCK, NAME, SHOW
from napari_plugin.objects import ObjectsPanel
from napari_plugin.readers import scan_layer
from napari_plugin.views import show_plane

MakeViewer = Callable[..., Any]


def settle(qtbot: Any, panel: ObjectsPanel, seconds: float = 60) -> None:
    qtbot.waitUntil(lambda: panel.is_settled and not panel._again.isActive(), timeout=int(seconds * 1000))


def organs() -> LabelVolume:
    """A dumbbell of two balls as one liver, and a spleen."""
    geometry = Geometry.from_spacing((40, 40, 20), (1.0, 1.0, 2.0))
    left = label_map(geometry, {"liver": Sphere((12, 20, 20), 7)}).array
    right = label_map(geometry, {"liver": Sphere((23, 20, 20), 6)}).array
    spleen = label_map(geometry, {"spleen": Sphere((33, 33, 22), 4)}).array
    array = np.where(spleen > 0, 2, np.maximum(left, right)).astype(np.uint8)
    return LabelVolume(array, geometry, LabelSet.from_names({1: "liver", 2: "spleen"}))


@pytest.fixture
def panel(make_napari_viewer: MakeViewer, qtbot: Any) -> ObjectsPanel:
    """Organs of a CT scan, measured."""
    viewer = make_napari_viewer()
    labels = organs()
    scan = Volume(labels.array.astype(np.float32) * 100, labels.geometry, "CT")
    data, words, _ = labels_layer(labels, "organs", scan)
    viewer.add_labels(data, **words)
    panel = ObjectsPanel(viewer)
    assert "Measure first" in panel.delete_button.toolTip()
    panel.measure()
    settle(qtbot, panel)
    return panel


def cell(panel: ObjectsPanel, label_id: int, column: int, role: Any = Qt.ItemDataRole.DisplayRole) -> Any:
    assert panel.regions is not None
    return panel.regions.data(panel.regions.index(panel.regions.rows[label_id], column), role)


def select(panel: ObjectsPanel, *ids: int) -> None:
    panel.table.clearSelection()
    for label_id in ids:
        panel._select(label_id)
    assert panel.selected_ids() == sorted(ids)


def array_of(panel: ObjectsPanel) -> Any:
    assert panel.layer is not None
    return labels_of(panel.layer).array


def test_rows_tell_what_was_measured(panel: ObjectsPanel) -> None:
    assert panel.sorted.rowCount() == 2
    assert cell(panel, 2, NAME) == "spleen"
    assert float(cell(panel, 2, COLUMNS.index("mean"))) == 200
    assert float(cell(panel, 2, COLUMNS.index("volume"))) == pytest.approx(4 / 3 * np.pi * 64 / 1000, rel=0.1)
    assert float(cell(panel, 2, COLUMNS.index("long"))) == pytest.approx(8, abs=1.5)
    assert panel.regions is not None
    assert {"ml", "long mm"} <= set(panel.regions.heads)
    panel.filter.setText("SPL")
    assert panel.sorted.rowCount() == 1


def test_nuclei_are_told_in_micrometres(panel: ObjectsPanel) -> None:
    labels = organs()
    small = replace(labels, geometry=Geometry.from_spacing(labels.geometry.shape, (3e-4,) * 3))
    assert panel.layer is not None
    panel.show_regions(measure_regions(small), panel.layer)
    assert panel.regions is not None
    assert {"um3", "across um"} <= set(panel.regions.heads)
    voxels = int((labels.array == 2).sum())
    assert float(cell(panel, 2, COLUMNS.index("volume"))) == pytest.approx(voxels * 0.3**3, rel=1e-3)


def test_a_click_goes_there_in_every_plane(panel: ObjectsPanel) -> None:
    assert panel.regions is not None
    assert panel.layer is not None
    row = panel.regions.rows[2]
    place = position_of(panel.layer, panel.regions.regions[row].centroid_mm)
    for plane in ("axial", "coronal", "sagittal"):
        show_plane(panel.viewer, plane)
        panel.viewer.dims.set_point((0, 1, 2), (0, 0, 0))
        panel._clicked(
            panel.sorted.index(panel.sorted.mapFromSource(panel.regions.index(row, NAME)).row(), NAME)
        )
        assert panel.viewer.dims.point == pytest.approx(place, abs=2.0)
        shown = [place[axis] for axis in panel.viewer.dims.displayed]
        assert panel.viewer.scene.camera.center[1:] == pytest.approx(shown, abs=2.0)
    assert panel.layer.selected_label == 2
    panel.viewer.dims.ndisplay = 3
    panel.jump(row)
    in_3d = [place[axis] for axis in panel.viewer.dims.displayed]
    assert panel.viewer.scene.camera.center == pytest.approx(in_3d, abs=2.0)


def test_a_label_picked_in_the_picture_is_selected(panel: ObjectsPanel) -> None:
    assert panel.layer is not None
    panel.layer.selected_label = 2
    assert panel.selected_ids() == [2]


def test_merge_delete_and_undo(panel: ObjectsPanel, qtbot: Any) -> None:
    before = array_of(panel)
    assert "two rows" in panel.merge_button.toolTip()
    select(panel, 1, 2)
    panel.merge()
    settle(qtbot, panel)
    assert np.unique(array_of(panel)).tolist() == [0, 1]
    assert panel.sorted.rowCount() == 1  # measured again by itself
    panel.undo()
    settle(qtbot, panel)
    assert np.array_equal(array_of(panel), before)
    select(panel, 2)
    panel.delete()
    settle(qtbot, panel)
    assert panel.sorted.rowCount() == 1
    panel.redo()
    assert panel.history is not None
    assert panel.history.undo(2)
    settle(qtbot, panel)
    assert np.array_equal(array_of(panel), before)


def test_a_slider_shows_parts_and_splits(panel: ObjectsPanel, qtbot: Any) -> None:
    before = array_of(panel)
    assert "Click one object" in panel.split.clicks_button.toolTip()
    select(panel, 1)
    panel.split.slider.setValue(100)
    settle(qtbot, panel)
    assert panel.split.edit is None  # deeper than the neck: one part
    panel.split.slider.setValue(30)
    settle(qtbot, panel)
    preview = panel.viewer.layers["parts (preview)"]
    assert np.unique(preview.data).tolist() == [0, 1, 2]
    assert panel.layers.count() == 1  # a preview is nobody's labels
    assert np.array_equal(array_of(panel), before)
    panel.split.apply()
    settle(qtbot, panel)
    assert [layer.name for layer in panel.viewer.layers] == ["organs"]
    after = array_of(panel)
    assert (after[12, 20, 10], after[23, 20, 10]) == (1, 3)
    assert cell(panel, 3, NAME) == "liver 2"
    panel.undo()
    settle(qtbot, panel)
    assert np.array_equal(array_of(panel), before)


def test_clicks_split(panel: ObjectsPanel, qtbot: Any) -> None:
    assert panel.layer is not None
    select(panel, 1)
    panel.split.click()
    points = panel.viewer.layers["split here"]
    for world in ((-12, 20, 20), (-23, 20, 20)):
        points.add(position_of(panel.layer, np.multiply(world, (-1, 1, 1))))
    panel.split.click()
    settle(qtbot, panel)
    panel.split.apply()
    settle(qtbot, panel)
    after = array_of(panel)
    assert (after[12, 20, 10], after[23, 20, 10]) == (1, 3)
    select(panel, 2)
    panel.split.click()
    panel.split.click()  # no click at all
    settle(qtbot, panel)
    assert "TOO_FEW_POINTS" in panel.said.text()
    assert "split here" not in panel.viewer.layers


def test_boxes_show_and_lock(panel: ObjectsPanel, qtbot: Any) -> None:
    assert panel.regions is not None
    assert panel.layer is not None
    tick = Qt.ItemDataRole.CheckStateRole
    row = panel.regions.rows[2]
    panel.regions.setData(panel.regions.index(row, SHOW), Qt.CheckState.Unchecked.value, tick)
    assert panel.layer.get_color(2)[3] == 0
    panel.regions.setData(panel.regions.index(row, LOCK), Qt.CheckState.Checked.value, tick)
    assert cell(panel, 2, LOCK, tick) == Qt.CheckState.Checked
    before = array_of(panel)
    select(panel, 2)
    panel.delete()
    settle(qtbot, panel)
    assert "LOCKED" in panel.said.text()
    assert np.array_equal(array_of(panel), before)


def test_a_name_is_changed_in_its_cell(panel: ObjectsPanel, qtbot: Any) -> None:
    assert panel.regions is not None
    assert panel.layer is not None
    assert panel.regions.setData(panel.regions.index(panel.regions.rows[2], NAME), "cyst")
    settle(qtbot, panel)
    assert labels_of(panel.layer).labels.names == {1: "liver", 2: "cyst"}
    assert cell(panel, 2, NAME) == "cyst"
    assert not panel.regions.setData(panel.regions.index(panel.regions.rows[2], NAME), "liver")
    assert "BAD_LABELS" in panel.said.text()


def test_the_table_is_saved_with_diameters(panel: ObjectsPanel, qtbot: Any, tmp_path: Path) -> None:
    panel.save_csv(tmp_path / "regions.csv")
    settle(qtbot, panel)
    with (tmp_path / "regions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["liver", "spleen"]
    assert "longest_diameter_mm" in rows[0]


def test_a_closed_layer_empties_the_table(panel: ObjectsPanel) -> None:
    panel.viewer.layers.clear()
    assert panel.sorted.rowCount() == 0
    assert "closed" in panel.said.text()
    assert not panel.csv_button.isEnabled()
    assert "no labels layer" in panel.measure_button.toolTip()


def test_labels_drawn_in_the_viewer_get_their_scans_place(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    labels = organs()
    drawn = viewer.add_labels(np.zeros(labels.array.T.shape, np.uint8), name="drawn")
    drawn.data[10, 20, 20] = 1
    panel = ObjectsPanel(viewer)
    panel.measure()
    settle(qtbot, panel)
    assert "NO_GEOMETRY" in panel.said.text()
    data, words, _ = scan_layer(Volume(labels.array.astype(np.float32), labels.geometry, "CT"))
    viewer.add_image(data, **words)
    panel.measure()
    settle(qtbot, panel)
    assert panel.sorted.rowCount() == 1
    assert labels_of(drawn).geometry.is_close(labels.geometry)


def test_thousands_of_objects_open_and_are_reached_at_once(
    make_napari_viewer: MakeViewer, qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    geometry = Geometry.from_spacing((45, 45, 45))
    array = np.zeros(geometry.shape, np.uint16)
    array[::3, ::3, ::3] = np.arange(15**3).reshape(15, 15, 15) + 1
    ids = range(1, 15**3 + 1)
    labels = InstanceVolume(array, geometry, LabelSet.from_names({1: "nucleus"}), dict.fromkeys(ids, 1))
    data, words, _ = labels_layer(labels, "many")
    layer = viewer.add_labels(data, **words)
    panel = ObjectsPanel(viewer)
    regions = measure_regions(labels)
    began = time.process_time()
    panel.show_regions(regions, layer)
    panel.table.sortByColumn(COLUMNS.index("volume"), Qt.SortOrder.DescendingOrder)
    assert panel.sorted.rowCount() == 15**3
    assert time.process_time() - began < 5  # as a figure: benchmarks/napari_window.py
    began = time.process_time()
    for row in (3000, 5, 1500):
        panel.jump(row)
        assert layer.selected_label == regions[row].id
    assert time.process_time() - began < 5
    settle(qtbot, panel)


def test_napari_hands_plugins_a_proxy_and_corrections_survive_it(
    make_napari_viewer_proxy: MakeViewer, qtbot: Any
) -> None:
    """A proxy makes its layers anew at each access: what hangs on one of them would be lost."""
    viewer = make_napari_viewer_proxy()
    data, words, _ = labels_layer(organs(), "organs")
    viewer.add_labels(data, **words)
    panel = ObjectsPanel(viewer)
    panel.measure()
    settle(qtbot, panel)
    before = array_of(panel)
    select(panel, 2)
    panel.delete()
    settle(qtbot, panel)
    gc.collect()
    panel.layers.setCurrentText("organs")
    assert panel.history is not None
    assert panel.history is history_of(panel.viewer.layers["organs"])
    panel.undo()
    settle(qtbot, panel)
    assert np.array_equal(array_of(panel), before)
