"""One volume through one model: labels on the source's own grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import DeviceMemoryError, ModelError, VolumeError
from medseg.geometry import Geometry
from medseg.inference.home import LabelArray, WayHome, way_home
from medseg.inference.importance import importance_map
from medseg.inference.plan import FLUSH_PLANES, InferencePlan, plan_inference
from medseg.inference.settings import InferenceSettings
from medseg.inference.slab import Slab
from medseg.inference.windows import Triple
from medseg.preprocess.channels import as_channels, require_one_grid
from medseg.preprocess.intensity import FloatArray
from medseg.preprocess.prepare import check_volume, prepare_channels, straight_grid, without_gaps
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.resample import resample_labels, resample_volume
from medseg.volume import LabelVolume, Volume

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.models.card import SlidingWindow
    from medseg.models.loading import Model

STAGE = "segment"
"""Name of the stage in progress reports; a unit is a window."""


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
        settings: overlap, memory limit, threads.
        progress: told after every window.
        cancel: looked at before every window.

    Returns:
        Labels on the grid of the image(s), with the card's label set.

    Raises:
        VolumeError: the volume is no 3D scan; codes as in `check_volume`.
        GeometryError: `GRID_MISMATCH`, images on several grids.
        ModelError: more or fewer images than the card has channels, or a network that answers what it
            should not.
        DeviceMemoryError: the plan exceeds the limit, or the device is full.
        CancelledError: a stop was asked for.
    """
    settings = settings or InferenceSettings()
    cancel = cancel or CancelToken()
    volumes = as_channels(volume, model.card)
    require_one_grid(volumes)
    source = volumes[0].geometry
    straight = straight_grid(source)
    if straight is not source:
        upright = tuple(_upright(one, straight) for one in volumes)
        labels = predict(upright, model, settings, progress, cancel)
        return resample_labels(labels, source)
    plan = plan_inference(source, model, settings)
    cancel.check()
    prepared = prepare_channels(volumes, model.card)
    codes = model.card.orientation
    target = source.reorient(codes) if codes is not None else source
    home = way_home(plan.grid, target, model.card)
    with _torch_state(settings.threads):
        _run_windows(prepared, plan, model, home, progress, cancel)
    array = _turned_back(home.labels(), source, codes)
    return LabelVolume(array, source, model.card.labels)


def _upright(volume: Volume, straight: Geometry) -> Volume:
    """A sheared volume on a grid of right angles."""
    check_volume(volume)
    filled, lowest = without_gaps(volume)
    return resample_volume(filled, straight, fill=lowest)


def _turned_back(array: LabelArray, source: Geometry, codes: str | None) -> LabelArray:
    """Undo the reorientation exactly, whatever the source's axes are."""
    if codes is not None:
        axes, flips = source.orientation_steps(codes)
        array = np.flip(array, flips).transpose(np.argsort(axes))
    return np.ascontiguousarray(array)


@contextmanager
def _torch_state(threads: int) -> Iterator[None]:
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


def _run_windows(
    prepared: FloatArray,
    plan: InferencePlan,
    model: Model,
    home: WayHome,
    progress: ProgressCallback,
    cancel: CancelToken,
) -> None:
    """All windows, layer by layer along k; a plane goes home as soon as it is finished."""
    recipe = model.card.window
    windows = plan.windows
    image = _padded(prepared, plan, recipe)
    weight = importance_map(windows.size, recipe.blend, recipe.sigma_scale).to(model.device)
    rows, columns, _ = windows.padded_shape
    slab = Slab(model.card.out_channels, (rows, columns), weight)
    done = 0
    progress(Progress(STAGE, done, windows.count))
    for first, end, corners in windows.layers():
        for corner in corners:
            cancel.check()
            slab.add(_answer(image, corner, windows.size, model), corner)
            done += 1
            progress(Progress(STAGE, done, windows.count))
        _send_home(slab, home, plan, first, end)


def _padded(prepared: FloatArray, plan: InferencePlan, recipe: SlidingWindow) -> Tensor:
    """The images `(channels, i, j, k)` as `(1, channels, i, j, k)`, filled up to at least one window."""
    import torch

    image = torch.from_numpy(prepared)[None]
    before, after = plan.windows.before, plan.windows.after
    if not any((*before, *after)):
        return image
    widths = [width for axis in (2, 1, 0) for width in (before[axis], after[axis])]
    if recipe.padding_mode == "constant":
        return torch.nn.functional.pad(image, widths, value=recipe.padding_value)
    room = 1 if recipe.padding_mode == "reflect" else 0
    most = [n - room for n in prepared.shape[1:]]
    if recipe.padding_mode != "replicate" and any(a > m for a, m in zip(after, most, strict=True)):
        raise VolumeError(
            "TOO_SMALL",
            f"expected a scan of at least half a window of {plan.windows.size} voxels, got "
            f"{prepared.shape[1:]} after resampling; choose another model",
        )
    return torch.nn.functional.pad(image, widths, mode=recipe.padding_mode)


def _answer(image: Tensor, corner: Triple, size: Triple, model: Model) -> Tensor:
    """The network's scores `(channels, i, j, k)` of one window.

    Raises:
        ModelError: another shape (`BAD_OUTPUT`) or no numbers (`NETWORK_NAN`).
        DeviceMemoryError: `OUT_OF_MEMORY`.
    """
    part = tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))
    # A copy: the network may write into its input, and windows overlap.
    window = image[(slice(None), slice(None), *part)].clone().to(model.device)
    scores = _call(model, window)
    expected = (1, model.card.out_channels, *size)
    if tuple(scores.shape) != expected:
        raise ModelError(
            "BAD_OUTPUT",
            f"expected scores of shape {expected}, got {tuple(scores.shape)}; the card does not fit",
        )
    scores = scores[0].float()
    if not bool(scores.sum().isfinite()) and not bool(scores.isfinite().all()):
        raise ModelError(
            "NETWORK_NAN",
            f"expected finite scores, got NaN or infinity in the window at {corner}; "
            "the weights or the intensities are unfit",
        )
    return scores


def _call(model: Model, window: Tensor) -> Tensor:
    import torch

    try:
        output: Tensor | Sequence[Tensor] = model.network(window)
    except torch.OutOfMemoryError as error:
        raise _out_of_memory() from error
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise _out_of_memory() from error
        raise ModelError(
            "NETWORK_FAILED",
            f"expected an answer to a window of {tuple(window.shape[2:])} voxels, got an error ({error}); "
            "the card does not fit the network",
        ) from error
    return output if isinstance(output, torch.Tensor) else output[0]


def _out_of_memory() -> DeviceMemoryError:
    return DeviceMemoryError(
        "OUT_OF_MEMORY", "expected memory for one window, got none left; close programs or use the cpu"
    )


def _send_home(slab: Slab, home: WayHome, plan: InferencePlan, first: int, end: int) -> None:
    """Hand the finished planes `first` to `end` of the padded image over, a few at a time."""
    before, shape = plan.windows.before, plan.windows.image_shape
    rows = slice(before[0], before[0] + shape[0])
    columns = slice(before[1], before[1] + shape[1])
    for start in range(first, end, FLUSH_PLANES):
        stop = min(start + FLUSH_PLANES, end)
        scores = slab.take(start, stop)
        low, high = max(start, before[2]), min(stop, before[2] + shape[2])
        if low < high:
            home.feed(scores[:, rows, columns, low - start : high - start], low - before[2])
