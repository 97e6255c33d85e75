"""DICOM RT Structure Set to a label map on the grid of its images.

A structure set holds polygons, not voxels: a voxel belongs to a region of interest if its centre
lies inside an odd number of the region's contours on its plane, so that inner contours and
keyhole channels both leave holes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.files import file_size, opened
from medseg.geometry import FloatArray, Geometry
from medseg.io.dicom_elements import read_raw_header
from medseg.io.dicom_quiet import quiet_libraries
from medseg.io.dicom_source import DicomSource
from medseg.io.dicom_stack import labels_from_slices, require_free, slice_of_points
from medseg.io.notices import notify
from medseg.labels import Code, Colour, Label, LabelSet, colour_of_id
from medseg.volume import LabelVolume

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"

PLANE_TOLERANCE_VOXELS = 0.1
"""How far from a plane of the grid a contour may lie, in distances of planes."""

_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class _Roi:
    """A region of interest: what it is, and its closed contours as `(points, 3)` in RAS mm.

    `without_area` counts its points and open lines.
    """

    label: Label
    contours: tuple[FloatArray, ...]
    without_area: int


def read_dicom_rtstruct(
    path: str | Path, *, grid: Geometry | DicomSource, only: Sequence[str | int] = ()
) -> LabelVolume:
    """Fill the contours of a structure set on a grid.

    Args:
        path: file.
        grid: of the images that were contoured; its planes must hold the contours. Or the source of
            the images (`DicomVolume.dicom`): then contours of tilted and uneven series come onto the
            grid that their volume has.
        only: names or numbers of the regions to read; all where empty.

    Returns:
        Labels with names, codes and colours of the regions; ids are ROI numbers.

    Raises:
        ReadError: `NOT_A_STRUCTURE_SET`; `OFF_GRID` where a contour lies on no plane of the grid;
            `SEGMENTS_OVERLAP` where two regions hold one voxel, which a label map cannot (choose by
            `only`); `BAD_CONTOUR` for coordinates that are no numbers.
        VolumeError: `UNKNOWN_LABEL` for a region that is not there.
    """
    with quiet_libraries():
        rois = _rois(_read(Path(path)))
    open_contours = sum(roi.without_area for roi in rois)
    if open_contours:
        notify(
            "OPEN_CONTOUR", f"{open_contours} points or open lines of a structure enclose nothing; left out"
        )
    labels = LabelSet(tuple(roi.label for roi in rois))
    if only:
        labels = LabelSet(tuple(dict.fromkeys(labels.find(one) for one in only)))
    highest = max(labels.ids, default=0)
    dtype = np.uint8 if highest < 256 else np.uint16 if highest < 65536 else np.int32
    chosen = [roi for roi in rois if roi.label.id in labels.ids]
    if isinstance(grid, DicomSource) and grid.resampled:
        planes = np.zeros((len(grid.slices), grid.columns, grid.rows), dtype=dtype)
        for roi in chosen:
            _fill_slices(roi, grid, planes)
        return LabelVolume(labels_from_slices(planes, grid), grid.grid, labels)
    geometry = grid.grid if isinstance(grid, DicomSource) else grid
    array = np.zeros(geometry.shape, dtype=dtype)
    for roi in chosen:
        _fill(roi, geometry, array)
    return LabelVolume(array, geometry, labels)


def _read(path: Path) -> Dataset:
    from pydicom import dcmread

    size = file_size(path)
    with opened(path) as stream:
        raw = read_raw_header(stream, size, frozenset())  # bounds its depth and size, and inflation
    if raw.broken is not None:
        raise raw.broken
    if raw.media_class != RTSTRUCT_CLASS:
        raise ReadError(
            "NOT_A_STRUCTURE_SET",
            "expected a DICOM RT structure set, got another object; read it as an image",
        )
    try:
        return dcmread(path, stop_before_pixels=True)
    except (OSError, ValueError, AttributeError, KeyError, NotImplementedError) as error:
        raise ReadError("BAD_HEADER", "expected a readable structure set, got a damaged one") from error


def _rois(dataset: Dataset) -> list[_Roi]:
    try:
        return _listed_rois(dataset)
    except ReadError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        # what pydicom raises for a missing attribute, or for a value that is not of its kind
        raise ReadError(
            "BAD_STRUCTURE_SET", "expected numbered regions with contours, got a damaged list; re-export it"
        ) from error


def _listed_rois(dataset: Dataset) -> list[_Roi]:
    contours = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or ()}
    codes = {
        int(item.ReferencedROINumber): _code(item) for item in dataset.get("RTROIObservationsSequence") or ()
    }
    rois: list[_Roi] = []
    ids: set[int] = set()
    names: set[str] = set()
    for place, item in enumerate(dataset.get("StructureSetROISequence") or (), start=1):
        number = int(item.ROINumber)
        label_id = number if number > 0 else 2**20 + place
        if label_id in ids:
            raise ReadError("BAD_STRUCTURE_SET", "expected each ROI number once, got one twice; re-export it")
        text = "".join(c for c in str(item.get("ROIName") or "") if c.isprintable()).strip()
        name = text or f"ROI {number}"
        name = f"{name} {number}" if name.lower() in names else name
        ids.add(label_id)
        names.add(name.lower())
        drawn = contours.get(number)
        colour = _colour(drawn) or colour_of_id(label_id)
        polygons, without_area = _polygons(drawn)
        rois.append(_Roi(Label(label_id, name, colour, codes.get(number)), polygons, without_area))
    return rois


def _colour(item: Dataset | None) -> Colour | None:
    stored = [] if item is None else list(item.get("ROIDisplayColor") or ())
    if len(stored) != 3:
        return None
    red, green, blue = (min(255, max(0, int(channel))) for channel in stored)
    return red, green, blue


def _code(item: Dataset) -> Code | None:
    found = item.get("RTROIIdentificationCodeSequence") or ()
    if not found or not found[0].get("CodeValue"):
        return None
    code = found[0]
    return Code(
        str(code.get("CodingSchemeDesignator", "")), str(code.CodeValue), str(code.get("CodeMeaning", ""))
    )


def _polygons(item: Dataset | None) -> tuple[tuple[FloatArray, ...], int]:
    """Closed contours in RAS mm, and how many others there are."""
    polygons = []
    without_area = 0
    for contour in (item.get("ContourSequence") or ()) if item is not None else ():
        points = _points(contour)
        if str(contour.get("ContourGeometricType")) not in _CLOSED or len(points) < 3:
            without_area += 1
        else:
            polygons.append(points * (-1.0, -1.0, 1.0))  # LPS, as stored, to RAS
    return tuple(polygons), without_area


def _points(contour: Dataset) -> FloatArray:
    """`(points, 3)` as stored, from the raw text: pydicom's decimal objects are 50 times slower."""
    if "ContourData" not in contour:
        return np.zeros((0, 3))
    value: Any = contour.get_item("ContourData").value
    parts = value.split(b"\\") if isinstance(value, bytes) else list(value or ())
    try:
        numbers = np.array([float(part) for part in parts])
    except ValueError as error:
        raise _bad_contour() from error
    if len(numbers) % 3 or not np.isfinite(numbers).all():
        raise _bad_contour()
    return numbers.reshape(-1, 3)


def _bad_contour() -> ReadError:
    return ReadError("BAD_CONTOUR", "expected finite coordinates x, y, z, got something else; re-export it")


def _fill(roi: _Roi, grid: Geometry, array: npt.NDArray[Any]) -> None:
    """Write one region into the volume."""
    by_plane: dict[tuple[int, int], list[FloatArray]] = {}
    for contour in roi.contours:
        index = grid.to_index(contour)
        axis, plane = _plane_of(index, grid)
        by_plane.setdefault((axis, plane), []).append(np.delete(index, axis, axis=1))
    for (axis, plane), polygons in by_plane.items():
        at: tuple[Any, ...] = tuple(plane if a == axis else slice(None) for a in range(3))
        _fill_layer(polygons, roi.label.id, array[at])


def _fill_slices(roi: _Roi, source: DicomSource, planes: npt.NDArray[Any]) -> None:
    """Write one region onto the slices, `(slices, columns, rows)`."""
    by_slice: dict[int, list[FloatArray]] = {}
    for contour in roi.contours:
        number, points = slice_of_points(contour, source)
        by_slice.setdefault(number, []).append(points)
    for number, polygons in by_slice.items():
        _fill_layer(polygons, roi.label.id, planes[number])


def _fill_layer(polygons: list[FloatArray], label_id: int, layer: npt.NDArray[Any]) -> None:
    inside = filled(polygons, (layer.shape[0], layer.shape[1]))
    require_free(layer[inside], np.asarray(label_id))
    layer[inside] = label_id


def _plane_of(index: FloatArray, grid: Geometry) -> tuple[int, int]:
    """(axis, number) of the grid's plane that a contour lies on.

    Raises:
        ReadError: `OFF_GRID`.
    """
    low, high = index.min(axis=0), index.max(axis=0)
    axis = int(np.argmin(high - low))
    plane = round(float(index[:, axis].mean()))
    within = (low >= -1.5).all() and (high <= np.array(grid.shape) + 0.5).all()
    flat = np.abs(index[:, axis] - plane).max() <= PLANE_TOLERANCE_VOXELS
    if not (flat and within and 0 <= plane < grid.shape[axis]):
        raise ReadError(
            "OFF_GRID",
            "expected contours on the planes of the grid, got one beside them; pass the grid of the images "
            "that were contoured",
        )
    return axis, plane


def filled(polygons: Sequence[FloatArray], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Points of a lattice that lie inside an odd number of times.

    Args:
        polygons: `(points, 2)` each, closed, in lattice indices.
        shape: of the lattice.

    Returns:
        Boolean, of that shape. Every edge counts the same in both directions, so that a channel that
        is walked there and back encloses nothing.
    """
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    for polygon in polygons:
        ends = np.stack([polygon, np.roll(polygon, -1, axis=0)], axis=1)
        order = np.argsort(ends[:, :, 0], axis=1)
        ends = np.take_along_axis(ends, order[:, :, None], axis=1)
        first = np.clip(np.ceil(ends[:, 0, 0]), 0, shape[0]).astype(np.intp)
        stop = np.clip(np.ceil(ends[:, 1, 0]), 0, shape[0]).astype(np.intp)
        crossings = np.maximum(stop - first, 0)
        edge = np.repeat(np.arange(len(ends)), crossings)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(crossings) - crossings, crossings) + first[edge]
        (row0, column0), (row1, column1) = ends[edge, 0].T, ends[edge, 1].T
        column = column0 + (row - row0) * (column1 - column0) / np.where(row1 > row0, row1 - row0, 1)
        begin = np.clip(np.ceil(column), 0, shape[1]).astype(np.intp)
        np.add.at(toggles, (row, begin), 1)
    return np.asarray(np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1)
