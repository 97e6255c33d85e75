"""One stack -> one volume in RAS, and the record of the slices that it came from."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError
from medseg.geometry import FloatArray, Geometry
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_grouping import Stack
from medseg.io.dicom_modality_lut import read_modality_lut
from medseg.io.dicom_pixels import stored_planes
from medseg.io.dicom_records import Plane
from medseg.io.dicom_resample import UprightGrid, resample_upright, upright_grid
from medseg.io.dicom_source import DicomSource, DicomVolume, SourceSlice
from medseg.io.dicom_split import Member
from medseg.io.lps import ras_from_lps
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

Irregular = Literal["resample", "reject", "fill"]
"""What to do with slices that do not lie as a grid: `"resample"` tilted and unevenly spaced ones;
`"reject"` all; `"fill"` as `"resample"`, and bridge missing slices too."""

MAX_VOLUME_BYTES = 2**36
AIR_HU = -1024.0
"""Value of CT where a tilted slice does not reach."""
_EXACT_TYPE = np.int16


def volume_of(
    stack: Stack,
    reader: SourceReader,
    irregular: Irregular = "resample",
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> DicomVolume:
    """Read the voxels of a stack.

    Args:
        stack: from `stacks_of`.
        reader: opens the files.
        irregular: what to do with slices that do not lie as a grid.
        progress: told of slices read.
        cancel: stops between slices.

    Returns:
        array `(columns, rows, slices)`, int16 where every rescaled value is exactly one, else float32.

    Raises:
        ReadError: the stack's own problem; `IRREGULAR` where the policy rejects it; `TOO_LARGE`;
            `PIXELS_TRUNCATED`, `DECODE_FAILED`.
        CancelledError: a stop was asked for.
    """
    kind = "" if stack.geometry is None else stack.geometry.kind
    if stack.problem is not None and not (kind == "missing" and irregular == "fill"):
        raise stack.problem.error()
    if kind != "regular" and irregular == "reject":
        raise ReadError(
            "IRREGULAR",
            f'expected slices that lie as a grid, got a {kind} series; allow irregular="resample"',
        )
    planes = [m.plane for m in stack.members]
    if len(planes) * planes[0].rows * planes[0].columns * 4 > MAX_VOLUME_BYTES:
        raise ReadError("TOO_LARGE", "expected a volume below 64 GiB, got a larger one; split the series")
    values = _real_values(stack, reader, progress, cancel)
    if kind == "regular":
        array, affine, notes = values, _regular_affine(planes), stack.notes
    else:
        array, affine, notes = _resampled(stack, values)
    rows_last = array.transpose(2, 1, 0)
    shape = (rows_last.shape[0], rows_last.shape[1], rows_last.shape[2])
    geometry = Geometry(shape, ras_from_lps(affine))
    source = _source_of(stack, geometry, kind, notes)
    name = f"dicom:{stack.series_uid}" + (f" volume {stack.number}" if stack.count > 1 else "")
    return DicomVolume(rows_last, geometry, stack.modality, name, dicom=source)


def grid_shape(stack: Stack) -> tuple[tuple[int, int, int], tuple[float, float, float]] | None:
    """(shape, spacing in mm) of the volume that a stack makes; None where nothing is known of it."""
    if not stack.members:
        return None
    plane, geometry = stack.members[0].plane, stack.geometry
    spacing = (plane.pixel_spacing_mm[1], plane.pixel_spacing_mm[0])
    if geometry is None or geometry.kind in ("not a volume", "duplicate"):
        return None
    if geometry.kind == "regular":
        count = len(stack.members)
        return (plane.columns, plane.rows, count), (*spacing, float(geometry.offsets_mm[-1] / (count - 1)))
    grid = upright_grid(geometry, plane.rows, plane.columns, plane.pixel_spacing_mm)
    return (grid.columns, grid.rows, len(grid.offsets_mm)), (*spacing, grid.step_mm)


# ---------------------------------------------------------------------- values


def _real_values(
    stack: Stack, reader: SourceReader, progress: ProgressCallback, cancel: CancelToken | None
) -> npt.NDArray[Any]:
    """`(slices, rows, columns)` after rescale, int16 as long as that is exact, else float32."""
    first = stack.members[0].plane
    shape = (len(stack.members), first.rows, first.columns)
    array: npt.NDArray[Any] = np.empty(shape, dtype=_EXACT_TYPE)
    done = 0
    for places, members in _by_file(stack.members):
        if cancel is not None:
            cancel.check()
        header = members[0].header
        stored = stored_planes(reader, header, [m.plane for m in members])
        table = read_modality_lut(reader, header)
        for place, member, plane in zip(places, members, stored, strict=True):
            real = _rescaled(plane, member.plane) if table is None else table.applied(plane)
            if array.dtype == _EXACT_TYPE and not _is_exact(real):
                array = array.astype(np.float32)
            array[place] = real
        done += len(members)
        progress(Progress("read", done, len(stack.members)))
    return array


def _by_file(members: tuple[Member, ...]) -> list[tuple[list[int], list[Member]]]:
    """(places in the stack, members) of every file, so that each is opened once."""
    files: dict[int, tuple[list[int], list[Member]]] = defaultdict(lambda: ([], []))
    for place, member in enumerate(members):
        places, found = files[id(member.header)]
        places.append(place)
        found.append(member)
    return list(files.values())


def _rescaled(stored: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
    """Stored value * slope + intercept, in float64 where either is no whole number (PS3.3 C.11.1)."""
    slope, intercept = plane.slope, plane.intercept
    if slope == 1 and intercept == 0:
        return stored
    if slope.is_integer() and intercept.is_integer() and max(abs(slope), abs(intercept)) < 2**20:
        return stored.astype(np.int64) * int(slope) + int(intercept)
    real: npt.NDArray[Any] = stored.astype(np.float64) * slope + intercept
    return real


def _is_exact(real: npt.NDArray[Any]) -> bool:
    limits = np.iinfo(_EXACT_TYPE)
    return real.dtype.kind in "iu" and bool(real.min() >= limits.min and real.max() <= limits.max)


# ---------------------------------------------------------------------- places


def _regular_affine(planes: list[Plane]) -> FloatArray:
    """4x4, (column, row, slice) -> LPS mm; the last column of steps is the slices' own direction."""
    first, last = np.array(planes[0].position_mm), np.array(planes[-1].position_mm)
    return _affine(planes[0], (last - first) / (len(planes) - 1), first)


def _affine(plane: Plane, step: FloatArray, origin: FloatArray) -> FloatArray:
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(plane.row_direction, plane.pixel_spacing_mm[1])
    affine[:3, 1] = np.multiply(plane.column_direction, plane.pixel_spacing_mm[0])
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return affine


def _resampled(
    stack: Stack, values: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], FloatArray, tuple[str, ...]]:
    geometry, plane = stack.geometry, stack.members[0].plane
    if geometry is None:
        raise ReadError("NOT_A_VOLUME", "expected slices that were placed, got none")
    grid = upright_grid(geometry, plane.rows, plane.columns, plane.pixel_spacing_mm)
    if len(grid.offsets_mm) * grid.rows * grid.columns * 4 > MAX_VOLUME_BYTES:
        raise ReadError("TOO_LARGE", "expected a resampled volume below 64 GiB, got a larger one")
    lowest = float(values.min())
    fill = max(lowest, AIR_HU) if stack.modality == "CT" else lowest

    def slice_at(n: int) -> npt.NDArray[np.float32]:
        real: npt.NDArray[np.float32] = values[n].astype(np.float32, copy=False)
        return real

    array = resample_upright(slice_at, geometry, grid, plane.pixel_spacing_mm, fill)
    return array, _upright_affine(plane, grid), (*stack.notes, _resample_note(stack, grid))


def _upright_affine(plane: Plane, grid: UprightGrid) -> FloatArray:
    row, column = np.array(plane.row_direction), np.array(plane.column_direction)
    normal = np.cross(row, column)
    across, down = row * plane.pixel_spacing_mm[1], column * plane.pixel_spacing_mm[0]
    origin = np.array(plane.position_mm) + across * grid.left + down * grid.top
    return _affine(plane, normal / np.linalg.norm(normal) * grid.step_mm, origin)


def _resample_note(stack: Stack, grid: UprightGrid) -> str:
    return (
        f"RESAMPLED: {len(stack.members)} slices to {len(grid.offsets_mm)} planes {grid.step_mm:.3f} mm"
        " apart; labels go back onto the slices"
    )


# ---------------------------------------------------------------------- the way back


def _source_of(stack: Stack, grid: Geometry, kind: str, notes: tuple[str, ...]) -> DicomSource:
    first = stack.members[0]
    multi = {id(m.header): m.header.layout is not None and m.header.layout.frames > 1 for m in stack.members}
    slices = tuple(
        SourceSlice(
            file=m.header.file,
            sop_class_uid=m.header.sop_class_uid,
            sop_instance_uid=m.header.sop_instance_uid,
            frame=m.plane.frame + 1 if multi[id(m.header)] else 0,
            position_mm=m.plane.position_mm,
            row_direction=m.plane.row_direction,
            column_direction=m.plane.column_direction,
            pixel_spacing_mm=m.plane.pixel_spacing_mm,
            tile=m.plane.tile,
        )
        for m in stack.members
    )
    return DicomSource(
        study_uid=stack.study_uid,
        series_uid=stack.series_uid,
        frame_of_reference_uid=first.header.frame_of_reference_uid,
        modality=stack.modality,
        rows=first.plane.rows,
        columns=first.plane.columns,
        slices=slices,
        geometry_class=kind,
        grid=grid,
        resampled=kind != "regular",
        notes=notes,
    )
