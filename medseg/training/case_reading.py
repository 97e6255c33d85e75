"""A training case off the disk: its images on one grid, its labels on the same, whatever they are kept in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import MedsegError, ReadError
from medseg.geometry import Geometry
from medseg.io.dicom_rtstruct_reader import read_dicom_rtstruct
from medseg.io.dicom_seg_reader import read_dicom_seg
from medseg.io.dicom_source import DicomSource, DicomVolume
from medseg.io.formats import is_dicom_place, read_labels, read_volume
from medseg.io.notices import ReadNotice
from medseg.preprocess.prepare import check_volume
from medseg.training.dataset import Case
from medseg.volume import LabelVolume, Volume


@dataclass(frozen=True, eq=False)
class CaseData:
    """A case in memory.

    Attributes:
        images: one for each channel, on one grid.
        labels: on that grid.
        is_named: whether the labels' file itself names its ids (DICOM), so that names count and not ids.
    """

    images: tuple[Volume, ...]
    labels: LabelVolume
    is_named: bool = False


def read_case_data(case: Case) -> CaseData:
    """Read the images and the labels of a case.

    What the readers had to assume stands in the images' notes and is not warned of.

    Raises:
        ReadError: a file, which is named, cannot be read or does not fit the others; the code is that of
            the reader or of `check_volume`, or `SHAPES_DIFFER`, `AFFINES_DIFFER`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadNotice)
        return _read(case)


def _read(case: Case) -> CaseData:
    images: list[Volume] = []
    for path in case.images:
        with _told_of(f"image {path.name}"):
            image = read_volume(path)
            check_volume(image)
        if images:
            _require_grid(f"image {path.name}", image.geometry, case.images[0], images[0].geometry)
        images.append(image)
    first, path = images[0], label_file(case.labels)
    source = first.dicom if isinstance(first, DicomVolume) else None
    with _told_of(f"labels {path.name}"):
        named = is_dicom_place(path)
        labels = _read_dicom_labels(path, source or first.geometry) if named else read_labels(path)
    _require_grid(f"labels {path.name}", labels.geometry, case.images[0], first.geometry)
    return CaseData(tuple(images), replace(labels, geometry=first.geometry), named)


def label_file(path: Path) -> Path:
    """The label's file itself, where a folder holds nothing else."""
    inside = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else []
    return inside[0] if len(inside) == 1 else path


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Say in which file something went wrong.

    Raises:
        ReadError: in place of an error of the family.
    """
    try:
        yield
    except MedsegError as error:
        raise ReadError(error.code, f"{what}: {error}") from error


def _read_dicom_labels(path: Path, grid: Geometry | DicomSource) -> LabelVolume:
    try:
        return read_dicom_seg(path, grid=grid)
    except ReadError as error:
        if error.code != "NOT_A_SEGMENTATION":
            raise
        return read_dicom_rtstruct(path, grid=grid)


def _require_grid(what: str, geometry: Geometry, first_path: Path, first: Geometry) -> None:
    """Return if a file lies on the grid of the case's first image.

    Raises:
        ReadError: `SHAPES_DIFFER`, `AFFINES_DIFFER`.
    """
    if geometry.shape != first.shape:
        raise ReadError(
            "SHAPES_DIFFER",
            f"expected {what} on the grid of image {first_path.name}, got shape {geometry.shape} for "
            f"{first.shape}; resample one onto the other",
        )
    if not first.is_close(geometry):
        raise ReadError(
            "AFFINES_DIFFER",
            f"expected {what} at the place of image {first_path.name}, got another affine; draw the labels "
            "on this image, or copy its header",
        )
