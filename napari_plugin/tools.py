"""The tools of the Correct panel: what clicks and strokes mean, and what is to be computed for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QWidget,
)

from medseg import (
    GrowSettings,
    Proposal,
    ScribbleSettings,
    grow_region,
    grow_scribbles,
    interpolate_slices,
)
from napari_plugin.canvas import Voxel, box_in_view, shown_plane
from napari_plugin.layers import PREVIEW

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Labels, Layer

Compute = Callable[[], Proposal]
SCRIBBLES = "Scribbles"
BACKGROUND = 65535
"""Background among scribbles, whose layer holds 16 bits."""

_SLIDER_STEPS = 1000


@dataclass(frozen=True)
class Target:
    """What is corrected.

    Attributes:
        viewer: napari's.
        labels: the layer that is painted.
        scan: the layer whose edges and intensities count, on the same grid.
        label_id: what is painted; `Proposal.ERASE` for background.
    """

    viewer: Viewer
    labels: Labels
    scan: Image
    label_id: int

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along the axes of the layers."""
        z, y, x = (float(step) for step in self.scan.scale[-3:])
        return z, y, x


class Tool(QWidget):
    """A way to propose labels; shows its own settings.

    A tool computes nothing itself: `work` says what is to be computed, from values alone.
    """

    title = ""
    words = ""
    """One sentence that tells a first-time user what to do."""

    reads_labels = False
    """Whether what it computes depends on the labels as they are now."""

    asks_preview = Signal()
    """Something changed: what was computed before is no longer what is meant."""

    says = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.target: Target | None = None

    def begin(self, target: Target) -> None:
        """The tool was chosen, or is to work on something else."""
        self.target = target

    def end(self) -> None:
        """Another tool was chosen: take away what was shown."""
        self.clear()
        self.target = None

    def click(self, voxel: Voxel) -> None:
        """A voxel of the scan was clicked."""

    def move(self, voxel: Voxel) -> None:
        """The pointer moved over a voxel of the scan."""

    def finish(self) -> bool:
        """End what is being drawn; whether there was something."""
        return False

    def clear(self) -> None:
        """Forget clicks and strokes."""

    def work(self) -> Compute | None:
        """What is to be computed; None where clicks are missing yet."""
        return None

    def put_brush_down(self, target: Target) -> None:
        """Let clicks be clicks, and no strokes."""
        target.labels.mode = "pan_zoom"
        target.viewer.layers.selection.active = target.labels

    def take_away(self, layer: Layer | None) -> None:
        """Remove a layer of the tool's own, if the user has not done so."""
        if layer is not None and self.target is not None and layer in self.target.viewer.layers:
            self.target.viewer.layers.remove(layer)


class GrowTool(Tool):
    """A click grows into the region that looks like it."""

    title = "Click and grow"
    words = "Click inside something; move the slider until the preview fits."

    def __init__(self) -> None:
        super().__init__()
        self.seed: Voxel | None = None
        self._range = 1.0
        rules = {field.name: field for field in fields(GrowSettings)}
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, _SLIDER_STEPS)
        self.slider.setValue(_SLIDER_STEPS // 5)
        self.slider.setToolTip(rules["tolerance"].metadata["help"])
        self.value = QLabel()
        self.radius = QDoubleSpinBox()
        self.radius.setDecimals(4)
        self.radius.setRange(rules["radius_mm"].metadata["min"], rules["radius_mm"].metadata["max"])
        self.radius.setValue(GrowSettings().radius_mm)
        self.radius.setSuffix(" mm")
        self.radius.setToolTip(rules["radius_mm"].metadata["help"])
        form = QFormLayout(self)
        row = QHBoxLayout()
        row.addWidget(self.slider)
        row.addWidget(self.value)
        form.addRow("Tolerance", row)
        form.addRow("Radius", self.radius)
        self.slider.valueChanged.connect(self._changed)
        self.radius.valueChanged.connect(self._changed)
        self._show_value()

    @property
    def settings(self) -> GrowSettings:
        """What the form says."""
        share = self.slider.value() / _SLIDER_STEPS
        return GrowSettings(tolerance=share * self._range, radius_mm=self.radius.value())

    def begin(self, target: Target) -> None:
        """Let the slider go over half of the contrast that is shown."""
        super().begin(target)
        self.put_brush_down(target)
        low, high = (float(limit) for limit in target.scan.contrast_limits)
        self._range = max(high - low, 1e-12) / 2
        self._show_value()

    def click(self, voxel: Voxel) -> None:
        """Grow from here."""
        self.seed = voxel
        self.asks_preview.emit()

    def clear(self) -> None:
        """Forget the click."""
        self.seed = None

    def work(self) -> Compute | None:
        """Grow from the click."""
        seed, settings, target = self.seed, self.settings, self.target
        if seed is None or target is None:
            return None
        image, spacing, label_id = np.asarray(target.scan.data), target.spacing_mm, target.label_id
        return lambda: grow_region(image, seed, spacing, settings, label_id)

    def _changed(self, _value: Any = None) -> None:
        self._show_value()
        if self.seed is not None:
            self.asks_preview.emit()

    def _show_value(self) -> None:
        self.value.setText(f"\u00b1 {self.settings.tolerance:.3g}")


class ScribbleTool(Tool):
    """Strokes of classes and of background divide what is in view."""

    title = "Scribbles"
    words = (
        "Paint a stroke in the structure and one in the background, on one slice or several, then press "
        "Preview: what is in view from the first to the last of these slices is divided among the strokes."
    )

    def __init__(self) -> None:
        super().__init__()
        self.layer: Labels | None = None
        self._ids: set[int] = set()
        self.paint_button, self.back_button = QPushButton("Paint structure"), QPushButton("Paint background")
        self.method = QComboBox()
        rule = next(field for field in fields(ScribbleSettings) if field.name == "method").metadata
        self.method.addItems(rule["choices"])
        self.method.setToolTip(rule["help"])
        form = QFormLayout(self)
        row = QHBoxLayout()
        row.addWidget(self.paint_button)
        row.addWidget(self.back_button)
        form.addRow(row)
        form.addRow("Divide by", self.method)
        self.paint_button.clicked.connect(lambda: self.paint(background=False))
        self.back_button.clicked.connect(lambda: self.paint(background=True))
        self.method.currentTextChanged.connect(lambda _name: self.asks_preview.emit())

    def begin(self, target: Target) -> None:
        """Lay an empty layer for strokes over the scan."""
        shape = target.scan.data.shape
        if self.layer is None or self.layer not in target.viewer.layers or self.layer.data.shape != shape:
            self.take_away(self.layer)
            self.layer = target.viewer.add_labels(
                np.zeros(shape, np.uint16),
                name=SCRIBBLES,
                scale=target.scan.scale,
                translate=target.scan.translate,
                units=target.scan.units,
                metadata={PREVIEW: True},
            )
            self.layer.brush_size = 3
        super().begin(target)
        self.paint(background=False)

    def paint(self, *, background: bool) -> None:
        """Put the brush into the user's hand."""
        target = self.target
        if self.layer is None or target is None or self.layer not in target.viewer.layers:
            self.says.emit("The scribbles were closed; choose the tool again.")
            return
        label_id = target.label_id
        is_background = background or label_id == Proposal.ERASE
        if not is_background and label_id >= BACKGROUND:
            self.says.emit(f"Scribbles hold labels below {BACKGROUND}; grow or draw this one.")
            return
        self._colour(target)
        self.layer.selected_label = BACKGROUND if is_background else label_id
        target.viewer.layers.selection.active = self.layer
        self.layer.mode = "paint"

    def _colour(self, target: Target) -> None:
        """Strokes have the colours of what they stand for; those of background are white."""
        from napari.utils.colormaps import direct_colormap

        if self.layer is None:
            return
        self._ids |= {target.label_id} - {Proposal.ERASE}  # each stroke keeps its colour
        clear = np.zeros(4)
        colours: dict[int | None, Any] = {None: clear, 0: clear, BACKGROUND: np.ones(4)}
        for label_id in self._ids:
            colours[label_id] = np.asarray(target.labels.get_color(label_id))
        self.layer.colormap = direct_colormap(colours)

    def end(self) -> None:
        """Take the strokes away."""
        self.take_away(self.layer)
        self.layer = self.target = None
        self._ids = set()

    def clear(self) -> None:
        """Wipe the strokes off."""
        if self.layer is not None:
            self.layer.data = np.zeros_like(self.layer.data)

    def work(self) -> Compute | None:
        """Divide the box in view, from the first to the last slice with strokes."""
        target = self.target
        if target is None or self.layer is None or self.layer not in target.viewer.layers:
            return None
        image, strokes = np.asarray(target.scan.data), np.asarray(self.layer.data)
        start, stop = box_in_view(target.viewer, target.scan)
        axis, spacing = shown_plane(target.viewer, target.scan).axis, target.spacing_mm
        settings = ScribbleSettings(method=self.method.currentText())

        def compute() -> Proposal:
            part = strokes[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
            others = tuple(other for other in range(3) if other != axis)
            drawn = np.flatnonzero(part.any(axis=others))
            first, last = (int(drawn[0]), int(drawn[-1])) if len(drawn) else (0, 0)
            low = tuple(first if a == axis else n for a, n in enumerate(start))
            high = tuple(last + 1 if a == axis else n for a, n in enumerate(stop))
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            return grow_scribbles(image[box], strokes[box].copy(), BACKGROUND, spacing, settings, low)

        return compute


class SlicesTool(Tool):
    """Fills what lies between drawn slices."""

    title = "Between slices"
    words = "Draw the structure on every few slices, then press Preview: the slices between follow its shape."
    reads_labels = True

    def begin(self, target: Target) -> None:
        """Put the brush on the labels themselves."""
        super().begin(target)
        if target.label_id != Proposal.ERASE:
            target.labels.selected_label = target.label_id
        target.viewer.layers.selection.active = target.labels

    def work(self) -> Compute | None:
        """Interpolate across the axis that the viewer goes through."""
        target = self.target
        if target is None:
            return None
        if target.label_id == Proposal.ERASE:
            self.says.emit("Choose a structure: background cannot be filled in between slices.")
            return None
        labels, label_id, spacing = np.asarray(target.labels.data), target.label_id, target.spacing_mm
        axis = shown_plane(target.viewer, target.labels).axis
        return lambda: interpolate_slices(labels == label_id, axis, spacing, label_id)
