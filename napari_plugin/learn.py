"""The Batch & learn panel: a folder of cases, corrected one after another, while a model learns from them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QGridLayout,
    QLabel,
)

from medseg import (
    CancelToken,
    CaseQueue,
    FineTuneSettings,
    GeometryError,
    InferenceSettings,
    LabelVolume,
    Progress,
    QueueCase,
    Round,
    TrainingSettings,
    Volume,
    correct_case,
    labels_to_correct,
    learn_from_queue,
    list_models,
    open_queue,
    predict_cases,
    read_queue_case,
    save_queue,
)
from napari_plugin.case_table import CaseTable
from napari_plugin.history import history_of
from napari_plugin.jobs import Ended, Work
from napari_plugin.layers import image_layer, labels_layer, labels_of, volume_of
from napari_plugin.panel import Button, Panel
from napari_plugin.views import say_true_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari import Viewer
    from napari.layers import Image, Labels
    from qtpy.QtWidgets import QPushButton

_THREADS = max(1, (os.cpu_count() or 2) - 1)
"""One processor is left to the window."""


class LearnPanel(Panel):
    """Work through a queue of cases together with a model.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    case_changed = Signal(object)
    """A `QueueCase` as it is now; sent by a working thread."""

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.queue: CaseQueue | None = None
        self.opened: tuple[QueueCase, Image, Labels] | None = None
        self._saved_edits = 0
        self._warned = ""
        self.beside, self.keeping = self.latest(), self.latest()
        self._lay_out()
        self.case_changed.connect(self._put)
        self.table.itemSelectionChanged.connect(self._update_buttons)
        self.table.itemDoubleClicked.connect(lambda _item: self.open_selected())
        self.starts.currentIndexChanged.connect(self._choose_start)
        napari_viewer.layers.events.removed.connect(lambda _event: self._update_buttons())
        self._update_buttons()

    def _lay_out(self) -> None:
        self.folder_button = Button(
            "Open folder…", "Of image files or DICOM studies", press=self.or_cancel(self._ask_folder)
        )
        self.starts = QComboBox()
        self.starts.setToolTip("What the first training begins with, and what is painted")
        self.starts.addItem("nothing, for structures", ("", "classes"))
        self.starts.addItem("nothing, for objects", ("", "objects"))
        for entry in list_models():
            if entry.card is not None and entry.card.separation is not None:
                self.starts.addItem(f"{entry.name}, for objects", (entry.name, "objects"))
        self.table = CaseTable()
        self.next_button = Button("Open next", "The case that teaches most", press=self.open_next)
        self.open_button = Button("Open selected", "Also by a double click", press=self.open_selected)
        self.save_button = Button("Save correction", "Keep the labels to learn from", press=self.save)
        self.minutes = QDoubleSpinBox()
        rule = TrainingSettings.__dataclass_fields__["minutes"]
        self.minutes.setRange(rule.metadata["min"], rule.metadata["max"])
        self.minutes.setValue(rule.default)
        self.minutes.setSuffix(" min")
        self.minutes.setToolTip(rule.metadata["help"])
        self.learn_button = Button(
            "Learn", "Train on all corrections, beside your work", press=self.or_cancel(self.learn)
        )
        self.predict_button = Button(
            "Predict", "Let the newest model label the rest", press=self.or_cancel(self.predict)
        )
        self.score = QLabel()
        self.score.setWordWrap(True)
        form = QFormLayout()
        form.addRow("Begin with", self.starts)
        form.addRow("Learn for", self.minutes)
        grid = QGridLayout()
        for number, button in enumerate((self.next_button, self.open_button, self.save_button)):
            grid.addWidget(button, 0, number)
        for number, button in enumerate((self.learn_button, self.predict_button)):
            grid.addWidget(button, 1, number)
        self.box.addWidget(self.folder_button)
        self.box.addLayout(form)
        self.box.addWidget(self.table)
        self.box.addLayout(grid)
        self.box.addWidget(self.score)
        self.finish_layout()

    # ------------------------------------------------------------------ the queue

    def _ask_folder(self) -> None:
        if name := QFileDialog.getExistingDirectory(self, "Open a folder of cases"):
            self.open_folder(Path(name))

    def open_folder(self, folder: Path) -> None:
        """Find the cases of a folder, and go on where it was left."""

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> CaseQueue:
            return open_queue(folder, progress=report, cancel=cancel)

        self.start(work, self.folder_button, self._show_queue)

    def _show_queue(self, queue: CaseQueue) -> None:
        self.queue = queue
        self.starts.blockSignals(True)
        wanted = (queue.start, queue.paints)
        at = next((n for n in range(self.starts.count()) if self.starts.itemData(n) == wanted), -1)
        if at < 0:
            self.starts.addItem(queue.start, wanted)
            at = self.starts.count() - 1
        self.starts.setCurrentIndex(at)
        self.starts.blockSignals(False)
        self._fill()
        self.say(f"{len(queue.cases)} cases; {len(queue.to_do())} wait for you. Open the next one.")

    def _fill(self) -> None:
        """The table and the scores as the queue has them now."""
        queue = self.queue
        if queue is None:
            return
        self.table.show_cases(queue.cases)
        self.score.setText(
            "\n".join(words_of(number, one) for number, one in enumerate(queue.rounds, start=1))
        )
        self._update_buttons()

    def _keep(self, queue: CaseQueue) -> None:
        """Show a new state and write it down; of several in a row only the last is written."""
        self.queue = queue
        self._fill()
        self.keeping.ask(lambda _report, _cancel: save_queue(queue), self._kept)

    def _kept(self, ended: Ended) -> None:
        if not ended.is_done:
            self.fail(ended)

    def _put(self, case: QueueCase) -> None:
        """Take over what a working thread says of a case, unless a person has corrected it meanwhile."""
        if self.queue is not None and not self.queue.case(case.name).is_labelled:
            self._keep(self.queue.with_case(case))

    def _choose_start(self, _index: int) -> None:
        if self.queue is not None:
            start, paints = self.starts.currentData()
            self._keep(replace(self.queue, start=start, paints=paints))

    # ------------------------------------------------------------------ one case

    def open_next(self) -> None:
        """Open the case that teaches most."""
        waiting = () if self.queue is None else self.queue.to_do()
        if waiting:
            self.open_case(waiting[0].name)

    def open_selected(self) -> None:
        """Open the case of the selected row."""
        if name := self.table.selected_name():
            self.open_case(name)

    def open_case(self, name: str) -> None:
        """Load scan and labels of a case, in place of those of the last one.

        Args:
            name: of the case.
        """
        queue = self.queue
        if queue is None or self.beside.is_busy:
            self.say("One moment: the last case is still being read or saved.")
            return
        if self.is_unsaved() and self._warned != name:
            self._warned = name
            self.say("The correction is not saved yet. Save it, or open the case again to drop it.")
            return
        case = queue.case(name)

        def work(_report: Any, _cancel: Any) -> tuple[Volume, LabelVolume]:
            scan = read_queue_case(queue, case)
            return scan, labels_to_correct(queue, case, scan)

        self.say(f"Reading {name}…")
        self.beside.ask(work, lambda ended: self._opened(case, ended))

    def _opened(self, case: QueueCase, ended: Ended) -> None:
        if not ended.is_done:
            if not case.is_labelled and self.queue is not None:
                reason = f"{ended.message} [{ended.code}]"
                self._keep(self.queue.with_case(replace(case, state="failed", reason=reason)))
            self.fail(ended)
            return
        scan, labels = ended.value
        self._close_case()
        data, words, _ = image_layer(scan, case.name)
        image = self.viewer.add_image(data, **words)
        data, words, _ = labels_layer(labels, f"{case.name} labels", scan, opacity=0.6)
        layer = self.viewer.add_labels(data, **words)
        for one in (image, layer):
            say_true_coordinates(one)
        self.opened, self._saved_edits, self._warned = (case, image, layer), 0, ""
        history_of(layer)
        self.viewer.reset_view()
        doubt = "" if case.uncertainty is None else f", {case.uncertainty:.0%} unsure"
        self.say(f"{case.name}: {case.state}{doubt}. Correct it (panel Correct), then save.")
        self._update_buttons()

    def _close_case(self) -> None:
        if self.opened is not None:
            for layer in self.opened[1:]:
                if layer in self.viewer.layers:
                    self.viewer.layers.remove(layer)
        self.opened = None

    def is_unsaved(self) -> bool:
        """Whether the open case was changed since it was saved."""
        return self.is_open() and self.opened is not None and self._edits() != self._saved_edits

    def is_open(self) -> bool:
        """Whether scan and labels of a case are in the viewer."""
        return self.opened is not None and all(layer in self.viewer.layers for layer in self.opened[1:])

    def _edits(self) -> int:
        return 0 if self.opened is None else len(history_of(self.opened[2]).done)

    def save(self) -> None:
        """Keep the labels of the open case as they are now."""
        queue, opened = self.queue, self.opened
        if queue is None or opened is None or not self.is_open():
            self.say("No case is open.")
            return
        if self.beside.is_busy:
            self.say("One moment: the last case is still being read or saved.")
            return
        (name, image, layer), edits = (opened[0].name, *opened[1:]), self._edits()

        def work(_report: Any, _cancel: Any) -> QueueCase:
            labels = labels_of(layer)
            if not labels.array.any():
                raise GeometryError("NO_LABELS", "expected labels, got none; paint something, then save")
            return correct_case(queue, queue.case(name), volume_of(image), labels)

        self.beside.ask(work, lambda ended: self._saved(edits, ended))

    def _saved(self, edits: int, ended: Ended) -> None:
        if not ended.is_done:
            self.fail(ended)
            return
        self._saved_edits = edits
        if self.queue is not None:
            self._keep(self.queue.with_case(ended.value))
            left = len(self.queue.to_do())
            self.say(f"{ended.value.name} saved; {left} wait for you.")

    # ------------------------------------------------------------------ the model

    def settings(self) -> TrainingSettings | FineTuneSettings:
        """How the next training learns."""
        if self.queue is not None and self.queue.start:
            return FineTuneSettings(threads=_THREADS)
        return TrainingSettings(minutes=self.minutes.value(), threads=_THREADS)

    def learn(self, settings: TrainingSettings | FineTuneSettings | None = None) -> None:
        """Train on what is corrected so far, then predict the rest; correcting goes on meanwhile.

        Args:
            settings: how; the form's if not given.
        """
        queue = self.queue
        if queue is None:
            return
        chosen = settings or self.settings()

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> Round:
            return learn_from_queue(queue, chosen, report, cancel)

        self.start(work, self.learn_button, self._learned)

    def _learned(self, done: Round) -> None:
        if self.queue is not None:
            self._keep(replace(self.queue, rounds=(*self.queue.rounds, done)))
            self.predict()

    def predict(self) -> None:
        """Let the newest model label what no person has corrected."""
        queue = self.queue
        if queue is None:
            return
        settings = InferenceSettings(threads=_THREADS)

        def work(report: Callable[[Progress], None], cancel: CancelToken) -> int:
            return predict_cases(queue, self.case_changed.emit, settings, report, cancel)

        self.start(work, self.predict_button, self._predicted)

    def _predicted(self, count: int) -> None:
        rounds = () if self.queue is None else self.queue.rounds
        told = f" {words_of(len(rounds), rounds[-1])}" if rounds else ""
        self.say(f"{count} cases predicted; the most uncertain comes next.{told}")
        self._update_buttons()

    def _update_buttons(self) -> None:
        queue = self.queue
        missing = "" if queue is not None else "Open a folder of cases first"
        self.next_button.allow(missing or ("" if queue and queue.to_do() else "Every case is done"))
        self.open_button.allow(missing or ("" if self.table.selected_name() else "Select a row first"))
        self.save_button.allow(missing or ("" if self.is_open() else "Open a case first"))
        self.starts.setEnabled(queue is not None and not queue.rounds)
        states = [] if queue is None else [case.state for case in queue.cases]
        nothing = "" if "corrected" in states else "Correct a case first that is not for the score"
        no_model = "" if queue is not None and queue.model else "Learn first"
        for button, why_not in (
            (self.folder_button, ""),
            (self.learn_button, missing or nothing),
            (self.predict_button, missing or no_model),
        ):
            if not self.is_busy:
                button.allow(why_not)
            elif button is not self._button:
                button.allow("Wait until what runs has ended, or cancel it")

    def start(self, work: Work, button: QPushButton, done: Callable[[Any], None]) -> None:
        """As every panel; one of folder, training and prediction at a time."""
        super().start(work, button, done)
        self._update_buttons()

    def _ended(self, ended: Ended, done: Callable[[Any], None]) -> None:
        super()._ended(ended, done)
        self._update_buttons()


def words_of(number: int, one: Round) -> str:
    """A training in a line."""
    score = "no score: no held-out case is labelled" if one.score is None else f"score {one.score:.3f}"
    return f"Round {number}: {score} ({one.held_out} held out), learned from {one.learned_from}."
