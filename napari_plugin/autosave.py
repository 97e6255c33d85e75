"""Saves every labels layer soon after it changed, beside the window, and brings back what a crash left."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from medseg import MedsegError
from napari_plugin.drafts import Abandoned, Draft, Session, abandoned
from napari_plugin.history import history_of
from napari_plugin.jobs import Ended
from napari_plugin.latest import Latest
from napari_plugin.layers import label_layers, labels_layer, labels_of, origin_of
from napari_plugin.panel import Button
from napari_plugin.views import say_true_coordinates

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Labels

SAVED_AFTER_MS = 2000
"""A change is saved after this long, with those that followed it."""


class Autosave(QObject):
    """Watches the labels layers of a viewer.

    Args:
        viewer: napari's.
        parent: the panel that it belongs to.
        root: where sessions keep their work; the platform's place if not given.
    """

    saved = Signal()
    """After a save."""

    failed = Signal(object)
    """An `Ended`: nothing could be saved."""

    def __init__(self, viewer: Viewer, parent: QObject, root: Path | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._session = Session(root)
        self._latest = Latest(self)
        self._numbers: weakref.WeakKeyDictionary[Labels, int] = weakref.WeakKeyDictionary()
        self._count = itertools.count()
        self._changed: set[Labels] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.save_now)
        self.left: list[Abandoned] = abandoned(root)
        self._recovered: list[Abandoned] = []
        viewer.layers.events.inserted.connect(self._watch)
        self._watch()

    @property
    def is_busy(self) -> bool:
        """Whether something is to be saved, or being saved."""
        return bool(self._changed) or self._latest.is_busy

    def save_now(self) -> None:
        """Save what changed since the last time."""
        if self._latest.is_busy:
            self._timer.start(SAVED_AFTER_MS)
            return
        layers = [layer for layer in self._changed if layer in self._viewer.layers]
        self._changed.clear()
        if not layers:
            return
        numbered = [(self._numbers[layer], layer) for layer in layers]
        session = self._session

        def work(_report: Any, _cancel: Any) -> None:
            trouble: MedsegError | None = None
            for number, layer in numbered:
                try:
                    session.save(number, Draft(layer.name, labels_of(layer)))
                except MedsegError as error:  # a layer that was moved keeps no other from being saved
                    trouble = error
            if trouble is not None:
                raise trouble

        self._latest.ask(work, self._ended)

    def bring_back(self, done: Callable[[int], None]) -> None:
        """Add the layers that a crash left; they are saved anew before the old files go.

        Args:
            done: told how many layers came back.
        """
        left = list(self.left)

        def work(_report: Any, _cancel: Any) -> list[Draft]:
            return [draft for one in left for draft in one.read()]

        def add(ended: Ended) -> None:
            if not ended.is_done:
                self.failed.emit(ended)
                return
            for draft in ended.value:
                self._changed.add(self._add(draft))
            self.left, self._recovered = [], left
            self._timer.start(0)
            done(len(ended.value))

        self._latest.ask(work, add)

    def discard(self) -> None:
        """Delete what a crash left."""
        for one in self.left:
            one.drop()
        self.left = []

    def _add(self, draft: Draft) -> Labels:
        """A layer as it was; it belongs to the open scan that lies where it lies."""
        origins = [origin_of(layer) for layer in self._viewer.layers if hasattr(layer, "contrast_limits")]
        scans = [one.scan for one in origins if one is not None and one.scan is not None]
        own = [scan for scan in scans if scan.geometry.is_close(draft.labels.geometry)]
        data, words, _ = labels_layer(draft.labels, draft.title, own[0] if own else None, opacity=0.6)
        layer = self._viewer.add_labels(data, **words)
        say_true_coordinates(layer)
        return layer

    def _watch(self, _event: Any = None) -> None:
        for layer in label_layers(self._viewer):
            if layer not in self._numbers:
                self._numbers[layer] = next(self._count)
                self._listen(weakref.ref(layer))

    def _listen(self, layer: weakref.ref[Labels]) -> None:
        """Hear of changes, without keeping a layer alive that was closed."""
        there = layer()
        if there is not None:
            history_of(there).changed.connect(lambda: self._note(layer()))

    def _note(self, layer: Labels | None) -> None:
        if layer is not None and origin_of(layer) is not None:
            self._changed.add(layer)
            if not self._timer.isActive():
                self._timer.start(SAVED_AFTER_MS)

    def _ended(self, ended: Ended) -> None:
        if ended.is_done:
            for one in self._recovered:
                one.drop()
            self._recovered = []
            self.saved.emit()
        else:
            self.failed.emit(ended)


class RecoveryBox(QWidget):
    """Offers what a crash left; hidden where there is nothing.

    Args:
        autosave: what was left.
        say: tells the user.
    """

    def __init__(self, autosave: Autosave, say: Callable[[str], None]) -> None:
        super().__init__()
        self._autosave, self._say = autosave, say
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.recover_button = Button("Recover", "Open the layers as they were saved last", press=self.recover)
        self.discard_button = Button("Discard", "Delete what was saved, for good", press=self.discard)
        grid = QGridLayout(self)
        grid.addWidget(self.words, 0, 0, 1, 2)
        grid.addWidget(self.recover_button, 1, 0)
        grid.addWidget(self.discard_button, 1, 1)
        titles = [one for left in autosave.left for one in left.titles()]
        lines = "".join(f"\n{title}, {saved[:16].replace('T', ' ')} UTC" for title, saved in titles[:5])
        self.words.setText(f"The program ended unexpectedly. This was saved:{lines}")
        self.setVisible(bool(titles))

    def recover(self) -> None:
        """Open again what was left."""

        def came_back(count: int) -> None:
            self.setVisible(False)
            self._say(f"{count} layer(s) recovered.")

        self._autosave.bring_back(came_back)

    def discard(self) -> None:
        """Delete what was left."""
        self._autosave.discard()
        self.setVisible(False)
