"""Between medseg's volumes and napari's layers: the only place that knows both orders of axes.

A layer's array is `(z, y, x)`: the scan turned to the nearest of the axes left, posterior, superior,
in reverse, so that an axial slice looks as radiologists hang it. `scale` and `translate` are
millimetres along those axes, LPS. An oblique scan is shown on its own axes, turned about its centre;
its true place travels in `metadata` and comes back at export. No affine is ever given to napari,
which refuses some and ignores others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg import Edit, Geometry, GeometryError, InstanceVolume, LabelSet, LabelVolume, Volume, VolumeError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from napari import Viewer
    from napari.layers import Labels, Layer

Array = npt.NDArray[Any]
LayerData = tuple[Array, dict[str, Any], str]

KEY = "medseg"
"""Under which a layer's metadata holds its `Origin`."""

DISPLAY_CODES = "LPS"
AXIS_LABELS = ("S", "P", "L")
"""Of the layer's axes, each by the direction in which it grows."""

MOST_COLOURS = 2**16
"""Ids from here on share one colour, but for named classes."""

_PALETTE_STEP = 256

CLEAR = (0.0, 0.0, 0.0, 0.0)

PREVIEW = "medseg_preview"
"""Marks the metadata of a layer that shows what a tool would do."""

_TOLERANCE_VOXELS = 1e-3


@dataclass(frozen=True)
class Origin:
    """What a layer cannot say itself, and must not lose.

    Attributes:
        geometry: of the file or the result, before it was turned for the viewer.
        scan: the scan itself, or the one that a label map belongs to: what DICOM files are written for,
            and what intensities are measured in; None where it is not known.
        labels: names of a label map; empty for an image.
        classes: object to class where the labels are objects, else empty.
        is_instances: whether they are.
        scores: object to how sure its detector is, where the labels are objects that were detected.
    """

    geometry: Geometry
    scan: Volume | None = field(default=None, repr=False)
    labels: LabelSet = field(default_factory=LabelSet)
    classes: Mapping[int, int] = field(default_factory=dict)
    is_instances: bool = False
    scores: Mapping[int, float] = field(default_factory=dict)


def display_frame(geometry: Geometry) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and translate of a layer, in mm along `(S, P, L)`.

    The centre of the grid lies where it lies in the world; for a grid along the world's axes every
    voxel does.
    """
    turned = geometry.reorient(DISPLAY_CODES)
    spacing = np.array(turned.spacing_mm)
    middle = (np.array(turned.shape) - 1) / 2
    centre_lps = turned.to_world(middle) * (-1, -1, 1)
    first = centre_lps - spacing * middle
    return tuple(float(s) for s in spacing[::-1]), tuple(float(t) for t in first[::-1])


def _shown(array: Array, geometry: Geometry) -> Array:
    axes, flips = geometry.orientation_steps(DISPLAY_CODES)
    return np.flip(array.transpose(axes), flips).transpose(2, 1, 0)


def _stored(array: Array, geometry: Geometry) -> Array:
    """Undo `_shown`."""
    axes, flips = geometry.orientation_steps(DISPLAY_CODES)
    return np.ascontiguousarray(np.flip(array.transpose(2, 1, 0), flips).transpose(np.argsort(axes)))


def _words(name: str, origin: Origin) -> dict[str, Any]:
    scale, translate = display_frame(origin.geometry)
    return {
        "name": name,
        "scale": scale,
        "translate": translate,
        "units": ("mm",) * 3,
        "axis_labels": AXIS_LABELS,
        "metadata": {KEY: origin},
    }


def image_layer(volume: Volume, name: str, **more: Any) -> LayerData:
    """A scan as napari takes it; shares its voxels.

    Args:
        volume: the scan.
        name: of the layer; give no patient's name.
        more: further arguments of napari's `Image`.
    """
    origin = Origin(volume.geometry, volume)
    return _shown(volume.array, volume.geometry), _words(name, origin) | more, "image"


def labels_layer(labels: LabelVolume, name: str, scan: Volume | None = None, **more: Any) -> LayerData:
    """A label map as napari takes it, with names and colours; its voxels are copied, for it is painted on.

    Args:
        labels: classes or objects.
        name: of the layer.
        scan: what the labels belong to, where it is known.
        more: further arguments of napari's `Labels`.
    """
    is_instances = isinstance(labels, InstanceVolume)
    classes, scores = (labels.classes, labels.scores) if isinstance(labels, InstanceVolume) else ({}, {})
    origin = Origin(labels.geometry, scan, labels.labels, dict(classes), is_instances, dict(scores))
    words = _words(name, origin) | {"features": features_of(origin), "colormap": colours_of(origin)}
    return np.ascontiguousarray(_shown(labels.array, labels.geometry)), words | more, "labels"


def features_of(origin: Origin) -> dict[str, list[Any]]:
    """Columns `index` and `name`, which napari's status bar reads out under the pointer."""
    names = origin.labels.names
    if origin.is_instances:
        ids = sorted(origin.classes)
        shown = [f"{names.get(origin.classes[i], 'object')} {i}" for i in ids]
    else:
        ids = sorted(names)
        shown = [names[i] for i in ids]
    return {"index": [0, *ids], "name": ["background", *shown]}


def colours_of(origin: Origin, hidden: Collection[int] = ()) -> Any:
    """The table of colours of a labels layer, as napari takes it.

    Ids that are not named yet have a colour too, so that what is painted is seen.

    Args:
        origin: names, and the colours of classes; objects get steady ones by their id.
        hidden: ids that are clear.
    """
    from napari.utils.colormaps import CyclicLabelColormap, direct_colormap

    highest = max([0, *(origin.classes if origin.is_instances else origin.labels.ids), *hidden])
    named: dict[int | None, Any] = {}
    if not origin.is_instances:
        named = {x.id: np.divide((*x.colour, 255), 255) for x in origin.labels}
    if highest >= MOST_COLOURS:  # a table up to the highest id would be larger than graphics memory likes
        named[None] = np.ones(4)
        named.update(dict.fromkeys((0, *hidden), CLEAR))
        return direct_colormap(named)
    colours = _palette(-(-(highest + 1) // _PALETTE_STEP) * _PALETTE_STEP).copy()
    for label_id, colour in named.items():
        colours[label_id] = colour
    colours[[0, *hidden]] = CLEAR
    return CyclicLabelColormap(colors=colours, background_value=0)


@lru_cache(maxsize=4)
def _palette(count: int) -> npt.NDArray[np.float32]:
    """Red, green, blue, alpha, 0 to 1, of the ids below `count`."""
    colours = np.ones((count, 4), np.float32)
    colours[1:, :3] = [np.divide(label.colour, 255) for label in LabelSet.unnamed(range(1, count))]
    return colours


def dress(layer: Labels, hidden: Collection[int] = ()) -> None:
    """Show names and colours of a labels layer as its origin has them now.

    Args:
        layer: one of ours; any other stays as it is.
        hidden: ids that are not shown.
    """
    origin = origin_of(layer)
    if origin is not None:
        layer.features = features_of(origin)
        layer.colormap = colours_of(origin, hidden)


def origin_of(layer: Layer) -> Origin | None:
    """What we know of a layer, or None for one that is not ours."""
    origin = layer.metadata.get(KEY)
    return origin if isinstance(origin, Origin) else None


def volume_of(layer: Layer) -> Volume:
    """The scan behind an image layer, on its own grid.

    Raises:
        GeometryError: `NO_GEOMETRY`, the layer does not say where it lies; `GEOMETRY_CHANGED`, it was
            moved or scaled in the viewer.
    """
    origin = checked_origin(layer)
    array = _stored(np.asarray(layer.data), origin.geometry)
    if origin.scan is None:
        return Volume(array, origin.geometry)
    return replace(origin.scan, array=array)


def labels_of(layer: Layer) -> LabelVolume:
    """The label map behind a labels layer, on its own grid, with what was painted.

    Raises:
        GeometryError: as `volume_of`.
        VolumeError: the voxels are no labels.
    """
    origin = checked_origin(layer)
    shown = shown_labels(layer)
    array = _stored(np.asarray(layer.data), origin.geometry)
    present = shown.present_ids()
    if not isinstance(shown, InstanceVolume):
        return LabelVolume(array, origin.geometry, origin.labels.completed(present))
    first = next(iter(origin.labels), None)
    if first is None:
        raise VolumeError("NO_CLASS", "expected objects of a named class, got none; open the labels anew")
    classes = {i: origin.classes.get(i, first.id) for i in present}
    return replace(shown, array=array, geometry=origin.geometry, classes=classes)


def shown_labels(layer: Layer) -> LabelVolume:
    """The label map behind a layer on the viewer's own axes; shares the layer's memory, and is quick.

    Its axes are those of the layer in reverse, so an edit of it fits the layer once turned by `layer_edit`.

    Raises:
        GeometryError: as `volume_of`.
        VolumeError: the voxels are no labels.
    """
    origin = checked_origin(layer)
    array, geometry = np.asarray(layer.data).T, origin.geometry.reorient(DISPLAY_CODES)
    if origin.is_instances:
        return InstanceVolume(array, geometry, origin.labels, dict(origin.classes), dict(origin.scores))
    return LabelVolume(array, geometry, origin.labels)


def layer_edit(edit: Edit) -> Edit:
    """An edit of `shown_labels` in the order of the layer's array."""
    i, j, k = edit.start
    return Edit((k, j, i), edit.before.T, edit.after.T, edit.parents)


def adopt(layer: Layer, source: Layer) -> None:
    """Let a layer that was made in the viewer lie where a scan of the same shape lies.

    Raises:
        GeometryError: `GRID_MISMATCH`, the shapes differ; and as `volume_of` for the source.
    """
    origin = checked_origin(source)
    if tuple(layer.data.shape) != tuple(source.data.shape):
        raise GeometryError(
            "GRID_MISMATCH",
            f"expected a layer of shape {tuple(source.data.shape)}, got {tuple(layer.data.shape)}; "
            "make it from the scan's own layer",
        )
    words = _words(layer.name, Origin(origin.geometry, origin.scan))
    layer.scale, layer.translate = words["scale"], words["translate"]
    layer.units, layer.axis_labels = words["units"], words["axis_labels"]
    layer.metadata = {**layer.metadata, **words["metadata"]}


def label_layers(viewer: Viewer) -> list[Labels]:
    """Labels layers of a viewer, but for previews of a tool."""
    return [one for one in viewer.layers if hasattr(one, "selected_label") and PREVIEW not in one.metadata]


def place(viewer: Viewer, layer: Layer) -> None:
    """Let a layer that was made in the viewer lie where the one scan of its shape lies.

    Raises:
        GeometryError: `NO_GEOMETRY`, no scan or several have its shape, so that nobody knows its place.
    """
    if origin_of(layer) is not None:
        return
    shape = tuple(layer.data.shape)
    scans = [one for one in viewer.layers if origin_of(one) and tuple(one.data.shape) == shape]
    if len({id(one.metadata[KEY].geometry) for one in scans}) != 1:
        raise GeometryError(
            "NO_GEOMETRY",
            f"expected one scan of shape {shape} for the layer {layer.name!r}, which says no place, "
            f"got {len(scans)}; open the scan that it belongs to, or draw in a layer made from it",
        )
    adopt(layer, scans[0])


def checked_origin(layer: Layer) -> Origin:
    """What we know of a layer that lies where its file says.

    Raises:
        GeometryError: `NO_GEOMETRY`, it was made in the viewer; `GEOMETRY_CHANGED`, it was moved.
    """
    origin = origin_of(layer)
    if origin is None:
        raise GeometryError(
            "NO_GEOMETRY",
            f"expected a layer that says where it lies, got {layer.name!r}, made in the viewer; "
            "choose the scan that it belongs to",
        )
    scale, translate = display_frame(origin.geometry)
    shape = origin.geometry.reorient(DISPLAY_CODES).shape[::-1]
    step = np.array(scale) * _TOLERANCE_VOXELS
    moved = np.abs(np.asarray(layer.translate) - translate) > step
    scaled = np.abs(np.asarray(layer.scale) - scale) * np.array(shape) > step
    if tuple(layer.data.shape) != tuple(shape) or moved.any() or scaled.any():
        raise GeometryError(
            "GEOMETRY_CHANGED",
            f"expected the layer {layer.name!r} where its scan lies, got it moved, scaled or cropped; "
            "set its scale and translation back",
        )
    return origin


def world_of(layer: Layer, position: npt.ArrayLike) -> tuple[float, float, float]:
    """RAS+ mm of a position in the viewer: where the file says that it is, oblique scans included.

    Args:
        layer: one of ours.
        position: of napari's world; its last three values count.

    Raises:
        GeometryError: `NO_GEOMETRY`.
    """
    origin = origin_of(layer)
    if origin is None:
        raise GeometryError("NO_GEOMETRY", "expected a layer that says where it lies, got another")
    scale, translate = display_frame(origin.geometry)
    index = (np.asarray(position, dtype=float)[-3:] - translate) / scale
    world = origin.geometry.reorient(DISPLAY_CODES).to_world(index[::-1])
    return float(world[0]), float(world[1]), float(world[2])


def position_of(layer: Layer, world_mm: npt.ArrayLike) -> tuple[float, float, float]:
    """Where in the viewer a point of the world lies; undoes `world_of`."""
    origin = origin_of(layer)
    if origin is None:
        raise GeometryError("NO_GEOMETRY", "expected a layer that says where it lies, got another")
    scale, translate = display_frame(origin.geometry)
    index = origin.geometry.reorient(DISPLAY_CODES).to_index(world_mm)[::-1]
    place = index * scale + translate
    return float(place[0]), float(place[1]), float(place[2])
