"""A result as a folder, whole or not at all.

Files are made in a hidden folder beside their place (or, in an existing folder, within it) and moved only
once all of them are there. In an existing folder, files of an earlier result are replaced, and those that
the new result does not have are removed; nothing else is touched. If a move fails, what was there before
is put back; what cannot be put back stays in the hidden folder.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from medseg.errors import MedsegError, WriteError
from medseg.export.dicom_report import write_dicom_report
from medseg.export.dicom_rtstruct import write_dicom_rtstruct
from medseg.export.dicom_seg import write_dicom_seg
from medseg.export.meshes import class_meshes, file_names, write_stl
from medseg.export.pictures import write_pictures
from medseg.export.report import write_report
from medseg.export.settings import ExportSettings, as_settings
from medseg.export.tables import write_regions_csv, write_run_json
from medseg.files import FULL_DISK_ERRORS
from medseg.io.dicom_source import DicomSource, DicomVolume
from medseg.io.formats import write_labels, write_volume
from medseg.measure.regions import measure_regions
from medseg.measure.shape import Shape, measure_shapes
from medseg.result import Result
from medseg.volume import Volume

OWN_FILES = (
    "labels.nii.gz",
    "instances.nii.gz",
    "uncertainty.nii.gz",
    "regions.csv",
    "run.json",
    "segmentation.dcm",
    "segmentation_labelmap.dcm",
    "rtstruct.dcm",
    "report.dcm",
    "report.html",
    "meshes/*.stl",
    "pictures/*.png",
)
"""Every name that a result may have in its folder; only these are ever replaced or removed."""


@dataclass(frozen=True, eq=False)
class Job:
    """One result on its way into a folder.

    Attributes:
        result: what to write.
        settings: how.
        folder: hidden folder to write into; exists.
        source: DICOM series that was segmented, if known.
        shapes: object id -> form; None where nothing was separated.
    """

    result: Result
    settings: ExportSettings
    folder: Path
    source: DicomSource | None
    shapes: dict[int, Shape] | None


def write_result(
    result: Result,
    folder: str | Path,
    export: ExportSettings | Sequence[str] = ("nifti",),
    source: DicomSource | None = None,
) -> Path:
    """Write labels, objects, measures and record, and what else is asked for.

    Args:
        result: what was made.
        folder: made if missing, with its parents.
        export: kinds of files (`medseg.export.settings.KINDS`), or settings. `labels.nii.gz`,
            `regions.csv`, `run.json` and, where objects were separated, `instances.nii.gz`, where it was
            asked for, `uncertainty.nii.gz` are always written.
        source: the series that was segmented; the DICOM kinds need it. Where it is left out, that of
            the result's image, if it was read from DICOM.

    Returns:
        The folder.

    Raises:
        SettingsError: `UNKNOWN_EXPORT`.
        WriteError: `NO_DICOM_SOURCE`, `NOT_WRITABLE`, `DISK_FULL`, and those of the DICOM writers;
            nothing is left behind and an earlier result stays.
    """
    settings = as_settings(export)
    source = require_source(settings, result.image, source)
    target = Path(folder).absolute()
    try:
        made = _make_parents(target)
        try:
            with_shapes = measure_shapes(result.instances) if result.instances else None
            _write_and_move(result, settings, target, source, with_shapes)
        except BaseException:
            _remove_empty(made)
            raise
    except MedsegError:
        raise
    except OSError as error:
        raise _write_error(error) from error
    return Path(folder)


def require_source(
    settings: ExportSettings, image: Volume | None, source: DicomSource | None = None
) -> DicomSource | None:
    """The series that DICOM output refers to, or None where neither source nor image tells of one.

    Args:
        settings: what will be written; ask before hours are spent on a result.
        image: what is segmented.
        source: its series, where it is known otherwise.

    Raises:
        WriteError: `NO_DICOM_SOURCE`, there is none and a kind needs it.
    """
    if source is None and isinstance(image, DicomVolume):
        source = image.dicom
    if settings.needs_dicom_source and source is None:
        raise WriteError(
            "NO_DICOM_SOURCE",
            "expected a result of a DICOM series for DICOM output, got another image; "
            "segment the series itself or leave the DICOM kinds out",
        )
    return source


def _write_and_move(
    result: Result,
    settings: ExportSettings,
    target: Path,
    source: DicomSource | None,
    shapes: dict[int, Shape] | None,
) -> None:
    existed = target.is_dir()
    hidden = (target if existed else target.parent) / f".medseg-{secrets.token_hex(6)}.part"
    hidden.mkdir()
    is_moved = False
    try:
        fresh = hidden / "new"
        fresh.mkdir()
        job = Job(result, settings, fresh, source, shapes)
        for write in (WRITERS[kind] for kind in settings.kinds):
            write(job)
        write_regions_csv(result.regions, fresh / "regions.csv", shapes)
        names = sorted([*_files(fresh), "run.json"])
        write_run_json(result, fresh / "run.json", names)
        if existed:
            _swap(fresh, target, hidden / "old")
        else:
            fresh.replace(target)
        is_moved = True
    finally:
        shutil.rmtree(hidden / "new", ignore_errors=True)
        if is_moved or not _has_files(hidden / "old"):
            shutil.rmtree(hidden, ignore_errors=True)


def _has_files(folder: Path) -> bool:
    """Whether an earlier result lies here that could not be put back; it is not thrown away."""
    return any(not path.is_dir() for path in folder.rglob("*"))


def _swap(fresh: Path, target: Path, aside: Path) -> None:
    """Move new files in and old ones out; on any failure put all back."""
    moves = [(target / name, aside / name) for name in own_files(target)]
    moves += [(fresh / name, target / name) for name in _files(fresh)]
    done: list[tuple[Path, Path]] = []
    made: list[Path] = []
    try:
        for before, after in moves:
            made += _make_parents(after)
            if after.is_dir():
                raise IsADirectoryError(None, "a folder has the name of a file to be written")
            before.replace(after)
            done.append((before, after))
    except BaseException:
        for before, after in reversed(done):
            with suppress(OSError):  # the others are put back all the same
                after.replace(before)
        _remove_empty(made)
        raise
    _remove_empty([target / "meshes", target / "pictures"])


def own_files(folder: Path) -> list[str]:
    """Names, relative to a folder, of the files there that a result may have."""
    return [name for name in _files(folder) if any(fnmatchcase(name, own) for own in OWN_FILES)]


def _files(folder: Path) -> list[str]:
    """Files in a folder and in its own folders, not in links to others, relative and with slashes."""
    places = [folder, *(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())]
    found = (p for place in places for p in place.iterdir() if p.is_file() or p.is_symlink())
    return sorted(p.relative_to(folder).as_posix() for p in found)


def _make_parents(path: Path) -> list[Path]:
    """Make the folders above a path; those that were missing, deepest first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _write_error(error: OSError) -> WriteError:
    if error.errno in FULL_DISK_ERRORS:
        return WriteError("DISK_FULL", "expected room for the result, got a full disk; free some space")
    reason = error.strerror or type(error).__name__
    return WriteError(
        "NOT_WRITABLE", f"expected a folder to write into, got: {reason}; check folder and permissions"
    )


# ---------------------------------------------------------------------- one writer per kind


def _write_nifti(job: Job) -> None:
    write_labels(job.result.labels, job.folder / "labels.nii.gz")
    if job.result.instances is not None:
        write_labels(job.result.instances, job.folder / "instances.nii.gz")
    if job.result.uncertainty is not None:
        write_volume(job.result.uncertainty, job.folder / "uncertainty.nii.gz")


def _write_meshes(job: Job) -> None:
    regions = measure_regions(job.result.labels)
    names = file_names(regions)
    (job.folder / "meshes").mkdir()
    for region, mesh in class_meshes(job.result.labels, job.settings.mesh_smoothing_mm, regions):
        write_stl(mesh, job.folder / "meshes" / f"{names[region.id]}.stl", job.settings.mesh_space)


def _write_png(job: Job) -> None:
    (job.folder / "pictures").mkdir()
    write_pictures(job.result, job.folder / "pictures")


def _write_html(job: Job) -> None:
    write_report(job.result, job.folder / "report.html", job.shapes)


def _write_seg(job: Job) -> Path:
    return _dicom(write_dicom_seg, job, "segmentation.dcm")


def _write_seg_labelmap(job: Job) -> Path:
    return _dicom(partial(write_dicom_seg, kind="labelmap"), job, "segmentation_labelmap.dcm")


def _write_rtstruct(job: Job) -> Path:
    return _dicom(write_dicom_rtstruct, job, "rtstruct.dcm")


def _write_sr(job: Job) -> Path:
    """The report refers to the binary segmentation, which is written too where it was not asked for."""
    there = job.folder / "segmentation.dcm"
    if not there.exists():
        _write_seg(job)
    return _dicom(partial(write_dicom_report, segmentation=there), job, "report.dcm")


def _dicom(write: Callable[..., Path], job: Job, name: str) -> Path:
    result = job.result
    return write(
        result.labels, job.source, job.folder / name, instances=result.instances, record=result.record
    )


WRITERS: dict[str, Callable[[Job], Path | None]] = {
    "nifti": _write_nifti,
    "dicom-seg": _write_seg,
    "dicom-seg-labelmap": _write_seg_labelmap,
    "rtstruct": _write_rtstruct,
    "sr": _write_sr,
    "stl": _write_meshes,
    "png": _write_png,
    "html": _write_html,
}
"""Kind -> what writes it. Every kind of `KINDS` has a row."""
