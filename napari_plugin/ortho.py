"""Two more planes beside the one that is shown: the same layers, the same place, moved by a click."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.qt import QtViewer
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_plugin.canvas import on_click
from napari_plugin.layers import origin_of
from napari_plugin.views import PLANES, hold_heads_up, show_plane, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from qtpy.QtGui import QCloseEvent

NAME = "Planes"
FOLLOWED = ("opacity", "visible", "colormap", "contrast_limits", "gamma", "blending")
"""Properties that a copy of a layer takes over; each has an event of its name."""

_SETTLE_MS = 40
_FIT_MS = 200


class Planes(QWidget):
    """The planes that the viewer does not show, side by side.

    Args:
        viewer: napari's; layers that were made by this plugin are shown.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self.models = [ViewerModel() for _ in range(2)]
        self.views = [QtViewer(model) for model in self.models]
        self._copies: list[dict[Layer, Layer]] = [{}, {}]
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        for view in self.views:
            view.setMinimumSize(220, 220)
            box.addWidget(view)
        self._later = QTimer(self)
        self._later.setSingleShot(True)
        self._later.setInterval(_SETTLE_MS)
        self._later.timeout.connect(self._refresh)
        for model in self.models:
            hold_heads_up(model)
            model.mouse_drag_callbacks.append(on_click(self._go))
        self._listeners: list[tuple[Any, Callable[[Any], None]]] = []
        for layer in viewer.layers:
            self._add(layer)
        self._listen(viewer.layers.events.inserted, self._inserted)
        self._listen(viewer.layers.events.removed, self._removed)
        self._listen(viewer.dims.events.point, self._follow)
        self._listen(viewer.dims.events.order, self._turn)
        self._turn()
        self._fit = QTimer(self)  # once the sizes of the views are known
        self._fit.setSingleShot(True)
        self._fit.timeout.connect(self._turn)
        self._fit.start(_FIT_MS)

    def _listen(self, source: Any, listener: Callable[[Any], None]) -> None:
        source.connect(listener)
        self._listeners.append((source, listener))

    def _inserted(self, event: Any) -> None:
        self._add(event.value)
        self._turn()

    def _add(self, layer: Layer) -> None:
        if origin_of(layer) is None or not isinstance(layer, (Image, Labels)):
            return
        for model, copies in zip(self.models, self._copies, strict=True):
            copies[layer] = model.add_layer(_copy(layer))
        for name in (*FOLLOWED, "data"):
            if hasattr(layer.events, name):
                self._listen(getattr(layer.events, name), partial(self._take, layer, name))
        if isinstance(layer, Labels):
            self._listen(layer.events.set_data, self._refresh_soon)
            self._listen(layer.events.paint, self._refresh_soon)

    def _refresh_soon(self, _event: Any = None) -> None:
        self._later.start()

    def _take(self, layer: Layer, name: str, _event: Any = None) -> None:
        for copies in self._copies:
            if layer in copies:
                setattr(copies[layer], name, getattr(layer, name))

    def _removed(self, event: Any) -> None:
        for model, copies in zip(self.models, self._copies, strict=True):
            copy = copies.pop(event.value, None)
            if copy is not None:
                model.layers.remove(copy)

    def _refresh(self) -> None:
        """Voxels are shared; what was painted is only to be drawn anew."""
        for copies in self._copies:
            for layer, copy in copies.items():
                if isinstance(layer, Labels):
                    copy.refresh()

    def _turn(self, _event: Any = None) -> None:
        """Show the planes that the viewer does not."""
        more = self._viewer.dims.ndim - 3
        first = self._viewer.dims.order[-3] - more if more >= 0 else 0
        shown = [plane for plane, order in PLANES.items() if order[0] != first]
        for model, plane in zip(self.models, shown[:2], strict=True):
            if model.layers:
                show_plane(model, plane)
        self._follow()

    def _follow(self, _event: Any = None) -> None:
        """Go where the viewer is."""
        point = self._viewer.dims.point[-3:]
        for model in self.models:
            if model.layers and len(point) == model.dims.ndim:
                model.dims.set_point(range(3), point)

    def _go(self, position: Any) -> None:
        """Take the viewer to a place that was clicked in a plane."""
        more = self._viewer.dims.ndim - 3
        self._viewer.dims.set_point(range(more, more + 3), position[-3:])

    def closeEvent(self, event: QCloseEvent) -> None:
        """Let go of the viewer and of graphics memory."""
        self._later.stop()
        self._fit.stop()
        for source, listener in self._listeners:
            source.disconnect(listener)
        for view in self.views:
            view.close()
        super().closeEvent(event)


def _copy(layer: Layer) -> Layer:
    """A layer that shares voxels with another one."""
    kept = {name: getattr(layer, name) for name in FOLLOWED if hasattr(layer, name)}
    words = dict(
        name=layer.name, scale=layer.scale, translate=layer.translate, units=layer.units,
        axis_labels=layer.axis_labels, metadata=layer.metadata, **kept,
    )  # fmt: skip
    return Image(layer.data, **words) if isinstance(layer, Image) else Labels(layer.data, **words)


def toggle_planes(viewer: Viewer) -> Planes | None:
    """Open the two other planes beside the viewer, or close them.

    Returns:
        What was opened; None where it was closed.
    """
    viewer = unwrapped(viewer)
    for name, dock in viewer.window.dock_widgets.items():
        if name == NAME:
            viewer.window.remove_dock_widget(dock)
            dock.close()
            return None
    planes = Planes(viewer)
    viewer.window.add_dock_widget(planes, name=NAME, area="bottom")
    return planes
