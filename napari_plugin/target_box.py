"""What is corrected: a scan, a labels layer, a structure to paint, and what stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QVBoxLayout,
    QWidget,
)

from medseg import GeometryError, LabelVolume, Proposal
from napari_plugin.history import History, history_of
from napari_plugin.layers import checked_origin, label_layers, labels_layer, origin_of, place, volume_of
from napari_plugin.panel import Button, Panel
from napari_plugin.tools import Target
from napari_plugin.views import say_true_coordinates

if TYPE_CHECKING:
    from napari.layers import Image, Labels

MOST_LISTED = 2000
"""Objects beyond this many are not listed by name."""

_NEW_OBJECT = -2
_ID_ROLE = Qt.ItemDataRole.UserRole


class TargetBox(QWidget):
    """Chooses what is corrected.

    Args:
        panel: whose viewer it is, and which tells errors.
    """

    changed = Signal()
    """Another layer, scan or structure was chosen."""

    edited = Signal()
    """The labels of the chosen layer, their names or locks changed."""

    def __init__(self, panel: Panel) -> None:
        super().__init__()
        self.panel, self.viewer = panel, panel.viewer
        self.history: History | None = None
        self._known: tuple[Any, ...] = ()
        self.layers, self.scans, self.labels = QComboBox(), QComboBox(), QComboBox()
        self.new_layer_button = Button("New", "Begin with empty labels on the scan", press=self.new_layer)
        self.new_name = QLineEdit()
        self.new_name.setPlaceholderText("name of a new structure")
        self.add_label_button = Button("Add", "Paint a structure of this name", press=self.add_label)
        self.locks = QListWidget()
        self.locks.setMaximumHeight(90)
        self.locks.setToolTip("What is ticked keeps every voxel, and gets none")
        form = QFormLayout()
        form.addRow("Scan", self.scans)
        form.addRow("Labels", _row(self.layers, self.new_layer_button))
        form.addRow("Structure", self.labels)
        form.addRow("", _row(self.new_name, self.add_label_button))
        form.addRow("Locked", self.locks)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addLayout(form)
        self.layers.currentTextChanged.connect(self.look)
        self.scans.currentTextChanged.connect(self.look)
        self.labels.currentIndexChanged.connect(self.look)
        self.locks.itemChanged.connect(self._lock)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            event.connect(self.list_layers)
        self.list_layers()

    @property
    def layer(self) -> Labels | None:
        """The chosen labels layer."""
        found: Labels | None = self._of(self.layers)
        return found

    @property
    def scan(self) -> Image | None:
        """The chosen scan."""
        found: Image | None = self._of(self.scans)
        return found

    def _of(self, box: QComboBox) -> Any:
        name = box.currentText()
        return next((one for one in self.viewer.layers if one.name == name), None)

    def missing(self) -> str:
        """What is to be done first; empty where nothing is missing."""
        if self.scan is None:
            return "Open a scan first"
        return "" if self.layer is not None else "Press New, or segment the scan first"

    def target(self) -> Target:
        """What is chosen now.

        Raises:
            GeometryError: `NO_LAYER`, one is missing; `GRID_MISMATCH`, they lie on two grids; or the labels
                do not say where they lie.
        """
        layer, scan = self.layer, self.scan
        if layer is None or scan is None:
            missing = "a scan" if scan is None else "a labels layer"
            raise GeometryError("NO_LAYER", f"expected {missing}, got none; open or make it first")
        place(self.viewer, layer)
        if not checked_origin(layer).geometry.is_close(checked_origin(scan).geometry):
            raise GeometryError(
                "GRID_MISMATCH", "expected labels on the scan's grid, got another; choose their own scan"
            )
        label_id = self.labels.currentData()
        if label_id == _NEW_OBJECT:
            label_id = _free_id(layer)
        return Target(self.viewer, layer, scan, Proposal.ERASE if label_id is None else label_id)

    def list_layers(self, _event: Any = None) -> None:
        """List what is open now."""
        own = [layer for layer in label_layers(self.viewer) if layer.data.ndim == 3]
        scans = [one for one in self.viewer.layers if hasattr(one, "contrast_limits") and origin_of(one)]
        for box, names in ((self.layers, own), (self.scans, scans)):
            chosen = box.currentText()
            box.blockSignals(True)
            box.clear()
            box.addItems([layer.name for layer in names])
            box.setCurrentText(chosen)
            box.blockSignals(False)
        self.look()

    def look(self, _what: Any = None) -> None:
        """Tell whether something else is chosen now."""
        layer = self.layer
        history = None if layer is None else history_of(layer)
        if history is not self.history:
            if self.history is not None:
                self.history.changed.disconnect(self._edited)
            self.history = history
            if history is not None:
                history.changed.connect(self._edited)
        self._list_labels()
        chosen = (layer, self.scan, self.labels.currentData())
        self.new_layer_button.allow("" if self.scan is not None else "Open a scan first")
        self.add_label_button.allow(self.missing())
        if chosen != self._known:
            self._known = chosen
            self.changed.emit()

    def _edited(self) -> None:
        self._list_labels()
        self.edited.emit()

    def _list_labels(self) -> None:
        origin = None if self.layer is None else origin_of(self.layer)
        names = {} if origin is None else origin.labels.names
        entries = list(names.items())
        if origin is not None and origin.is_instances:
            ids = sorted(origin.classes)[:MOST_LISTED]
            entries = [(i, f"{names.get(origin.classes[i], 'object')} {i}") for i in ids]
        first = [(_NEW_OBJECT, "new object")] if origin is not None and origin.is_instances else []
        shown = [*first, *entries, (Proposal.ERASE, "background (erase)")]
        old = [(self.labels.itemData(n), self.labels.itemText(n)) for n in range(self.labels.count())]
        if shown != old:
            chosen = self.labels.currentData()
            self.labels.blockSignals(True)
            self.labels.clear()
            for label_id, name in shown:
                self.labels.addItem(name, label_id)
            self.labels.setCurrentIndex(max(0, self.labels.findData(chosen)))
            self.labels.blockSignals(False)
        self._list_locks(entries)

    def _list_locks(self, entries: list[tuple[int, str]]) -> None:
        locked = frozenset() if self.history is None else self.history.locked
        shown = [(label_id, name, label_id in locked) for label_id, name in entries]
        items = [self.locks.item(n) for n in range(self.locks.count())]
        if shown == [(one.data(_ID_ROLE), one.text(), _is_ticked(one)) for one in items]:
            return
        self.locks.blockSignals(True)
        self.locks.clear()
        for label_id, name, is_locked in shown:
            item = QListWidgetItem(name)
            item.setData(_ID_ROLE, label_id)
            item.setCheckState(Qt.CheckState.Checked if is_locked else Qt.CheckState.Unchecked)
            self.locks.addItem(item)
        self.locks.blockSignals(False)

    def _lock(self, item: QListWidgetItem) -> None:
        if self.history is not None:
            self.history.lock([item.data(_ID_ROLE)], locked=_is_ticked(item))

    def new_layer(self) -> None:
        """Add empty labels on the grid of the chosen scan."""
        scan = self.scan

        def add() -> None:
            if scan is None:
                raise GeometryError("NO_LAYER", "expected a scan, got none; open it first")
            volume = volume_of(scan)
            empty = LabelVolume(np.zeros(volume.geometry.shape, np.uint16), volume.geometry)
            data, words, _ = labels_layer(empty, f"{scan.name} labels", volume, opacity=0.6)
            layer = self.viewer.add_labels(data, **words)
            say_true_coordinates(layer)
            self.layers.setCurrentText(layer.name)
            self.panel.say("Name the structure that you are going to paint, and press Add.")

        self.panel.attempt(add)

    def add_label(self) -> None:
        """Add a structure of the name that was typed, and choose it."""
        layer, name = self.layer, self.new_name.text().strip()
        if layer is None or not name:
            self.panel.say("Choose a labels layer first." if layer is None else "Type a name first.")
            return

        def add() -> None:
            place(self.viewer, layer)
            label_id = _free_id(layer)
            history_of(layer).rename(label_id, name)
            self._list_labels()
            self.labels.setCurrentIndex(self.labels.findData(label_id))
            self.new_name.clear()
            self.panel.say(f"{name} is painted now.")

        self.panel.attempt(add)


def _free_id(layer: Labels) -> int:
    """An id that neither occurs nor has a name."""
    origin = checked_origin(layer)
    named = origin.classes if origin.is_instances else origin.labels.ids
    return int(max([0, *named, np.max(layer.data)])) + 1


def _is_ticked(item: QListWidgetItem) -> bool:
    return bool(item.checkState() == Qt.CheckState.Checked)


def _row(*parts: QWidget) -> QHBoxLayout:
    row = QHBoxLayout()
    for part in parts:
        row.addWidget(part)
    return row
