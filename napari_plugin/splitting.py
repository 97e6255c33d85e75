"""Splitting an object: a slider for how deep a neck must be, with the parts shown as it moves; or clicks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QSlider, QVBoxLayout, QWidget

from medseg import Edit, LabelSet, LabelVolume, SeparationSettings, split_object, split_object_at
from napari_plugin.history import history_of
from napari_plugin.layers import PREVIEW, labels_layer, layer_edit, shown_labels, world_of
from napari_plugin.panel import Button, Panel

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Labels, Layer, Points

    from napari_plugin.jobs import Ended

STEPS = 100


class SplitBox(QWidget):
    """The part of the Objects panel that splits the selected object.

    Args:
        panel: runs the work and speaks to the user.
        chosen: gives the labels layer and the selected object, or None.
    """

    def __init__(self, panel: Panel, chosen: Callable[[], tuple[Labels, int, float] | None]) -> None:
        super().__init__()
        self._panel, self._chosen = panel, chosen
        self._looks = panel.latest()
        self.edit: Edit | None = None
        self.of: tuple[Labels, int] | None = None
        self.words = QLabel("Split: move the slider")
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, STEPS)
        self.slider.setToolTip(
            "A neck this much less deep than both sides tells two objects apart; left splits more"
        )
        self.slider.valueChanged.connect(self._preview)
        self.apply_button = Button("Split", "Make the parts that are shown objects", "Alt+S", self.apply)
        self.clicks_button = Button(
            "Split by clicks", "Click once in each part, then press again", "Alt+K", self.click
        )
        self.drop_button = Button("Discard", "Forget the parts that are shown", press=self.discard)
        row, box = QHBoxLayout(), QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        for button in (self.apply_button, self.clicks_button, self.drop_button):
            row.addWidget(button)
        for part in (self.words, self.slider):
            box.addWidget(part)
        box.addLayout(row)
        self._points: Points | None = None
        self._shown: Layer | None = None
        self.update_buttons()

    def update_buttons(self) -> None:
        """Let the buttons be pressed, or say why not."""
        missing = "" if self._chosen() else "Click one object in the table first"
        self.slider.setEnabled(not missing)
        self.clicks_button.allow(missing)
        self.apply_button.allow(missing or ("" if self.edit else "Move the slider until parts are shown"))
        self.drop_button.allow(
            "" if self.edit or self._points else "Nothing is shown that could be discarded"
        )

    def _preview(self, value: int) -> None:
        """Show the parts for a position of the slider; the latest position counts."""
        chosen = self._chosen()
        if chosen is None:
            return
        layer, object_id, radius_mm = chosen
        h = radius_mm * (0.02 + 0.98 * (value / STEPS) ** 2)
        self.words.setText(f"Split where a neck is {h:.2g} mm less deep than both sides")
        self._look(
            layer, object_id, lambda labels: split_object(labels, object_id, SeparationSettings(split_h_mm=h))
        )

    def _look(self, layer: Labels, object_id: int, split: Callable[[LabelVolume], Edit]) -> None:
        def work(_report: Any, _cancel: Any) -> Edit:
            return split(shown_labels(layer))

        self._looks.ask(work, lambda ended: self._show(layer, object_id, ended))

    def _show(self, layer: Labels, object_id: int, ended: Ended) -> None:
        self._remove_preview()
        if not ended.is_done:
            self.update_buttons()
            self._panel.fail(ended)
            return
        edit: Edit = ended.value
        parts = len(edit.parents) + 1
        self._panel.say(f"{parts} parts." if parts > 1 else "One part: nothing to split at this depth.")
        if parts > 1:
            self.edit, self.of = edit, (layer, object_id)
            self._add_preview(layer, edit, object_id)
        self.update_buttons()

    def _add_preview(self, layer: Labels, edit: Edit, object_id: int) -> None:
        """The parts over the labels, in colours that tell them apart."""
        shown = shown_labels(layer)
        stop = [a + n for a, n in zip(edit.start, edit.after.shape, strict=True)]
        numbers = {new: n for n, new in enumerate([object_id, *edit.parents], start=1)}
        parts = sum((edit.after == new) * number for new, number in numbers.items())
        labels = LabelVolume(parts, shown.geometry.crop(edit.start, stop), LabelSet.unnamed(numbers.values()))
        data, words, _ = labels_layer(labels, "parts (preview)")
        words["metadata"] = {**words["metadata"], PREVIEW: True}
        self._shown = self._panel.viewer.add_labels(data, **words)
        self._panel.viewer.layers.selection.active = layer

    def apply(self) -> None:
        """Make the shown parts objects."""
        edit, of = self.edit, self.of
        self.discard()
        if edit is None or of is None:
            return
        layer, _ = of
        if self._panel.attempt(lambda: history_of(layer).do(layer_edit(edit))):
            self._panel.say(f"Split in {len(edit.parents) + 1}; Undo takes it back.")

    def click(self) -> None:
        """Begin to take clicks; or, where there are some, show the parts between them."""
        chosen = self._chosen()
        if chosen is None:
            return
        layer, object_id, _ = chosen
        points = self._points
        if points is None or points not in self._panel.viewer.layers:
            self._points = self._panel.viewer.add_points(
                ndim=3, name="split here", size=3 * min(layer.scale), units=layer.units,
                axis_labels=layer.axis_labels, metadata={PREVIEW: True},
            )  # fmt: skip
            self._points.mode = "add"
            self._panel.say("Click once in each part, then press “Split by clicks” again.")
        else:
            places = [world_of(layer, place) for place in points.data]
            self._panel.viewer.layers.remove(points)
            self._points = None
            self._look(layer, object_id, lambda labels: split_object_at(labels, object_id, places))
        self.update_buttons()

    def discard(self) -> None:
        """Remove preview and clicks."""
        self._looks.forget()
        self._remove_preview()
        if self._points is not None and self._points in self._panel.viewer.layers:
            self._panel.viewer.layers.remove(self._points)
        self._points = None
        self.update_buttons()

    def _remove_preview(self) -> None:
        if self._shown is not None and self._shown in self._panel.viewer.layers:
            self._panel.viewer.layers.remove(self._shown)
        self._shown, self.edit, self.of = None, None, None
