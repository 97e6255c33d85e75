"""The files of one case of several images, as nnU-Net names them: `liver_007_0000.nii.gz`, `…_0001.nii.gz`.

One 3D image per file. A 4D NIfTI with the channels along its fourth axis is refused (`NOT_A_VOLUME`), since
nothing in it tells channels from time points; split it into one file per channel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from medseg.errors import ReadError
from medseg.io.formats import find_format, read_volume
from medseg.volume import Volume

_NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{4})", re.DOTALL)

AnyPath = str | PathLike[str]


def numbered(path: Path) -> tuple[str, int] | None:
    """Case and channel that a file's name tells, such as `("liver_007", 1)`; None where it tells none."""
    format_ = find_format(path)
    suffixes = () if format_ is None else format_.suffixes
    ends = [len(suffix) for suffix in suffixes if path.name.lower().endswith(suffix)]
    told = _NUMBERED.fullmatch(path.name[: -max(ends)]) if ends else None
    return None if told is None else (told["case"], int(told["number"]))


def channel_files(path: Path) -> tuple[Path, ...]:
    """All images of the case to which an image belongs, in the order of their numbers.

    Args:
        path: any one of them.

    Returns:
        Every `CASE_NNNN` with the same suffix beside it; `path` alone where its name has no number.

    Raises:
        ReadError: `CHANNELS_MISSING`, a number between 0000 and the last is not there.
    """
    told = numbered(path)
    if told is None:
        return (path,)
    case, number = told
    suffix = path.name[len(f"{case}_{number:04}") :]
    found: dict[int, Path] = {}
    if path.parent.is_dir():
        for beside in path.parent.iterdir():
            other = numbered(beside)
            if other is not None and beside.name == f"{case}_{other[1]:04}{suffix}":
                found[other[1]] = beside
    if sorted(found) != list(range(len(found))):
        missing = [f"{n:04}" for n in range(max(found, default=0)) if n not in found]
        raise ReadError(
            "CHANNELS_MISSING",
            f"expected images numbered from 0000 on without gaps, got none of {', '.join(missing[:8])}; "
            "put them beside the others",
        )
    return tuple(found[n] for n in sorted(found)) or (path,)


def in_order_of_numbers(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Paths by their channel numbers, where each has one and no two are equal; else as they are."""
    told = [numbered(path) for path in paths]
    numbers = [one[1] for one in told if one is not None]
    if len(numbers) < len(paths) or len(set(numbers)) < len(numbers):
        return tuple(paths)
    return tuple(path for _, path in sorted(zip(numbers, paths, strict=True)))


def read_case(paths: AnyPath | Sequence[AnyPath]) -> tuple[Volume, ...]:
    """Read all images of a case.

    Args:
        paths: one path per image, taken in the order of nnU-Net's numbers where all have one, else in
            the order given; or a single path, to which all files of its case with such numbers belong.

    Returns:
        One volume per image.

    Raises:
        ReadError: as `medseg.read`; `CHANNELS_MISSING`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    if isinstance(paths, (str, PathLike)):
        files = channel_files(Path(paths))
    else:
        files = in_order_of_numbers([Path(path) for path in paths])
    return tuple(read_volume(file) for file in files)
