"""Headers -> stacks of planes, each one volume or a reason why it is none; nothing is left out.

A series is one (study, series) of one patient. What differs in kind, matrix, pixel spacing,
orientation or frame of reference is never put into one stack. One image that cannot be trusted makes
its whole series untrusted: a volume without a slice is worse than none.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medseg.io.dicom_geometry import StackGeometry, stack_geometry
from medseg.io.dicom_records import ImageHeader, Plane, Problem
from medseg.io.dicom_split import Digest, Member, split_volumes

SAME_DIRECTION = 1e-4
"""Largest difference of direction cosines within one stack."""
SAME_SPACING = 1e-4
"""Largest relative difference of pixel spacings within one stack."""


@dataclass(frozen=True, eq=False)
class Stack:
    """Planes that form one volume, or would if they could.

    Attributes:
        study_uid: safe to print; empty where the files state none.
        series_uid: safe to print; empty where the files state none.
        modality: such as `"CT"`.
        members: planes, ascending along the normal where there is a geometry.
        files: number of files.
        geometry: None where planes could not even be placed.
        problem: why it is not read; None where it can be. A stack of missing slices has one and may
            still be bridged on request.
        notes: what was odd but harmless.
        number: which of its series' stacks it is, from 1, in the scanner's order; 0 where its planes could
            not be placed.
        count: how many stacks of placed planes its series has.
    """

    study_uid: str
    series_uid: str
    modality: str
    members: tuple[Member, ...]
    files: int
    geometry: StackGeometry | None
    problem: Problem | None
    notes: tuple[str, ...] = ()
    number: int = 0
    count: int = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the planes that it is made of, whatever their files are called and in whatever order."""
        planes = sorted(
            repr((m.header.sop_instance_uid, m.sequence, m.plane.tile, m.plane.position_mm, m.plane.keys))
            for m in self.members
        )
        return hashlib.sha256("\n".join(planes).encode()).hexdigest()


def stacks_of(headers: Iterable[ImageHeader], digest: Digest) -> tuple[Stack, ...]:
    """Sort headers into stacks.

    Args:
        headers: of a scan.
        digest: hash of an object's pixels.

    Returns:
        stacks of one series stand together, in the scanner's order, what was set aside last; series are in
        order of their first file.
    """
    series: dict[tuple[str, str, str], list[ImageHeader]] = defaultdict(list)
    for header in headers:
        # Files without any UID are held together by nothing but their folder.
        folder = "" if header.series_uid else str(header.file.path.parent)
        series[header.study_uid, header.series_uid, folder].append(header)
    found: list[Stack] = []
    for members in series.values():
        found += _stacks_of_series(members, digest)
    return tuple(found)


def _stacks_of_series(headers: Sequence[ImageHeader], digest: Digest) -> list[Stack]:
    images = [h for h in headers if h.set_aside is None]
    aside = _set_aside(headers)
    if not images:
        return aside
    broken = [h for h in images if h.problem is not None]
    if broken:
        return [_refused(images, _blame(broken, len(images))), *aside]
    if len({h.patient for h in images}) > 1:
        reason = f"expected one patient in a series, got {len({h.patient for h in images})}; part the files"
        return [_refused(images, Problem("MIXED_PATIENT", reason)), *aside]
    images, notes, conflict = _without_same_object(images, digest)
    if conflict is not None:
        return [_refused(images, conflict), *aside]
    notes += tuple(dict.fromkeys(note for h in images for note in h.notes))
    stacks: list[Stack] = []
    for members in _alike(images):
        parts, split_notes = split_volumes(members, digest)
        stacks += [_stack(part, notes + split_notes) for part in parts]
    return _numbered(stacks) + aside


def _numbered(stacks: Sequence[Stack]) -> list[Stack]:
    """Stacks in an order that no name of a file decides."""
    ordered = sorted(stacks, key=lambda s: (min(m.sequence for m in s.members), s.fingerprint))
    return [replace(stack, number=n, count=len(ordered)) for n, stack in enumerate(ordered, start=1)]


def _stack(members: Sequence[Member], notes: tuple[str, ...]) -> Stack:
    geometry = stack_geometry(tuple(m.plane for m in members))
    first = members[0].header
    ordered = tuple(members[n] for n in geometry.order)
    return Stack(
        first.study_uid,
        first.series_uid,
        first.modality,
        ordered,
        len({id(m.header) for m in members}),
        geometry,
        geometry.problem,
        notes + geometry.notes,
    )


def _refused(headers: Sequence[ImageHeader], problem: Problem) -> Stack:
    first = headers[0]
    return Stack(first.study_uid, first.series_uid, first.modality, (), len(headers), None, problem)


def _set_aside(headers: Sequence[ImageHeader]) -> list[Stack]:
    kinds: dict[tuple[Problem, str], list[ImageHeader]] = defaultdict(list)
    for header in headers:
        if header.set_aside is not None:
            kinds[header.set_aside, header.modality].append(header)
    return [_refused(members, problem) for (problem, _), members in kinds.items()]


def _blame(broken: Sequence[ImageHeader], total: int) -> Problem:
    """The most frequent problem, said of the whole series."""
    codes = Counter(h.problem.code for h in broken if h.problem is not None)
    code = codes.most_common(1)[0][0]
    first = next(h for h in broken if h.problem is not None and h.problem.code == code)
    reason = first.problem.reason if first.problem is not None else ""
    name = ascii(first.file.member or first.file.path.name)
    return Problem(code, f"{reason} ({codes[code]} of {total} files, first {name})")


def _without_same_object(
    images: Sequence[ImageHeader], digest: Digest
) -> tuple[list[ImageHeader], tuple[str, ...], Problem | None]:
    """Images without exact copies; a problem where one UID stands for different pixels."""
    kept: dict[str, list[ImageHeader]] = defaultdict(list)
    for header in images:
        kept[header.sop_instance_uid].append(header)
    result: list[ImageHeader] = []
    for uid, same in kept.items():
        if len(same) > 1 and uid:
            places = {tuple(p.position_mm for p in h.planes) for h in same}
            if len(places) > 1 or len({digest(h) for h in same}) > 1:
                reason = (
                    "expected one image per UID, got several with different content; fetch the series anew"
                )
                return list(images), (), Problem("DUPLICATE_CONFLICT", reason)
        result += same[:1] if uid else same
    dropped = len(images) - len(result)
    notes = (f"DUPLICATES_DROPPED: {dropped} files are copies of others",) if dropped else ()
    return result, notes, None


def _alike(images: Sequence[ImageHeader]) -> list[list[Member]]:
    """Planes of one kind, unit of value, frame of reference, matrix, pixel spacing and orientation."""
    kinds: dict[tuple[str | int, ...], list[list[Member]]] = defaultdict(list)
    for header in images:
        for plane in header.planes:
            kind = (
                header.sop_class_uid,
                header.modality,
                header.frame_of_reference_uid,
                plane.keys.get("units", ""),
                plane.keys.get("rescale_type", ""),
                plane.rows,
                plane.columns,
            )
            groups = kinds[kind]
            group = next((g for g in groups if _is_parallel(g[0].plane, plane)), None)
            if group is None:
                groups.append([Member(header, plane)])
            else:
                group.append(Member(header, plane))
    return [group for groups in kinds.values() for group in groups]


def _is_parallel(a: Plane, b: Plane) -> bool:
    ours = (*a.row_direction, *a.column_direction)
    theirs = (*b.row_direction, *b.column_direction)
    if max(abs(x - y) for x, y in zip(ours, theirs, strict=True)) > SAME_DIRECTION:
        return False
    return bool(np.allclose(a.pixel_spacing_mm, b.pixel_spacing_mm, rtol=SAME_SPACING, atol=0))
