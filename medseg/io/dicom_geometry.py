"""How the slices of a stack lie: regular, tilted, variable, with gaps, or not as a volume at all.

Pure: positions in, a verdict out. SimpleITK and MONAI average what is not regular and so put anatomy
centimetres away from its place; here the verdict comes first, and each kind is handled on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from medseg.geometry import ORTHOGONALITY_TOLERANCE, FloatArray
from medseg.io.dicom_records import Plane, Problem

GeometryClass = Literal["regular", "tilted", "variable", "missing", "duplicate", "not a volume"]

PLACE_TOLERANCE_MM = 0.01
"""A slice may be this far from where a regular grid has it."""
SAME_PLACE_MM = 1e-3
MAX_TILT_SHIFT = 1.2
"""In-plane shift per mm along the normal (50 degrees); beyond it slices are no stack."""
FINEST_SHARE = 0.25
"""Uneven slices are resampled at their smallest distance, but not below this share of the median."""
MAX_PLANES = 8192
_WHOLE_NUMBER_TOLERANCE = 0.05
_LISTED_GAPS = 6


@dataclass(frozen=True, eq=False)
class StackGeometry:
    """The verdict on one stack of parallel planes.

    Attributes:
        kind: class of geometry.
        order: indices of the planes as given, ascending along the normal.
        offsets_mm: `(n,)` place of each ordered plane along the normal, first 0.
        drift_mm: `(n, 2)` in-plane shift of each ordered plane against the first, (along a row, along a
            column).
        problem: why it is no volume, None where it is or can be made one.
        notes: what was odd but harmless.
    """

    kind: GeometryClass
    order: tuple[int, ...]
    offsets_mm: FloatArray
    drift_mm: FloatArray
    problem: Problem | None = None
    notes: tuple[str, ...] = ()

    @property
    def gaps_mm(self) -> FloatArray:
        """`(n - 1,)` distances of neighbouring planes along the normal."""
        gaps: FloatArray = np.diff(self.offsets_mm)
        return gaps


def stack_geometry(planes: tuple[Plane, ...]) -> StackGeometry:
    """Judge planes of one orientation, matrix and pixel spacing.

    Args:
        planes: in any order, at least one.

    Returns:
        the verdict; `problem` is set for missing slices, duplicates, a single slice and planes that all
        lie at one place or fly apart.
    """
    positions = np.array([p.position_mm for p in planes])
    row, column = np.array(planes[0].row_direction), np.array(planes[0].column_direction)
    normal = np.cross(row, column)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    relative = positions[order] - positions[order[0]]
    offsets = relative @ normal
    drift = np.stack([relative @ row, relative @ column], axis=1)
    kind, problem, notes = _verdict([planes[i] for i in order], offsets, drift)
    return StackGeometry(kind, tuple(int(i) for i in order), offsets, drift, problem, notes)


def _verdict(
    planes: list[Plane], offsets: FloatArray, drift: FloatArray
) -> tuple[GeometryClass, Problem | None, tuple[str, ...]]:
    fault = _fault(planes, offsets, drift)
    if fault is not None:
        return *fault, ()
    mean_gap = offsets[-1] / (len(planes) - 1)
    uniform = np.abs(offsets - mean_gap * np.arange(len(planes))).max() <= PLACE_TOLERANCE_MM
    slope = drift[-1] / offsets[-1]
    straight = np.abs(drift - offsets[:, None] * slope).max() <= PLACE_TOLERANCE_MM
    if not uniform or not straight:
        return "variable", None, (_gap_note(np.diff(offsets)),)
    tilt = float(np.linalg.norm(slope))
    if tilt > ORTHOGONALITY_TOLERANCE:
        degrees = float(np.degrees(np.arctan(tilt)))
        return "tilted", None, (f"TILTED: slices are shifted against each other by {degrees:.1f} degrees",)
    return "regular", None, ()


def _fault(
    planes: list[Plane], offsets: FloatArray, drift: FloatArray
) -> tuple[GeometryClass, Problem] | None:
    """Why the planes are no volume, if they are none."""
    if len(planes) == 1:
        reason = "expected at least 2 slices of a volume, got 1; give the whole folder"
        return "not a volume", Problem("SINGLE_SLICE", reason)
    gaps = np.diff(offsets)
    if gaps.max() <= SAME_PLACE_MM:
        reason = f"expected slices at different places, got {len(planes)} at one place; it is no volume"
        return "not a volume", Problem("NOT_A_VOLUME", reason)
    if gaps.min() <= SAME_PLACE_MM:
        reason = "expected one image per place, got several with different content; choose among the files"
        return "duplicate", Problem("DUPLICATE_CONFLICT", reason)
    if np.abs(drift).max() > MAX_TILT_SHIFT * offsets[-1] + PLACE_TOLERANCE_MM:
        reason = "expected slices above each other, got slices beside each other; it is no volume"
        return "not a volume", Problem("NOT_A_VOLUME", reason)
    if offsets[-1] / resampling_step(gaps) > MAX_PLANES:
        reason = f"expected slices within {MAX_PLANES} times their distance, got one far away from the rest"
        return "not a volume", Problem("TOO_LARGE", reason)
    missing = _missing(planes, gaps)
    return None if missing is None else ("missing", missing)


def resampling_step(gaps_mm: FloatArray) -> float:
    """Distance of planes to which uneven slices are resampled, mm."""
    return max(float(gaps_mm.min()), FINEST_SHARE * float(np.median(gaps_mm)))


def _gap_note(gaps: FloatArray) -> str:
    return f"VARIABLE_SPACING: distances of slices go from {gaps.min():.3f} to {gaps.max():.3f} mm"


def _missing(planes: list[Plane], gaps: FloatArray) -> Problem | None:
    """Gaps that are whole multiples of the usual one, and that no thicker slices fill.

    With two slices only, the usual distance is what both state as SpacingBetweenSlices.
    """
    usual = float(np.median(np.sort(gaps)[: max(1, len(gaps) * 3 // 4)]))
    stated = {p.spacing_between_mm for p in planes}
    if len(gaps) == 1:
        first = stated.pop()
        usual = first if not stated and first is not None and first > SAME_PLACE_MM else usual
    ratios = gaps / usual
    whole = np.abs(ratios - np.round(ratios)) <= _WHOLE_NUMBER_TOLERANCE * np.maximum(1, ratios)
    if not whole.all() or ratios.max() < 1.5 or ratios.min() < 0.5:
        return None
    thickness = [(a.thickness_mm or 0) + (b.thickness_mm or 0) for a, b in pairwise(planes)]
    wide = np.flatnonzero(ratios >= 1.5)
    base = min((thickness[i] for i in range(len(gaps)) if ratios[i] < 1.5), default=0)
    if base and all(thickness[i] / base >= 0.75 * ratios[i] for i in wide):
        return None
    count = int(np.round(ratios[wide]).sum()) - len(wide)
    listed = ", ".join(f"{gaps[i]:.2f} mm after slice {i + 1}" for i in wide[:_LISTED_GAPS])
    more = ", …" if len(wide) > _LISTED_GAPS else ""
    return Problem(
        "MISSING_SLICES",
        f"expected slices {usual:.2f} mm apart, got gaps of {count} missing: {listed}{more};"
        ' fetch them, or bridge them with irregular="fill"',
    )
