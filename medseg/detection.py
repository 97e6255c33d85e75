"""Objects of a model that detects: boxes first, then the object in every box, then one label image.

The detector's maps come from the same windows as every other model's scores. Objects may overlap until
the very end; where two claim a voxel, the one with the higher score has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.inference.predict import plan_case, torch_state
from medseg.inference.scores import predict_scores
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Listener
from medseg.instances.boxes import INSIDE, Boxes, decode_boxes, suppress
from medseg.instances.crops import crop_frames, crop_inputs
from medseg.instances.flatten import AxisScale, ObjectMask, flatten_masks, mask_on_grid, merge_touching
from medseg.models.card import Detection
from medseg.models.loading import Model
from medseg.preprocess.prepare import check_volume, prepare_channels, straight_grid, without_gaps
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.resample import resample_labels, resample_volume
from medseg.volume import InstanceVolume, Volume

if TYPE_CHECKING:
    from torch import nn

STAGE = "draw objects"
"""Name of the second stage in progress reports; a unit is a box."""

BOXES_AT_ONCE = 8
MOST_BOXES = 1000
"""More boxes than this before they are thinned out are no detection: the weakest are left out."""


def detect_objects(
    volume: Volume,
    model: Model,
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> InstanceVolume:
    """Find objects with a detector, and draw each of them.

    A sheared volume (gantry tilt) is looked at on a straight grid of the same spacing, and its objects go
    back to the sheared one by the nearest voxel.

    Args:
        volume: one image.
        model: one whose card has a `detection`.
        settings: how it runs.
        progress: told after every window, then after every box.
        cancel: looked at before each.

    Returns:
        Objects with their scores on the grid of the image, object 1 the surest.

    Raises:
        ModelError: `NOT_A_DETECTOR`.
        VolumeError: the image is no scan.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    settings = settings or InferenceSettings()
    source = volume.geometry
    straight = straight_grid(source)
    if straight is not source:
        check_volume(volume)
        filled, lowest = without_gaps(volume)
        upright = resample_volume(filled, straight, fill=lowest)
        found = detect_objects(upright, model, settings, progress, cancel)
        moved = resample_labels(found, source)
        return replace(found, array=moved.array, geometry=source)
    recipe, _ = _parts(model)
    masks = detect_masks(volume, model, settings, progress, cancel)
    least = recipe.min_volume_mm3 / source.voxel_volume_mm3 * (1 - 1e-9)
    ids, kept = flatten_masks(masks, _turned(source, model).shape, least)
    if recipe.merge_touching:
        ids, kept = merge_touching(ids, kept)
    codes = model.card.orientation
    if codes is not None:
        axes, flips = source.orientation_steps(codes)
        ids = np.flip(ids, flips).transpose(np.argsort(axes))
    numbered = list(enumerate(kept, start=1))
    return InstanceVolume(
        np.ascontiguousarray(ids),
        source,
        model.card.labels,
        {n: mask.class_id for n, mask in numbered},
        {n: mask.score for n, mask in numbered},
    )


def detect_masks(
    volume: Volume,
    model: Model,
    settings: InferenceSettings,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> tuple[ObjectMask, ...]:
    """The objects before they compete for voxels, the surest first.

    Args:
        volume: one image, axes at right angles.
        model: one whose card has a `detection`.
        settings: how it runs.
        progress: told after every window, then after every box.
        cancel: looked at before each.

    Returns:
        Masks on the image's grid with its axes turned to the card's orientation.

    Raises:
        ModelError: `NOT_A_DETECTOR`.
        VolumeError: the image is no scan.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    recipe, network = _parts(model)
    plan = plan_case((volume,), model, settings)
    maps = predict_scores(volume, model, settings, plan, Listener(progress, cancel))
    image = prepare_channels((volume,), model.card)[(0, *plan.box.slices)]
    boxes = decode_boxes(maps.array, maps.grid.spacing_mm, recipe.score_threshold)
    boxes = suppress(boxes.take(slice(0, MOST_BOXES)), recipe.most_overlap)
    target = _turned(volume.geometry, model)
    scale = _scale(target, maps.grid)
    label = next(i for i in model.card.output_ids if i != 0)
    threshold = float(np.log(recipe.mask_threshold / (1 - recipe.mask_threshold)))
    found = []
    with torch_state(settings.threads):
        for n, logits in _drawn(network, model.device, (image, maps.array[INSIDE], maps.grid), boxes):
            progress(Progress(STAGE, n, len(boxes)))
            if cancel is not None:
                cancel.check()
            corners = np.stack([boxes.start[n], boxes.stop[n]])
            middle, half = crop_frames(corners[:1], corners[1:], maps.grid.spacing_mm)
            start, mask = mask_on_grid(logits, (middle[0], half[0]), (scale, target.shape), threshold)
            box = (corners - scale.shift) / scale.scale
            found.append(ObjectMask(start, mask, float(boxes.score[n]), label, box))
    return tuple(mask for mask in found if mask.voxels)


def _parts(model: Model) -> tuple[Detection, nn.Module]:
    """The card's recipe and the network for masks.

    Raises:
        ModelError: `NOT_A_DETECTOR`.
    """
    if model.card.detection is None or model.masks is None:
        raise ModelError(
            "NOT_A_DETECTOR", "expected a model that detects objects, got another; segment and separate"
        )
    return model.card.detection, model.masks


def _turned(source: Geometry, model: Model) -> Geometry:
    """The source's grid with the card's axes."""
    codes = model.card.orientation
    return source.reorient(codes) if codes is not None else source


def _scale(target: Geometry, grid: Geometry) -> AxisScale:
    """How voxels of the scan lie on the detector's grid, whose axes are parallel."""
    step = np.linalg.inv(grid.affine) @ target.affine
    (a, b, c), (x, y, z) = (map(float, values) for values in (np.diag(step)[:3], step[:3, 3]))
    return AxisScale((a, b, c), (x, y, z))


def _drawn(
    network: nn.Module,
    device: str,
    seen: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], Geometry],
    boxes: Boxes,
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Number and logits `(s, s, s)` of every box, some boxes at once."""
    import torch

    image, inside = (torch.from_numpy(np.ascontiguousarray(array)) for array in seen[:2])
    for first in range(0, len(boxes), BOXES_AT_ONCE):
        some = boxes.take(slice(first, first + BOXES_AT_ONCE))
        crops = crop_inputs(image, inside, some.start, some.stop, seen[2].spacing_mm)
        logits = network(crops.to(device))[:, 0].float().cpu().numpy()
        yield from enumerate(logits, start=first)
