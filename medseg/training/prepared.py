"""Cases on a network's grid, kept on disk: the images as the model will see them, the labels beside them.

They are made by the functions that production uses (`prepare_channels`, `card_grid`), so that a network
learns from what it will be shown.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError, ReadError, WriteError
from medseg.files import FULL_DISK_ERRORS
from medseg.labels import LabelSet
from medseg.models.card import Card
from medseg.preprocess.prepare import card_grid, prepare_channels, straight_grid, without_gaps
from medseg.progress import CancelToken, Progress, ProgressCallback, silent
from medseg.resample import resample_labels, resample_volume
from medseg.training.case_reading import CaseData, read_case_data
from medseg.training.dataset import Case
from medseg.training.dataset_check import CheckedDataset, stated_names
from medseg.training.instance_target import normalised_distance
from medseg.volume import LabelVolume

STAGE = "prepare"
"""Name of the stage in progress reports; a unit is a case."""

Complete = Callable[[LabelVolume, CaseData], LabelVolume]
"""What else is known of a case beside its labels."""

MOST_PLACES = 5000
"""Voxels of a class that are kept as places to centre a sample on."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A prepared case, mapped from disk.

    Attributes:
        image: `(channels, i, j, k)` float32.
        target: `(i, j, k)`: channel of the right class; for objects their ids.
        depth: `(i, j, k)` depth inside objects; None where classes are learned.
        places: for each class that occurs `(n, 3)` voxels of it.
    """

    image: npt.NDArray[np.float32]
    target: npt.NDArray[Any]
    depth: npt.NDArray[np.float32] | None
    places: tuple[npt.NDArray[np.int32], ...]


def prepare_cases(
    dataset: CheckedDataset,
    card: Card,
    folder: Path,
    progress: ProgressCallback = silent,
    cancel: CancelToken | None = None,
    complete: Complete | None = None,
) -> tuple[Path, ...]:
    """Bring every case onto the card's grid; what lies there already is kept.

    Args:
        dataset: of `check_dataset`.
        card: of the model to be.
        folder: where prepared cases go, one folder each.
        progress: told before every case.
        cancel: looked at before every case.
        complete: adds to the labels of a case what is known of it otherwise.

    Returns:
        The folders, in the order of the cases.

    Raises:
        ReadError: a file can no longer be read.
        WriteError: `DISK_FULL`, `NOT_WRITABLE`.
        CancelledError: a stop was asked for.
    """
    places = []
    for number, case in enumerate(dataset.cases):
        if cancel is not None:
            cancel.check()
        progress(Progress(STAGE, number, len(dataset.cases)))
        place = folder / f"{number:04}"
        if not place.exists():
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            try:
                part.mkdir(parents=True)
                _write(part, case, (dataset, card), complete)
                part.rename(place)
            except OSError as error:
                if isinstance(error, MedsegError):
                    raise
                is_full = error.errno in (None, *FULL_DISK_ERRORS)  # numpy gives a short write no number
                reason = error.strerror or "a full disk"
                raise WriteError(
                    "DISK_FULL" if is_full else "NOT_WRITABLE",
                    f"expected room for prepared cases, got: {reason}; free some space and repeat the call, "
                    "which goes on",
                ) from error
        places.append(place)
    progress(Progress(STAGE, len(dataset.cases), len(dataset.cases)))
    return tuple(places)


def _write(
    part: Path, case: Case, model_to_be: tuple[CheckedDataset, Card], complete: Complete | None
) -> None:
    dataset, card = model_to_be
    data = straightened(read_case_data(case))
    np.save(part / "image.npy", prepare_channels(data.images, card))
    truth = truth_of(dataset, data)
    if complete is not None:
        truth = complete(truth, data)
    labels = resample_labels(truth, card_grid(data.images[0].geometry, card)).array
    if dataset.has_objects:
        np.save(part / "depth.npy", normalised_distance(labels))
        classes = (labels > 0).astype(np.uint8)
    else:
        channels = {i: channel for channel, i in enumerate(card.output_ids)}
        ids, places = np.unique(labels, return_inverse=True)
        table = np.array([channels.get(int(i), 0) for i in ids], dtype=np.uint8)
        classes = labels = table[places.reshape(labels.shape)]
    np.save(part / "target.npy", labels)
    chance = np.random.default_rng(0)
    found = {}
    for channel in np.unique(classes[classes > 0]):
        inside = np.flatnonzero(classes == channel)
        chosen = chance.choice(inside, min(MOST_PLACES, inside.size), replace=False)
        index = np.stack(np.unravel_index(np.sort(chosen), classes.shape), axis=1)
        found[f"class_{channel}"] = index.astype(np.int32)
    np.savez(part / "places.npz", **found)  # type: ignore[arg-type]  # numpy types the flag, not the arrays


def straightened(data: CaseData) -> CaseData:
    """A case on a grid of right angles, as a scan with a tilted gantry is segmented."""
    grid = straight_grid(data.images[0].geometry)
    if grid is data.images[0].geometry:
        return data
    filled = [without_gaps(image) for image in data.images]
    images = tuple(resample_volume(image, grid, fill=low) for image, low in filled)
    return CaseData(images, resample_labels(data.labels, grid), data.is_named)


def truth_of(dataset: CheckedDataset, data: CaseData) -> LabelVolume:
    """The labels of a case in ids of the dataset's classes; of objects with ids from 1 on without gaps."""
    ids, places = np.unique(data.labels.array, return_inverse=True)
    names = stated_names(data)
    if dataset.has_objects:
        first = 0 if ids[0] == 0 else 1
        array = places.astype(np.int32) + first
    else:
        table = [0 if i == 0 else dataset.class_of(names, int(i)) for i in ids]
        array = np.array(table, dtype=np.int32)[places]
    known = LabelSet() if dataset.has_objects else LabelSet.from_names(dataset.class_names)
    return LabelVolume(array.reshape(data.labels.array.shape), data.labels.geometry, known)


def load_sample(folder: Path) -> Sample:
    """Map a prepared case from disk.

    Raises:
        ReadError: `CASE_LOST`, it is gone or damaged.
    """
    try:
        image = np.load(folder / "image.npy", mmap_mode="r")
        target = np.load(folder / "target.npy", mmap_mode="r")
        has_depth = (folder / "depth.npy").exists()
        depth = np.load(folder / "depth.npy", mmap_mode="r") if has_depth else None
        with np.load(folder / "places.npz") as places:
            found = tuple(places[name] for name in sorted(places.files))
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise ReadError(
            "CASE_LOST", "expected a prepared case, got a damaged file; it is set aside"
        ) from error
    return Sample(image, target, depth, found)
