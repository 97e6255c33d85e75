"""The Objects panel: every class or object of a labels layer as a row that leads to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QComboBox, QFileDialog, QLineEdit, QPushButton, QTableView

from medseg import CancelToken, LabelVolume, Progress, Region, Volume, measure_regions, write_regions_csv
from napari_plugin.layers import labels_of, origin_of, position_of
from napari_plugin.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Labels

COLUMNS = ("", "id", "name", "ml", "mean", "at border")
_SORT_ROLE = Qt.ItemDataRole.UserRole


class RegionTable(QAbstractTableModel):
    """Regions as rows; quick for thousands, since a view asks only for what it shows.

    Args:
        regions: what was measured.
        layer: whose colours they have.
    """

    def __init__(self, regions: tuple[Region, ...], layer: Labels) -> None:
        super().__init__()
        self.regions = regions
        self._layer = layer

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Number of regions."""
        return 0 if parent is not None and parent.isValid() else len(self.regions)

    def columnCount(self, _parent: QModelIndex | None = None) -> int:
        """Number of `COLUMNS`."""
        return len(COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Heads of the columns."""
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section]
        return None

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, colour or sorting key of a cell."""
        region = self.regions[index.row()]
        if role == Qt.ItemDataRole.BackgroundRole and index.column() == 0:
            return QColor.fromRgbF(*(float(part) for part in self._layer.get_color(region.id)))
        if role not in (Qt.ItemDataRole.DisplayRole, _SORT_ROLE):
            return None
        values = cells_of(region)
        value = values[index.column()]
        if role == _SORT_ROLE:
            return value
        return f"{value:.4g}" if isinstance(value, float) else str(value)


def cells_of(region: Region) -> tuple[str | int | float, ...]:
    """The row of a region."""
    mean = "" if region.mean is None else region.mean
    return "", region.id, region.name, region.volume_ml, mean, "yes" if region.touches_border else ""


class ObjectsPanel(Panel):
    """List, find and export the objects of a labels layer.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.layers = QComboBox()
        self.measure_button = QPushButton("Measure")
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Show only names that hold…")
        self.table = QTableView()
        self.table.setSortingEnabled(True)
        self.table.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
        self.csv_button = QPushButton("Save table…")
        self.regions: RegionTable | None = None
        self.sorted = QSortFilterProxyModel()
        self.sorted.setSortRole(_SORT_ROLE)
        self.sorted.setFilterKeyColumn(COLUMNS.index("name"))
        self.sorted.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.table.setModel(self.sorted)
        for part in (self.layers, self.measure_button, self.filter, self.table, self.csv_button):
            self.box.addWidget(part)
        self.finish_layout()
        self.filter.textChanged.connect(self.sorted.setFilterFixedString)
        self.table.clicked.connect(lambda index: self.jump(self.sorted.mapToSource(index).row()))
        self.measure_button.clicked.connect(self._measure_or_cancel)
        self.csv_button.clicked.connect(self._ask_csv)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_layers)
        self._list_layers()

    def _list_layers(self, _event: Any = None) -> None:
        chosen = self.layers.currentText()
        names = [layer.name for layer in self.viewer.layers if _is_labels(layer)]
        self.layers.clear()
        self.layers.addItems(names)
        self.layers.setCurrentText(chosen)
        self.measure_button.setEnabled(bool(names))
        self.measure_button.setToolTip("" if names else "There is no labels layer yet: segment a scan first")
        self.csv_button.setEnabled(self.regions is not None)
        self.csv_button.setToolTip("" if self.regions is not None else "Measure a layer first")

    def _measure_or_cancel(self) -> None:
        if self.is_busy:
            self.cancel()
        else:
            self.measure()

    def measure(self) -> None:
        """Measure the chosen layer as it is painted now."""
        layer = self.viewer.layers[self.layers.currentText()]

        def work(_report: Callable[[Progress], None], _cancel: CancelToken) -> tuple[Region, ...]:
            origin = origin_of(layer)
            return measured(labels_of(layer), origin.scan if origin else None)

        self.start(work, self.measure_button, lambda regions: self.show_regions(regions, layer))

    def show_regions(self, regions: tuple[Region, ...], layer: Labels) -> None:
        """Fill the table."""
        self.regions = RegionTable(regions, layer)
        self.sorted.setSourceModel(self.regions)
        self.csv_button.setEnabled(True)
        self.say(f"{len(regions)} rows; click one to go there.")

    def jump(self, row: int) -> None:
        """Go to a region in every view, and select its label.

        Args:
            row: of the table as measured, not as sorted.
        """
        if self.regions is None or self.layers.currentText() not in self.viewer.layers:
            return
        region = self.regions.regions[row]
        layer = self.viewer.layers[self.layers.currentText()]
        place = position_of(layer, region.centroid_mm)
        layer.selected_label = region.id
        self.viewer.layers.selection.active = layer
        more = self.viewer.dims.ndim - 3
        for axis, value in enumerate(place):
            self.viewer.dims.set_point(axis + more, value)
        self.viewer.scene.camera.center = place

    def _ask_csv(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save the table", "regions.csv", "CSV (*.csv)")
        if name and self.regions is not None:
            regions = self.regions.regions
            self.start(
                lambda _report, _cancel: write_regions_csv(regions, name), self.csv_button, self._saved
            )

    def _saved(self, path: Any) -> None:
        self.say(f"Saved {path.name}.")


def measured(labels: LabelVolume, scan: Volume | None) -> tuple[Region, ...]:
    """Regions of labels, with intensities where the scan lies on the same grid."""
    same_grid = scan is not None and scan.geometry.is_close(labels.geometry)
    return measure_regions(labels, scan if same_grid else None)


def _is_labels(layer: Any) -> bool:
    return hasattr(layer, "selected_label") and origin_of(layer) is not None
