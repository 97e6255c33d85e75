"""From a scan and a model to a result: the whole trip on one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from medseg.detection import detect_objects
from medseg.errors import SettingsError
from medseg.inference.cascade import RegionPrediction, predict_in_region
from medseg.inference.plan import InferencePlan
from medseg.inference.predict import Prediction, plan_case, predict_planned, wanted_labels
from medseg.inference.preview import predict_preview
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.instances.separate import separate as separate_objects
from medseg.instances.settings import SeparationSettings
from medseg.io.case_files import channel_files, in_order_of_numbers
from medseg.io.formats import read_volume
from medseg.labels import LabelSet
from medseg.measure.regions import Region, measure_regions
from medseg.measure.sides import find_swapped_sides
from medseg.models.loading import Model, load_model
from medseg.models.registry import find_model, model_fingerprint
from medseg.objects import objects_as_labels, segment_objects, sized_model
from medseg.preprocess.channels import as_channels, on_first_grid
from medseg.preprocess.sanity import find_misfits, judge
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.refine.by_atlas import refine_by_atlas
from medseg.result import (
    Result,
    RunRecord,
    hash_volume,
    peak_memory_bytes,
    plain_data,
    settings_data,
    software_versions,
)
from medseg.volume import InstanceVolume, LabelVolume, Volume

OneSource = Volume | str | PathLike[str]
"""One image, or where it lies."""

Source = OneSource | Sequence[OneSource] | Mapping[str, OneSource]
"""A case: one image, or several in the order of a card's channels or by their names."""


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
            spent = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.seconds[name] = round(spent, 3)


def segment(
    source: Source,
    model: Model | str | PathLike[str],
    settings: InferenceSettings | None = None,
    *,
    separate: Sequence[str] | Mapping[str, SeparationSettings] = (),
    preview: Callable[[LabelVolume], None] | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> Result:
    """Segment a scan, separate and measure what was found.

    Args:
        source: a volume or the path of one. For a model of several images: as many of them in the order
            of the card's channels, or a table from names of channels to them, or the path of one that
            nnU-Net's naming leads on from (`medseg.read_case`). Images on other grids are resampled onto
            the first one's.
        model: a loaded model, or the name or path of one.
        settings: how to run the model. The device counts only where `model` is not loaded yet.
        separate: names of classes whose objects are told apart; with how they are, where it is a table.
        preview: given labels on a coarse grid after seconds, once, before the work begins; from this
            thread. They are a first look, not the result (`medseg.inference.preview`).
        progress: told how far the work is; from this thread.
        cancel: a way to stop it.

    Returns:
        Labels on the grid of the (first) source, objects if asked for, regions, run record.

    Raises:
        ReadError: the source cannot be read.
        GeometryError: images that do not overlap, a field of view too small for the model.
        ModelNotFoundError: there is no such model.
        ModelError: the model is damaged or unfit, or wants other images: how many, of which modality.
        VolumeError: the source is no scan, or a class to separate is unknown.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    settings = settings or InferenceSettings()
    cancel = cancel or CancelToken()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    clock = _Clock()
    with clock.stage("read"):
        images = _read(source)
    with clock.stage("load"):
        ready = model if isinstance(model, Model) else _loaded(model, settings)
        rough = _rough(settings) if settings.rough_model else None
    for name in separate:
        ready.card.labels.find(name)
    with clock.stage("read"):
        volumes, notes = _channels(source, images, ready, settings)
    with clock.stage("load"):
        ready, sizes = sized_model(ready, volumes[0], settings, progress, cancel)
    if preview is not None:
        with clock.stage("preview"):
            preview(predict_preview(volumes, ready, settings, progress, cancel))
    with clock.stage("segment"):
        found, instances = _predicted(volumes, (rough, ready), settings, progress, cancel)
        labels = found.prediction.labels
    if separate and (instances is None or isinstance(separate, Mapping)):
        with clock.stage("separate"):
            instances = _objects(labels, separate, volumes[0], progress, cancel)
    cancel.check()
    with clock.stage("measure"):
        regions = _measured(labels, instances, volumes[0])
    hashes = tuple(hash_volume(volume) for volume in volumes)
    record = RunRecord(
        input_name=", ".join(dict.fromkeys(volume.source for volume in volumes if volume.source)),
        input_sha256=hashes[0] if len(hashes) == 1 else sha256(" ".join(hashes).encode()).hexdigest(),
        channel_sha256=hashes if len(hashes) > 1 else (),
        model=ready.card.name,
        model_version=ready.card.version,
        model_sha256=_model_sha256(ready),
        device=ready.device,
        settings={**settings_data(settings), **_separation_data(separate), **_plan_data(found.plan)},
        versions=software_versions(),
        seconds=clock.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        warnings=(*notes, *sizes, *ready.card.notes, *_said(found), *find_swapped_sides(regions)),
        started=started,
    )
    return Result(labels, instances, regions, record, volumes[0], found.prediction.uncertainty)


def _read(source: Source) -> Mapping[str, Volume] | tuple[Volume, ...]:
    """The images that a caller names, read where they are paths."""
    if isinstance(source, Mapping):
        return {name: _one(item) for name, item in source.items()}
    items = (source,) if isinstance(source, (Volume, str, PathLike)) else tuple(source)
    paths = [Path(item) for item in items if not isinstance(item, Volume)]
    if len(paths) == len(items):
        return tuple(read_volume(path) for path in in_order_of_numbers(paths))
    return tuple(_one(item) for item in items)


def _one(item: OneSource) -> Volume:
    return item if isinstance(item, Volume) else read_volume(Path(item))


def _channels(
    source: Source,
    images: Mapping[str, Volume] | tuple[Volume, ...],
    model: Model,
    settings: InferenceSettings,
) -> tuple[tuple[Volume, ...], tuple[str, ...]]:
    """The images as the model's channels on one grid, and what is to be said about them."""
    if isinstance(source, (str, PathLike)) and model.card.in_channels > 1:
        files = channel_files(Path(source))
        images = tuple(read_volume(file) for file in files) if len(files) > 1 else images
    volumes, notes = on_first_grid(as_channels(images, model.card))
    misfits = judge(find_misfits(volumes, model.card), settings.sanity)
    told = tuple(dict.fromkeys(note for volume in volumes for note in volume.notes))
    return volumes, (*told, *notes, *misfits)


def _predicted(
    volumes: tuple[Volume, ...],
    models: tuple[Model | None, Model],
    settings: InferenceSettings,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> tuple[RegionPrediction, InstanceVolume | None]:
    """What the model says of the whole case, or of the region that a rough model finds; and objects.

    Objects come here from a model that learned them, whose labels are the objects' classes.
    """
    rough, fine = models
    if fine.card.separation is not None or fine.card.detection is not None:
        if rough is not None:
            raise SettingsError(
                "BAD_SETTING", "expected no rough model before a model of objects, got one; give a region"
            )
        plan = plan_case(volumes, fine, settings)
        find = segment_objects if fine.card.detection is None else detect_objects
        objects = find(volumes[0], fine, settings, progress=progress, cancel=cancel)
        return RegionPrediction(Prediction(objects_as_labels(objects)), plan, ()), objects
    fits_atlas = fine.atlas is not None and not settings.skip_atlas
    asked = replace(settings, classes=()) if fits_atlas else settings  # all of them show how a head lies
    if rough is not None:
        found = predict_in_region(volumes, (rough, fine), asked, progress, cancel)
    else:
        plan = plan_case(volumes, fine, asked)
        listener = Listener(progress, cancel)
        found = RegionPrediction(predict_planned(volumes, fine, asked, plan, listener), plan, ())
    if fits_atlas:
        found = _by_atlas(found, volumes[0], fine, settings, (progress, cancel))
    return found, None


def _by_atlas(
    found: RegionPrediction,
    image: Volume,
    model: Model,
    settings: InferenceSettings,
    watchers: tuple[ProgressCallback, CancelToken],
) -> RegionPrediction:
    """What the model's atlas makes of its labels; of those, the classes that were asked for."""
    labels, notes = found.prediction.labels, found.prediction.notes
    if settings.roi_mm is not None or settings.roi_voxels is not None:
        notes = (*notes, "the model's atlas was not used: it needs the whole scan, not a box of it")
    elif model.atlas is not None:
        threads = settings.threads
        labels, said = refine_by_atlas(labels, image, model.atlas, threads=threads, watchers=watchers)
        notes = (*notes, *said)
    if settings.classes:
        wanted = wanted_labels(model.card, settings.classes)
        kept = LabelSet(tuple(label for label in labels.labels if label.id in wanted))
        array = np.where(np.isin(labels.array, list(wanted)), labels.array, 0).astype(labels.array.dtype)
        labels = replace(labels, array=array, labels=kept)
    return replace(found, prediction=replace(found.prediction, labels=labels, notes=notes))


def _objects(
    labels: LabelVolume,
    separate: Sequence[str] | Mapping[str, SeparationSettings],
    image: Volume,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> InstanceVolume:
    """Objects of all classes that were asked for, numbered one group of equal settings after another."""
    groups: dict[SeparationSettings, list[str]] = {}
    for name in separate:
        how = separate[name] if isinstance(separate, Mapping) else SeparationSettings()
        groups.setdefault(how, []).append(name)
    found = [
        separate_objects(labels, names, settings=how, image=image, progress=progress, cancel=cancel)
        for how, names in groups.items()
    ]
    first, *others = found
    array, classes = first.array, dict(first.classes)
    for more in others:
        array = np.where(more.array > 0, more.array + len(classes), array).astype(array.dtype)
        classes |= {number + len(classes): its_class for number, its_class in more.classes.items()}
    return replace(first, array=array, classes=classes)


def _separation_data(separate: Sequence[str] | Mapping[str, SeparationSettings]) -> dict[str, Any]:
    """The settings of all classes at once, or of each where they differ."""
    settings = set(separate.values()) if isinstance(separate, Mapping) else {SeparationSettings()}
    if not separate or len(settings) == 1:
        return settings_data(*settings) if separate else {}
    return {"SeparationSettings": plain_data(separate)}


def _loaded(model: str | PathLike[str], settings: InferenceSettings) -> Model:
    return load_model(model if isinstance(model, str) else Path(model), device=settings.device)


def _rough(settings: InferenceSettings) -> Model:
    """The rough model; kept for the next case as long as its files stay what they are."""
    path = find_model(settings.rough_model)
    return _kept(path, model_fingerprint(path), settings.device)


@lru_cache(maxsize=1)
def _kept(path: Path, _fingerprint: str, device: str) -> Model:
    return load_model(path, device=device)


def _measured(labels: LabelVolume, instances: InstanceVolume | None, image: Volume) -> tuple[Region, ...]:
    regions = measure_regions(labels, image)
    return regions if instances is None else regions + measure_regions(instances, image)


def _model_sha256(model: Model) -> str:
    """One fingerprint of the recipe and the weights."""
    return sha256(f"{model.card.sha256} {model.weights_sha256}".encode()).hexdigest()


def _said(found: RegionPrediction) -> tuple[str, ...]:
    return (*found.notes, *found.prediction.notes)


def _plan_data(plan: InferencePlan) -> dict[str, Any]:
    return {
        "InferencePlan": {
            "grid_shape": list(plan.grid.shape),
            "grid_spacing_mm": list(plan.grid.spacing_mm),
            "windows": plan.windows.count,
            "planned_peak_bytes": plan.peak_bytes,
            "backend": plan.backend.words,
        }
    }
