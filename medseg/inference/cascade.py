"""A rough model finds the region, the fine model looks only there.

The crop is the box of what the rough model found, with a margin, and never smaller than a window of the
fine model where the scan has more to show. It grows where a structure of the fine model touches a face of
the crop that is no face of the scan, so that nothing is cut off flat; where the rough model finds nothing,
the whole scan is looked at. Either is said.

Intensity steps that measure the volume (percentiles, mean and deviation) measure the crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.inference.plan import InferencePlan
from medseg.inference.predict import Prediction, plan_case, predict, predict_planned
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.labels import LabelSet
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.volume import LabelVolume, Volume

if TYPE_CHECKING:
    from medseg.models.loading import Model

MOST_WIDENINGS = 3
"""After so many, a face that is still touched moves to the end of the scan at once."""

ROUGH_STAGE = "find"
"""Name of the rough model's stage in progress reports."""

Bounds = npt.NDArray[np.int64]
"""`(2, 3)`: first voxel and one past the last, along i, j, k."""


@dataclass(frozen=True, eq=False)
class RegionPrediction:
    """What a run on a part of a scan gave.

    Attributes:
        prediction: on the whole grid of the source; background, and sure of it, outside the part.
        plan: of the last run of the fine model; its source is the part that was looked at.
        notes: what was found and done, for the run record.
    """

    prediction: Prediction
    plan: InferencePlan
    notes: tuple[str, ...]


def predict_in_region(
    volumes: Sequence[Volume],
    models: tuple[Model, Model],
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> RegionPrediction:
    """Segment the part of a case in which a rough model finds something.

    Args:
        volumes: in the order of the fine card's channels, on one grid. A rough model of one channel sees
            the first.
        models: the rough one and the fine one.
        settings: of the fine one; `rough_classes` and `rough_margin_mm` say what is looked for and how
            much around it is kept.
        progress: told after every window.
        cancel: looked at before every window.

    Raises:
        VolumeError: a volume is no scan, or the rough model has no class of that name.
        ModelError: a network answers what it should not, or takes other images.
        DeviceMemoryError: the plan exceeds the limit, or the device is full.
        CancelledError: a stop was asked for.
    """
    rough, fine = models
    settings = settings or InferenceSettings()
    listener = Listener(progress, cancel)
    source = volumes[0].geometry
    seen = [rough.card.labels.find(name).id for name in settings.rough_classes]
    bounds = _found_by(rough, volumes, seen, settings, listener)
    if bounds is None:
        note = (
            f"[ROUGH_FOUND_NOTHING] {rough.card.name} found nothing of what was looked for, so the whole "
            "scan was segmented"
        )
        plan = plan_case(volumes, fine, settings)
        return RegionPrediction(predict_planned(volumes, fine, settings, plan, listener), plan, (note,))
    bounds = _grown(bounds, _voxels(settings.rough_margin_mm, source), source.shape)
    bounds = _at_least(bounds, fine, source)
    wanted = _same_classes(fine.card.labels, rough.card.labels, seen)
    widened = 0
    while True:
        part = [volume.crop(*bounds) for volume in volumes]
        plan = plan_case(part, fine, settings)
        prediction = predict_planned(part, fine, settings, plan, listener)
        touched = touched_faces(prediction.labels.array, wanted) & ~_at_the_end(bounds, source.shape)
        if not touched.any():
            break
        step = settings.rough_margin_mm * 2**widened if widened < MOST_WIDENINGS else np.inf
        room = np.where(touched, np.minimum(_voxels(step, source), max(source.shape)), 0)
        bounds = _grown(bounds, np.maximum(room, touched), source.shape)
        widened += 1
    notes = _notes(part[0].geometry, source, rough, widened)
    return RegionPrediction(_on_whole(prediction, bounds, volumes[0]), plan, notes)


def _found_by(
    rough: Model, volumes: Sequence[Volume], seen: Sequence[int], settings: InferenceSettings, told: Listener
) -> Bounds | None:
    """The box of what the rough model finds, with its own overlap, without mirroring."""

    def report(progress: Progress) -> None:
        told.progress(replace(progress, stage=ROUGH_STAGE))

    own = replace(settings, overlap_fraction=None, mirror=False, classes=(), uncertainty=False)
    images = volumes if rough.card.in_channels == len(volumes) else volumes[:1]
    found = predict(images, rough, own, report, told.cancel).array
    return _bounds_of(np.isin(found, seen) if seen else found > 0)


def touched_faces(array: npt.NDArray[np.integer], ids: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which faces of an array hold a voxel of some ids.

    Args:
        array: `(i, j, k)` labels.
        ids: those that count; every one above 0 where empty.

    Returns:
        `(2, 3)`: the first and the last plane along i, j, k.
    """
    touched = np.zeros((2, 3), dtype=bool)
    for axis in range(3):
        for end in (0, 1):
            face = array.take(-end, axis)
            touched[end, axis] = np.isin(face, ids).any() if len(ids) else (face > 0).any()
    return touched


def _bounds_of(mask: npt.NDArray[np.bool_]) -> Bounds | None:
    """The box of what is true, or None."""
    bounds = np.zeros((2, 3), dtype=np.int64)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        along = np.flatnonzero(mask.any(axis=others))
        if not along.size:
            return None
        bounds[:, axis] = along[0], along[-1] + 1
    return bounds


def _voxels(margin_mm: float, source: Geometry) -> npt.NDArray[np.float64]:
    """A length as voxels along i, j, k, rounded up."""
    return np.ceil(margin_mm / np.array(source.spacing_mm))


def _grown(bounds: Bounds, room: npt.NDArray[np.float64], shape: tuple[int, int, int]) -> Bounds:
    """A box with `room` voxels more, `(3,)` at both ends or `(2, 3)` at each, inside the scan."""
    both = np.broadcast_to(room, (2, 3)).astype(np.int64)
    return np.stack([np.maximum(bounds[0] - both[0], 0), np.minimum(bounds[1] + both[1], shape)])


def _at_the_end(bounds: Bounds, shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    return np.stack([bounds[0] <= 0, bounds[1] >= np.array(shape)])


def _at_least(bounds: Bounds, fine: Model, source: Geometry) -> Bounds:
    """A box that fills a window of the fine model, as far as the scan goes: real voxels beat padding."""
    card = fine.card
    turned = source if card.orientation is None else source.reorient(card.orientation)
    spacing = card.spacing_mm or turned.spacing_mm
    axes = (0, 1, 2) if card.orientation is None else source.orientation_steps(card.orientation)[0]
    wanted = np.zeros(3)
    for axis, size, length in zip(axes, card.window.size, spacing, strict=True):
        wanted[axis] = np.ceil(size * length / source.spacing_mm[axis])
    missing = np.maximum(np.minimum(wanted, source.shape) - (bounds[1] - bounds[0]), 0)
    start = np.clip(bounds[0] - missing // 2, 0, None)
    stop = np.minimum(start + (bounds[1] - bounds[0]) + missing, source.shape)
    start = np.maximum(0, np.minimum(start, stop - (bounds[1] - bounds[0]) - missing))
    return np.stack([start, stop]).astype(np.int64)


def _same_classes(fine: LabelSet, rough: LabelSet, seen: Sequence[int]) -> tuple[int, ...]:
    """Ids of the fine model's classes that were looked for by name; none where no name is known to both."""
    names = {rough.names[one].strip().lower() for one in seen}
    return tuple(label.id for label in fine if label.name.strip().lower() in names)


def _on_whole(prediction: Prediction, bounds: Bounds, whole: Volume) -> Prediction:
    place = tuple(slice(a, b) for a, b in bounds.T)
    array = np.zeros(whole.geometry.shape, dtype=prediction.labels.array.dtype)
    array[place] = prediction.labels.array
    labels = LabelVolume(array, whole.geometry, prediction.labels.labels)
    if prediction.uncertainty is None:
        return Prediction(labels)
    unsure = np.zeros(whole.geometry.shape, dtype=np.float32)
    unsure[place] = prediction.uncertainty.array
    return Prediction(labels, replace(whole, array=unsure))


def _notes(part: Geometry, source: Geometry, rough: Model, widened: int) -> tuple[str, ...]:
    shapes = [" x ".join(map(str, grid.shape)) for grid in (part, source)]
    notes = [
        f"[ROUGH_CROP] {shapes[0]} of {shapes[1]} voxels were segmented, around what {rough.card.name} found"
    ]
    if widened:
        notes.append(
            f"[ROUGH_CROP_WIDENED] a structure touched the border of the crop, so it was widened {widened} "
            "time(s)"
        )
    return tuple(notes)
