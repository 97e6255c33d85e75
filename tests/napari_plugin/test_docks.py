"""Every dock as it is seen: nothing is cut off, and what was found stands in it in its colour."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from qtpy.QtGui import QImage
from qtpy.QtWidgets import QCheckBox, QPushButton, QWidget

from napari_plugin.export import KINDS, ExportPanel
from napari_plugin.objects import ObjectsPanel
from napari_plugin.ortho import toggle_planes
from napari_plugin.panel import Button, Panel
from napari_plugin.samples import phantom_ct
from napari_plugin.segment import SegmentPanel
from napari_plugin.study import StudyPanel
from napari_plugin.views import show_plane

MakeViewer = Callable[..., Any]


@pytest.fixture
def viewer(make_napari_viewer: MakeViewer) -> Any:
    """A body with organs, in a window as large as a laptop's."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1400, 900)
    for data, words, kind in phantom_ct():
        getattr(viewer, f"add_{kind}")(data, **words)
    show_plane(viewer, "axial")
    return viewer


def docked(viewer: Any, qtbot: Any, panel: Panel) -> Panel:
    viewer.window.add_dock_widget(panel, name="dock")
    qtbot.waitUntil(lambda: panel.isVisible() and panel.is_settled, timeout=60000)
    return panel


def pixels(widget: QWidget) -> Any:
    """What a widget shows, `(rows, columns, 3)`."""
    image = widget.grab().toImage().convertToFormat(QImage.Format.Format_RGB32)
    data = np.frombuffer(image.constBits().asstring(image.sizeInBytes()), np.uint8)
    return data.reshape(image.height(), image.width(), 4)[..., 2::-1].astype(int)


def shows(picture: Any, colour: Any, count: int = 30) -> bool:
    """Whether a colour, 0 to 1, stands in a picture."""
    return bool((np.abs(picture - np.asarray(colour)[:3] * 255).max(axis=2) < 8).sum() >= count)


def overlaps(panel: QWidget) -> list[str]:
    """Parts of a panel that lie over one another."""
    parts = [p for p in panel.children() if isinstance(p, QWidget) and p.isVisible()]
    pairs = itertools.combinations(parts, 2)
    return [
        f"{a}: {a.geometry()}, {b}: {b.geometry()}" for a, b in pairs if a.geometry().intersects(b.geometry())
    ]


@pytest.mark.parametrize("kind", [StudyPanel, SegmentPanel, ObjectsPanel, ExportPanel])
def test_no_words_are_cut_off_and_nothing_overlaps(viewer: Any, qtbot: Any, kind: type[Panel]) -> None:
    panel = docked(viewer, qtbot, kind(viewer))
    parts = [p for one in (QPushButton, QCheckBox) for p in panel.findChildren(one) if p.isVisible()]
    assert len(parts) >= 3
    for part in parts:
        words = QPushButton.text(part) if isinstance(part, Button) else part.text()
        assert part.width() >= part.fontMetrics().horizontalAdvance(words), words
        assert part.height() >= part.fontMetrics().height(), words
    qtbot.waitUntil(lambda: not overlaps(panel), timeout=20000)  # the dock grows to what its parts need
    assert pixels(panel).std() > 10
    disabled = [p for p in parts if isinstance(p, QPushButton) and not p.isEnabled()]
    assert all(p.toolTip() for p in disabled), [p.text() for p in disabled if not p.toolTip()]


def test_objects_stand_in_their_colours(viewer: Any, qtbot: Any) -> None:
    panel = docked(viewer, qtbot, ObjectsPanel(viewer))
    assert isinstance(panel, ObjectsPanel)
    panel.measure()
    qtbot.waitUntil(lambda: panel.is_settled and panel.sorted.rowCount() > 3, timeout=60000)
    layer = viewer.layers["organs"]
    assert panel.regions is not None
    dock = pixels(panel.table)
    for region in panel.regions.regions:
        assert shows(dock, layer.get_color(region.id)), region.name


def test_organs_stand_in_all_three_planes(viewer: Any, qtbot: Any) -> None:
    layer = viewer.layers["organs"]
    layer.opacity = 1.0
    planes = toggle_planes(viewer)
    assert planes is not None
    panel = ObjectsPanel(viewer)
    panel.measure()
    qtbot.waitUntil(lambda: panel.is_settled, timeout=60000)
    assert panel.regions is not None
    regions = panel.regions.regions
    row = int(np.argmax([region.volume_mm3 for region in regions]))
    panel.jump(row)
    colour = layer.get_color(regions[row].id)
    assert shows(viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int), colour)
    for view in planes.views:
        qtbot.waitUntil(
            lambda view=view: shows(view.screenshot(flash=False)[..., :3].astype(int), colour), timeout=20000
        )
    panel.close()
    toggle_planes(viewer)


def test_the_export_names_its_formats(viewer: Any, qtbot: Any) -> None:
    panel = docked(viewer, qtbot, ExportPanel(viewer))
    words = [box.text() for box in panel.findChildren(QCheckBox)]
    assert words == list(KINDS.values())
    assert "DICOM" in panel.findChildren(QCheckBox)[0].toolTip()
