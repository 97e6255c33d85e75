"""A first look: the same network on a coarser grid, in a few windows, seconds before the result.

The grid is coarsened step by step until so few windows without overlap cover it. A network sees
structures smaller than it was trained on, so a preview shows where things are, not where they end. It is
never part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.inference.windows import place_windows
from medseg.preprocess.prepare import card_grid, check_volume, straight_grid, without_gaps
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.resample import resample_volume
from medseg.volume import LabelVolume, Volume

if TYPE_CHECKING:
    from medseg.models.card import Card
    from medseg.models.loading import Model

MOST_WINDOWS = 8
"""A preview takes no more, unless the coarsest grid needs more."""

COARSENING = (1.0, 1.5, 2.0, 3.0, 4.0)
"""How much longer voxels may be than the card's, the finest that is quick enough first."""

STAGE = "preview"
"""Name of the stage in progress reports."""


def preview_grid(source: Geometry, card: Card) -> Geometry:
    """The grid of a preview: along the card's axes, over the source's field of view.

    Args:
        source: grid of the scan.
        card: gives orientation, spacing and window.
    """
    fine = card_grid(straight_grid(source), card)
    grid = fine
    for factor in COARSENING:
        grid = fine if factor == 1 else fine.respace([factor * length for length in fine.spacing_mm])
        if place_windows(grid.shape, card.window.size, 0.0).count <= MOST_WINDOWS:
            break
    return grid


def predict_preview(
    volumes: Sequence[Volume],
    model: Model,
    settings: InferenceSettings | None = None,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
) -> LabelVolume:
    """Segment a case on a coarse grid.

    Args:
        volumes: in the order of the card's channels, on one grid.
        model: card and network; of several folds only the first is asked.
        settings: as for the whole run, but without overlap, mirroring and region, and in torch, since
            another backend would first have to convert the network, and int8 to look at real windows.
        progress: told after every window.
        cancel: looked at before every window.

    Returns:
        Labels on `preview_grid`, with the card's label set.

    Raises:
        VolumeError: a volume is no 3D scan; codes as in `check_volume`.
        ModelError: the network answers what it should not.
        DeviceMemoryError: too little memory.
        CancelledError: a stop was asked for.
    """
    grid = preview_grid(volumes[0].geometry, model.card)
    coarse = [_coarsened(volume, grid) for volume in volumes]
    card = replace(model.card, spacing_mm=None, home="labels-nearest")
    quick = replace(
        settings or InferenceSettings(),
        backend="torch",
        precision="auto",
        overlap_fraction=0.0,
        mirror=False,
        uncertainty=False,
        roi_mm=None,
        roi_voxels=None,
    )

    def report(told: Progress) -> None:
        progress(replace(told, stage=STAGE))

    return predict(coarse, replace(model, card=card, members=()), quick, report, cancel)


def _coarsened(volume: Volume, grid: Geometry) -> Volume:
    check_volume(volume)
    filled, lowest = without_gaps(volume)
    return resample_volume(filled, grid, fill=lowest)
