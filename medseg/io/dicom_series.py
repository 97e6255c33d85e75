"""DICOM in: list what a folder, DICOMDIR, zip or file holds, and read it as volumes.

The public face of `medseg.io.dicom_*`. Every series is right, or refused with a stable code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_grouping import Stack, stacks_of
from medseg.io.dicom_pixels import pixel_digest
from medseg.io.dicom_records import ImageHeader
from medseg.io.dicom_scan import scan
from medseg.io.dicom_source import DicomVolume
from medseg.io.dicom_suv import suv_factor
from medseg.io.dicom_volume import Irregular, grid_shape, volume_of
from medseg.io.notices import notices_kept, notify
from medseg.progress import CancelToken, ProgressCallback, silent

_SHOWN_CODES = 4
_SHOWN_NUMBERS = 6

Place = str | os.PathLike[str]


@dataclass(frozen=True)
class SeriesInfo:
    """What one series holds, or one part of it that differs from the rest in grid or fate.

    Attributes:
        study_uid: of the study; empty where the files state none, `invalid-` and a hash where it is none.
        series_uid: likewise of the series.
        modality: such as `"CT"`.
        files: number of files.
        shape: (columns, rows, slices), and a fourth number where several volumes share the grid; empty
            where it makes no volume.
        spacing_mm: along the first three; empty where it makes no volume.
        geometry: `"regular"`, `"tilted"`, `"variable"`, `"missing"`, `"duplicate"`, `"not a volume"`, or
            empty where the images could not even be placed.
        readable: whether `read_series` gives volumes with its default policy.
        code: stable word for why not; empty where it is readable.
        reason: expected, got, cure; empty where it is readable.
        notes: what was odd but harmless.
    """

    study_uid: str
    series_uid: str
    modality: str
    files: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    geometry: str
    readable: bool
    code: str
    reason: str
    notes: tuple[str, ...] = ()


def list_series(
    path: str | os.PathLike[str], *, progress: ProgressCallback = silent, cancel: CancelToken | None = None
) -> tuple[SeriesInfo, ...]:
    """Say what a place holds, by headers alone.

    Args:
        path: folder tree, DICOMDIR, zip, or one DICOM file.
        progress: told how many files were looked at.
        cancel: stops between files.

    Returns:
        one entry per series, or several where parts of it differ; objects that are no scans too.

    Raises:
        ReadError: the path itself cannot be looked into, such as `FILE_NOT_FOUND`, `NOT_DICOM`,
            `ARCHIVE_UNSAFE`. A single bad file or series never raises.
        CancelledError: a stop was asked for.
    """
    with _stacks(path, progress, cancel) as (stacks, _):
        return tuple(_infos(stacks))


def read_series(
    path: Place | Sequence[Place],
    series_uid: str | None = None,
    *,
    volume: int | str | None = None,
    irregular: Irregular = "resample",
    suv: bool = False,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> DicomVolume:
    """Read the one volume of a place, or of one series in it.

    Args:
        path: folder tree, DICOMDIR, zip, or one DICOM file; or a list of files, where they are known, so
            that a large folder need not be looked through.
        series_uid: which series; may be left out where there is one.
        volume: which of the series' volumes, from 1, in the scanner's order, or a `Stack.fingerprint`; may be
            left out where there is one.
        irregular: `"resample"` slices that are tilted or unevenly spaced, with a notice and on the
            record; `"reject"` them; `"fill"` as `"resample"`, and bridge missing slices too.
        suv: turn PET from Bq/ml into standardised uptake values by body weight.
        progress: told how many slices were read.
        cancel: stops between slices.

    Returns:
        array `(columns, rows, slices)`, world RAS mm, with the slices that it came from in `dicom`.

    Raises:
        ReadError: the series' own code where it is refused; `SEVERAL_SERIES`, `SEVERAL_VOLUMES` where
            there is a choice to make; `NO_SERIES`, `NO_VOLUME`, `NO_IMAGES` where there is none to read;
            `NO_SUV`.
        CancelledError: a stop was asked for.
    """
    with notices_kept() as notices, _stacks(path, silent, cancel) as (stacks, reader):
        chosen = _chosen(stacks, series_uid, volume, irregular)
        _tell_of_strays(stacks)
        found = volume_of(chosen, reader, irregular, progress, cancel)
        if suv and found.dicom is not None:
            factor = suv_factor(reader, found.dicom.files)
            notes = (*found.dicom.notes, "SUV: by body weight, from Bq/ml")
            source = replace(found.dicom, notes=notes)
            found = replace(found, array=found.array * np.float32(factor), dicom=source)
        _tell(found)
    return replace(found, notes=tuple(notices))


def read_all(
    path: str | os.PathLike[str],
    series_uid: str | None = None,
    *,
    irregular: Irregular = "resample",
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Iterator[DicomVolume]:
    """Read every volume that can be read, one after another.

    A series of several time points, echoes or image types gives several volumes. What is not readable
    is told by a `ReadNotice` and passed over; so is one whose pixels prove damaged.

    Args:
        path: folder tree, DICOMDIR, zip, or one DICOM file.
        series_uid: only this series.
        irregular: as in `read_series`.
        progress: told how many slices of the current volume were read.
        cancel: stops between slices.

    Yields:
        volumes of one series in the scanner's order, series in order of their first file.

    Raises:
        ReadError: the path cannot be looked into, or `NO_SERIES`, `NO_IMAGES`.
        CancelledError: a stop was asked for.
    """
    with _stacks(path, silent, cancel) as (stacks, reader):
        of_series = [s for s in stacks if series_uid in (None, s.series_uid)]
        if not any(_is_readable(s, irregular) for s in of_series):
            raise _nothing(of_series, series_uid)
        for stack in of_series:
            if not _is_readable(stack, irregular):
                if stack.problem is not None:
                    notify(stack.problem.code, f"a series was passed over: {stack.problem.reason}")
                continue
            try:
                volume = volume_of(stack, reader, irregular, progress, cancel)
            except ReadError as error:
                notify(error.code, f"a series was passed over: {error}")
                continue
            _tell(volume)
            yield volume


@contextmanager
def _stacks(
    path: Place | Sequence[Place], progress: ProgressCallback, cancel: CancelToken | None
) -> Iterator[tuple[tuple[Stack, ...], SourceReader]]:
    headers: list[ImageHeader] = []
    for place in [path] if isinstance(path, str | os.PathLike) else path:
        found = scan(Path(place), progress=progress, cancel=cancel)
        headers += found.headers
        for note in found.notes:
            notify("DICOMDIR", note)
    with SourceReader() as reader:
        known: dict[int, bytes] = {}

        def digest(header: ImageHeader) -> bytes:
            if id(header) not in known:
                known[id(header)] = pixel_digest(reader, header)
            return known[id(header)]

        yield stacks_of(headers, digest), reader


def _is_readable(stack: Stack, irregular: Irregular) -> bool:
    kind = "" if stack.geometry is None else stack.geometry.kind
    if irregular == "fill" and kind == "missing":
        return True
    return stack.problem is None and (kind == "regular" or irregular != "reject")


def _chosen(
    stacks: tuple[Stack, ...], series_uid: str | None, volume: int | str | None, irregular: Irregular
) -> Stack:
    of_series = [s for s in stacks if series_uid in (None, s.series_uid)]
    # A refusal of the policy is said by the volume's own reader, so it counts as a candidate here.
    candidates = [s for s in of_series if s.problem is None or _is_readable(s, irregular)]
    if not candidates:
        raise _nothing(of_series, series_uid)
    if len({(s.study_uid, s.series_uid) for s in candidates}) > 1:
        raise ReadError(
            "SEVERAL_SERIES",
            f"expected one readable series, got {len({(s.study_uid, s.series_uid) for s in candidates})};"
            " name one by its series UID (`medseg series PATH` lists them), or read all",
        )
    if volume is not None:
        return _of_number(candidates, volume)
    if len(candidates) > 1:
        numbers = ", ".join(str(s.number) for s in candidates[:_SHOWN_NUMBERS])
        raise ReadError(
            "SEVERAL_VOLUMES",
            f"expected one volume, got a series of {len(candidates)} (time points, echoes, orientations);"
            f" name one by its number ({numbers}{', …' if len(candidates) > _SHOWN_NUMBERS else ''}), or"
            " read all",
        )
    return candidates[0]


def _of_number(candidates: list[Stack], volume: int | str) -> Stack:
    """The volume of a number or fingerprint."""
    matching = [s for s in candidates if volume in (s.number, s.fingerprint)]
    if len(matching) != 1:
        raise ReadError(
            "NO_VOLUME",
            f"expected a volume of that number in the series, got one of {candidates[0].count} others, or"
            " files that changed; look at the series anew",
        )
    return matching[0]


def _nothing(stacks: list[Stack], series_uid: str | None) -> ReadError:
    """Why nothing can be read: the one reason there is, or a list of codes."""
    problems = [s.problem for s in stacks if s.problem is not None]
    if len({p.code for p in problems}) == 1:
        return problems[0].error()
    if not stacks and series_uid is None:
        return ReadError(
            "NO_IMAGES",
            "expected a folder or zip with a readable series, got no DICOM object; name an image file",
        )
    if not stacks:
        return ReadError(
            "NO_SERIES", "expected a series of that UID, got none; `medseg series PATH` lists them"
        )
    codes = list(dict.fromkeys(p.code for p in problems))
    listed = ", ".join(codes[:_SHOWN_CODES]) + (", …" if len(codes) > _SHOWN_CODES else "")
    return ReadError("NO_SERIES", f"expected a readable series, got only refused ones: {listed}")


def _tell_of_strays(stacks: tuple[Stack, ...]) -> None:
    """A damaged file that no longer says to which series it belongs may be a slice of the one read."""
    for stack in stacks:
        if stack.problem is not None and not stack.members and not stack.series_uid:
            notify(stack.problem.code, f"files of an unknown series were not read: {stack.problem.reason}")


def _tell(volume: DicomVolume) -> None:
    if volume.dicom is not None:
        _tell_notes(volume.dicom.notes)


def _tell_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        code, _, message = note.partition(": ")
        notify(code, message)


def _infos(stacks: tuple[Stack, ...]) -> Iterator[SeriesInfo]:
    """One entry per series, grid and fate; volumes that share them are counted in the shape."""
    rows: dict[tuple[object, ...], list[Stack]] = {}
    for stack in stacks:
        code = "" if stack.problem is None else stack.problem.code
        grid = grid_shape(stack)
        kind = "" if stack.geometry is None else stack.geometry.kind
        rounded = None if grid is None else (grid[0], tuple(round(x, 4) for x in grid[1]))
        study, series = stack.study_uid, stack.series_uid
        rows.setdefault((study, series, stack.modality, code, kind, rounded), []).append(stack)
    for same in rows.values():
        first = same[0]
        grid = grid_shape(first)
        shape: tuple[int, ...] = () if grid is None else grid[0]
        yield SeriesInfo(
            first.study_uid,
            first.series_uid,
            first.modality,
            len({id(m.header) for s in same for m in s.members}) or sum(s.files for s in same),
            (*shape, len(same)) if grid is not None and len(same) > 1 else shape,
            () if grid is None else grid[1],
            "" if first.geometry is None else first.geometry.kind,
            first.problem is None,
            "" if first.problem is None else first.problem.code,
            "" if first.problem is None else first.problem.reason,
            tuple(dict.fromkeys(note for s in same for note in s.notes)),
        )
