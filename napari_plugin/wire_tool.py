"""The live wire as a tool: clicks fix a line that snaps to edges, on one slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFormLayout, QPushButton

from medseg import LiveWire, Proposal, fill_outline, snap_to_edge
from napari_plugin.canvas import Plane, Voxel, shown_plane
from napari_plugin.jobs import Ended
from napari_plugin.latest import Latest
from napari_plugin.tools import Compute, Target, Tool

if TYPE_CHECKING:
    from napari.layers import Shapes

OUTLINE = "Live wire"
_CLOSES_WITHIN_PIXELS = 4


class WireTool(Tool):
    """Clicks along an edge become an outline, and that an area of the slice."""

    title = "Live wire"
    words = "Click along an edge: the line snaps to it. Enter, or a click on the first point, closes it."

    def __init__(self) -> None:
        super().__init__()
        self.plane: Plane | None = None
        self.way: Any = np.zeros((0, 2), int)
        self.is_closed = False
        self.layer: Shapes | None = None
        self._anchors: list[int] = []
        self._clicks: list[tuple[int, int]] = []
        self._wire: LiveWire | None = None
        self._latest = Latest(self)
        self.back_button = QPushButton("Take the last point back")
        self.back_button.clicked.connect(self.take_back)
        form = QFormLayout(self)
        form.addRow(self.back_button)

    @property
    def is_busy(self) -> bool:
        """Whether clicks wait for their line."""
        return self._latest.is_busy or bool(self._clicks)

    def begin(self, target: Target) -> None:
        """Let clicks be clicks, and no strokes."""
        if self.target is not None and self.target.scan is not target.scan:
            self.clear()
        super().begin(target)
        self.put_brush_down(target)

    def clear(self) -> None:
        """Forget the line."""
        self._latest.forget()
        self.plane, self._wire, self.is_closed = None, None, False
        self.way, self._anchors, self._clicks = np.zeros((0, 2), int), [], []
        if self.layer is not None and self.layer.visible:
            self.layer.visible = False  # to remove a layer takes napari half a second

    def end(self) -> None:
        """Take the line away."""
        self.clear()
        self.take_away(self.layer)
        self.layer = self.target = None

    def click(self, voxel: Voxel) -> None:
        """Fix the line here; close it where it began."""
        target = self.target
        if target is None:
            return
        if self.is_closed:
            self.clear()
        plane = shown_plane(target.viewer, target.scan)
        if self.plane is not None and plane != self.plane:
            self.says.emit("The line lies on another slice: go back there, or press Esc to begin anew.")
            return
        self.plane = plane
        pixel = plane.pixel(voxel)
        if len(self._anchors) > 1 and np.abs(self.way[0] - pixel).max() <= _CLOSES_WITHIN_PIXELS:
            self.finish()
            return
        self._clicks.append(pixel)
        self._fix_next()

    def _fix_next(self) -> None:
        if not self._clicks or self._latest.is_busy or self.target is None or self.plane is None:
            return
        pixel, wire = self._clicks.pop(0), self._wire
        image, mm = self.plane.cut(np.asarray(self.target.scan.data)), self._slice_mm()

        def work(_report: Any, _cancel: Any) -> tuple[Any, LiveWire]:
            fixed = snap_to_edge(image, pixel, mm)
            way = np.array([fixed]) if wire is None else wire.to(fixed)[1:]
            return way, LiveWire(image, fixed, mm)

        self._latest.ask(work, self._fixed)

    def _fixed(self, ended: Ended) -> None:
        if not ended.is_done:
            self.says.emit(f"{ended.message} [{ended.code}]")
            self._clicks = []
            return
        more, self._wire = ended.value
        self.way = np.concatenate([self.way, more])
        self._anchors.append(len(self.way))
        self._show(self.way)
        self._fix_next()

    def move(self, voxel: Voxel) -> None:
        """Show where the line would go."""
        target = self.target
        if target is None or self._wire is None or self.plane is None or self.is_closed or self.is_busy:
            return
        if shown_plane(target.viewer, target.scan) == self.plane:
            self._show(np.concatenate([self.way, self._wire.to(self.plane.pixel(voxel))[1:]]))

    def take_back(self) -> None:
        """Loosen the last point."""
        if len(self._anchors) < 2 or self.is_busy or self.target is None or self.plane is None:
            self.clear()
            return
        self._anchors.pop()
        self.way = self.way[: self._anchors[-1]]
        self._show(self.way)
        image, mm = self.plane.cut(np.asarray(self.target.scan.data)), self._slice_mm()
        last = [int(n) for n in self.way[-1]]
        self._latest.ask(lambda _report, _cancel: LiveWire(image, last, mm), self._loosened)

    def _loosened(self, ended: Ended) -> None:
        if ended.is_done:
            self._wire = ended.value
            self._fix_next()

    def finish(self) -> bool:
        """Close the line and ask for what it encloses."""
        if self.is_closed or self._wire is None or len(self._anchors) < 2 or self.is_busy:
            return False
        self.way = np.concatenate([self.way, self._wire.to([int(n) for n in self.way[0]])[1:]])
        self.is_closed = True
        self._show(self.way)
        self.asks_preview.emit()
        return True

    def work(self) -> Compute | None:
        """Fill what the closed line encloses."""
        target = self.target
        if target is None or not self.is_closed or self.plane is None:
            return None
        way, plane, label_id = self.way, self.plane, target.label_id
        shape = plane.cut(np.asarray(target.scan.data)).shape

        def compute() -> Proposal:
            low, high = way.min(axis=0), way.max(axis=0) + 1
            mask = fill_outline(way, shape)[low[0] : high[0], low[1] : high[1]]
            (first,) = plane.voxels(low[None])
            ids = np.expand_dims(np.where(mask, label_id, Proposal.KEEP).astype(np.int32), plane.axis)
            return Proposal((int(first[0]), int(first[1]), int(first[2])), ids)

        return compute

    def _slice_mm(self) -> tuple[float, float]:
        if self.plane is None or self.target is None:
            return 1.0, 1.0
        first, second = self.plane.kept
        return self.target.spacing_mm[first], self.target.spacing_mm[second]

    def _show(self, way: Any) -> None:
        if self.target is None or self.plane is None:
            return
        points = self.plane.voxels(way if len(way) > 1 else np.repeat(way, 2, axis=0))
        viewer, scan = self.target.viewer, self.target.scan
        if self.layer is None or self.layer not in viewer.layers:
            active = viewer.layers.selection.active
            self.layer = viewer.add_shapes(
                [points],
                shape_type="path",
                name=OUTLINE,
                scale=scan.scale,
                translate=scan.translate,
                units=scan.units,
                edge_color="yellow",
                edge_width=0.6,
            )
            viewer.layers.selection.active = active
        else:
            self.layer.data = [points]
            self.layer.visible = True
