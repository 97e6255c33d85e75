"""The Study panel: what a folder, DICOMDIR or zip holds, and one of its series as a layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QHeaderView, QPushButton, QTableWidget, QTableWidgetItem

from medseg import CancelToken, Progress, SeriesInfo, Volume, list_series, read, read_series
from napari_plugin.panel import Panel
from napari_plugin.readers import scan_layer
from napari_plugin.views import PLANES, hold_heads_up, say_true_coordinates, show_plane
from napari_plugin.windows import CT_WINDOWS, ct_limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer

COLUMNS = ("modality", "images", "size", "spacing mm", "geometry", "state")


class StudyPanel(Panel):
    """Open a study, choose a series, load it.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.place: Path | None = None
        self.series: tuple[SeriesInfo, ...] = ()
        row = QHBoxLayout()
        self.folder_button, self.file_button = QPushButton("Open folder…"), QPushButton("Open file…")
        self.folder_button.setToolTip("A folder of DICOM files, however deep")
        self.file_button.setToolTip("A zip or DICOMDIR, or an image file such as NIfTI")
        self.folder_button.clicked.connect(self._ask_folder)
        self.file_button.clicked.connect(self._ask_file)
        for button in (self.folder_button, self.file_button):
            row.addWidget(button)
        self.box.addLayout(row)
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(COLUMNS)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        header = self.table.horizontalHeader()
        if header is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.itemSelectionChanged.connect(self._update_button)
        self.table.itemDoubleClicked.connect(lambda _: self.load())
        self.box.addWidget(self.table)
        self.load_button = QPushButton("Load series")
        self.load_button.clicked.connect(self._load_or_cancel)
        self.box.addWidget(self.load_button)
        self._add_views()
        self.finish_layout()
        self.say("Open a folder with a study to begin.")
        self._update_button()
        hold_heads_up(napari_viewer)

    def _add_views(self) -> None:
        planes, windows = QHBoxLayout(), QHBoxLayout()
        for plane in PLANES:
            button = QPushButton(plane)
            button.clicked.connect(lambda _=False, plane=plane: show_plane(self.viewer, plane))
            planes.addWidget(button)
        for name in ("abdomen", "lung", "bone", "brain", "liver"):
            level, width = CT_WINDOWS[name]
            button = QPushButton(name)
            button.setToolTip(f"level {level:.0f}, width {width:.0f} Hounsfield units")
            button.clicked.connect(lambda _=False, name=name: self.show_window(name))
            windows.addWidget(button)
        self.box.addLayout(planes)
        self.box.addLayout(windows)

    def show_window(self, name: str) -> None:
        """Show the selected image layers with a preset of CT."""
        for layer in self.viewer.layers.selection or self.viewer.layers:
            if hasattr(layer, "contrast_limits"):
                low, high = ct_limits(name)
                first, last = layer.contrast_limits_range
                layer.contrast_limits_range = (min(first, low), max(last, high))
                layer.contrast_limits = (low, high)

    def _ask_folder(self) -> None:
        if self.is_busy:
            self.cancel()
        elif name := QFileDialog.getExistingDirectory(self, "Open a study"):
            self.open(Path(name))

    def _ask_file(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Open a zip, DICOMDIR or image")
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
        self.say(f"{len(self.series)} series, {readable} of them can be loaded.")
        if readable:
            self.table.selectRow(0)
        self._update_button()

    def chosen(self) -> SeriesInfo | None:
        """The series of the selected row."""
        rows = {index.row() for index in self.table.selectedIndexes()}
        return self.series[min(rows)] if rows else None

    def _update_button(self) -> None:
        one = self.chosen()
        self.load_button.setEnabled(one is not None and one.readable)
        if one is None:
            self.load_button.setToolTip("Choose a series in the table first")
        else:
            self.load_button.setToolTip(one.reason or "Load this series as a layer")
            if not one.readable:
                self.say(f"{one.reason} [{one.code}]")

    def _load_or_cancel(self) -> None:
        if self.is_busy:
            self.cancel()
        else:
            self.load()

    def load(self) -> None:
        """Load the chosen series as a layer."""
        one, place = self.chosen(), self.place
        if one is None or place is None or not one.readable:
            return

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> Volume:
            return read_series(place, one.series_uid or None, progress=report, cancel=cancel)

        self.start(work, self.load_button, self._add)

    def _add(self, volume: Volume) -> None:
        data, words, _ = scan_layer(volume)
        layer = self.viewer.add_image(data, **words)
        say_true_coordinates(layer)
        show_plane(self.viewer, "axial")
        notes = "".join(f"\nNote: {words}" for words in volume.notes)
        self.say(f"{volume.modality or 'scan'}: {' x '.join(map(str, volume.geometry.shape))} voxels.{notes}")


def cells_of(one: SeriesInfo) -> tuple[str, ...]:
    """A row of the table; it tells nothing of the patient."""
    return (
        one.modality,
        str(one.files),
        " x ".join(map(str, one.shape)),
        " x ".join(f"{s:.3g}" for s in one.spacing_mm),
        one.geometry,
        "readable" if one.readable else one.code,
    )


def _may_be_dicom(place: Path) -> bool:
    """Whether it is worth a scan: folders, zips, DICOMDIR, and files without an image's ending."""
    if place.is_dir():
        return True
    return not place.name.lower().endswith(
        (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff")
    )
