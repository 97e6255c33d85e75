"""One case through one model: labels on the source's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import GeometryError
from medseg.geometry import Geometry
from medseg.inference.answer import make_answerer, model_parts
from medseg.inference.backends.int8 import sample_windows
from medseg.inference.home import Contest, Decision, home_maps, label_type
from medseg.inference.linear_home import EntropyHome, way_home
from medseg.inference.plan import InferencePlan, plan_inference
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener, Stream
from medseg.inference.turns import listener_of_turn, turns_of
from medseg.inference.windows import place_windows
from medseg.labels import LabelSet
from medseg.preprocess.body import body_box
from medseg.preprocess.channels import as_channels, require_one_grid
from medseg.preprocess.foreground import decided_region, foreground_box
from medseg.preprocess.intensity import FloatArray
from medseg.preprocess.prepare import check_volume, prepare_channels, without_gaps
from medseg.preprocess.region import IndexBox, box_of_world, box_on_grid, whole
from medseg.preprocess.scaled_first import content_box
from medseg.progress import CancelToken, ProgressCallback, silent
from medseg.resample import resample_labels, resample_volume
from medseg.volume import LabelVolume, Volume

if TYPE_CHECKING:
    from medseg.models.card import Card
    from medseg.models.loading import Model

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of a case.

    Attributes:
        labels: on the grid of the source.
        uncertainty: 0 (sure) to 1 on the same grid, float32 (see `EntropyHome`); None where not asked for.
        notes: what the user should know of the run.
    """

    labels: LabelVolume
    uncertainty: Volume | None = None
    notes: tuple[str, ...] = ()


def predict(
    volume: Volume | Sequence[Volume],
    model: Model,
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> LabelVolume:
    """Segment a volume.

    A sheared volume (gantry tilt) is segmented on a straight grid of the same spacing, and its
    labels go back to the sheared one by the nearest voxel.

    Args:
        volume: one image of any orientation and spacing, or several on one grid, in the order of the
            card's channels (`medseg.preprocess.channels.on_first_grid` brings them there).
        model: card and network.
        settings: overlap, memory limit, region, classes, threads.
        progress: told after every window.
        cancel: looked at before every window.

    Returns:
        Labels on the grid of the image(s), with the card's label set or the classes asked for.

    Raises:
        VolumeError: the volume is no 3D scan; codes as in `check_volume`; `UNKNOWN_LABEL`.
        GeometryError: `GRID_MISMATCH`, images on several grids; `EMPTY_REGION`.
        ModelError: more or fewer images than the card has channels, or a network that answers what it
            should not.
        DeviceMemoryError: the plan exceeds the limit, or the device is full.
        CancelledError: a stop was asked for.
    """
    volumes = as_channels(volume, model.card)
    settings = settings or InferenceSettings()
    plan = plan_case(volumes, model, settings)
    return predict_planned(volumes, model, settings, plan, Listener(progress, cancel)).labels


def plan_case(volumes: Sequence[Volume], model: Model, settings: InferenceSettings) -> InferencePlan:
    """The plan for a case, in the region that the settings ask for.

    Args:
        volumes: as many as the card has channels, on one grid.
        model: card and network.
        settings: region, overlap, memory limit.

    Raises:
        GeometryError: `GRID_MISMATCH`, images on several grids; `EMPTY_REGION`, outside of the scan.
        DeviceMemoryError: the plan exceeds the limit.
        ModelError: `BAD_NETWORK`.
    """
    require_one_grid(volumes)
    region = asked_region(volumes[0].geometry, settings)
    if settings.crop_to_body:
        body = body_box(volumes[0], model.card.modality)
        region = body if region is None else region.within(body) or region
    crop = content_box(volumes) if model.card.crop == "nonzero" else None
    foreground = model.card.foreground
    if foreground is not None and foreground.stage == "source":
        crop = foreground_box([volume.array for volume in volumes], foreground)
    if crop is None:
        return plan_inference(volumes[0].geometry, model, settings, region)
    inner = volumes[0].geometry.crop(crop.start, crop.stop)
    return replace(plan_inference(inner, model, settings, _inside(region, crop)), crop=crop)


def _inside(region: IndexBox | None, crop: IndexBox) -> IndexBox | None:
    """A region of the scan as a region of its crop.

    Raises:
        GeometryError: `EMPTY_REGION`, they share no voxel.
    """
    if region is None:
        return None
    shared = region.within(crop)
    if shared is None:
        raise GeometryError(
            "EMPTY_REGION",
            "expected a region in which the scan is not 0 everywhere, got an empty one; move it",
        )
    start, stop = (
        tuple(a - b for a, b in zip(ends, crop.start, strict=True)) for ends in (shared.start, shared.stop)
    )
    return IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def asked_region(source: Geometry, settings: InferenceSettings) -> IndexBox | None:
    """The box of voxels that the settings name; None where they name none.

    Raises:
        GeometryError: `EMPTY_REGION`, none of it lies in the scan.
    """
    if settings.roi_mm is not None:
        return box_of_world(settings.roi_mm, source)
    if settings.roi_voxels is not None:
        ends = settings.roi_voxels
        box = IndexBox(ends[0::2], ends[1::2])
        inside = box.within(whole(source))
        if inside is None:
            raise GeometryError(
                "EMPTY_REGION", f"expected a region in a scan of {source.shape} voxels, got {ends}; move it"
            )
        return inside
    return None


def predict_planned(
    volumes: Sequence[Volume],
    model: Model,
    settings: InferenceSettings,
    plan: InferencePlan,
    listener: Listener | None = None,
) -> Prediction:
    """Carry a plan out.

    Args:
        volumes: the case that was planned for (`plan_case`).
        model: card and network.
        settings: the same as of the plan.
        plan: what to do.
        listener: progress and cancelling.

    Raises:
        VolumeError: as `predict`, as all that follow.
        ModelError: the network answers what it should not.
        DeviceMemoryError: the device is full.
        CancelledError: a stop was asked for.
    """
    listener = listener or Listener()
    wanted = wanted_labels(model.card, settings.classes)
    source = volumes[0].geometry
    if plan.crop is not None:
        cropped = tuple(one.crop(plan.crop.start, plan.crop.stop) for one in volumes)
        found = predict_planned(cropped, model, settings, replace(plan, crop=None), listener)
        return _uncropped(found, source, plan.crop)
    if not source.is_orthogonal:
        upright = tuple(_upright(one, plan.source) for one in volumes)
        found = predict_planned(upright, model, settings, plan, listener)
        unsure = found.uncertainty
        back = None if unsure is None else resample_volume(unsure, source, fill=0.0)
        return Prediction(resample_labels(found.labels, source), back, found.notes)
    if listener.cancel is not None:
        listener.cancel.check()
    image = prepare_channels(volumes, model.card)[(slice(None), *plan.box.slices)]
    image, plan = _cropped_to_foreground(image, plan, model.card, settings)
    with torch_state(settings.threads):
        told = replace(listener, note=f"plan: {plan.sentence}")
        decided, entropy, notes = _answered(image, model, settings, plan, told)
    keep = (
        model.card.labels
        if not settings.classes
        else LabelSet(tuple(label for label in model.card.labels if label.id in wanted))
    )
    labels = LabelVolume(_on_source(decided, plan, model.card), source, keep)
    if entropy is None:
        return Prediction(labels, notes=notes)
    unsure = replace(volumes[0], array=_on_source(entropy.values, plan, model.card))
    return Prediction(labels, unsure, notes)


def _cropped_to_foreground(
    image: FloatArray, plan: InferencePlan, card: Card, settings: InferenceSettings
) -> tuple[FloatArray, InferencePlan]:
    """The part of a prepared image that a card's crop leaves, and the plan for it."""
    if card.foreground is None or card.foreground.stage != "grid":
        return image, plan
    inner = foreground_box(list(image), card.foreground)
    if inner is None:
        return image, plan
    start, stop = (
        tuple(a + b for a, b in zip(ends, plan.box.start, strict=True)) for ends in (inner.start, inner.stop)
    )
    box = IndexBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    decided = decided_region(
        box, plan.grid, _turned(plan.source, card), plan.source, nearest=card.home == "labels-nearest"
    )
    region = None if decided is None else decided.within(plan.region)
    if region is None:
        return image, plan
    overlap = settings.overlap_fraction
    overlap = card.window.overlap_fraction if overlap is None else overlap
    windows = place_windows(box.shape, card.window.size, overlap, card.window.placement)
    narrower = replace(plan, box=box, region=region, windows=windows)
    return np.ascontiguousarray(image[(slice(None), *inner.slices)]), narrower


def _uncropped(found: Prediction, source: Geometry, crop: IndexBox) -> Prediction:
    """What was found in a part of the scan, on all of it; 0 around."""

    def spread(array: Array) -> Array:
        result = np.zeros(source.shape, dtype=array.dtype)
        result[crop.slices] = array
        return result

    labels = replace(found.labels, array=spread(found.labels.array), geometry=source)
    unsure = found.uncertainty
    if unsure is not None:
        unsure = replace(unsure, array=spread(unsure.array), geometry=source)
    return Prediction(labels, unsure, found.notes)


def wanted_labels(card: Card, classes: Sequence[str]) -> frozenset[int]:
    """Ids of the classes to keep; all where none is named.

    Raises:
        VolumeError: `UNKNOWN_LABEL`, no class of that name.
    """
    if not classes:
        return frozenset(card.output_ids)
    return frozenset(card.labels.find(int(name) if name.isdigit() else name).id for name in classes)


def _answered(
    image: FloatArray, model: Model, settings: InferenceSettings, plan: InferencePlan, listener: Listener
) -> tuple[Array, EntropyHome | None, tuple[str, ...]]:
    """Labels and uncertainty on the target's axes after all windows, and what is to be said."""
    import torch

    card = model.card
    wanted = wanted_labels(card, settings.classes)
    tensor = torch.from_numpy(np.ascontiguousarray(image))[None]
    samples = None
    if plan.backend.precision == "int8":
        samples = sample_windows(tensor, plan.windows.size, card.window.padding_value)
    grid = plan.grid.crop(plan.box.start, plan.box.stop)
    target = _turned(plan.source, card)
    box = box_on_grid(plan.region, plan.source, target)
    target = target.crop(box.start, box.stop)
    turns = turns_of(model, settings) if plan.turns > 1 else (model,)
    contest = Contest.of(target.shape, label_type(card)) if len(turns) > 1 else None
    for number, one in enumerate(turns):
        parts = model_parts(one, plan.windows.size)
        answerer = make_answerer(one, plan.windows.size, settings, parts, plan.backend, samples)
        head = None if parts.head is None else parts.head.to(answerer.device)
        decision = Decision.of(one.card, head, wanted)
        home = way_home(grid, target, card, decision, plan.axis, contest)
        entropy = (
            EntropyHome(home_maps(grid, target, card), decision, plan.axis) if settings.uncertainty else None
        )
        stream = Stream(tensor, plan.windows, card.window, answerer, plan.axis, plan.flush_planes)
        stream.run(
            [home] if entropy is None else [entropy, home], listener_of_turn(listener, number, len(turns))
        )
        notes = (answerer.note,) if answerer.note else ()
        del stream, answerer  # sums and networks of one part before those of the next
    return home.labels(), entropy, notes


def _turned(source: Geometry, card: Card) -> Geometry:
    """The source's grid with the card's axes."""
    return source.reorient(card.orientation) if card.orientation is not None else source


def _on_source(array: Array, plan: InferencePlan, card: Card) -> Array:
    """Undo the reorientation exactly, whatever the source's axes are; 0 outside of the region."""
    if card.orientation is not None:
        axes, flips = plan.source.orientation_steps(card.orientation)
        array = np.flip(array, flips).transpose(np.argsort(axes))
    if plan.region == whole(plan.source):
        return np.ascontiguousarray(array)
    result = np.zeros(plan.source.shape, dtype=array.dtype)
    result[plan.region.slices] = array
    return result


def _upright(volume: Volume, straight: Geometry) -> Volume:
    """A sheared volume on a grid of right angles."""
    check_volume(volume)
    filled, lowest = without_gaps(volume)
    return resample_volume(filled, straight, fill=lowest)


@contextmanager
def torch_state(threads: int) -> Iterator[None]:
    """No gradients, the same result every time, and as many threads as asked for."""
    import torch

    before = torch.get_num_threads()
    if threads > 0:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)
