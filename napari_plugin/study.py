"""The Study panel: what a folder, DICOMDIR or zip holds, and one of its series as a layer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
)

from medseg import CancelToken, Progress, SeriesInfo, Volume, list_series, read, read_series
from napari_plugin.layers import origin_of
from napari_plugin.ortho import toggle_planes
from napari_plugin.panel import Button, Panel
from napari_plugin.preferences import preference, remember
from napari_plugin.readers import scan_layer
from napari_plugin.views import PLANES, show_plane
from napari_plugin.windows import CT_WINDOWS, ct_limits, percentile_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image

COLUMNS = ("modality", "images", "state", "size", "spacing mm", "geometry")
KEYS = {"axial": "Alt+1", "coronal": "Alt+2", "sagittal": "Alt+3"}
WINDOW_COLUMNS = 3


class StudyPanel(Panel):
    """Open a study, choose a series, load it.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.place: Path | None = None
        self.series: tuple[SeriesInfo, ...] = ()
        self.folder_button = Button(
            "Open folder…", "A folder of DICOM files, however deep", "Alt+O", self.or_cancel(self._ask_folder)
        )
        self.file_button = Button(
            "Open file…", "A zip or DICOMDIR, or an image such as NIfTI", press=self._ask_file
        )
        row = QHBoxLayout()
        for button in (self.folder_button, self.file_button):
            row.addWidget(button)
        self.box.addLayout(row)
        self._add_table()
        self.volume_words, self.volume = QLabel("Volume"), QSpinBox()
        self.load_button = Button(
            "Load series", "Load this series as a layer", "Alt+L", self.or_cancel(self.load)
        )
        row = QHBoxLayout()
        for part in (self.volume_words, self.volume):
            part.setToolTip("This series holds several volumes: time points, echoes or image types")
            row.addWidget(part)
        row.addWidget(self.load_button, stretch=1)
        self.box.addLayout(row)
        self._add_views()
        self.finish_layout()
        self.say("Open a folder with a study to begin, or drop an image onto the window.")
        self._update_button()
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._update_views)
        self._update_views()

    def _add_table(self) -> None:
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setMinimumHeight(80)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.itemSelectionChanged.connect(self._update_button)
        self.table.itemDoubleClicked.connect(lambda _: self.load())
        self.box.addWidget(self.table, stretch=1)

    def _add_views(self) -> None:
        planes, windows = QHBoxLayout(), QGridLayout()
        self.plane_buttons = [
            Button(plane, f"Show {plane} slices", KEYS[plane], partial(show_plane, self.viewer, plane))
            for plane in PLANES
        ]
        self.planes_button = Button(
            "All three planes",
            "Open or close the two other planes beside this one",
            "Alt+V",
            self._toggle_planes,
        )
        for button in self.plane_buttons:
            planes.addWidget(button)
        self.window_buttons: dict[str, Button] = {}
        for n, name in enumerate([*CT_WINDOWS, "from the image"]):
            level, width = CT_WINDOWS.get(name, (0, 0))
            tip = f"Level {level:.0f}, width {width:.0f} Hounsfield units" if width else "0.5 to 99.5 percent"
            button = Button(name, tip, press=partial(self.show_window, name))
            self.window_buttons[name] = button
            windows.addWidget(button, n // WINDOW_COLUMNS, n % WINDOW_COLUMNS)
        self.box.addLayout(planes)
        self.box.addWidget(self.planes_button)
        self.box.addWidget(QLabel("Intensities"))
        self.box.addLayout(windows)

    def _update_views(self, _event: Any = None) -> None:
        """Windows of CT are for CT alone."""
        images = self._images()
        none = "" if images else "Load a scan first"
        for button in (*self.plane_buttons, self.planes_button):
            button.allow(none)
        is_ct = any(_may_be_ct(layer) for layer in images)
        for name, button in self.window_buttons.items():
            button.allow(none or ("" if is_ct or name not in CT_WINDOWS else "For CT, whose units are known"))

    def _images(self) -> list[Image]:
        return [one for one in self.viewer.layers if hasattr(one, "contrast_limits") and origin_of(one)]

    def _toggle_planes(self) -> None:
        toggle_planes(self.viewer)

    def show_window(self, name: str) -> None:
        """Show the selected image layers, or else all, with a preset of CT or by their own intensities."""
        selected = [layer for layer in self._images() if layer in self.viewer.layers.selection]
        for layer in selected or self._images():
            if name in CT_WINDOWS and not _may_be_ct(layer):
                continue
            low, high = ct_limits(name) if name in CT_WINDOWS else percentile_limits(layer.data)
            first, last = layer.contrast_limits_range
            layer.contrast_limits_range = (min(first, low), max(last, high))
            layer.contrast_limits = (low, high)

    def _ask_folder(self) -> None:
        if name := QFileDialog.getExistingDirectory(self, "Open a study", preference("last", "folder", "")):
            remember("last", "folder", name)
            self.open(Path(name))

    def _ask_file(self) -> None:
        start = preference("last", "folder", "")
        name, _ = QFileDialog.getOpenFileName(self, "Open a zip, DICOMDIR or image", start)
        if name:
            self.open(Path(name))

    def open(self, place: Path) -> None:
        """List what a place holds; an image that is not DICOM is loaded at once."""

        def look(report: Callable[[Progress], None], cancel: CancelToken) -> tuple[SeriesInfo, ...] | Volume:
            found = list_series(place, progress=report, cancel=cancel) if _may_be_dicom(place) else ()
            return found or read(place)

        def show(found: tuple[SeriesInfo, ...] | Volume) -> None:
            self.place = place
            if isinstance(found, Volume):
                self._add(found)
            else:
                self._list(found)

        self.start(look, self.folder_button, show)

    def _list(self, series: tuple[SeriesInfo, ...]) -> None:
        self.series = tuple(sorted(series, key=lambda one: (not one.readable, -one.files)))
        self.table.setRowCount(len(self.series))
        for row, one in enumerate(self.series):
            for column, text in enumerate(cells_of(one)):
                item = QTableWidgetItem(text)
                item.setToolTip(one.reason or "; ".join(one.notes) or text)
                self.table.setItem(row, column, item)
        readable = sum(one.readable for one in self.series)
        studies = len({one.study_uid for one in self.series})
        mixed = f" of {studies} studies: see that they are of one patient" if studies > 1 else ""
        if readable:
            self.table.selectRow(0)
        self.say(
            f"{len(self.series)} series{mixed}. {readable} can be loaded; choose one and press Load series."
        )

    def chosen(self) -> SeriesInfo | None:
        """The series of the selected row."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        return self.series[min(rows)] if rows else None

    def _update_button(self) -> None:
        one = self.chosen()
        several = one is not None and len(one.shape) > 3
        for part in (self.volume_words, self.volume):
            part.setVisible(several)
        if one is None:
            self.load_button.allow("Open a study and choose a series in the table first")
            return
        self.volume.setRange(1, one.shape[3] if several else 1)
        self.load_button.allow("" if one.readable else one.reason)
        if not one.readable:
            self.say(f"{one.reason} [{one.code}]")

    def load(self) -> None:
        """Load the chosen series as a layer."""
        one, place = self.chosen(), self.place
        if one is None or place is None or not one.readable:
            return
        number = self.volume.value() if len(one.shape) > 3 else None

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> Volume:
            uid = one.series_uid or None
            return read_series(place, uid, volume=number, progress=report, cancel=cancel)

        self.start(work, self.load_button, self._add)

    def _add(self, volume: Volume) -> None:
        data, words, _ = scan_layer(volume)
        self.viewer.add_image(data, **words)
        show_plane(self.viewer, "axial")
        notes = "".join(f"\nNote: {words}" for words in volume.notes)
        shape = " x ".join(map(str, volume.geometry.shape))
        self.say(f"{volume.modality or 'Scan'}: {shape} voxels. Next: panel 2 Segment.{notes}")


def _may_be_ct(layer: Image) -> bool:
    """Whether intensities may be Hounsfield units; formats other than DICOM do not say."""
    origin = origin_of(layer)
    return origin is not None and (origin.scan is None or origin.scan.modality in ("CT", ""))


def cells_of(one: SeriesInfo) -> tuple[str, ...]:
    """A row of the table; it tells nothing of the patient."""
    return (
        one.modality,
        str(one.files),
        "readable" if one.readable else one.code,
        " x ".join(map(str, one.shape)),
        " x ".join(f"{s:.3g}" for s in one.spacing_mm),
        one.geometry,
    )


def _may_be_dicom(place: Path) -> bool:
    """Whether it is worth a scan: folders, zips, DICOMDIR, and files without an image's ending."""
    if place.is_dir():
        return True
    return not place.name.lower().endswith(
        (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff")
    )
