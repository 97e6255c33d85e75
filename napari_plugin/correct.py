"""The Correct panel: tools that propose labels, a preview, Apply or Cancel, and nothing lost."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QComboBox, QFormLayout, QGridLayout, QLabel, QStackedWidget, QWidget

from medseg import Edit, Proposal, accept_proposal
from napari_plugin.autosave import Autosave, RecoveryBox
from napari_plugin.canvas import on_click, voxel_at
from napari_plugin.history import history_of
from napari_plugin.jobs import Ended
from napari_plugin.layers import PREVIEW
from napari_plugin.panel import Button, Panel
from napari_plugin.target_box import TargetBox
from napari_plugin.tools import GrowTool, ScribbleTool, SlicesTool, Target, Tool
from napari_plugin.wire_tool import WireTool

if TYPE_CHECKING:
    from collections.abc import Collection

    from napari import Viewer
    from napari.layers import Labels
    from qtpy.QtGui import QCloseEvent

PREVIEW_NAME = "Preview"

_ERASES = (1.0, 1.0, 1.0, 0.8)
"""Colour of what a preview takes away."""


@dataclass(frozen=True)
class Asked:
    """What a preview was computed for.

    Attributes:
        target: layers and label.
        revision: how often the labels had changed; None where the preview does not depend on them.
    """

    target: Target
    revision: int | None


@dataclass(frozen=True, eq=False)
class Drawn:
    """A proposal, and what it would change as it is drawn.

    napari takes seconds to prepare for colours of large or negative numbers, and no time for small ones.

    Attributes:
        proposal: as the tool gave it.
        start: first voxel of the box that changes.
        numbers: of that box: 0 where nothing changes, else 1, 2, … for the first, second, … of `ids`.
        ids: labels after the change, 0 among them where some voxels become background.
    """

    proposal: Proposal
    start: tuple[int, int, int]
    numbers: Any
    ids: tuple[int, ...]


class CorrectPanel(Panel):
    """Correct a labels layer with tools that know edges, intensities and shapes.

    Args:
        napari_viewer: napari's; it finds this argument by its name.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(napari_viewer)
        self.tools: tuple[Tool, ...] = (WireTool(), GrowTool(), ScribbleTool(), SlicesTool())
        self.tool: Tool | None = None
        self.proposal: tuple[Asked, Drawn] | None = None
        self.held: tuple[Asked, Drawn] | None = None
        self.preview_layer: Labels | None = None
        self.previews, self.applying = self.latest(), self.latest()
        self.autosave = Autosave(self.viewer, self)
        self.recovery = RecoveryBox(self.autosave, self.say)
        self.chosen = TargetBox(self)
        self._revision = 0
        self._bound: weakref.WeakSet[Labels] = weakref.WeakSet()
        self._lay_out()
        self._connect()
        self._update_buttons()

    def _lay_out(self) -> None:
        self.tool_choice = QComboBox()
        self.tool_choice.addItems(["choose a tool", *(tool.title for tool in self.tools)])
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.forms = QStackedWidget()
        self.forms.addWidget(QWidget())
        for tool in self.tools:
            self.forms.addWidget(tool)
        self.preview_button = Button("Preview", "Compute what the tool proposes", press=self.preview)
        self.apply_button = Button("Apply (Enter)", "Write the preview into the labels", press=self.apply)
        self.cancel_button = Button(
            "Cancel (Esc)", "Drop preview, clicks, strokes", press=self.cancel_preview
        )
        self.held_button = Button("Show the held preview anyway", press=self.show_held)
        self.held_button.setVisible(False)
        self.undo_button = Button("Undo (Ctrl+Z)", "Take the last change of the labels back", press=self.undo)
        self.redo_button = Button("Redo (Ctrl+Shift+Z)", "Make the change again", press=self.redo)
        form = QFormLayout()
        form.addRow("Tool", self.tool_choice)
        grid = QGridLayout()
        for column, button in enumerate((self.preview_button, self.apply_button, self.cancel_button)):
            grid.addWidget(button, 0, column)
        grid.addWidget(self.undo_button, 1, 0)
        grid.addWidget(self.redo_button, 1, 1, 1, 2)
        self.box.addWidget(self.recovery)
        self.box.addWidget(self.chosen)
        self.box.addLayout(form)
        for part in (self.words, self.forms):
            self.box.addWidget(part)
        self.box.addLayout(grid)
        self.box.addWidget(self.held_button)
        self.finish_layout()

    def _connect(self) -> None:
        self.chosen.changed.connect(self._retarget)
        self.chosen.edited.connect(self._labels_changed)
        self.tool_choice.currentIndexChanged.connect(self._chose_tool)
        for tool in self.tools:
            tool.asks_preview.connect(self.preview)
            tool.says.connect(self.say)
        self.autosave.failed.connect(self.fail)
        viewer = self.viewer
        viewer.mouse_drag_callbacks.append(on_click(self.clicked))
        viewer.mouse_move_callbacks.append(self._moved)
        self._bind_undo(viewer)
        self._bind_ends(viewer)

    def _retarget(self) -> None:
        """Let the tool work on what is chosen now."""
        if self.tool is not None and not self.chosen.missing():
            tool = self.tool
            self.attempt(lambda: tool.begin(self.chosen.target()))
        self._bind_layers()
        self._update_buttons()

    def _bind_undo(self, place: Any) -> None:
        """One Ctrl+Z for strokes and tools: napari's own knows of strokes alone."""
        place.bind_key("Control-Z", lambda _place: self.undo(), overwrite=True)
        place.bind_key("Control-Shift-Z", lambda _place: self.redo(), overwrite=True)

    def _bind_ends(self, place: Any) -> None:
        """Enter applies, Esc cancels; while a polygon is drawn both belong to napari."""
        is_taken = str(getattr(place, "mode", "")) == "polygon"
        place.bind_key("Enter", None if is_taken else lambda _place: self.enter(), overwrite=True)
        place.bind_key("Escape", None if is_taken else lambda _place: self.cancel_preview(), overwrite=True)

    def _bind_layers(self) -> None:
        """A labels layer hears keys before the viewer does, so each is told of them."""
        layer = self.chosen.layer
        if layer is not None:
            self._bind_undo(layer)
        for one in self.viewer.layers:
            if hasattr(one, "selected_label"):
                self._bind_ends(one)
                if one not in self._bound:
                    self._bound.add(one)
                    one.events.mode.connect(lambda event: self._bind_ends(event.source))

    def _labels_changed(self) -> None:
        self._revision += 1
        self._update_buttons()

    def _chose_tool(self, index: int) -> None:
        self.drop_preview()
        if self.tool is not None:
            self.tool.end()
        self.tool = self.tools[index - 1] if index else None
        if self.tool is None and self.preview_layer is not None and self.preview_layer in self.viewer.layers:
            self.viewer.layers.remove(self.preview_layer)
        self.forms.setCurrentIndex(index)
        self.words.setText(self.tool.words if self.tool is not None else "")
        self._retarget()

    # ------------------------------------------------------------------ the pointer

    def clicked(self, position: Any) -> None:
        """A click in the viewer: the tool decides what it means.

        Args:
            position: of the viewer's world.
        """
        tool = self.tool
        if tool is None or tool.target is None or tool.target.scan not in self.viewer.layers:
            return
        active = self.viewer.layers.selection.active
        if active is not None and str(getattr(active, "mode", "pan_zoom")) not in ("pan_zoom", "transform"):
            return  # a brush is at work
        if self.viewer.dims.ndisplay == 3:
            self.say("Clicks count on slices: switch the viewer to 2D.")
            return
        voxel = voxel_at(tool.target.scan, position)
        if voxel is not None:
            self.attempt(lambda: tool.click(voxel))

    def _moved(self, _viewer: Viewer, event: Any) -> None:
        tool = self.tool
        if tool is not None and tool.target is not None and self.viewer.dims.ndisplay == 2:
            voxel = voxel_at(tool.target.scan, event.position)
            if voxel is not None:
                tool.move(voxel)

    def enter(self) -> None:
        """Close what is being drawn; else apply what is previewed."""
        if self.tool is None or not self.tool.finish():
            self.apply()

    # ------------------------------------------------------------------ preview, apply, undo

    def preview(self) -> None:
        """Compute what the tool proposes, beside the window; only the newest question is answered."""
        tool = self.tool
        if tool is None or not self.attempt(lambda: setattr(tool, "target", self.chosen.target())):
            return
        compute, target = tool.work(), tool.target
        if compute is None or target is None:
            return
        asked = Asked(target, self._revision if tool.reads_labels else None)
        labels, locked = np.asarray(target.labels.data), history_of(target.labels).locked

        def work(_report: Any, _cancel: Any) -> Drawn:
            return drawn(compute(), labels, locked)

        self.previews.ask(work, lambda ended: self._previewed(asked, ended))

    def _previewed(self, asked: Asked, ended: Ended) -> None:
        if not ended.is_done:
            self.drop_preview()
            self.fail(ended)
            return
        target = asked.target
        is_gone = target.labels not in self.viewer.layers or target.scan not in self.viewer.layers
        if is_gone or asked.revision not in (None, self._revision):
            self.held = (asked, ended.value)
            self.held_button.setVisible(target.labels in self.viewer.layers)
            what = "its layer was closed" if is_gone else "the labels were changed"
            self.say(f"A preview is ready, but {what} meanwhile: it is held, not shown.")
            return
        self.show_preview(asked, ended.value)

    def show_preview(self, asked: Asked, drawing: Drawn) -> None:
        """Lay a proposal over the labels; nothing is written yet."""
        self.proposal = (asked, drawing)
        labels = asked.target.labels
        scale = np.asarray(labels.scale)
        corner = np.asarray(labels.translate) + scale * drawing.start
        colours = _colours(labels, drawing)
        layer = self.preview_layer
        if layer is None or layer not in self.viewer.layers:
            active = self.viewer.layers.selection.active
            self.preview_layer = self.viewer.add_labels(
                drawing.numbers,
                name=PREVIEW_NAME,
                opacity=0.8,
                colormap=colours,
                scale=scale,
                translate=corner,
                units=labels.units,
                axis_labels=labels.axis_labels,
                metadata={PREVIEW: True},
            )
            self.viewer.layers.selection.active = active
            self._bind_layers()
        else:
            layer.data = drawing.numbers
            if not np.array_equal(layer.translate, corner):
                layer.translate = corner
            if not np.array_equal(layer.colormap.colors, colours.colors):
                layer.colormap = colours
            layer.visible = True
        voxels = int(np.count_nonzero(drawing.numbers))
        ml = voxels * float(np.prod(scale)) / 1000
        change = f"{voxels} voxels, {ml:.3g} ml would change. Enter applies, Esc cancels."
        self.say(change if voxels else "Nothing would change: it is locked, or so already.")
        self._update_buttons()

    def show_held(self) -> None:
        """Show a preview that was held because the labels changed meanwhile."""
        held, self.held = self.held, None
        self.held_button.setVisible(False)
        if held is not None and held[0].target.labels in self.viewer.layers:
            self.show_preview(*held)

    def apply(self) -> None:
        """Write the preview into the labels, but for what is locked."""
        if self.proposal is None:
            return
        asked, proposal = self.proposal[0], self.proposal[1].proposal
        labels = asked.target.labels
        array, locked = np.asarray(labels.data), history_of(labels).locked

        def decide(_report: Any, _cancel: Any) -> Edit:
            return accept_proposal(array, proposal, locked)

        self.applying.ask(decide, lambda ended: self._apply(asked, ended))

    def _apply(self, asked: Asked, ended: Ended) -> None:
        labels = asked.target.labels
        if not ended.is_done:
            self.fail(ended)
            return
        if labels not in self.viewer.layers:
            self.say("The labels were closed meanwhile; nothing was written.")
            return
        edit = ended.value
        changed = int((edit.before != edit.after).sum())
        if self.attempt(lambda: history_of(labels).do(edit) if changed else None):
            self.drop_preview()
            if self.tool is not None:
                self.tool.clear()
            self.say(f"{changed} voxels changed." if changed else "Nothing changed: locked, or so already.")

    def drop_preview(self) -> None:
        """Take the preview away; nothing was written."""
        self.previews.forget()
        self.proposal = self.held = None
        self.held_button.setVisible(False)
        layer = self.preview_layer
        if layer is not None and layer in self.viewer.layers and layer.visible:
            layer.visible = False  # to remove a layer takes napari half a second
            layer.data = np.zeros((1, 1, 1), np.uint16)
        self._update_buttons()

    def cancel_preview(self) -> None:
        """Drop preview, clicks and strokes."""
        self.drop_preview()
        if self.tool is not None:
            self.tool.clear()
        self.say("Nothing was changed.")

    def undo(self) -> None:
        """Take back the last change of the labels: of a tool, of the brush, of another panel."""
        if self.chosen.history is not None and not self.chosen.history.undo():
            self.say("There is nothing to undo.")

    def redo(self) -> None:
        """Make again what was undone last."""
        if self.chosen.history is not None and not self.chosen.history.redo():
            self.say("There is nothing to redo.")

    def _update_buttons(self) -> None:
        missing = self.chosen.missing() or ("" if self.tool is not None else "Choose a tool first")
        self.preview_button.allow(missing)
        nothing = "" if self.proposal is not None else "There is no preview yet"
        self.apply_button.allow(nothing)
        self.cancel_button.allow("" if self.tool is not None else nothing)
        history = self.chosen.history
        self.undo_button.allow("" if history is not None and history.done else "Nothing was changed yet")
        self.redo_button.allow("" if history is not None and history.undone else "Nothing was undone")

    def closeEvent(self, event: QCloseEvent) -> None:
        """Take away what a tool showed."""
        self.tool_choice.setCurrentIndex(0)
        super().closeEvent(event)


def drawn(proposal: Proposal, labels: Any, locked: Collection[int]) -> Drawn:
    """What a proposal would change of a label map; for a working thread."""
    edit = accept_proposal(labels, proposal, locked)
    changes = edit.before != edit.after
    after = edit.after[changes]
    ids = np.unique(after)
    numbers = np.zeros(changes.shape, np.uint16)
    numbers[changes] = np.searchsorted(ids, after) + 1
    return Drawn(proposal, edit.start, numbers, tuple(int(i) for i in ids))


def _colours(labels: Labels, drawing: Drawn) -> Any:
    """The colours of the labels, and one for what is taken away."""
    from napari.utils.colormaps import CyclicLabelColormap

    own = [labels.get_color(i) if i else _ERASES for i in drawing.ids] or [_ERASES]
    return CyclicLabelColormap(colors=np.array([np.zeros(4), *own], dtype=np.float32), background_value=0)
