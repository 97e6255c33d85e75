"""Which file is read and written by whom: one table, four verbs.

Another format is one more row. DICOM is a row of its own, since no suffix tells what is in a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ReadError, WriteError
from medseg.files import file_size, opened
from medseg.io import metaimage, nifti, nrrd, tiff
from medseg.io.notices import notices_kept
from medseg.volume import LabelVolume, Volume


@dataclass(frozen=True)
class Format:
    """One way to keep a volume in a file.

    Attributes:
        name: for people.
        suffixes: lower case, with the dot; the longest that fits decides.
        read_volume: path to intensities.
        read_labels: path to a label map.
        write_volume: None where the format is only read.
        write_labels: None where the format is only read.
    """

    name: str
    suffixes: tuple[str, ...]
    read_volume: Callable[[Path], Volume]
    read_labels: Callable[[Path], LabelVolume]
    write_volume: Callable[[Volume, Path], None] | None = None
    write_labels: Callable[[LabelVolume, Path], None] | None = None


def _dicom_volume(path: Path) -> Volume:
    from medseg.io.dicom_series import read_series

    return read_series(path)


def _dicom_labels(path: Path) -> LabelVolume:
    from medseg.io.dicom_seg_reader import read_dicom_seg

    if path.is_dir():
        raise ReadError("NO_IMAGES", "expected one label file, got a folder; name the file itself")
    return read_dicom_seg(path)


DICOM = Format("DICOM", (".dcm", ".ima"), _dicom_volume, _dicom_labels)
"""What reads a folder, a zip, and a file that is DICOM by its own mark, whatever its name."""

FORMATS = (
    DICOM,
    Format(
        "NIfTI",
        (".nii", ".nii.gz"),
        nifti.read_volume,
        nifti.read_labels,
        nifti.write_volume,
        nifti.write_labels,
    ),
    Format("NIfTI pair", (".hdr", ".img", ".hdr.gz", ".img.gz"), nifti.read_volume, nifti.read_labels),
    Format(
        "NRRD",
        (".nrrd",),
        nrrd.read_volume,
        nrrd.read_labels,
        nrrd.write_volume,
        nrrd.write_labels,
    ),
    Format("detached NRRD", (".nhdr",), nrrd.read_volume, nrrd.read_labels),
    Format(
        "MetaImage",
        (".mha",),
        metaimage.read_volume,
        metaimage.read_labels,
        metaimage.write_volume,
        metaimage.write_labels,
    ),
    Format("detached MetaImage", (".mhd",), metaimage.read_volume, metaimage.read_labels),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        tiff.read_volume,
        tiff.read_labels,
        tiff.write_volume,
        tiff.write_labels,
    ),
)


def known_suffixes(*, writable: bool = False) -> tuple[str, ...]:
    """Suffixes of all formats, or of those that can be written."""
    chosen = (f for f in FORMATS if f.write_volume or not writable)
    return tuple(suffix for f in chosen for suffix in f.suffixes)


def find_format(path: Path) -> Format | None:
    """The format that a file name's suffix promises; None where no row has it."""
    name = path.name.lower()
    fits = [(len(s), f) for f in FORMATS for s in f.suffixes if name.endswith(s)]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def _reader(path: Path) -> Format:
    if path.is_dir():
        return DICOM
    file_size(path)
    found = find_format(path) or (DICOM if _is_dicom(path) else None)
    if found is None:
        raise ReadError(
            "UNKNOWN_FORMAT",
            f"expected one of {', '.join(known_suffixes())}, got another suffix; convert or rename the file",
        )
    return found


def _is_dicom(path: Path) -> bool:
    """Whether a file carries DICOM's mark, or that of a zip, which may hold a study."""
    with opened(path) as stream:
        start = stream.read(132)
    return start[128:] == b"DICM" or start[:4] == b"PK\x03\x04"


def is_dicom_place(path: str | Path) -> bool:
    """Whether a path is read as DICOM: a folder, a zip, or a file with DICOM's mark.

    Raises:
        ReadError: `FILE_NOT_FOUND`, `NOT_A_FILE`, `NOT_READABLE`, `UNKNOWN_FORMAT`.
    """
    return _reader(Path(path)) is DICOM


def read_all(path: str | Path) -> Iterator[Volume]:
    """Read every volume of a folder, DICOMDIR or zip of DICOM series; of a file, its one volume.

    Args:
        path: folder, or file as in `read_volume`.

    Yields:
        One volume per readable series, time point, echo or image type. What is passed over arrives as a
        `medseg.io.notices.ReadNotice` warning; `medseg.list_series` tells the whole of it.

    Raises:
        ReadError: as `read_volume`; `NO_SERIES` where nothing can be read.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    path = Path(path)
    reader = _reader(path)
    if reader is not DICOM:
        yield reader.read_volume(path)
        return
    from medseg.io import dicom_series

    yield from dicom_series.read_all(path)


def read_volume(path: str | Path) -> Volume:
    """Read intensities from an image file, or from a folder that holds one series.

    What a reader had to assume arrives as a `medseg.io.notices.ReadNotice` warning.

    Args:
        path: file of a known format (`known_suffixes()`), or a folder.

    Returns:
        Array `(i, j, k)` in the file's own type; place in RAS+ mm.

    Raises:
        ReadError: see `docs/errors.md`; no other error for damaged or hostile files.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
    """
    path = Path(path)
    with notices_kept() as notes:
        volume = _reader(path).read_volume(path)
    return replace(volume, notes=(*volume.notes, *notes))


read = read_volume
"""The name on the package's face: `medseg.read`."""


def read_labels(path: str | Path) -> LabelVolume:
    """Read a label map and the names that its file holds; ids without one are called `label 7`.

    Args:
        path: file of a known format (`known_suffixes()`).

    Raises:
        ReadError: see `docs/errors.md`.
        GeometryError: `BAD_SHAPE`, `BAD_AFFINE`.
        VolumeError: `NOT_LABELS` for fractions, NaN or negative voxels.
    """
    path = Path(path)
    return _reader(path).read_labels(path)


def write_volume(volume: Volume, path: str | Path) -> Path:
    """Write intensities in the format that the suffix names; whole or not at all.

    Args:
        volume: what to write, in its own type.
        path: file name with a suffix of `known_suffixes(writable=True)`; its folder must exist.

    Returns:
        The path.

    Raises:
        WriteError: `UNKNOWN_FORMAT`, `NOT_WRITABLE`, `DISK_FULL`, `PLACE_LOST`.
    """
    path = Path(path)
    found = find_format(path)
    if found is None or found.write_volume is None:
        raise _unknown_for_writing()
    found.write_volume(volume, path)
    return path


def write_labels(labels: LabelVolume, path: str | Path) -> Path:
    """Write a label map with its names, in the smallest integer type; whole or not at all.

    Args:
        labels: what to write.
        path: file name with a suffix of `known_suffixes(writable=True)`; its folder must exist.

    Returns:
        The path.

    Raises:
        WriteError: `UNKNOWN_FORMAT`, `NOT_WRITABLE`, `DISK_FULL`, `PLACE_LOST`.
        VolumeError: `NOT_LABELS` for negative ids.
    """
    path = Path(path)
    found = find_format(path)
    if found is None or found.write_labels is None:
        raise _unknown_for_writing()
    found.write_labels(labels, path)
    return path


def _unknown_for_writing() -> WriteError:
    suffixes = ", ".join(known_suffixes(writable=True))
    return WriteError("UNKNOWN_FORMAT", f"expected one of {suffixes}, got another suffix; rename the output")
