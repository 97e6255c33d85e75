"""The panels in a real window: what a user clicks, and what then stands on the screen."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from dicom_makers import line, make_source, uid
from phantoms import Sphere, label_map
from qtpy.QtWidgets import QFileDialog

from medseg import CancelToken, Geometry, LabelVolume, Volume, read_labels
from napari_plugin.export import ExportPanel
from napari_plugin.layers import labels_layer, labels_of, position_of, world_of
from napari_plugin.learn import LearnPanel
from napari_plugin.ortho import Planes
from napari_plugin.panel import Panel
from napari_plugin.readers import scan_layer
from napari_plugin.study import StudyPanel
from napari_plugin.views import edge_letters, say_true_coordinates, show_plane

MakeViewer = Callable[..., Any]


def settle(qtbot: Any, panel: Panel, seconds: float = 120) -> None:
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=int(seconds * 1000))


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


@pytest.mark.parametrize("kind", [StudyPanel, LearnPanel])
def test_the_button_that_opens_a_folder_stops_what_it_began(
    make_napari_viewer: MakeViewer, qtbot: Any, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    asked: list[str] = []

    def ask(*_: object) -> str:
        asked.append("asked")
        return ""

    monkeypatch.setattr(QFileDialog, "getExistingDirectory", ask)
    panel = kind(make_napari_viewer())
    panel.folder_button.click()
    assert asked == ["asked"]

    def work(_: Any, cancel: CancelToken) -> None:
        while True:
            time.sleep(0.01)
            cancel.check()

    panel.start(work, panel.folder_button, lambda _: None)
    panel.folder_button.click()
    settle(qtbot, panel)
    assert asked == ["asked"]
    assert panel.job is None


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
    for plane, letters in (("axial", "APRL"), ("coronal", "SIRL"), ("sagittal", "SIAP")):
        show_plane(viewer, plane)
        edges = ("top_center", "bottom_center", "middle_left", "middle_right")
        assert "".join(edge_letters(viewer)[edge] for edge in edges) == letters
        assert "".join(viewer.canvas.overlays[f"medseg_{edge}"].text for edge in edges) == letters
        assert viewer.canvas.overlays["medseg_middle_left"].visible
        assert viewer.scene.camera.orientation2d[0] == ("down" if plane == "axial" else "up")
    viewer.dims.ndisplay = 3
    assert not viewer.canvas.overlays["medseg_middle_left"].visible


def test_three_planes_on_one_button_show_the_same_place(make_napari_viewer: MakeViewer, qtbot: Any) -> None:
    viewer = make_napari_viewer()
    panel = StudyPanel(viewer)
    assert "Load a scan first" in panel.planes_button.toolTip()
    scan, labels = two_balls()
    data, words, _ = scan_layer(scan)
    image = viewer.add_image(data, **words)
    data, words, _ = labels_layer(labels, "organs", scan)
    layer = viewer.add_labels(data, **words)
    show_plane(viewer, "axial")
    panel.planes_button.click()
    planes = viewer.window.dock_widgets["Planes"]
    assert isinstance(planes, Planes)
    assert [model.dims.order[0] for model in planes.models] == [1, 2]  # coronal and sagittal
    viewer.dims.set_point((0, 1, 2), (14.0, -20.0, -12.0))
    for model in planes.models:
        assert model.dims.point == pytest.approx(viewer.dims.point)
        assert np.shares_memory(model.layers[0].data, image.data)
        assert np.shares_memory(model.layers[1].data, layer.data)
    planes._go((20.0, -10.0, -8.0))
    assert viewer.dims.point == pytest.approx((20, -10, -8), abs=1)
    image.contrast_limits = (5, 50)
    assert planes.models[0].layers[0].contrast_limits == [5, 50]
    show_plane(viewer, "coronal")
    assert [model.dims.order[0] for model in planes.models] == [0, 2]
    viewer.layers.remove(layer)
    assert [len(model.layers) for model in planes.models] == [1, 1]
    panel.planes_button.click()
    assert "Planes" not in viewer.window.dock_widgets


def test_windows_of_ct_are_for_ct(make_napari_viewer: MakeViewer) -> None:
    viewer = make_napari_viewer()
    panel = StudyPanel(viewer)
    scan, _ = two_balls()
    data, words, _ = scan_layer(replace(scan, modality="MR"))
    viewer.add_image(data, **words)
    assert "For CT" in panel.window_buttons["lung"].toolTip()
    assert panel.window_buttons["from the image"].isEnabled()
    data, words, _ = scan_layer(scan)
    layer = viewer.add_image(data, **words)
    panel.window_buttons["lung"].click()
    assert layer.contrast_limits == [-1350, 150]
    panel.window_buttons["from the image"].click()
    assert layer.contrast_limits[0] >= 0


def series_of(folder: Path, study: int, count: int = 4) -> None:
    slices = make_source(folder, line(count), size=(8, 6)).slices
    assert len(slices) == count
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(study, 1)
        dataset.PatientName, dataset.PatientID = f"Patient {study}", f"P{study}"
        dataset.save_as(path)


def test_two_patients_in_one_folder_are_told(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    for study in (7, 8):
        (tmp_path / str(study)).mkdir()
        series_of(tmp_path / str(study), study)
    panel = StudyPanel(make_napari_viewer())
    panel.open(tmp_path)
    settle(qtbot, panel)
    assert panel.table.rowCount() == 2
    assert "2 studies" in panel.said.text()
    assert "Patient" not in panel.said.text()


def test_a_zip_is_listed_as_a_folder_is(make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    series_of(tmp_path / "study", 7)
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in (tmp_path / "study").iterdir():
            archive.write(path, path.name)
    panel = StudyPanel(make_napari_viewer())
    panel.open(tmp_path / "study.zip")
    settle(qtbot, panel)
    panel.load()
    settle(qtbot, panel)
    assert panel.viewer.layers[0].data.shape == (4, 8, 6)
    assert "panel 2 Segment" in panel.said.text()


def test_a_volume_larger_than_memory_is_answered_in_words(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    header = (
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 90000 90000 90000\nspace: left-posterior-superior\n"
    )
    header += b"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\n\n"
    (tmp_path / "huge.nrrd").write_bytes(header + b"\0" * 100)
    panel = StudyPanel(make_napari_viewer())
    panel.open(tmp_path / "huge.nrrd")
    settle(qtbot, panel)
    assert "[" in panel.said.text()
    assert "INTERNAL" not in panel.said.text()


def test_an_export_that_cannot_be_written_is_told(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    scan, labels = two_balls()
    data, words, _ = labels_layer(labels, "organs", scan)
    viewer.add_labels(data, **words)
    (tmp_path / "file").write_text("where a folder should be")
    panel = ExportPanel(viewer)
    panel.export(tmp_path / "file" / "out")
    settle(qtbot, panel)
    assert "NOT_WRITABLE" in panel.said.text()
    assert panel.export_button.isEnabled()
