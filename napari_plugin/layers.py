"""Between medseg's volumes and napari's layers: the only place that knows both orders of axes.

A layer's array is `(z, y, x)`: the scan turned to the nearest of the axes left, posterior, superior,
in reverse, so that an axial slice looks as radiologists hang it. `scale` and `translate` are
millimetres along those axes, LPS. An oblique scan is shown on its own axes, turned about its centre;
its true place travels in `metadata` and comes back at export. No affine is ever given to napari,
which refuses some and ignores others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg import Geometry, GeometryError, InstanceVolume, LabelSet, LabelVolume, Volume, VolumeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari.layers import Layer

Array = npt.NDArray[Any]
LayerData = tuple[Array, dict[str, Any], str]

KEY = "medseg"
"""Under which a layer's metadata holds its `Origin`."""

DISPLAY_CODES = "LPS"
AXIS_LABELS = ("S", "P", "L")
"""Of the layer's axes, each by the direction in which it grows."""

MOST_COLOURS = 512
"""Labels beyond this many get napari's cycling colours: a table of colours would only be slow."""

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
    """

    geometry: Geometry
    scan: Volume | None = field(default=None, repr=False)
    labels: LabelSet = field(default_factory=LabelSet)
    classes: Mapping[int, int] = field(default_factory=dict)
    is_instances: bool = False


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
    classes = dict(labels.classes) if isinstance(labels, InstanceVolume) else {}
    origin = Origin(labels.geometry, scan, labels.labels, classes, is_instances)
    words = _words(name, origin) | {"features": features_of(origin)}
    if not is_instances and 0 < len(labels.labels) <= MOST_COLOURS:
        words["colormap"] = colours_of(labels.labels)
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


def colours_of(labels: LabelSet) -> dict[int | None, tuple[float, ...]]:
    """Red, green, blue, alpha, 0 to 1, of every label; the background and unknown ones are clear."""
    clear = (0.0, 0.0, 0.0, 0.0)
    colours: dict[int | None, tuple[float, ...]] = {None: clear, 0: clear}
    for label in labels:
        colours[label.id] = (*(part / 255 for part in label.colour), 1.0)
    return colours


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
    origin = _checked_origin(layer)
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
    origin = _checked_origin(layer)
    array = _stored(np.asarray(layer.data), origin.geometry)
    present = [int(i) for i in np.unique(array) if i != 0]
    if not origin.is_instances:
        return LabelVolume(array, origin.geometry, origin.labels.completed(present))
    first = next(iter(origin.labels), None)
    if first is None:
        raise VolumeError("NO_CLASS", "expected objects of a named class, got none; open the labels anew")
    classes = {i: origin.classes.get(i, first.id) for i in present}
    return InstanceVolume(array, origin.geometry, origin.labels, classes=classes)


def adopt(layer: Layer, source: Layer) -> None:
    """Let a layer that was made in the viewer lie where a scan of the same shape lies.

    Raises:
        GeometryError: `GRID_MISMATCH`, the shapes differ; and as `volume_of` for the source.
    """
    origin = _checked_origin(source)
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


def _checked_origin(layer: Layer) -> Origin:
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
