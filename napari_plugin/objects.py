"""The Objects panel: every class or object of a labels layer as a row that leads to its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QItemSelectionModel, QSortFilterProxyModel, Qt, QTimer
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QGridLayout, QHeaderView, QLineEdit, QTableView

from medseg import (
    CancelToken,
    Edit,
    LabelVolume,
    Progress,
    Region,
    Volume,
    delete_objects,
    measure_regions,
    measure_shapes,
    merge_objects,
    write_regions_csv,
)
from napari_plugin.history import History, history_of
from napari_plugin.layers import (
    label_layers,
    labels_of,
    layer_edit,
    origin_of,
    place,
    position_of,
    shown_labels,
)
from napari_plugin.object_table import NAME, SORT_ROLE, WIDTHS, ObjectTable
from napari_plugin.panel import Button, Panel
from napari_plugin.splitting import SplitBox
from napari_plugin.views import go_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari import Viewer
    from napari.layers import Labels

    from napari_plugin.jobs import Ended

SETTLE_MS = 400
"""After the last change of a layer it is measured again."""


class ObjectsPanel(Panel):
    """List, find, correct and save the objects of a labels layer.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.layers = QComboBox()
        self.filter = QLineEdit()
        self.filter.setPlaceholderText("Show only names that hold…")
        self.regions: ObjectTable | None = None
        self.layer: Labels | None = None
        self.history: History | None = None
        self._make_table()
        self._make_buttons()
        self.split = SplitBox(self, self._chosen_one)
        self.only_selected, self.outline = QCheckBox("Only the selected"), QCheckBox("Outlines")
        self._lay_out()
        self._measures, self._forms = self.latest(), self.latest()
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(SETTLE_MS)
        self._again.timeout.connect(self._measure_again)
        self.only_selected.toggled.connect(lambda on: self._set("show_selected_label", on))
        self.outline.toggled.connect(lambda on: self._set("contour", int(on)))
        self.filter.textChanged.connect(self.sorted.setFilterFixedString)
        self.layers.currentTextChanged.connect(lambda _: self._update())
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_layers)
        self._list_layers()

    def _make_table(self) -> None:
        self.table = QTableView()
        self.table.setSortingEnabled(True)
        self.table.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
        self.table.verticalHeader().setVisible(False)
        self.table.verticalHeader().setDefaultSectionSize(22)
        self.sorted = QSortFilterProxyModel()
        self.sorted.setSortRole(SORT_ROLE)
        self.sorted.setFilterKeyColumn(NAME)
        self.sorted.setFilterCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self.table.setModel(self.sorted)
        self.table.clicked.connect(self._clicked)

    def _make_buttons(self) -> None:
        self.measure_button = Button(
            "Measure", "List and measure what the layer holds now", "Alt+M", self.or_cancel(self.measure)
        )
        self.merge_button = Button("Merge", "Make the selected rows one object", "Alt+J", self.merge)
        self.delete_button = Button("Delete", "Make the selected rows background", "Alt+D", self.delete)
        self.undo_button = Button("Undo", "Take the last correction back", "Alt+Z", self.undo)
        self.undo_one_button = Button(
            "Undo object",
            "Take back the last correction of the selected object alone",
            "Alt+U",
            self.undo_one,
        )
        self.redo_button = Button("Redo", "Carry out again what was undone", "Alt+Y", self.redo)
        self.csv_button = Button("Save table…", "All rows and measures as CSV", press=self._ask_csv)

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.addWidget(self.layers, 0, 0, 1, 2)
        grid.addWidget(self.measure_button, 0, 2)
        grid.addWidget(self.filter, 1, 0, 1, 3)
        grid.addWidget(self.only_selected, 2, 0)
        grid.addWidget(self.outline, 2, 1)
        self.box.addLayout(grid)
        self.box.addWidget(self.table, stretch=1)
        buttons = QGridLayout()
        for n, button in enumerate(
            (
                self.merge_button, self.delete_button, self.csv_button,
                self.undo_button, self.undo_one_button, self.redo_button,
            )
        ):  # fmt: skip
            buttons.addWidget(button, n // 3, n % 3)
        self.box.addLayout(buttons)
        self.box.addWidget(self.split)
        self.finish_layout()

    # ------------------------------------------------------------------ what is chosen

    def _list_layers(self, _event: Any = None) -> None:
        chosen, names = self.layers.currentText(), [layer.name for layer in label_layers(self.viewer)]
        if names != [self.layers.itemText(n) for n in range(self.layers.count())]:
            self.layers.clear()
            self.layers.addItems(names)
            self.layers.setCurrentText(chosen)
        if self.layer is not None and self.layer not in self.viewer.layers:
            self._forget("The layer was closed; its rows are gone.")
        self._update()

    def _forget(self, words: str) -> None:
        self.regions, self.layer, self.history = None, None, None
        self.sorted.setSourceModel(None)
        self.say(words)

    def _set(self, name: str, value: Any) -> None:
        if self.layer is not None:
            setattr(self.layer, name, value)

    def _update(self) -> None:
        none = "" if self.layers.count() else "There is no labels layer yet: segment a scan first"
        self.measure_button.allow(none)
        unmeasured = none or ("" if self.regions is not None else "Press Measure first")
        self.csv_button.allow(unmeasured)
        chosen = self.selected_ids()
        self.merge_button.allow(
            unmeasured or ("" if len(chosen) > 1 else "Select two rows or more (Ctrl+click)")
        )
        self.delete_button.allow(unmeasured or ("" if chosen else "Select a row first"))
        history = self.history
        self.undo_button.allow("" if history is not None and history.done else "Nothing was corrected yet")
        touched = history is not None and any(set(chosen) & set(edit.ids) for edit in history.done)
        self.undo_one_button.allow("" if touched else "The selected object was not corrected")
        self.redo_button.allow("" if history is not None and history.undone else "Nothing was undone")
        self.split.update_buttons()

    def selected_ids(self) -> list[int]:
        """Ids of the selected rows."""
        if self.regions is None:
            return []
        rows = {self.sorted.mapToSource(index).row() for index in self.table.selectionModel().selectedRows()}
        return [self.regions.regions[row].id for row in sorted(rows)]

    def _chosen_one(self) -> tuple[Labels, int, float] | None:
        """Layer, id and rough radius in mm of the one selected object."""
        ids = self.selected_ids()
        if self.layer is None or self.regions is None or len(ids) != 1:
            return None
        region = self.regions.regions[self.regions.rows[ids[0]]]
        return self.layer, ids[0], (region.volume_mm3 * 3 / 4 / 3.14159) ** (1 / 3)

    # ------------------------------------------------------------------ measuring

    def measure(self) -> None:
        """Measure the chosen layer as it is painted now."""
        layer = self.viewer.layers[self.layers.currentText()]
        if self.attempt(lambda: place(self.viewer, layer)):
            self.start(_measuring(layer), self.measure_button, lambda regions: self._first(regions, layer))

    def _first(self, regions: tuple[Region, ...], layer: Labels) -> None:
        self.show_regions(regions, layer)
        self.say(f"{len(regions)} rows; click one to go there.")

    def _measure_again(self) -> None:
        """After a correction, without a button; a running measurement is overtaken."""
        layer = self.layer
        if layer is None or layer not in self.viewer.layers:
            return

        def show(ended: Ended) -> None:
            if ended.is_done and layer is self.layer:
                self.show_regions(ended.value, layer)
            elif ended.code not in ("", "CANCELLED"):
                self.fail(ended)

        self._measures.ask(_measuring(layer), show)

    def show_regions(self, regions: tuple[Region, ...], layer: Labels) -> None:
        """Fill the table; diameters follow."""
        chosen = self.selected_ids()
        if layer is not self.layer:
            chosen = []
            self._listen(layer)
        history = history_of(layer)
        self.layer, self.history = layer, history
        self.regions = ObjectTable(regions, layer, history, self._rename)
        self.sorted.setSourceModel(self.regions)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        for column, width in enumerate(WIDTHS):
            self.table.setColumnWidth(column, width)
        self.table.selectionModel().selectionChanged.connect(lambda *_: self._update())
        for label_id in chosen:
            self._select(label_id)
        self._update()
        self._measure_shapes(layer, regions)

    def _listen(self, layer: Labels) -> None:
        """Follow the corrections and the picked label of a layer."""
        history_of(layer).changed.connect(lambda: self._changed(layer))
        layer.events.selected_label.connect(lambda _: self._picked(layer))

    def _changed(self, layer: Labels) -> None:
        if layer is self.layer:
            self._update()
            if self.regions is not None:
                self.regions.refresh()
            self._again.start()

    def _picked(self, layer: Labels) -> None:
        """A label that was picked in the picture is selected in the table."""
        picked = int(layer.selected_label)
        if layer is self.layer and picked not in self.selected_ids():
            self.table.clearSelection()
            self._select(picked)

    def _select(self, label_id: int) -> None:
        if self.regions is None or label_id not in self.regions.rows:
            return
        index = self.sorted.mapFromSource(self.regions.index(self.regions.rows[label_id], 0))
        select = QItemSelectionModel.SelectionFlag
        self.table.selectionModel().select(index, select.Select | select.Rows)
        self.table.scrollTo(index)

    def _measure_shapes(self, layer: Labels, regions: tuple[Region, ...]) -> None:
        table = self.regions

        def work(_report: Callable[[Progress], None], _cancel: CancelToken) -> Any:
            return measure_shapes(labels_of(layer), regions)

        def show(ended: Ended) -> None:
            if table is not None and table is self.regions and ended.is_done:
                table.set_shapes(ended.value)

        self._forms.ask(work, show)

    # ------------------------------------------------------------------ going there

    def _clicked(self, index: Any) -> None:
        if index.column() >= 2 and self.regions is not None:  # not the boxes
            self.jump(self.sorted.mapToSource(index).row())

    def jump(self, row: int) -> None:
        """Go to a region in every view, and select its label.

        Args:
            row: of the table as measured, not as sorted.
        """
        if self.regions is None or self.layer is None or self.layer not in self.viewer.layers:
            return
        region = self.regions.regions[row]
        self.layer.selected_label = region.id
        self.viewer.layers.selection.active = self.layer
        go_to(self.viewer, position_of(self.layer, region.centroid_mm))

    # ------------------------------------------------------------------ correcting

    def merge(self) -> None:
        """Make the selected objects one."""
        ids = self.selected_ids()
        self._correct(lambda labels: merge_objects(labels, ids), self.merge_button, "Merged")

    def delete(self) -> None:
        """Make the selected objects background."""
        ids = self.selected_ids()
        self._correct(lambda labels: delete_objects(labels, ids), self.delete_button, "Deleted")

    def _correct(self, decide: Callable[[LabelVolume], Edit], button: Button, done: str) -> None:
        """Decide an edit beside the window, then carry it out; voxels that changed meanwhile stay."""
        layer, history = self.layer, self.history
        if layer is None or history is None:
            return

        def work(_report: Callable[[Progress], None], _cancel: CancelToken) -> Edit:
            return decide(shown_labels(layer))

        def carry_out(edit: Edit) -> None:
            history.do(layer_edit(edit))
            self.say(f"{done}; Undo takes it back.")

        self.start(work, button, carry_out)

    def undo(self) -> None:
        """Take the last correction back."""
        if self.history is not None and not self.history.undo():
            self.say("Nothing was left to undo.")

    def undo_one(self) -> None:
        """Take back the last correction of the selected objects alone."""
        history = self.history
        undone = [] if history is None else [history.undo(label_id) for label_id in self.selected_ids()]
        if not any(undone):
            self.say("Nothing of that object was left to undo.")

    def redo(self) -> None:
        """Carry out again what was undone."""
        if self.history is not None:
            self.history.redo()

    def _rename(self, label_id: int, name: str) -> bool:
        history = self.history
        return history is not None and self.attempt(lambda: history.rename(label_id, name))

    # ------------------------------------------------------------------ saving

    def _ask_csv(self) -> None:
        name, _ = QFileDialog.getSaveFileName(self, "Save the table", "regions.csv", "CSV (*.csv)")
        if name:
            self.save_csv(Path(name))

    def save_csv(self, path: Path) -> None:
        """Write all rows and measures."""
        table = self.regions
        if table is None:
            return
        shapes = table.shapes or None
        self.start(
            lambda _report, _cancel: write_regions_csv(table.regions, path, shapes),
            self.csv_button,
            lambda written: self.say(f"Saved {written.name}."),
        )


def measured(labels: LabelVolume, scan: Volume | None) -> tuple[Region, ...]:
    """Regions of labels, with intensities where the scan lies on the same grid."""
    same_grid = scan is not None and scan.geometry.is_close(labels.geometry)
    return measure_regions(labels, scan if same_grid else None)


def _measuring(layer: Labels) -> Callable[[Any, Any], Sequence[Region]]:
    def work(_report: Callable[[Progress], None], _cancel: CancelToken) -> tuple[Region, ...]:
        origin = origin_of(layer)
        return measured(labels_of(layer), origin.scan if origin else None)

    return work
