"""Find what a batch is given: image files, DICOM series, and tables of cases."""

from __future__ import annotations

import csv
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from medseg.batch.cases import Found, Source
from medseg.batch.pseudonyms import without_names
from medseg.errors import ReadError
from medseg.io.dicom_archive import SourceReader
from medseg.io.dicom_grouping import Stack, stacks_of
from medseg.io.dicom_pixels import pixel_digest
from medseg.io.dicom_records import ImageHeader
from medseg.io.dicom_scan import scan
from medseg.io.dicom_volume import Irregular
from medseg.io.formats import DICOM, find_format
from medseg.progress import CancelToken, ProgressCallback, silent

IMAGE_COLUMN = "image"
CASE_COLUMN = "case"
SERIES_COLUMN = "series"
VOLUME_COLUMN = "volume"
_DATA_OF_PAIRS = (".img", ".img.gz")


def find_inputs(
    paths: Sequence[Path],
    *,
    leave_out: Path | None = None,
    irregular: Irregular = "resample",
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> list[Found]:
    """Look at every path, by names and headers alone.

    Args:
        paths: image files, folder trees of images or DICOM, zips, DICOMDIRs, and `.csv` tables.
        leave_out: a folder that is no input, such as that of the results.
        irregular: with `"fill"`, series with missing slices are cases too.
        progress: told how many DICOM files were looked at.
        cancel: stops between files.

    Returns:
        Inputs, and DICOM series that make no volume with the reason.

    Raises:
        ReadError: a path that is not there or cannot be looked into; `NO_CASES`; `BAD_TABLE`.
        CancelledError: a stop was asked for.
    """
    barred = None if leave_out is None else leave_out.absolute()
    look = partial(_series, is_filling=irregular == "fill", progress=progress, cancel=cancel)
    found: list[Found] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            found += read_table(path)
        elif path.is_dir():
            found += _in_folder(path.absolute(), barred, look, cancel)
        elif _is_image(path):
            found.append(_image(path.absolute(), path.absolute().parent))
        else:
            found += look(path.absolute(), None)
    if not found:
        raise ReadError("NO_CASES", "expected images or DICOM series, got none; check the paths")
    return found


def _in_folder(
    root: Path, barred: Path | None, look: Callable[..., Iterator[Found]], cancel: CancelToken | None
) -> Iterator[Found]:
    has_others = False
    for path in _regular_files(root, barred):
        if cancel is not None:
            cancel.check()
        if _is_image(path):
            yield _image(path, root)
        elif path.suffix.lower() == ".zip":
            yield from look(path, None)
        else:
            has_others = True
    if has_others:
        yield from look(root, barred)


def _regular_files(root: Path, barred: Path | None) -> Iterator[Path]:
    """Regular files below a folder by name; links are not followed, hidden folders not entered."""
    for where, folders, names in os.walk(root):
        here = Path(where)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and here / name != barred)
        for name in sorted(names):
            try:
                is_regular = stat.S_ISREG((here / name).lstat().st_mode)
            except OSError:
                continue
            if is_regular and not name.startswith("."):
                yield here / name


def _is_image(path: Path) -> bool:
    """Whether a name promises a whole volume; DICOM files and the data of a pair are parts of one."""
    format_ = find_format(path)
    return format_ not in (None, DICOM) and not path.name.lower().endswith(_DATA_OF_PAIRS)


def _image(path: Path, root: Path) -> Found:
    source = Source(path, files=(path,))
    name = path.name
    format_ = find_format(path)
    suffixes = () if format_ is None else format_.suffixes
    ends = [len(suffix) for suffix in suffixes if name.lower().endswith(suffix)]
    return Found(
        (source,), ("file", path.relative_to(root).as_posix()), name[: -max(ends, default=0) or None]
    )


def _series(
    root: Path,
    barred: Path | None,
    *,
    is_filling: bool,
    progress: ProgressCallback,
    cancel: CancelToken | None,
) -> Iterator[Found]:
    headers = [
        header
        for header in scan(root, progress=progress, cancel=cancel).headers
        if barred is None or barred not in header.file.path.absolute().parents
    ]
    files: dict[tuple[str, str], list[ImageHeader]] = defaultdict(list)
    for header in headers:
        files[header.study_uid, header.series_uid].append(header)
    with SourceReader() as reader:
        stacks = stacks_of(headers, lambda header: pixel_digest(reader, header))
    refused: set[tuple[str, ...]] = set()
    for stack in stacks:
        is_filled = is_filling and stack.geometry is not None and stack.geometry.kind == "missing"
        whole = replace(stack, problem=None) if is_filled else stack
        code = "" if whole.problem is None else whole.problem.code
        identity = ("series", stack.study_uid, stack.series_uid)
        if (*identity, code) not in refused:
            if code:
                refused.add((*identity, code))
            yield _of_stack(whole, identity, files[stack.study_uid, stack.series_uid])


def _of_stack(stack: Stack, identity: tuple[str, ...], headers: Sequence[ImageHeader]) -> Found:
    """A series, or one volume of several in it, as an input.

    Its place is the smallest folder that holds the series. Of one volume of several, only its own files
    are read again, and only they decide whether it is done already.
    """
    paths = sorted({header.file.path.absolute() for header in headers})
    is_inside_zip = any(header.file.member for header in headers)
    place = paths[0] if is_inside_zip else Path(os.path.commonpath([path.parent for path in paths]))
    source = Source(place, stack.series_uid, tuple(paths))
    if stack.problem is None and stack.count > 1:
        own = tuple(sorted({member.header.file.path.absolute() for member in stack.members}))
        part = replace(source, files=own, volume=stack.fingerprint)
        return Found((part,), identity, stack.series_uid, part=f"v{stack.number:03}")
    if stack.problem is None:
        return Found((source,), identity, stack.series_uid)
    members = [Path(header.file.member) for header in headers if header.file.member]
    reason = without_names(stack.problem.reason, [*paths, *members])
    harmless = {header.set_aside.code for header in headers if header.set_aside is not None}
    code = stack.problem.code
    return Found((source,), (*identity, code), stack.series_uid, code, reason, code not in harmless)


def read_table(path: Path) -> list[Found]:
    """Cases from a CSV table, one per row.

    Columns: `image`, and `image2`, `image3`, … where the model takes several; `case`, a name of the
    row, `series` (`series2`, …), the UID of the series where `image` (`image2`, …) is a folder or zip, and
    `volume`, the number of a volume in a series of several, may be left out. Paths count from the table's
    folder.

    Raises:
        ReadError: `BAD_TABLE`, `FILE_NOT_FOUND`.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            heads = [head.strip().lower() for head in reader.fieldnames or ()]
            rows = [dict(zip(heads, (cell.strip() for cell in row.values()), strict=True)) for row in reader]
    except FileNotFoundError as error:
        raise ReadError("FILE_NOT_FOUND", "expected a table of cases, got a path to nothing") from error
    except (OSError, csv.Error, UnicodeDecodeError, AttributeError, ValueError) as error:
        raise ReadError(
            "BAD_TABLE", "expected a CSV table in UTF-8 with as many cells as heads in each row; mend it"
        ) from error
    images = [head for head in heads if head.startswith(IMAGE_COLUMN)]
    if IMAGE_COLUMN not in images or len(set(heads)) < len(heads):
        raise ReadError(
            "BAD_TABLE", "expected a column `image`, and each column once, got another first line; mend it"
        )
    return [_row(row, images, path.absolute().parent, n) for n, row in enumerate(rows, start=2)]


def _row(row: dict[str, str], images: Sequence[str], folder: Path, line: int) -> Found:
    cells = [row[head] for head in images if row[head]]
    if not row[IMAGE_COLUMN] or any("\0" in cell for cell in cells):
        raise ReadError(
            "BAD_TABLE", f"expected a path in column `image`, got none in line {line}; fill it in"
        )
    number = row.get(VOLUME_COLUMN, "")
    if number and not (number.isascii() and number.isdigit() and int(number)):
        raise ReadError("BAD_TABLE", f"expected a number from 1 in column `volume`, got other in line {line}")
    alone = row.get(SERIES_COLUMN, "")
    series = [row.get(head.replace(IMAGE_COLUMN, SERIES_COLUMN, 1), alone) for head in images if row[head]]
    sources = tuple(
        replace(_table_source(folder / cell, uid), volume=int(number or 0) or None)
        for cell, uid in zip(cells, series, strict=True)
    )
    name = row.get(CASE_COLUMN, "")
    part = f"v{int(number):03}" if number and not name else ""
    return Found(sources, ("row", name) if name else ("file", *cells), name or Path(cells[0]).name, part=part)


def _table_source(path: Path, series_uid: str) -> Source:
    if not path.is_dir():
        return Source(path, series_uid, (path,))
    headers = (one for one in scan(path).headers if series_uid in ("", one.series_uid))
    return Source(path, series_uid, tuple(sorted({one.file.path for one in headers})))
