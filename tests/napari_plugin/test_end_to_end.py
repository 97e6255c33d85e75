"""What a first-time user does, in a real window: from a DICOM folder to a checked segmentation on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from dicom_makers import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from qtpy.QtCore import QTimer

from medseg import LabelVolume, Volume, read, read_labels
from napari_plugin.export import ExportPanel
from napari_plugin.layers import labels_of, position_of, volume_of
from napari_plugin.objects import ObjectsPanel
from napari_plugin.panel import Panel
from napari_plugin.samples import FOLDERS
from napari_plugin.segment import SegmentPanel
from napari_plugin.study import StudyPanel

MakeViewer = Callable[..., Any]
ORGAN = "left hippocampus"


def settle(qtbot: Any, panel: Panel, seconds: float = 200) -> None:
    qtbot.waitUntil(lambda: panel.is_settled, timeout=int(seconds * 1000))


def picture(viewer: Any) -> Any:
    """What the canvas shows, `(rows, columns, 3)`."""
    return viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)


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


def write_series(volume: Volume, folder: Path) -> None:
    """A scan as a DICOM series of axial images."""
    shown = volume.reorient("LPS")
    array = shown.array.astype(np.uint16)
    first, step = shown.geometry.affine[:3, 3] * (-1, -1, 1), shown.geometry.spacing_mm
    for k in range(array.shape[2]):
        one, meta = Dataset(), FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = UID(uid(9, k + 1))
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, uid(9, k + 1)
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = uid(1), uid(2), uid(3)
        one.Modality, one.PatientName, one.PatientID = "MR", "Doe^Jane", "77"
        one.PatientBirthDate = one.PatientSex = one.StudyDate = one.StudyTime = one.AccessionNumber = ""
        one.StudyID = one.ReferringPhysicianName = ""
        one.Rows, one.Columns = array.shape[1], array.shape[0]
        one.PixelSpacing, one.SliceThickness = [step[1], step[0]], step[2]
        one.ImagePositionPatient = [first[0], first[1], first[2] + k * step[2]]
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.SamplesPerPixel = 15, 0, 1
        one.PhotometricInterpretation, one.InstanceNumber = "MONOCHROME2", k + 1
        one.PixelData = np.ascontiguousarray(array[:, :, k].T).tobytes()
        one.save_as(folder / f"{k:03}.dcm", enforce_file_format=True)


@pytest.mark.filterwarnings("ignore::medseg.ReadNotice")  # napari shows them; here they say "resampled"
def test_a_head_with_a_tilted_gantry_is_shown(
    make_napari_viewer: MakeViewer, qtbot: Any, shared_data: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    study = StudyPanel(viewer)
    study.open(shared_data / "dicom" / "philips_tilt_ct")
    settle(qtbot, study)
    row = next(n for n, one in enumerate(study.series) if one.geometry == "tilted")
    study.table.selectRow(row)
    study.load()
    settle(qtbot, study)
    study.show_window("brain")
    layer = viewer.layers[0]
    skull = np.argwhere(layer.data[layer.data.shape[0] // 2] > 300)
    extent_mm = (skull.max(axis=0) - skull.min(axis=0)) * layer.scale[1:]
    assert 100 < extent_mm.min() <= extent_mm.max() < 250  # a head is this large
    shown = picture(viewer)
    rows, columns = shown.shape[:2]
    assert 0.005 < (shown[..., 0] > 200).mean() < 0.5  # bone in the picture
    assert shown[: rows // 8, : columns // 8].mean() < 30  # air in the corner


def painted_only_by_hand(labels: LabelVolume, before: LabelVolume) -> int:
    return int((labels.array != before.array).sum())


@pytest.mark.timeout(900)  # half a minute on two free cores, minutes on busy ones
def test_from_a_folder_to_files_that_read_back_equal(
    make_napari_viewer: MakeViewer, qtbot: Any, tmp_path: Path
) -> None:
    sample = next(folder / "colin27_t1.nii.gz" for folder in FOLDERS if folder.is_dir())
    (tmp_path / "series").mkdir()
    write_series(read(sample), tmp_path / "series")
    viewer = make_napari_viewer(show=True)

    study = StudyPanel(viewer)
    study.open(tmp_path / "series")
    settle(qtbot, study)
    study.load()
    settle(qtbot, study)
    assert np.array_equal(
        volume_of(viewer.layers[0]).reorient("RAS").array,
        read(sample).reorient("RAS").array.astype(np.uint16),
    )
    assert "Doe" not in viewer.layers[0].name

    panel = SegmentPanel(viewer)
    panel.models.setCurrentText("brain-mri")
    panel.first_look.setChecked(False)
    panel.run()
    qtbot.waitUntil(lambda: panel.said.text().startswith("segment"), timeout=120000)
    panel.cancel()
    asked = time.monotonic()
    qtbot.waitUntil(lambda: not panel.is_busy, timeout=60000)
    assert time.monotonic() - asked < 10  # as a figure: benchmarks/napari_window.py
    assert "Stopped" in panel.said.text()
    assert len(viewer.layers) == 1
    gaps = Heartbeat()
    panel.run()
    settle(qtbot, panel)
    assert len(gaps.seconds) > 20
    assert np.median(gaps.seconds) < 0.25
    labels = viewer.layers["brain-mri labels"]
    assert "first look (coarse)" not in viewer.layers

    objects = ObjectsPanel(viewer)
    objects.measure()
    settle(qtbot, objects)
    assert objects.regions is not None
    row = next(n for n, region in enumerate(objects.regions.regions) if region.name.lower() == ORGAN)
    region = objects.regions.regions[row]
    objects.jump(row)
    assert viewer.dims.point == pytest.approx(position_of(labels, region.centroid_mm), abs=2)
    colour = np.array(labels.get_color(region.id)[:3]) * 255
    labels.opacity = 1
    distance = np.abs(picture(viewer) - colour).max(axis=2)
    assert (distance < 6).sum() > 20  # the organ is in the picture, in its colour

    before = labels_of(labels)
    place = tuple(np.rint(labels.world_to_data(viewer.dims.point)).astype(int))
    labels.brush_size = 6
    labels.paint(place, 0)
    wiped = labels_of(labels)
    assert painted_only_by_hand(wiped, before) > 5
    settle(qtbot, objects)
    objects.undo()
    assert painted_only_by_hand(labels_of(labels), before) == 0
    labels.paint(place, 0)

    export = ExportPanel(viewer)
    export.kinds["dicom-seg"].setChecked(True)
    export.export(tmp_path / "out")
    settle(qtbot, export)
    assert "Read back" in export.said.text()
    now = labels_of(labels)
    nifti = read_labels(tmp_path / "out" / "labels.nii.gz")
    assert np.array_equal(nifti.array, now.array)
    assert nifti.geometry.is_close(now.geometry)
    seg = read_labels(tmp_path / "out" / "segmentation.dcm")
    assert "Doe" not in pydicom.dcmread(tmp_path / "out" / "segmentation.dcm").SeriesDescription
    there, turned = (one.reorient("RAS") for one in (seg, now))
    assert {seg.labels.names[i] for i in seg.present_ids()} == {
        now.labels.names[i] for i in now.present_ids()
    }
    corner = np.rint(turned.geometry.to_index(there.geometry.to_world((0, 0, 0)))).astype(int)
    part = turned.crop(corner.tolist(), (corner + there.geometry.shape).tolist())
    assert part.geometry.is_close(there.geometry)
    for label_id in seg.present_ids():
        name = seg.labels.names[label_id]
        assert np.array_equal(there.array == label_id, part.mask(name)), name
        assert now.mask(name).sum() == (seg.array == label_id).sum()
