"""The Segment panel: a scan, a model, Run; a first look after seconds, the answer as a named layer."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QLabel, QListWidget

from medseg import (
    CancelToken,
    Card,
    GeometryError,
    InferenceSettings,
    LabelVolume,
    ModelEntry,
    Progress,
    Result,
    SeparationSettings,
    Volume,
    list_models,
    segment,
    set_cache_folder,
)
from napari_plugin.forms import SettingsForm
from napari_plugin.jobs import Ended
from napari_plugin.layers import PREVIEW, labels_layer, origin_of, volume_of
from napari_plugin.panel import Button, Panel, duration
from napari_plugin.preferences import preference, remember
from napari_plugin.region import chosen_box, region_choices
from napari_plugin.request import Request, expected, is_worth_a_look, loaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Layer

COMPUTE = ("device", "threads")
MORE = (
    "overlap_fraction", "mirror", "crop_to_body", "uncertainty", "max_memory_gb", "object_diameter_mm",
    "backend", "precision", "sanity",
)  # fmt: skip
SEPARATION = ("split_h_mm", "merge_gap_mm", "min_volume_mm3")
LOOK_AFTER_MS = 400
"""After the last choice, time and memory are estimated."""

RESEARCH = "For research only."

_WAIT_FOR_ESTIMATE_S = 60.0


class SegmentPanel(Panel):
    """Segment the scan of a layer with a model.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    looked = Signal(object, object)
    """A `Request` and the labels of a first look, from the thread of the work."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.result: Result | None = None
        self.held: tuple[Request, Result] | None = None
        self.entries: dict[str, ModelEntry] = {}
        self._look: Layer | None = None
        self._asides_of_plan = self.latest()
        self._make_parts()
        self._lay_out()
        self.load_models()
        self.models.setCurrentText(preference("last", "model", "brain-mri"))
        self._connect()
        self._list_scans()
        self._show_card()

    # ------------------------------------------------------------------ the form

    def _make_parts(self) -> None:
        self.models, self.region = QComboBox(), QComboBox()
        self.channels: list[QComboBox] = [QComboBox()]
        self.scans = self.channels[0]
        self.card, self.plan = QLabel(), QLabel()
        for words in (self.card, self.plan):
            words.setWordWrap(True)
        self.classes = QListWidget()
        self.classes.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self.classes.setToolTip("Select the structures to keep (Ctrl+click for several); none keeps all")
        self.classes.setMaximumHeight(110)
        self.region.setToolTip("Only this part is looked at: quicker, and for large scans less memory")
        self.separate = QCheckBox("Tell the objects of each class apart")
        self.first_look = QCheckBox("Show a first look after seconds")
        self.first_look.setToolTip("On a coarse grid, replaced by the result")
        self.first_look.setChecked(True)
        self.compute = SettingsForm(InferenceSettings, COMPUTE)
        cores = os.cpu_count() or 2
        device, threads = preference("compute", "device", "auto"), preference("compute", "threads", 0)
        self.compute.fill({"device": device, "threads": threads or max(1, cores - 1)})
        self.more_button = Button("More settings", "Overlap, mirroring, memory, splitting…", "", self._toggle)
        self.more_button.setCheckable(True)
        self.more = SettingsForm(InferenceSettings, MORE)
        self.separation = SettingsForm(SeparationSettings, SEPARATION)
        self.run_button = Button(
            "Run", "Segment the scan; the button then stops it", "Alt+R", self.or_cancel(self.run)
        )
        self.add_button = Button("Add the result anyway", "The scan was closed or changed meanwhile")
        self.add_button.clicked.connect(self._add_held)
        self.add_button.setVisible(False)

    def _lay_out(self) -> None:
        self.form = QFormLayout()
        rows = (("Model", self.models), ("", self.card), ("Scan", self.scans), ("Structures", self.classes))
        for words, part in (*rows, ("Region", self.region), ("", self.separate), ("", self.first_look)):
            self.form.addRow(words, part)
        self.box.addLayout(self.form)
        for part in (self.compute, self.more_button, self.more, self.separation):
            self.box.addWidget(part)
        self.more.setVisible(False)
        self.separation.setVisible(False)
        for part in (self.plan, self.run_button, self.add_button):
            self.box.addWidget(part)
        self.finish_layout()

    def _connect(self) -> None:
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(LOOK_AFTER_MS)
        self._soon.timeout.connect(self._estimate)
        self.looked.connect(self._show_look)
        self.models.currentTextChanged.connect(self._show_card)
        self.scans.currentTextChanged.connect(lambda _: self._plan_soon())
        self.region.currentTextChanged.connect(lambda _: self._plan_soon())
        self.separate.toggled.connect(lambda on: self.separation.setVisible(on and self.more.isVisible()))
        for form in (self.compute, self.more):
            form.changed.connect(self._plan_soon)
        self.compute.changed.connect(self._remember_compute)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.events.removed):
            event.connect(self._list_scans)
        self.viewer.layers.events.reordered.connect(self._list_scans)

    def _toggle(self) -> None:
        on = self.more_button.isChecked()
        self.more.setVisible(on)
        self.separation.setVisible(on and self.separate.isChecked())

    def _remember_compute(self) -> None:
        for key, value in self.compute.values().items():
            remember("compute", key, value)

    def load_models(self) -> None:
        """List the models at hand; damaged ones are left out."""
        chosen = self.models.currentText()
        self.entries = {entry.name: entry for entry in list_models() if entry.card is not None}
        self.models.clear()
        self.models.addItems(list(self.entries))
        self.models.setCurrentText(chosen)

    def chosen_card(self) -> Card | None:
        """What the chosen model says of itself."""
        entry = self.entries.get(self.models.currentText())
        return None if entry is None else entry.card

    def _list_scans(self, _event: Any = None) -> None:
        names = [layer.name for layer in self.viewer.layers if _is_scan(layer)]
        for combo, items in (
            *((one, names) for one in self.channels),
            (self.region, region_choices(self.viewer)),
        ):
            chosen = combo.currentText()
            if items != [combo.itemText(n) for n in range(combo.count())]:
                combo.clear()
                combo.addItems(items)
                combo.setCurrentText(chosen)
                self._plan_soon()
        missing = self._update_button()
        if not self.is_busy and self.held is None and (_event is not None or not self.said.text()):
            self.say(missing + "." if missing else "Choose a model and press Run.")

    def _show_card(self, _name: str = "") -> None:
        card = self.chosen_card()
        self.classes.clear()
        if card is not None:
            spacing = " x ".join(f"{s:g}" for s in card.spacing_mm) if card.spacing_mm else "any"
            self.card.setText(
                f"{card.description}\n{card.modality or 'Any modality'}, {spacing} mm. Licence: "
                f"{card.licence or 'not stated'}. {RESEARCH}"
            )
            self.classes.addItems([label.name for label in card.labels])
            self._make_channels(card)
        self._update_button()
        self._plan_soon()

    def _make_channels(self, card: Card) -> None:
        """One choice of a scan for each image that the model wants."""
        while len(self.channels) > max(1, card.in_channels):
            self.form.removeRow(self.channels.pop())
        while len(self.channels) < card.in_channels:
            combo = QComboBox()
            combo.currentTextChanged.connect(lambda _: self._plan_soon())
            row, _ = self.form.getWidgetPosition(self.channels[-1])
            self.form.insertRow(row + 1, "Scan", combo)
            self.channels.append(combo)
        names = card.channel_names or tuple(f"Scan {n}" for n in range(1, card.in_channels + 1))
        for combo, words in zip(self.channels, names if card.in_channels > 1 else ("Scan",), strict=True):
            label = self.form.labelForField(combo)
            if isinstance(label, QLabel):
                label.setText(words)
        self._list_scans()

    def _update_button(self) -> str:
        """Let Run be pressed, or say why not."""
        missing = "" if self.scans.count() else "Open a scan first (panel 1 Study, or drop a file)"
        missing = missing or ("" if self.entries else "No model is at hand: medseg models install NAME")
        if not self.is_busy:
            self.run_button.allow(missing)
        return missing

    # ------------------------------------------------------------------ what is asked for

    def request(self) -> Request:
        """What the form asks for now.

        Raises:
            GeometryError: a layer was moved, or the region lies beside the scan.
            SettingsError: values that contradict each other.
        """
        card = self.chosen_card()
        layers = tuple(self.viewer.layers[one.currentText()] for one in self.channels if one.count())
        if card is None or not layers:
            raise GeometryError(
                "NO_SCAN", "expected a scan and a model, got none; open a scan, choose a model"
            )
        chosen = tuple(item.text() for item in self.classes.selectedItems())
        settings = InferenceSettings(
            **self.compute.values(),
            **self.more.values(),
            classes=chosen,
            roi_voxels=chosen_box(self.viewer, layers[0], self.region.currentText()),
        )
        names = chosen or tuple(label.name for label in card.labels)
        how = SeparationSettings(**self.separation.values())
        return Request(
            layers,
            tuple(layer.data for layer in layers),
            tuple(volume_of(layer) for layer in layers),
            self.models.currentText(),
            card,
            settings,
            dict.fromkeys(names, how) if self.separate.isChecked() else {},
        )

    def _plan_soon(self) -> None:
        if hasattr(self, "_soon"):
            self._soon.start()

    def _estimate(self) -> None:
        """Say what the run would take; beside the window, and never beside a run."""
        if self.is_busy or not self.run_button.isEnabled() or not self.isVisible():
            return
        asked: list[Request] = []
        if not self.attempt(lambda: asked.append(self.request())):
            return
        self.plan.setText("Estimating time and memory…")
        self._asides_of_plan.ask(lambda _, cancel: expected(asked[0], cancel), self._show_plan)

    def _show_plan(self, ended: Ended) -> None:
        self.plan.setText(ended.value if ended.is_done else f"{ended.message} [{ended.code}]")

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Segment what the form asks for."""
        if self.is_busy:
            self.say("Something runs already; wait for it or cancel it.")
            return
        asked: list[Request] = []
        if self.attempt(lambda: asked.append(self.request())):
            self._begin(asked[0])

    def _begin(self, asked: Request) -> None:
        wants_look = self.first_look.isChecked()

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> Result:
            self._asides_of_plan.wait(_WAIT_FOR_ESTIMATE_S)  # it shares torch's threads
            report(Progress("load the model", 0, 0))
            model = loaded(asked.model, asked.card.sha256, asked.settings.device)
            look = wants_look and is_worth_a_look(asked, model)
            return segment(
                asked.scans if len(asked.scans) > 1 else asked.scans[0],
                model,
                asked.settings,
                separate=asked.separate,
                preview=(lambda labels: self.looked.emit(asked, labels)) if look else None,
                progress=report,
                cancel=cancel,
            )

        remember("last", "model", asked.model)
        set_cache_folder(preference("files", "cache_folder", "") or None)
        self._asides_of_plan.forget()
        self.add_button.setVisible(False)
        self.start(work, self.run_button, lambda result: self._finished(asked, result))

    def _ended(self, ended: Ended, done: Callable[[Any], None]) -> None:
        self._drop_look()
        super()._ended(ended, done)
        if ended.code in ("UNKNOWN_MODEL", "NOT_A_MODEL"):
            self.load_models()
        self._update_button()

    def _show_look(self, asked: Request, labels: LabelVolume) -> None:
        """The first look, while the run goes on."""
        if not self.is_busy or not asked.is_current(self.viewer):
            return
        data, words, _ = labels_layer(labels, "first look (coarse)", opacity=0.4)
        words["metadata"] = {**words["metadata"], PREVIEW: True}
        active = self.viewer.layers.selection.active
        self._look = self.viewer.add_labels(data, **words)
        self.viewer.layers.selection.active = active

    def _drop_look(self) -> None:
        if self._look is not None and self._look in self.viewer.layers:
            self.viewer.layers.remove(self._look)
        self._look = None

    def _finished(self, asked: Request, result: Result) -> None:
        """Show the answer, or hold it where its scan has gone or changed meanwhile."""
        if not asked.is_current(self.viewer):
            self.held = (asked, result)
            self.add_button.setVisible(True)
            self.say("The result is ready, but its scan was closed or changed meanwhile.")
            return
        self._show(asked, result)

    def _add_held(self) -> None:
        if self.held is not None:
            self._show(*self.held)
        self.held = None
        self.add_button.setVisible(False)

    def _show(self, asked: Request, result: Result) -> None:
        self.result = result
        self._add(result.labels, f"{asked.model} labels", asked.scans[0])
        if result.instances is not None:
            self._add(result.instances, f"{asked.model} objects", asked.scans[0])
        found = sum(region.kind == "class" for region in result.regions)
        seconds = duration(sum(result.record.seconds.values()))
        warnings = "".join(f"\nNote: {words}" for words in result.record.warnings)
        self.say(f"{found} structures found in {seconds}. Next: panel 3 Objects.{warnings}")

    def _add(self, labels: LabelVolume, name: str, scan: Volume) -> None:
        data, words, _ = labels_layer(labels, name, scan, opacity=0.6)
        self.viewer.add_labels(data, **words)


def _is_scan(layer: Layer) -> bool:
    return hasattr(layer, "contrast_limits") and origin_of(layer) is not None
