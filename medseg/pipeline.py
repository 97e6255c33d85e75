"""From a scan and a model to a result: the whole trip on one page."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.inference.plan import InferencePlan, plan_inference
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.instances.separate import separate as separate_objects
from medseg.instances.settings import SeparationSettings
from medseg.io.formats import read_volume
from medseg.measure.regions import Region, measure_regions
from medseg.models.loading import Model, load_model
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.result import (
    Result,
    RunRecord,
    hash_volume,
    peak_memory_bytes,
    settings_data,
    software_versions,
)
from medseg.volume import InstanceVolume, LabelVolume, Volume

if TYPE_CHECKING:
    from os import PathLike


@dataclass
class _Clock:
    """Seconds of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - began, 3)


def segment(
    source: Volume | str | PathLike[str],
    model: Model | str | PathLike[str],
    settings: InferenceSettings | None = None,
    *,
    separate: Sequence[str] = (),
    separation: SeparationSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Result:
    """Segment a scan, separate and measure what was found.

    Args:
        source: a volume, or the path of one.
        model: a loaded model, or the name or path of one.
        settings: how to run the model. The device counts only where `model` is not loaded yet.
        separate: names of classes whose objects are told apart.
        separation: how they are.
        progress: told how far the work is; from this thread.
        cancel: a way to stop it.

    Returns:
        Labels on the grid of the source, objects if asked for, regions, run record.

    Raises:
        ReadError: the source cannot be read.
        ModelNotFoundError: there is no such model.
        ModelError: the model is damaged or unfit.
        VolumeError: the source is no scan, or a class to separate is unknown.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    settings = settings or InferenceSettings()
    separation = separation or SeparationSettings()
    cancel = cancel or CancelToken()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = _Clock()
    with clock.stage("read"):
        volume = source if isinstance(source, Volume) else read_volume(Path(source))
    with clock.stage("load"):
        ready = model if isinstance(model, Model) else _loaded(model, settings)
    for name in separate:
        ready.card.labels.find(name)
    with clock.stage("segment"):
        plan = plan_inference(volume.geometry, ready, settings)
        labels = predict(volume, ready, settings, progress, cancel)
    instances: InstanceVolume | None = None
    if separate:
        with clock.stage("separate"):
            instances = separate_objects(
                labels, separate, settings=separation, image=volume, progress=progress, cancel=cancel
            )
    cancel.check()
    with clock.stage("measure"):
        regions = _measured(labels, instances, volume)
    record = RunRecord(
        input_name=volume.source,
        input_sha256=hash_volume(volume),
        model=ready.card.name,
        model_version=ready.card.version,
        model_sha256=_model_sha256(ready),
        device=ready.device,
        settings={**settings_data(settings, separation if separate else None), **_plan_data(plan)},
        versions=software_versions(),
        seconds=clock.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        warnings=(*volume.notes, *ready.card.notes),
        started=started,
    )
    return Result(labels, instances, regions, record, volume)


def _loaded(model: str | PathLike[str], settings: InferenceSettings) -> Model:
    return load_model(model if isinstance(model, str) else Path(model), device=settings.device)


def _measured(labels: LabelVolume, instances: InstanceVolume | None, image: Volume) -> tuple[Region, ...]:
    regions = measure_regions(labels, image)
    return regions if instances is None else regions + measure_regions(instances, image)


def _model_sha256(model: Model) -> str:
    """One fingerprint of the recipe and the weights."""
    return hashlib.sha256(f"{model.card.sha256} {model.weights_sha256}".encode()).hexdigest()


def _plan_data(plan: InferencePlan) -> dict[str, Any]:
    return {
        "InferencePlan": {
            "grid_shape": list(plan.grid.shape),
            "grid_spacing_mm": list(plan.grid.spacing_mm),
            "windows": plan.windows.count,
            "planned_peak_bytes": plan.peak_bytes,
        }
    }
