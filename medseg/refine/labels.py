"""Refine a label map by the image that it was made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from medseg.errors import DeviceMemoryError, GeometryError, SettingsError, VolumeError
from medseg.geometry import require_same_grid
from medseg.instances.separate import bounding_box
from medseg.machine import free_memory_bytes
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.refine.settings import RefinementSettings, odds_to_overcome
from medseg.volume import InstanceVolume, LabelVolume, Volume

# What needs numba is imported inside the functions: loading it costs a second that `--help` should not pay.

STAGE = "refine"
"""Name of the stage in progress reports; a unit is one round."""

PERCENTILES = (1.0, 99.0)
"""Of the image, between which its contrast lies; what lies beyond looks like its end."""

REACH = 3.0
"""Standard deviations around the labelled voxels that are looked at."""


def refine_labels(
    labels: LabelVolume,
    image: Volume,
    settings: RefinementSettings | None = None,
    *,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> LabelVolume:
    """Move the borders of labels to where the image has its own, and drop what stands alone.

    A fully connected conditional random field: see `medseg.refine.mean_field`. Each label, background
    too, counts as equally sure. Only the surroundings of labelled voxels are looked at. Deterministic.

    Args:
        labels: classes on a grid.
        image: intensities on the same grid.
        settings: how.
        progress: told after every round.
        cancel: looked at before every round.

    Returns:
        Labels on the same grid.

    Raises:
        SettingsError: `NOTHING_CAN_CHANGE`, pulls too weak for so many classes.
        VolumeError: `ALREADY_OBJECTS`; `NOT_FINITE`, the image is no number near a label.
        GeometryError: the image lies on another grid; `NOT_ORTHOGONAL`, the grid is sheared.
        DeviceMemoryError: `OVER_MEMORY_LIMIT`, naming what the run would need.
        CancelledError: a stop was asked for.
    """
    settings = settings or RefinementSettings()
    if isinstance(labels, InstanceVolume):
        raise VolumeError("ALREADY_OBJECTS", "expected a label map of classes, got objects; pass the classes")
    require_same_grid(labels.geometry, image.geometry, "labels and image")
    if not labels.geometry.is_orthogonal:
        raise GeometryError(
            "NOT_ORTHOGONAL",
            "expected voxel axes at right angles to measure distances along them, got a sheared grid "
            "(gantry tilt); resample labels and image",
        )
    labelled = bounding_box(labels.array != 0)
    if labelled is None:
        return labels
    reach = REACH * max(settings.appearance_mm, settings.smoothness_mm)
    margin = [round(reach / spacing) for spacing in labels.geometry.spacing_mm]
    box = labelled.grown(margin, labels.geometry.shape).slices
    ids, numbers = np.unique(labels.array[box], return_inverse=True)
    if len(ids) == 1:
        return labels
    _require_pull(settings, len(ids))
    what = (box, numbers.reshape(labels.array[box].shape).astype(np.uint16), len(ids))
    refined = labels.array.copy()
    refined[box] = ids[_decided(labels, image, what, settings, (progress, cancel))]
    return replace(labels, array=refined)


def _require_pull(settings: RefinementSettings, classes: int) -> None:
    """Return if neighbours that all agree can change a label.

    Raises:
        SettingsError: `NOTHING_CAN_CHANGE`.
    """
    pull = sum(settings.weights(classes))
    if pull == 0:
        return
    odds = odds_to_overcome(classes, settings.confidence)
    if pull <= odds:
        raise SettingsError(
            "NOTHING_CAN_CHANGE",
            f"expected weights of more than {odds:.1f} together to move any label of {classes} classes, got "
            f"{pull:g}; leave both out, raise --appearance-weight to "
            f"{2 * odds:.0f} or so, or lower --confidence",
        )


def _decided(
    labels: LabelVolume,
    image: Volume,
    what: tuple[tuple[slice, ...], npt.NDArray[np.uint16], int],
    settings: RefinementSettings,
    watchers: tuple[ProgressCallback, CancelToken | None],
) -> npt.NDArray[np.uint16]:
    """Class numbers inside the box after all rounds."""
    from medseg.refine.mean_field import Field, rounds

    box, numbers, classes = what
    progress, cancel = watchers
    brightness = _brightness(image.array[box], settings.contrast_fraction)
    field = Field(brightness, numbers, classes, labels.geometry.spacing_mm, settings)
    free = free_memory_bytes()
    if field.needed_bytes > free:
        raise DeviceMemoryError(
            "OVER_MEMORY_LIMIT",
            f"expected {field.needed_bytes / 1e9:.1f} GB for {classes} classes at this spacing, got "
            f"{free / 1e9:.1f} GB free; raise smoothness_mm, or refine fewer classes",
        )
    for done, decided in enumerate(rounds(field), start=1):
        if cancel is not None:
            cancel.check()
        progress(Progress(STAGE, done, settings.iterations + 1))
        if decided is not None:
            return decided
    return numbers


def _brightness(array: npt.NDArray[np.generic], contrast_fraction: float) -> npt.NDArray[np.float32]:
    """Intensities in standard deviations of likeness, from 0 on."""
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise VolumeError(
            "NOT_FINITE", "expected numbers in the image near labels, got NaN or infinity; repair the image"
        )
    low, high = np.percentile(values, PERCENTILES)
    if high <= low:
        return np.zeros_like(values)
    parts: npt.NDArray[np.float32] = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return parts / np.float32(contrast_fraction)
