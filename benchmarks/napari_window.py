"""How quick the napari window is: gaps while a network runs, cancel, first slice, thousands of objects.

    QT_API=pyqt6 xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/napari_window.py [--objects 3000]

Needs the extra `napari` and a Qt binding; Xvfb draws in software, so a graphics card is quicker. On a
machine that others use too, read the processor time: it is what a quiet one would take, or less where
several threads work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pydicom
from napari.qt import get_qapp
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from qtpy.QtCore import QTimer

from medseg import Geometry, InstanceVolume, LabelSet
from napari_plugin.layers import labels_layer
from napari_plugin.objects import ObjectsPanel
from napari_plugin.samples import head_mri
from napari_plugin.segment import SegmentPanel
from napari_plugin.study import StudyPanel

TICK_MS = 5
JUMPS = 20


Figure = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def since(began: Figure = (0.0, 0.0)) -> Figure:
    """How long ago something began."""
    return time.perf_counter() - began[0], time.process_time() - began[1]


def work_until(done: Callable[[], bool], most_s: float = 600.0) -> Figure:
    """Let the window work until something is done; how long that took."""
    began = since()
    while not done():
        get_qapp().processEvents()
        time.sleep(0.005)
        if since(began)[0] > most_s:
            raise TimeoutError("a panel did not come to rest")
    return since(began)


class Heartbeat:
    """Times between ticks of the window's own clock."""

    def __init__(self) -> None:
        self.gaps: list[float] = []
        self._last = time.perf_counter()
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(TICK_MS)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.gaps.append(now - self._last)
        self._last = now


def docked(panel: Any) -> Any:
    panel.viewer.window.add_dock_widget(panel)
    work_until(lambda: panel.is_settled)
    return panel


def show(viewer: Any, layers: list[Any]) -> None:
    for data, words, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **words)


def inference(model: str) -> dict[str, Figure]:
    """A run with the panel's default threads, and one that is cancelled in the middle of a window."""
    viewer = napari.Viewer()
    show(viewer, head_mri())
    panel = docked(SegmentPanel(viewer))
    panel.models.setCurrentText(model)
    work_until(lambda: panel.plan.text().startswith("Expected"))
    beat = Heartbeat()
    panel.run()
    run_s = work_until(lambda: not panel.run_button.text().startswith("Cancel"))
    gaps = np.array(beat.gaps[:-1])  # the last one holds the drawing of the new layer
    work_until(lambda: panel.is_settled)
    panel.run()
    work_until(lambda: panel.said.text().startswith("segment"))
    panel.cancel()
    cancel_s = work_until(lambda: not panel.is_busy)
    work_until(lambda: panel.is_settled)
    threads = panel.compute.values()["threads"]
    viewer.close()
    return {
        f"run with {threads} thread(s)": run_s,
        "longest gap of the window meanwhile": (float(gaps.max()), np.nan),
        "99 % of its gaps are below": (float(np.percentile(gaps, 99)), np.nan),
        "cancel within a window answered": cancel_s,
    }


def objects(count: int) -> dict[str, Figure]:
    """A table of many objects: opened, and walked through by clicks."""
    side = int(np.ceil(count ** (1 / 3)))
    shape, step = (side * 8,) * 3, 8
    numbers = np.arange(1, side**3 + 1, dtype=np.uint16).reshape(side, side, side)
    numbers[numbers > count] = 0
    whole = numbers.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    inner = (np.indices(shape) % step < step - 2).all(axis=0)
    classes = dict.fromkeys(range(1, count + 1), 1)
    names = LabelSet.from_names({1: "nucleus"})
    labels = InstanceVolume(
        np.where(inner, whole, 0), Geometry.from_spacing(shape, (3e-4,) * 3), names, classes
    )
    viewer = napari.Viewer()
    show(viewer, [labels_layer(labels, "objects")])
    panel = docked(ObjectsPanel(viewer))
    panel.measure()
    opened = work_until(lambda: panel.sorted.rowCount() == count)
    work_until(lambda: panel.is_settled)
    regions = panel.regions.regions
    began = since()
    panel.show_regions(regions, viewer.layers[0])
    get_qapp().processEvents()
    filled = since(began)
    work_until(lambda: panel.is_settled)
    jumps = []
    for row in np.random.default_rng(0).integers(0, count, JUMPS):
        began = since()
        panel.jump(int(row))
        get_qapp().processEvents()
        jumps.append(since(began))
    viewer.close()
    median, longest = np.median(jumps, axis=0), np.max(jumps, axis=0)
    return {
        f"measure {count} objects, open their table": opened,
        "open the table alone": filled,
        "jump to an object, median": (median[0], median[1]),
        "jump to an object, longest": (longest[0], longest[1]),
    }


def write_series(folder: Path, slices: int) -> None:
    """A CT series of 512 x 512 images."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    pixels = np.random.default_rng(0).integers(-1000, 1000, (512, 512), dtype=np.int16).tobytes()
    for n in range(slices):
        one, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = generate_uid()
        one.file_meta, one.SOPClassUID, one.Modality = meta, CTImageStorage, "CT"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.InstanceNumber, one.ImagePositionPatient = n + 1, [-200, -200, float(n)]
        one.ImageOrientationPatient, one.PixelSpacing, one.SliceThickness = [1, 0, 0, 0, 1, 0], [0.8, 0.8], 1
        one.Rows = one.Columns = 512
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 1, 1
        one.PhotometricInterpretation, one.RescaleSlope, one.RescaleIntercept = "MONOCHROME2", 1, 0
        one.PixelData = pixels
        pydicom.dcmwrite(folder / f"IM{n:04}", one, enforce_file_format=True)


def first_slice(slices: int) -> dict[str, Figure]:
    """From the choice of a folder to the first slice on the screen."""
    with tempfile.TemporaryDirectory() as name:
        write_series(Path(name), slices)
        viewer = napari.Viewer()
        panel = docked(StudyPanel(viewer))
        panel.open(Path(name))
        listed = work_until(lambda: panel.table.rowCount() == 1 and panel.is_settled)
        panel.load()
        began = since()
        panel.load()
        work_until(lambda: len(viewer.layers) == 1)
        get_qapp().processEvents()
        shown = since(began)
        viewer.close()
    return {f"list a series of 512 x 512 x {slices}": listed, "from Load to its first slice": shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--model", default="brain-mri")
    flags = parser.parse_args()
    found = {**first_slice(flags.slices), **objects(flags.objects), **inference(flags.model)}
    print(f"{'':45} {'clock s':>9} {'processor s':>12}   load average {os.getloadavg()[0]:.1f}")
    for words, (clock, processor) in found.items():
        print(f"{words:45} {clock:9.3f} {processor:12.3f}")


if __name__ == "__main__":
    main()
