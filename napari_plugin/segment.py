"""The Segment panel: a scan, a model, Run; the answer as a named layer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QListWidget, QPushButton, QSpinBox

from medseg import (
    CancelToken,
    InferenceSettings,
    LabelVolume,
    ModelEntry,
    Progress,
    Result,
    Volume,
    list_models,
    segment,
)
from napari_plugin.layers import labels_layer, origin_of, volume_of
from napari_plugin.panel import Panel
from napari_plugin.views import say_true_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image, Layer


@dataclass(frozen=True)
class Request:
    """What one run was asked for; it does not change while the run lasts.

    Attributes:
        layer: where the scan was taken from.
        scan: the scan itself.
        model: name of the model.
        settings: how to run it.
        separate: classes whose objects are told apart.
    """

    layer: Image
    scan: Volume
    model: str
    settings: InferenceSettings
    separate: tuple[str, ...] = ()


class SegmentPanel(Panel):
    """Segment the scan of a layer with a model.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.result: Result | None = None
        self.held: tuple[Request, Result] | None = None
        self.scans, self.models = QComboBox(), QComboBox()
        self.card = QLabel()
        self.card.setWordWrap(True)
        self.classes = QListWidget()
        self.classes.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.classes.setToolTip("Select the structures to keep; none selected keeps all")
        self.separate = QCheckBox("Tell the objects of each class apart")
        self.threads = QSpinBox()
        self.threads.setRange(1, max(1, os.cpu_count() or 1))
        self.threads.setValue(max(1, (os.cpu_count() or 2) - 1))
        self.threads.setToolTip("One processor is best left to the window")
        self.run_button, self.add_button = QPushButton("Run"), QPushButton("Add the result anyway")
        form = QFormLayout()
        for words, part in (("Scan", self.scans), ("Model", self.models), ("", self.card)):
            form.addRow(words, part)
        form.addRow("Structures", self.classes)
        form.addRow("", self.separate)
        form.addRow("Threads", self.threads)
        self.box.addLayout(form)
        self.box.addWidget(self.run_button)
        self.box.addWidget(self.add_button)
        self.add_button.setVisible(False)
        self.finish_layout()
        self.entries: dict[str, ModelEntry] = {}
        self.load_models()
        self.models.currentTextChanged.connect(self._show_card)
        self.run_button.clicked.connect(self._run_or_cancel)
        self.add_button.clicked.connect(self._add_held)
        for event in (napari_viewer.layers.events.inserted, napari_viewer.layers.events.removed):
            event.connect(self._list_scans)
        napari_viewer.layers.events.reordered.connect(self._list_scans)
        self._list_scans()
        self._show_card()

    def load_models(self) -> None:
        """List the models at hand; damaged ones are left out."""
        self.entries = {entry.name: entry for entry in list_models() if entry.card is not None}
        self.models.clear()
        self.models.addItems(list(self.entries))

    def _list_scans(self, _event: Any = None) -> None:
        chosen = self.scans.currentText()
        self.scans.clear()
        self.scans.addItems([layer.name for layer in self.viewer.layers if _is_scan(layer)])
        self.scans.setCurrentText(chosen)
        self._update_button()

    def _show_card(self, _name: str = "") -> None:
        entry = self.entries.get(self.models.currentText())
        self.classes.clear()
        if entry is not None and entry.card is not None:
            card = entry.card
            spacing = " x ".join(f"{s:g}" for s in card.spacing_mm) if card.spacing_mm else "any"
            self.card.setText(
                f"{card.description}\n{card.modality or 'any modality'}, {spacing} mm; licence: "
                f"{card.licence or 'not stated'}. For research only."
            )
            self.classes.addItems([label.name for label in card.labels])
        self._update_button()

    def _update_button(self) -> None:
        missing = "Open a scan first" if not self.scans.count() else ""
        missing = missing or ("No model is at hand" if not self.entries else "")
        if not self.is_busy:
            self.run_button.setEnabled(not missing)
            self.run_button.setToolTip(missing or "Segment the scan; the button then stops it")
            if missing:
                self.say(missing + ".")

    def request(self) -> Request:
        """What the form asks for now.

        Raises:
            GeometryError: the layer was moved.
        """
        layer = self.viewer.layers[self.scans.currentText()]
        chosen = tuple(item.text() for item in self.classes.selectedItems())
        card = self.entries[self.models.currentText()].card
        names = chosen or (tuple(label.name for label in card.labels) if card is not None else ())
        settings = InferenceSettings(threads=self.threads.value(), classes=chosen)
        separate = names if self.separate.isChecked() else ()
        return Request(layer, volume_of(layer), self.models.currentText(), settings, separate)

    def _run_or_cancel(self) -> None:
        if self.is_busy:
            self.cancel()
        else:
            self.run()

    def run(self) -> None:
        """Segment what the form asks for."""
        from medseg import MedsegError
        from napari_plugin.jobs import Ended

        try:
            asked = self.request()
        except MedsegError as error:
            self.fail(Ended(code=error.code, message=str(error)))
            return

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> Result:
            return segment(
                asked.scan,
                asked.model,
                asked.settings,
                separate=asked.separate,
                progress=report,
                cancel=cancel,
            )

        self.add_button.setVisible(False)
        self.start(work, self.run_button, lambda result: self._finished(asked, result))

    def _finished(self, asked: Request, result: Result) -> None:
        """Show the answer, or hold it where its scan has gone meanwhile."""
        if asked.layer not in self.viewer.layers:
            self.held = (asked, result)
            self.add_button.setVisible(True)
            self.say("The result is ready, but its scan was closed meanwhile.")
            return
        self._show(asked, result)

    def _add_held(self) -> None:
        if self.held is not None:
            self._show(*self.held)
        self.held = None
        self.add_button.setVisible(False)

    def _show(self, asked: Request, result: Result) -> None:
        self.result = result
        self._add(result.labels, f"{asked.model} labels", asked.scan)
        if result.instances is not None:
            self._add(result.instances, f"{asked.model} objects", asked.scan)
        found = sum(region.kind == "class" for region in result.regions)
        warnings = "".join(f"\nNote: {words}" for words in result.record.warnings)
        self.say(f"{found} structures found.{warnings}")

    def _add(self, labels: LabelVolume, name: str, scan: Volume) -> None:
        data, words, _ = labels_layer(labels, name, scan, opacity=0.6)
        say_true_coordinates(self.viewer.add_labels(data, **words))


def _is_scan(layer: Layer) -> bool:
    return hasattr(layer, "contrast_limits") and origin_of(layer) is not None
