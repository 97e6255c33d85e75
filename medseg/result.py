"""What came out of a run, and how it was made."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from medseg.geometry import Geometry
from medseg.measure.regions import Region
from medseg.volume import InstanceVolume, LabelVolume, Volume

RECORDED_PACKAGES = (
    "medseg",
    "numpy",
    "torch",
    "monai",
    "openvino",
    "nibabel",
    "pydicom",
    "highdicom",
    "SimpleITK",
    "scipy",
)
"""Packages whose versions a run record names where they are installed."""


@dataclass(frozen=True)
class RunRecord:
    """How a result was made: enough to make it again and to compare two runs.

    Attributes:
        input_name: what was read, without a patient's name or a folder.
        input_sha256: hash of voxels and grid (`hash_volume`), or empty; of several images, the hash of
            their hashes.
        model: name of the model's card, or empty where no model ran.
        model_version: version of the card.
        model_sha256: hash of the card and its weights.
        device: where the network ran, such as `"cpu"`.
        settings: class name of each settings object -> its fields.
        versions: package -> version.
        seconds: stage -> seconds, in the order of the stages.
        peak_memory_bytes: highest resident memory of the process, or None where unknown.
        warnings: what the user should know.
        started: begin of the run, ISO 8601 in UTC, or empty.
        channel_sha256: hash of each image of a case of several, in the order of the card's channels.
    """

    input_name: str = ""
    input_sha256: str = ""
    model: str = ""
    model_version: str = ""
    model_sha256: str = ""
    device: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    started: str = ""
    channel_sha256: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Everything as dicts, lists, numbers and text, ready for JSON."""
        data = plain_data(self)
        return dict(data)


@dataclass(frozen=True, eq=False)
class Result:
    """Labels, objects, measures, and the record of the run that made them.

    Attributes:
        labels: classes on the grid of the source.
        instances: separated objects on the same grid, or None where nothing was separated.
        regions: measured classes and objects.
        record: how it was made.
        image: what was segmented, for pictures and intensities; it is not written again.
        uncertainty: 0 (sure) to 1, float32 on the grid of the source; None where not asked for.
    """

    labels: LabelVolume
    instances: InstanceVolume | None = None
    regions: tuple[Region, ...] = ()
    record: RunRecord = field(default_factory=RunRecord)
    image: Volume | None = None
    uncertainty: Volume | None = None

    def save(self, folder: str | Path, export: Sequence[str] = ("nifti",)) -> Path:
        """Write into a folder, whole or not at all.

        Args:
            folder: made if missing; files of an earlier result in it are replaced, others kept.
            export: kinds of file, see `medseg.ExportSettings`.

        Returns:
            The folder.

        Raises:
            SettingsError: an unknown kind.
            WriteError: the folder cannot be written, or the disk is full.
        """
        from medseg import write_result

        written: Path = write_result(self, folder, export)
        return written


def software_versions() -> dict[str, str]:
    """Versions of Python and of the recorded packages that are installed; imports none of them."""
    versions = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory_bytes() -> int | None:
    """Highest resident memory of this process so far; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.is_file():  # `ru_maxrss` of Linux would count the program that started this one too
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def hash_volume(volume: Volume | LabelVolume) -> str:
    """SHA-256 of the voxels, their type and their grid; a file's compression or name do not count.

    Affine entries are rounded to a millionth of a mm.
    """
    digest = hashlib.sha256()
    array = volume.array
    digest.update(f"{array.dtype.newbyteorder('<').str} {_grid_words(volume.geometry)}".encode())
    for k in range(array.shape[2]):
        plane = array[:, :, k].astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.asfortranarray(plane).tobytes(order="F"))
    return digest.hexdigest()


def _grid_words(geometry: Geometry) -> str:
    rounded = np.round(geometry.affine, 6) + 0.0
    return f"{geometry.shape} {rounded.ravel().tolist()}"


def settings_data(*settings: object) -> dict[str, Any]:
    """Class name -> fields of each settings dataclass, as plain data; None is left out."""
    return {type(one).__name__: plain_data(one) for one in settings if one is not None}


def plain_data(value: Any) -> Any:
    """A value as dicts, lists, numbers and text; a path gives its name only.

    Numbers that JSON does not have (NaN, infinity) become None.
    """
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item) for item in value]
    return _plain_scalar(value.value if isinstance(value, enum.Enum) else value)


def _plain_scalar(value: Any) -> bool | int | float | str | None:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.name if isinstance(value, PurePath) else str(value)
