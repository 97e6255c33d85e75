"""OME-Zarr 0.4 and 0.5 in, 0.5 out: an array on disk that is read in parts, and the size of its voxels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import ReadError, SettingsError
from medseg.geometry import Geometry
from medseg.instances.grid import Triple, triple
from medseg.instances.heights import ArrayLike
from medseg.machine import free_memory_bytes
from medseg.volume import Volume

MM_PER_UNIT = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1000.0,
}
"""Units of length that OME-Zarr names and microscopes use."""

SPATIAL_AXES = ("z", "y", "x")


@dataclass(frozen=True)
class LastAxes:
    """The last three axes of an array at one place along those before them.

    Attributes:
        array: a Zarr array.
        place: index along every axis before the last three.
    """

    array: Any
    place: tuple[int, ...]

    @property
    def shape(self) -> Triple:
        """Voxels along each axis."""
        return triple(self.array.shape[-3:])

    @property
    def dtype(self) -> Any:
        """Type of a voxel."""
        return self.array.dtype

    def __getitem__(self, slices: tuple[slice, slice, slice], /) -> Any:
        """A part of the array."""
        return self.array[(*self.place, *slices)]


@dataclass(frozen=True)
class Store:
    """An image on disk.

    Attributes:
        array: `(z, y, x)`, read in parts.
        spacing_mm: size of a voxel along z, y, x.
        origin_mm: where the first voxel's centre lies, along z, y, x.
        fingerprint: of shape, type and metadata; voxels do not count.
    """

    array: ArrayLike
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    fingerprint: str


def open_store(path: str | Path, *, spacing_mm: Sequence[float] | None = None, channel: int = 0) -> Store:
    """Open the full resolution of an OME-Zarr image, or a plain Zarr array.

    Args:
        path: folder of the image's group (or of one of its `labels`), or of an array.
        spacing_mm: size of a voxel along z, y, x; needed where the metadata do not tell.
        channel: where there are several.

    Raises:
        ReadError: no such store, not an image of three dimensions, no unit and no `spacing_mm`.
        SettingsError: the package zarr is not installed.
    """
    zarr = load_zarr()
    try:
        node = zarr.open(str(path), mode="r")
        attributes = dict(node.attrs)
        image = _multiscale(attributes)
        array = node if not hasattr(node, "keys") else node[image["datasets"][0]["path"]]
        shape, dtype = array.shape, array.dtype
    except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
        raise ReadError(
            "NOT_A_STORE",
            f"expected an OME-Zarr image or a Zarr array in {Path(path).name!r}, got something else or a "
            "damaged one; name the folder that holds its zarr.json or .zattrs",
        ) from error
    names = [str(axis.get("name", "")) for axis in image.get("axes", [])] or list("tczyx")[-len(shape) :]
    if not 3 <= len(shape) <= 5 or len(names) != len(shape) or tuple(names[-3:]) != SPATIAL_AXES:
        raise ReadError(
            "NOT_A_VOLUME", f"expected axes that end in z, y, x; got {names} with shape {shape}; convert it"
        )
    place = tuple(channel if name == "c" else 0 for name in names[:-3])
    if any(not 0 <= at < n for at, n in zip(place, shape, strict=False)):
        raise ReadError("NO_SUCH_CHANNEL", f"expected a channel of {shape}, got {channel}; choose another")
    spacing, origin = _placement(image, spacing_mm)
    fingerprint = json.dumps([list(shape), str(dtype), attributes, list(place)], sort_keys=True, default=str)
    return Store(LastAxes(array, place), spacing, origin, fingerprint)


def load_store(store: Store) -> Volume:
    """Read an image on disk whole.

    Args:
        store: of `open_store`.

    Returns:
        `(x, y, z)`; x, y, z run along the world's axes, as in a TIFF, which knows no patient either.

    Raises:
        ReadError: `TOO_LARGE`, it does not fit into memory; `NOT_A_STORE`, damaged.
    """
    needed = math.prod(store.array.shape) * np.dtype(store.array.dtype).itemsize
    if needed > free_memory_bytes():
        raise ReadError(
            "TOO_LARGE",
            f"expected an image that fits into {free_memory_bytes() / 1e9:.1f} GB of free memory, got one of "
            f"{needed / 1e9:.1f} GB; open a smaller resolution, or segment it on disk with `medseg segment`",
        )
    everything = slice(None)
    try:
        array = np.asarray(store.array[everything, everything, everything]).T
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ReadError(
            "NOT_A_STORE", "expected the voxels of a Zarr array, got a damaged chunk; copy it anew"
        ) from error
    affine = np.diag([*store.spacing_mm[::-1], 1.0])
    affine[:3, 3] = store.origin_mm[::-1]
    return Volume(array, Geometry(triple(array.shape), affine), source="OME-Zarr")


def load_zarr() -> Any:
    """The package zarr.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise SettingsError(
            "NOT_INSTALLED", "expected the package zarr, got none; install it with `pip install medseg[zarr]`"
        ) from error
    return zarr


def _multiscale(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first image of a group's metadata: 0.5 keeps it under `ome`, 0.4 at the top; else nothing."""
    images = attributes.get("ome", attributes).get("multiscales", [])
    first: Mapping[str, Any] = images[0] if images else {}
    return first


def _placement(
    image: Mapping[str, Any], spacing_mm: Sequence[float] | None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Spacing and origin in mm along z, y, x.

    Raises:
        ReadError: neither the metadata nor the caller tell.
    """
    origin = [0.0, 0.0, 0.0]
    if spacing_mm is not None:
        spacing = [float(w) for w in spacing_mm]
    else:
        units = [axis.get("unit") for axis in image.get("axes", [])[-3:]]
        if not units or any(unit not in MM_PER_UNIT for unit in units):
            raise ReadError(
                "NO_SPACING",
                f"expected the unit of each axis in the metadata, got {units or 'no metadata'}; "
                "give the voxel size in mm",
            )
        factors = np.array([MM_PER_UNIT[unit] for unit in units])
        steps = [
            *image["datasets"][0].get("coordinateTransformations", []),
            *image.get("coordinateTransformations", []),
        ]
        scale, offset = np.ones(3), np.zeros(3)
        for step in steps:
            if step.get("type") == "scale":
                scale, offset = scale * step["scale"][-3:], offset * step["scale"][-3:]
            elif step.get("type") == "translation":
                offset = offset + step["translation"][-3:]
        spacing, origin = list(scale * factors), list(offset * factors)
    if len(spacing) != 3 or not all(np.isfinite(w) and w > 0 for w in spacing):
        raise ReadError("BAD_SPACING", f"expected three voxel sizes above 0 mm, got {spacing}; repair them")
    return (spacing[0], spacing[1], spacing[2]), (origin[0], origin[1], origin[2])


def create_label_store(path: Path, source: Store, dtype: Any, chunk: Triple) -> Any:
    """Make an OME-Zarr 0.5 label image of one resolution, full of zeros.

    Args:
        path: folder to make.
        source: image on the same grid.
        dtype: type of a voxel.
        chunk: voxels of a chunk.

    Returns:
        The Zarr array, open for writing.
    """
    zarr = load_zarr()
    to_um = 1 / MM_PER_UNIT["micrometer"]
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.attrs["ome"] = {
        "version": "0.5",
        "image-label": {"version": "0.5"},
        "multiscales": [
            {
                "name": "objects",
                "axes": [{"name": name, "type": "space", "unit": "micrometer"} for name in SPATIAL_AXES],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [w * to_um for w in source.spacing_mm]},
                            {"type": "translation", "translation": [o * to_um for o in source.origin_mm]},
                        ],
                    }
                ],
            }
        ],
    }
    return group.create_array(
        "0",
        shape=source.array.shape,
        chunks=chunk,
        dtype=dtype,
        fill_value=0,
        dimension_names=list(SPATIAL_AXES),
    )
