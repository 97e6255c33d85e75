"""How a slice is held: heads up, as radiologists hang it, with true coordinates and letters at its edges."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from medseg import GeometryError
from napari_plugin.layers import origin_of, world_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.components import ViewerModel
    from napari.layers import Layer

PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""Order of napari's axes for each plane: the one that is gone through, the vertical, the horizontal."""

_GROWS = ("S", "P", "L")
_OTHER_END = {"S": "I", "P": "A", "L": "R"}
_MARK = "_medseg_coordinates"
_HELD: list[weakref.ref[Any]] = []
"""Viewers that are held heads up."""


def unwrapped(viewer: Viewer) -> Viewer:
    """The viewer itself: plugins are handed a proxy, whose layers are other objects at each access."""
    bare: Viewer = getattr(viewer, "__wrapped__", viewer)
    return bare


def show_plane(viewer: Viewer | ViewerModel, plane: str) -> None:
    """Show one plane, heads up.

    Args:
        viewer: napari's.
        plane: `"axial"`, `"coronal"` or `"sagittal"`.
    """
    more = viewer.dims.ndim - 3
    viewer.dims.ndisplay = 2
    viewer.dims.order = (*range(more), *(axis + more for axis in PLANES[plane]))
    viewer.reset_view()


def go_to(viewer: Viewer, position: tuple[float, float, float]) -> None:
    """Show the slices through a place, in all axes, with the place in the middle; in 3D turn about it.

    Args:
        viewer: napari's.
        position: of napari's world, its last three axes.
    """
    more = viewer.dims.ndim - 3
    viewer.dims.set_point(tuple(range(more, more + 3)), position)
    shown = [position[axis - more] for axis in viewer.dims.displayed if axis >= more]
    viewer.scene.camera.center = (*[0.0] * (3 - len(shown)), *shown)


def hold_heads_up(viewer: Viewer | ViewerModel) -> None:
    """Keep superior at the top and anterior at the top of axial slices, whatever plane is shown.

    Letters at the four edges say which way is which: R and L, A and P, S and I; the status bar says the
    file's own coordinates. Asked twice for a viewer, it does so once.
    """
    if any(known() is viewer for known in _HELD):
        return
    _HELD[:] = [known for known in _HELD if known() is not None] + [weakref.ref(viewer)]

    def turn(_event: Any = None) -> None:
        for layer in viewer.layers:
            say_true_coordinates(layer)
        if any(origin_of(layer) for layer in viewer.layers):
            viewer.scene.camera.orientation2d = (vertical_direction(viewer), "right")
            for edge, letter in edge_letters(viewer).items():
                _write_letter(viewer, edge, letter)

    viewer.dims.events.order.connect(turn)
    viewer.dims.events.ndisplay.connect(turn)
    viewer.layers.events.inserted.connect(turn)
    turn()


def _write_letter(viewer: Viewer | ViewerModel, edge: str, letter: str) -> None:
    from napari.components.overlays import TextOverlay

    name = f"medseg_{edge}"
    if name not in viewer.canvas.overlays:
        viewer.canvas.overlays[name] = TextOverlay(position=edge, font_size=14)
    overlay = viewer.canvas.overlays[name]
    overlay.text, overlay.visible = letter, viewer.dims.ndisplay == 2


def vertical_direction(viewer: Viewer | ViewerModel) -> str:
    """Where the vertical axis grows on the screen: up where it is superior, else down."""
    return "up" if _shown_axes(viewer)[0] == 0 else "down"


def edge_letters(viewer: Viewer | ViewerModel) -> dict[str, str]:
    """Which direction lies at each edge of the picture, by napari's words for the edge."""
    vertical, horizontal = (_GROWS[axis] for axis in _shown_axes(viewer))
    ends = (_OTHER_END[vertical], vertical)
    top, bottom = reversed(ends) if vertical_direction(viewer) == "up" else ends
    return {
        "top_center": top,
        "bottom_center": bottom,
        "middle_left": _OTHER_END[horizontal],
        "middle_right": horizontal,
    }


def _shown_axes(viewer: Viewer | ViewerModel) -> tuple[int, int]:
    more = viewer.dims.ndim - 3
    vertical, horizontal = (axis - more for axis in viewer.dims.order[-2:])
    return max(vertical, 0), max(horizontal, 0)


def say_true_coordinates(layer: Layer) -> None:
    """Let napari's status bar say where the file says that the pointer is, in RAS+ mm."""
    if origin_of(layer) is None or getattr(layer, _MARK, False):
        return
    plain = layer.get_status

    def get_status(position: Any = None, **words: Any) -> dict[str, str]:
        status: dict[str, str] = plain(position, **words)
        if position is not None and words.get("world"):
            try:
                where = coordinates(world_of(layer, position))
            except GeometryError:
                return status
            status["coordinates"] = f" {where}: {status['value']}"
            status["coords"] = f" {where}"
        return status

    layer.get_status = get_status
    setattr(layer, _MARK, True)


def coordinates(world_mm: tuple[float, float, float]) -> str:
    """A point of the world for people: `R 12.5  A -3.0  S 60.1 mm`."""
    return "R {:.1f}  A {:.1f}  S {:.1f} mm".format(*world_mm)
