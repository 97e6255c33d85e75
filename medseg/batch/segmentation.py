"""The task of `medseg batch`: read, segment, measure and write one case."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from medseg.batch.cases import Case, Source
from medseg.batch.turn import turn_on
from medseg.errors import ModelError
from medseg.export.settings import ExportSettings
from medseg.export.write import write_result
from medseg.inference.settings import InferenceSettings
from medseg.instances.settings import SeparationSettings
from medseg.io.dicom_series import read_series
from medseg.io.dicom_source import DicomVolume
from medseg.io.dicom_volume import Irregular
from medseg.io.formats import read_volume
from medseg.io.notices import ReadNotice
from medseg.models.loading import Model, load_model
from medseg.models.registry import find_model, model_fingerprint, read_card
from medseg.pipeline import segment
from medseg.progress import Progress, ProgressCallback
from medseg.result import Result, settings_data, software_versions
from medseg.volume import Volume

_NO_MATTER = ("device", "max_memory_gb", "threads")
"""Fields of the settings that say where and how fast, not what."""


@dataclass(frozen=True)
class SegmentationTask:
    """Segments each case with one model.

    Attributes:
        model: folder of the model.
        model_sha256: fingerprint of its card and weights.
        settings: how the model runs.
        separate: names of classes whose objects are told apart.
        separation: how they are.
        export: what is written.
        irregular: what is done with DICOM slices that do not lie as a grid.
        channels: images that the model takes per case.
        rough_sha256: fingerprint of the rough model that the settings name, or empty.
    """

    model: Path
    model_sha256: str
    settings: InferenceSettings = field(default_factory=InferenceSettings)
    separate: tuple[str, ...] = ()
    separation: SeparationSettings = field(default_factory=SeparationSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    irregular: Irregular = "resample"
    channels: int = 1
    rough_sha256: str = ""

    def identity(self) -> Mapping[str, Any]:
        """Model, settings and version; not the device or the number of threads."""
        settings = settings_data(self.settings, self.separation if self.separate else None, self.export)
        for name in _NO_MATTER:
            settings["InferenceSettings"].pop(name, None)
        return {
            "model_sha256": self.model_sha256,
            **({"rough_sha256": self.rough_sha256} if self.rough_sha256 else {}),
            "settings": settings,
            "separate": list(self.separate),
            "irregular": self.irregular,
            "medseg": software_versions().get("medseg", ""),
        }

    def warm_up(self) -> None:
        """Load the model; it stays in this process."""
        for name in self.separate:
            _loaded(self.model, self.settings.device).card.labels.find(name)
        _loaded(self.model, self.settings.device)

    def __call__(self, case: Case, folder: Path, progress: ProgressCallback) -> Mapping[str, Any]:
        """Read, segment, measure and write; names in the record are the case's."""
        model = _loaded(self.model, self.settings.device)
        if len(case.sources) != model.card.in_channels:
            raise ModelError(
                "CHANNELS_MISMATCH",
                f"expected {model.card.in_channels} image(s) per case for this model, got "
                f"{len(case.sources)}; number the files (_0000, _0001) or name each in a table of cases",
            )
        progress(Progress("read", 0, len(case.sources)))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ReadNotice)
            volumes = [replace(_read(source, self.irregular), source=case.name) for source in case.sources]
        with turn_on(model.device, progress):
            result = segment(
                volumes,
                model,
                self.settings,
                separate=dict.fromkeys(self.separate, self.separation),
                progress=progress,
            )
        progress(Progress("write", 0, 1))
        write_result(result, folder, self.export, _dicom_source(volumes[0]))
        notes = {str(one.message) for one in told if isinstance(one.message, ReadNotice)}
        return _facts(result) | ({"notes": sorted(notes)} if notes else {})


def _dicom_source(volume: Volume) -> Any:
    return volume.dicom if isinstance(volume, DicomVolume) else None


def segmentation_task(
    model: str | Path,
    settings: InferenceSettings | None = None,
    *,
    separate: Sequence[str] = (),
    separation: SeparationSettings | None = None,
    export: ExportSettings | None = None,
    irregular: Irregular = "resample",
    workers: int = 1,
) -> SegmentationTask:
    """The task for one model; reads its card and hashes its weights, loads no network.

    Args:
        model: name or folder of the model.
        settings: how the model runs; cores are shared among the workers where it leaves threads open.
        separate: names of classes whose objects are told apart.
        separation: how they are.
        export: what is written.
        irregular: what is done with DICOM slices that do not lie as a grid.
        workers: cases at the same time on one machine.

    Raises:
        ModelNotFoundError: there is no such model.
        ModelError: it is damaged or refused.
        VolumeError: a class to separate is unknown.
    """
    settings = settings or InferenceSettings()
    folder = find_model(model).absolute()
    card = read_card(folder)
    for name in separate:
        card.labels.find(name)
    if settings.threads == 0 and workers > 1:
        settings = replace(settings, threads=max(1, (os.cpu_count() or 1) // workers))
    return SegmentationTask(
        folder,
        model_fingerprint(folder),
        settings,
        tuple(separate),
        separation or SeparationSettings(),
        export or ExportSettings(),
        irregular,
        card.in_channels,
        model_fingerprint(find_model(settings.rough_model)) if settings.rough_model else "",
    )


@lru_cache(maxsize=1)
def _loaded(model: Path, device: str) -> Model:
    """The model, once per worker."""
    return load_model(model, device=device)


def _read(source: Source, irregular: Irregular) -> Volume:
    if source.series_uid or source.volume or source.path.is_dir():
        return read_series(
            source.files or source.path,
            source.series_uid or None,
            volume=source.volume,
            irregular=irregular,
        )
    return read_volume(source.path)


def _facts(result: Result) -> dict[str, Any]:
    """What the summary tells of a case: classes that were found, objects, millilitres in all."""
    classes = [region for region in result.regions if region.kind == "class"]
    objects = sum(region.kind == "object" for region in result.regions)
    facts: dict[str, Any] = {"structures": sum(region.voxels > 0 for region in classes)}
    if result.instances is not None:
        facts["objects"] = objects
    facts["ml"] = round(sum(region.volume_ml for region in classes), 3)
    return facts
