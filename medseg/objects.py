"""Objects of a model that learned to tell them apart: nuclei that touch, each with its own id.

Such a model knows objects of one size in voxels. How large they are in mm says the user, or the
model's card (after training on the user's own data), or an estimate from the image: the model looks
at a part of it on several grids, and the grid on which it is surest that it sees objects of the size
that it knows decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.errors import SettingsError, VolumeError
from medseg.inference.predict import plan_case
from medseg.inference.scores import predict_scores
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.instances.settings import SeparationSettings
from medseg.models.card import LearnedDistance
from medseg.models.loading import Model
from medseg.preprocess.prepare import check_volume
from medseg.preprocess.region import whole
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.volume import InstanceVolume, LabelVolume, Volume

if TYPE_CHECKING:
    from medseg.geometry import Geometry
    from medseg.instances.decode import MergeRule

LEAST_VOLUME = 0.05
"""Objects of less than this part of a typical one's volume are dropped as specks."""

SMALLEST_DIAMETER_VOXELS = 6.0
LARGEST_DIAMETER_VOXELS = 64.0
DIAMETER_STEP = 1.3
"""Diameters that an estimate tries, in the finest voxels of the scan."""

LOOK_DIAMETERS = 5.3
"""How much of the scan an estimate looks at, along each axis: no more than one window."""

FEWEST_OBJECTS = 3
"""Fewer say little about a typical size."""

_DENSE_IDS = 2**24
"""Up to here a table of all ids is small; beyond, only those that occur are looked up."""


def sized_model(
    model: Model,
    volume: Volume,
    settings: InferenceSettings,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> tuple[Model, tuple[str, ...]]:
    """The model with a card whose grid fits the size of the objects in an image.

    Args:
        model: any; one that learned no objects is returned as it is, and so is one that was sized.
        volume: what it will look at.
        settings: `object_diameter_mm` counts more than the card's, and that more than an estimate.
        progress: told after every grid that an estimate tries.
        cancel: looked at before each.

    Returns:
        The model, and what is to be said about it.

    Raises:
        VolumeError: `NO_OBJECT_SIZE`, nobody says the diameter, and no estimate is possible.
    """
    recipe = model.card.separation
    if recipe is None:
        return model, ()
    notes: tuple[str, ...] = ()
    diameter = settings.object_diameter_mm or recipe.diameter_mm
    if not diameter:
        diameter = estimate_diameter_mm(model, volume, settings, progress, cancel)
        notes = (
            f"objects of about {1000 * diameter:.3g} um, an estimate: state object_diameter_mm if known",
        )
    return with_diameter(model, diameter), notes


def with_diameter(model: Model, diameter_mm: float) -> Model:
    """The model with a card whose grid fits objects of a diameter.

    Raises:
        VolumeError: the model learned no objects.
    """
    recipe, _ = recipe_of(model)
    spacing = diameter_mm / recipe.diameter_voxels
    recipe = replace(recipe, diameter_mm=diameter_mm)
    return replace(model, card=replace(model.card, separation=recipe, spacing_mm=(spacing, spacing, spacing)))


def segment_objects(
    volume: Volume,
    model: Model,
    settings: InferenceSettings | None = None,
    separation: SeparationSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> InstanceVolume:
    """Find objects and tell them apart.

    Args:
        volume: an image whose voxel axes are at right angles.
        model: one whose card has a `separation`; sized for the image (`sized_model`) or not.
        settings: how it runs.
        separation: least volume and numbering; how objects are split says the model.
        progress: told after every window.
        cancel: looked at before every window.

    Returns:
        Objects on the grid of the image; the score of each is its greatest depth, near 1 where the model
        is sure.

    Raises:
        VolumeError: the image is no scan; no diameter is stated and none can be estimated.
        SettingsError: a map of uncertainty is asked for; each object has its score instead.
        GeometryError: a sheared grid.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    settings = settings or InferenceSettings()
    separation = separation or SeparationSettings()
    if settings.uncertainty:
        raise SettingsError(
            "BAD_SETTING",
            "expected no map of uncertainty for a model of objects, got uncertainty; leave it out",
        )
    model, _ = sized_model(model, volume, settings, progress, cancel)
    found = _found(volume, model, settings, separation, (progress, cancel))
    numbers, label = range(1, len(found.voxels) + 1), model.card.output_ids[1]
    return InstanceVolume(
        found.ids,
        volume.geometry,
        model.card.labels,
        classes=dict.fromkeys(numbers, label),
        scores=dict(zip(numbers, found.depths.tolist(), strict=True)),
    )


def objects_as_labels(objects: InstanceVolume) -> LabelVolume:
    """The class of every object, voxel by voxel; an object of no class becomes background."""
    largest = max(objects.classes.values(), default=0)
    kind = np.min_scalar_type(largest)
    if int(objects.array.max(initial=0)) <= _DENSE_IDS:
        ids, places = np.arange(int(objects.array.max(initial=0)) + 1), objects.array
    else:
        ids, places = np.unique(objects.array, return_inverse=True)
    table = np.array([objects.classes.get(int(number), 0) for number in ids], dtype=kind)
    return LabelVolume(table[places].reshape(objects.geometry.shape), objects.geometry, objects.labels)


@dataclass(frozen=True, eq=False)
class _Found:
    """Objects of an image: ids, and voxels and greatest depth of each."""

    ids: npt.NDArray[np.unsignedinteger]
    voxels: npt.NDArray[np.int64]
    depths: npt.NDArray[np.float32]


def _found(
    volume: Volume,
    model: Model,
    settings: InferenceSettings,
    separation: SeparationSettings,
    watchers: tuple[ProgressCallback, CancelToken | None],
) -> _Found:
    """Scores of the whole image, then objects."""
    from medseg.instances.decode import Watch, decode
    from medseg.instances.grid import default_grid
    from medseg.instances.learned import learned_height, require_right_angles

    require_right_angles(volume.geometry)
    plan = plan_case((volume,), model, settings)
    scores = predict_scores(volume, model, settings, plan, Listener(*watchers))
    part = volume.geometry.crop(plan.region.start, plan.region.stop)
    height = learned_height(scores.array, scores.grid, part, recipe_of(model)[1])
    rule = learned_rule(model, part, separation)
    ids, kept = decode(height, rule, default_grid(height.shape), Watch(*watchers))
    if plan.region != whole(plan.source):
        inner, ids = ids, np.zeros(volume.geometry.shape, dtype=ids.dtype)
        ids[plan.region.slices] = inner
    return _Found(ids, kept.voxels, kept.tops)


def learned_rule(model: Model, geometry: Geometry, separation: SeparationSettings) -> MergeRule:
    """Which basins of a sized model's depth make one object.

    Args:
        model: of `sized_model`.
        geometry: grid of the image.
        separation: least volume and numbering.

    Raises:
        VolumeError: the model learned no objects.
    """
    from medseg.instances.decode import MergeRule

    recipe, _ = recipe_of(model)
    speck_mm3 = LEAST_VOLUME * math.pi / 6 * recipe.diameter_mm**3
    return MergeRule(
        h=recipe.persistence,
        min_voxels=max(speck_mm3, separation.min_volume_mm3) / geometry.voxel_volume_mm3 * (1 - 1e-9),
        by_volume=separation.numbering == "volume",
        least_top=recipe.least_depth,
    )


def recipe_of(model: Model) -> tuple[LearnedDistance, float]:
    """How a model's card separates, and the threshold of its foreground.

    Raises:
        VolumeError: `NO_OBJECTS_LEARNED`, it does not.
    """
    recipe, threshold = model.card.separation, model.card.threshold
    if recipe is None or threshold is None:
        raise VolumeError(
            "NO_OBJECTS_LEARNED", "expected a model that learned objects, got another; separate its labels"
        )
    return recipe, threshold


def estimate_diameter_mm(
    model: Model,
    volume: Volume,
    settings: InferenceSettings,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> float:
    """Diameter of a typical object, from what the model sees on several grids.

    Args:
        model: one whose card has a `separation`.
        volume: an image; its middle is looked at, and where that shows nothing, where it is brightest.
        settings: how the model runs; a region or crop is left out of account.
        progress: told after every grid.
        cancel: looked at before each.

    Raises:
        VolumeError: `NO_OBJECT_SIZE`, on no grid are there objects enough; or the image is no scan.
    """
    check_volume(volume)
    plain = InferenceSettings(device=settings.device, threads=settings.threads)
    finest = min(volume.geometry.spacing_mm)
    coarsest = max(volume.geometry.spacing_mm)
    count = 1 + round(math.log(LARGEST_DIAMETER_VOXELS / SMALLEST_DIAMETER_VOXELS) / math.log(DIAMETER_STEP))
    tries = [finest * SMALLEST_DIAMETER_VOXELS * DIAMETER_STEP**n for n in range(count)]
    tries = [d for d in tries if d >= 2 * coarsest] or tries[-1:]
    middle = tuple(n // 2 for n in volume.geometry.shape)
    for centre in (middle, _brightest(volume)):
        votes = [(0.0, 0.0)]
        for number, diameter in enumerate(tries):
            progress(Progress("estimate the objects' size", number, len(tries)))
            if cancel is not None:
                cancel.check()
            part = _part_about(volume, centre, LOOK_DIAMETERS * diameter)
            votes.append(_vote(model, part, plain, diameter))
        progress(Progress("estimate the objects' size", len(tries), len(tries)))
        support, found = max(votes)
        if support > 0:
            return found
    raise VolumeError(
        "NO_OBJECT_SIZE",
        "expected objects whose size can be estimated, found none; state --object-diameter-mm",
    )


def _brightest(volume: Volume) -> tuple[int, ...]:
    """The voxel about which most light is, in a box of a quarter of the image's sides.

    Brightness counts up to the 99th percentile, so that a streak does not decide.
    """
    from scipy.ndimage import uniform_filter

    steps = [max(1, n // 64) for n in volume.geometry.shape]
    rough = np.nan_to_num(volume.array[tuple(slice(None, None, step) for step in steps)].astype(np.float32))
    low, high = np.percentile(rough, (50, 99))
    light = uniform_filter(
        np.clip(rough, low, high) - low, [max(1, n // 4) for n in rough.shape], mode="constant"
    )
    place = np.unravel_index(int(light.argmax()), light.shape)
    return tuple(int(at) * step for at, step in zip(place, steps, strict=True))


def _part_about(volume: Volume, centre: tuple[int, ...], length_mm: float) -> Volume:
    """A part of an image about a voxel, at most `length_mm` along each axis."""
    starts, stops = [], []
    for n, width, at in zip(volume.geometry.shape, volume.geometry.spacing_mm, centre, strict=True):
        size = min(n, max(2, math.ceil(length_mm / width)))
        start = min(max(0, at - size // 2), n - size)
        starts.append(start)
        stops.append(start + size)
    return volume.crop(starts, stops)


def _vote(model: Model, part: Volume, settings: InferenceSettings, diameter_mm: float) -> tuple[float, float]:
    """How sure a model is on the grid for one diameter, and the diameter of what it then sees.

    Surest is where objects have the size that was learned: their depth comes nearest to 1. Means are
    weighted by volume, since specks are many and say nothing. An empty part says nothing either.
    """
    values = part.array[np.isfinite(part.array)]
    if not values.size or values.min() == values.max():
        return 0.0, diameter_mm
    found = _found(part, with_diameter(model, diameter_mm), settings, SeparationSettings(), (silent, None))
    if len(found.voxels) < FEWEST_OBJECTS:
        return 0.0, diameter_mm
    volumes = found.voxels * part.geometry.voxel_volume_mm3
    diameters = np.cbrt(6 / np.pi * volumes)
    return float(np.average(found.depths, weights=volumes)), float(np.average(diameters, weights=volumes))
