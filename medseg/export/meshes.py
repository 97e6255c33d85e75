"""Closed surfaces of the classes of a label map, in world mm, as STL.

Coordinates are LPS by default, as in DICOM and ITK and as Slicer expects of an STL file; RAS on request.
The header says which (`SPACE=LPS`), in Slicer's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import VolumeError
from medseg.files import whole_file
from medseg.geometry import Geometry
from medseg.measure.regions import Region, measure_regions
from medseg.volume import LabelVolume

Floats = npt.NDArray[np.float64]
Space = Literal["RAS", "LPS"]

LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])

STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
"""One triangle of a binary STL file: 50 bytes."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangulated surface.

    Attributes:
        vertices_mm: `(n, 3)` world positions, RAS+ mm.
        triangles: `(m, 3)` places in `vertices_mm`, counter-clockwise seen from outside.
    """

    vertices_mm: Floats
    triangles: npt.NDArray[np.int64]

    @property
    def volume_mm3(self) -> float:
        """Enclosed volume, by the divergence theorem."""
        a, b, c = np.moveaxis(self.vertices_mm[self.triangles], 1, 0)
        return float((a * np.cross(b, c)).sum() / 6)


def mesh_of_mask(mask: npt.NDArray[Any], geometry: Geometry, smoothing_mm: float = 0.0) -> Mesh:
    """Surface of a mask by marching cubes at one half (Lewiner et al. 2003), closed at the grid's border.

    Args:
        mask: `(i, j, k)`; above 0 is inside.
        geometry: its grid.
        smoothing_mm: width of a Gaussian blur before; where it would blur everything away, it is left out.

    Returns:
        A watertight mesh.

    Raises:
        VolumeError: the mask is empty.
    """
    from scipy import ndimage
    from skimage.measure import marching_cubes

    inside = np.asarray(mask > 0)
    if not inside.any():
        raise VolumeError("EMPTY_MASK", "expected a mask with at least one voxel, got an empty one")
    sigma = smoothing_mm / np.array(geometry.spacing_mm)
    border = [1 + int(np.ceil(3 * s)) for s in sigma]
    field = np.pad(inside.astype(np.float32), [(b, b) for b in border])
    if smoothing_mm > 0:
        blurred = ndimage.gaussian_filter(field, sigma, mode="constant", truncate=3.0)
        field = blurred if blurred.max() > 0.5 else field
    vertices, triangles, _, _ = marching_cubes(field, 0.5, allow_degenerate=False)
    mesh = Mesh(geometry.to_world(vertices - border), triangles.astype(np.int64))
    return mesh if mesh.volume_mm3 > 0 else Mesh(mesh.vertices_mm, mesh.triangles[:, ::-1])


def class_meshes(
    labels: LabelVolume, smoothing_mm: float = 0.0, regions: tuple[Region, ...] | None = None
) -> Iterator[tuple[Region, Mesh]]:
    """Surface of every class (or object) that occurs, one after the other.

    Args:
        labels: what to draw.
        smoothing_mm: see `mesh_of_mask`.
        regions: `measure_regions(labels)` where it is at hand.

    Yields:
        The region and its surface.
    """
    for region in measure_regions(labels) if regions is None else regions:
        part = tuple(slice(a, b) for a, b in zip(region.box_start, region.box_stop, strict=True))
        grid = labels.geometry.crop(region.box_start, region.box_stop)
        yield region, mesh_of_mask(labels.array[part] == region.id, grid, smoothing_mm)


def write_stl(mesh: Mesh, path: str | Path, space: Space = "LPS") -> Path:
    """Write a binary STL file, in mm.

    Args:
        mesh: the surface.
        path: file; its folder must exist.
        space: axes of the coordinates.

    Returns:
        The path.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    path = Path(path)
    corners = mesh.vertices_mm[mesh.triangles] * (LPS_FROM_RAS if space == "LPS" else 1.0)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    rows = np.zeros(len(corners), dtype=STL_TRIANGLE)
    rows["normal"] = normals / np.where(length > 0, length, 1)
    rows["corners"] = corners
    with whole_file(path) as stream:
        stream.write(f"medseg surface in mm. SPACE={space}".encode().ljust(80, b" "))
        stream.write(np.uint32(len(rows)).astype("<u4").tobytes())
        stream.write(rows.tobytes())
    return path


def file_names(regions: tuple[Region, ...]) -> dict[int, str]:
    """A file name, without suffix, for every region id: its name in letters that every system takes.

    A name that is taken already, whatever its case, gets its id as a tail.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for region in regions:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", region.name).strip("_")[:80] or "label"
        while name.lower() in taken:
            name = f"{name}_{region.id}"
        taken.add(name.lower())
        names[region.id] = name
    return names
