"""Make the pictures of docs/napari.md: every panel in a real window, with sample data.

    QT_API=pyqt6 xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_pictures.py [FOLDER]

Look at each before it is committed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.qt import get_qapp

from medseg import Geometry, InstanceVolume, LabelSet, read_labels, separate
from napari_plugin.export import ExportPanel
from napari_plugin.layers import labels_layer
from napari_plugin.objects import ObjectsPanel
from napari_plugin.ortho import toggle_planes
from napari_plugin.panel import Panel
from napari_plugin.samples import FOLDERS, head_mri, phantom_ct
from napari_plugin.segment import SegmentPanel
from napari_plugin.study import StudyPanel
from napari_plugin.views import show_plane

SIZE = (1400, 900)
MOST_SECONDS = 600.0


def settle(done: Callable[[], bool]) -> None:
    """Let the window work until something is done."""
    began = time.monotonic()
    while not done():
        get_qapp().processEvents()
        time.sleep(0.02)
        if time.monotonic() - began > MOST_SECONDS:
            raise TimeoutError("a panel did not come to rest")
    for _ in range(10):
        get_qapp().processEvents()
        time.sleep(0.02)


def window(*layers: Any) -> Any:
    """A viewer of fixed size with some layers."""
    viewer = napari.Viewer()
    viewer.window.resize(*SIZE)
    for data, words, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **words)
    return viewer


def docked(viewer: Any, panel: Panel, name: str) -> Panel:
    """A panel at the right of the window."""
    viewer.window.add_dock_widget(panel, name=name)
    settle(lambda: panel.is_settled)
    return panel


def shot(viewer: Any, path: Path) -> None:
    """Save the window, with few colours so that the file stays small."""
    from PIL import Image

    settle(lambda: True)
    picture = viewer.screenshot(canvas_only=False, flash=False)[..., :3]
    Image.fromarray(np.ascontiguousarray(picture)).quantize(128).save(path, optimize=True)
    viewer.close()


def study(folder: Path) -> None:
    """The list of series, and three planes."""
    viewer = window(*phantom_ct())
    docked(viewer, StudyPanel(viewer), "1 Study")
    show_plane(viewer, "axial")
    toggle_planes(viewer)
    settle(lambda: True)
    time.sleep(0.4)
    shot(viewer, folder / "study.png")


def segment(folder: Path) -> None:
    """A head, segmented."""
    viewer = window(*head_mri())
    panel = SegmentPanel(viewer)
    docked(viewer, panel, "2 Segment")
    show_plane(viewer, "axial")
    panel.models.setCurrentText("brain-mri")
    settle(lambda: panel.is_settled and panel.plan.text().startswith("Expected"))
    panel.run()
    settle(lambda: panel.is_settled)
    viewer.dims.set_point(0, 0.0)
    shot(viewer, folder / "segment.png")


def objects(folder: Path) -> None:
    """Spheres that touch, one of them about to be split."""
    path = next(place / "touching_spheres.nii.gz" for place in FOLDERS if place.is_dir())
    found = separate(read_labels(path), 1)
    viewer = window(labels_layer(found, "spheres"))
    panel = ObjectsPanel(viewer)
    docked(viewer, panel, "3 Objects")
    show_plane(viewer, "axial")
    panel.measure()
    settle(lambda: panel.is_settled)
    panel.jump(0)
    panel.table.selectRow(0)
    panel.split.slider.setValue(20)
    settle(lambda: panel.is_settled)
    shot(viewer, folder / "objects.png")


def nuclei(folder: Path) -> None:
    """Three thousand objects."""
    shape, step = (150, 200, 100), 10
    array = np.zeros(shape, np.uint16)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    ball = (((grid % step) - step // 2) ** 2).sum(axis=0) < 14
    cells = [n // step for n in shape]
    numbers = np.arange(1, np.prod(cells) + 1).reshape(cells)
    array[ball] = numbers.repeat(step, 0).repeat(step, 1).repeat(step, 2)[ball]
    classes = dict.fromkeys(range(1, int(numbers.max()) + 1), 1)
    names = LabelSet.from_names({1: "nucleus"})
    objects_of = InstanceVolume(array, Geometry.from_spacing(shape, (3e-4,) * 3), names, classes)
    viewer = window(labels_layer(objects_of, "nuclei"))
    panel = ObjectsPanel(viewer)
    docked(viewer, panel, "3 Objects")
    show_plane(viewer, "axial")
    panel.measure()
    settle(lambda: panel.is_settled)
    panel.jump(1500)
    shot(viewer, folder / "nuclei.png")


def export(folder: Path) -> None:
    """What can be written."""
    viewer = window(*phantom_ct())
    docked(viewer, ExportPanel(viewer), "6 Export")
    show_plane(viewer, "coronal")
    shot(viewer, folder / "export.png")


def main() -> None:
    """Make all pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for make in (study, segment, objects, nuclei, export):
        make(folder)


if __name__ == "__main__":
    main()
