"""The table of objects: measured regions as rows, quick for thousands, with boxes to show and to lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, Qt
from qtpy.QtGui import QColor

from medseg import Region, Shape
from napari_plugin.history import History

if TYPE_CHECKING:
    from napari.layers import Labels

COLUMNS = ("show", "lock", "", "id", "name", "volume", "long", "across", "mean", "score", "border")
WIDTHS = (40, 36, 24, 44, 110, 64, 60, 60, 56, 46, 50)
TIPS = (
    "Whether it is shown",
    "Locked: no tool and no stroke takes or gives a voxel of it",
    "Its colour",
    "Integer in the voxels",
    "Double-click to rename; an object takes the class of that name",
    "Volume",
    "Longest diameter in its largest axial section",
    "Diameter across the longest one",
    "Mean intensity; Hounsfield units where the scan is CT",
    "How sure the detector is, 0 to 1",
    "Whether it reaches the edge of the scan, so that it may go on beyond",
)
SHOW, LOCK, COLOUR, NAME = (COLUMNS.index(word) for word in ("show", "lock", "", "name"))
SMALL_MM3 = 1e-3
"""Where no object is larger, micrometres are shown."""

SORT_ROLE = Qt.ItemDataRole.UserRole


class ObjectTable(QAbstractTableModel):
    """Regions as rows; a view asks only for what it shows.

    Args:
        regions: what was measured.
        layer: whose colours they have.
        history: what is locked and hidden.
        rename: called with an id and a new name.
    """

    def __init__(
        self,
        regions: tuple[Region, ...],
        layer: Labels,
        history: History,
        rename: Callable[[int, str], bool],
    ) -> None:
        super().__init__()
        self.regions = regions
        self.shapes: Mapping[int, Shape] = {}
        self.rows = {region.id: row for row, region in enumerate(regions)}
        self._layer, self._history, self._rename = layer, history, rename
        is_small = 0 < max((region.volume_mm3 for region in regions), default=0) < SMALL_MM3
        self._per_mm3, self._per_mm = (1e9, 1e3) if is_small else (1e-3, 1.0)
        volume, length = ("um3", "um") if is_small else ("ml", "mm")
        units = {"volume": volume, "long": f"long {length}", "across": f"across {length}"}
        self.heads = tuple(units.get(column, column) for column in COLUMNS)

    def set_shapes(self, shapes: Mapping[int, Shape]) -> None:
        """Diameters, which take longer to measure than the rest."""
        self.shapes = shapes
        self.refresh()

    def refresh(self) -> None:
        """Show anew what may have changed in every row."""
        self.dataChanged.emit(self.index(0, 0), self.index(len(self.regions) - 1, len(COLUMNS) - 1))

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Number of regions."""
        return 0 if parent is not None and parent.isValid() else len(self.regions)

    def columnCount(self, _parent: QModelIndex | None = None) -> int:
        """Number of `COLUMNS`."""
        return len(COLUMNS)

    def headerData(self, section: int, orientation: Any, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Heads of the columns."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        return {Qt.ItemDataRole.DisplayRole: self.heads, Qt.ItemDataRole.ToolTipRole: TIPS}.get(
            role, (None,) * len(COLUMNS)
        )[section]

    def flags(self, index: QModelIndex) -> Any:
        """Names can be edited, boxes ticked."""
        flags = super().flags(index)
        if index.column() in (SHOW, LOCK):
            flags |= Qt.ItemFlag.ItemIsUserCheckable
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == NAME else flags

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Text, colour, tick or sorting key of a cell."""
        region, column = self.regions[index.row()], index.column()
        if role == Qt.ItemDataRole.CheckStateRole:
            if column not in (SHOW, LOCK):
                return None
            on = (
                region.id in self._history.locked if column == LOCK else region.id not in self._history.hidden
            )
            return Qt.CheckState.Checked if on else Qt.CheckState.Unchecked
        if role == Qt.ItemDataRole.BackgroundRole and column == COLOUR:
            return QColor.fromRgbF(*(float(part) for part in self._layer.get_color(region.id)))
        if role == Qt.ItemDataRole.EditRole and column == NAME:
            return region.name
        value = self._values(region)[column]
        if role == SORT_ROLE:
            return -1.0 if value is None else value
        is_text = role == Qt.ItemDataRole.DisplayRole and column not in (SHOW, LOCK)
        return _text(value) if is_text else None

    def setData(self, index: QModelIndex, value: Any, role: int = Qt.ItemDataRole.EditRole) -> bool:
        """Take a tick or a name."""
        region = self.regions[index.row()]
        if role == Qt.ItemDataRole.CheckStateRole:
            on = Qt.CheckState(value) == Qt.CheckState.Checked
            if index.column() == LOCK:
                self._history.lock([region.id], locked=on)
            else:
                self._history.hide([region.id], hidden=not on)
            return True
        return role == Qt.ItemDataRole.EditRole and self._rename(region.id, str(value))

    def _values(self, region: Region) -> tuple[str | int | float | None, ...]:
        shape = self.shapes.get(region.id)
        return (
            int(region.id not in self._history.hidden),
            int(region.id in self._history.locked),
            "",
            region.id,
            region.name,
            region.volume_mm3 * self._per_mm3,
            None if shape is None else shape.longest_diameter_mm * self._per_mm,
            None if shape is None else shape.perpendicular_diameter_mm * self._per_mm,
            region.mean,
            region.score,
            "yes" if region.touches_border else "",
        )


def _text(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
