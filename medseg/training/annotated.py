"""Images that a user annotated: pairs of an image and its objects, read and brought to a network's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.errors import ReadError, VolumeError
from medseg.geometry import require_same_grid
from medseg.io.formats import known_suffixes, read_labels, read_volume
from medseg.models.card import Card
from medseg.preprocess.prepare import card_grid
from medseg.resample import resample_labels, resample_volume
from medseg.training.instance_target import normalised_distance
from medseg.training.nuclei import Sample, scaled
from medseg.volume import LabelVolume, Volume

IMAGES, LABELS = "images", "labels"
LARGEST_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its objects.

    Attributes:
        image: intensities.
        labels: object ids on the same grid, 0 for background.
    """

    image: Volume
    labels: LabelVolume


def read_pairs(dataset: Path) -> tuple[Pair, ...]:
    """Read `images/NAME.*` with `labels/NAME.*`, in the order of their names.

    Args:
        dataset: folder that holds both folders.

    Raises:
        ReadError: `NOT_A_DATASET`, a folder is missing or empty; `PAIR_MISSING`, an image without
            labels, or labels without an image; or a file cannot be read.
        GeometryError: image and labels of one name lie on two grids.
        VolumeError: labels without any object.
    """
    images, labels = _by_name(dataset / IMAGES), _by_name(dataset / LABELS)
    if not images:
        raise ReadError(
            "NOT_A_DATASET",
            f"expected a folder with {IMAGES}/NAME.tif and {LABELS}/NAME.tif (or another image format), "
            "got none of them; sort the files so",
        )
    lonely = len(set(images) ^ set(labels))
    if lonely:
        raise ReadError(
            "PAIR_MISSING",
            f"expected a file of the same name in {IMAGES} and {LABELS} each, got {lonely} without a "
            "partner; complete or remove them",
        )
    return tuple(_pair(images[name], labels[name]) for name in sorted(images))


def _by_name(folder: Path) -> dict[str, Path]:
    """Readable files by their names without suffix."""
    if not folder.is_dir():
        return {}
    suffixes = sorted(known_suffixes(), key=len, reverse=True)
    found = {}
    for file in sorted(folder.iterdir()):
        suffix = next((s for s in suffixes if file.name.lower().endswith(s)), None)
        if suffix is not None and not file.name.startswith("."):
            found[file.name[: -len(suffix)]] = file
    return found


def _pair(image_file: Path, label_file: Path) -> Pair:
    image, labels = read_volume(image_file), read_labels(label_file)
    require_same_grid(image.geometry, labels.geometry, "image and labels of one name")
    low, high = int(labels.array.min()), int(labels.array.max())
    if high < 1 or low < 0 or high > LARGEST_ID:
        raise VolumeError(
            "NO_OBJECTS",
            f"expected object ids from 1 to {LARGEST_ID} and 0 for background, got {low} to {high}; "
            "number the objects",
        )
    return Pair(image, labels)


def typical_diameter_mm(pairs: Sequence[Pair]) -> float:
    """Mean diameter of the balls with the objects' volumes, weighted by volume.

    Specks and objects that the border cuts off count little.
    """
    volumes = []
    for pair in pairs:
        sizes = np.unique(pair.labels.array[pair.labels.array > 0], return_counts=True)[1]
        volumes.append(sizes * pair.labels.geometry.voxel_volume_mm3)
    all_volumes = np.concatenate(volumes)
    return float(np.average(np.cbrt(6 / np.pi * all_volumes), weights=all_volumes))


@dataclass(frozen=True)
class OnGrid:
    """A pair on a network's grid, not scaled yet: see `Sample`."""

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    known: tuple[int, int, int]
    alike: tuple[int, ...]

    def sample(self, rng: np.random.Generator | None) -> Sample:
        """With intensities in 0..1; with `rng` not quite those that inference would see."""
        i, j, k = self.known
        image = scaled(self.image[:i, :j, :k], rng)
        widths = [(0, n - m) for n, m in zip(self.image.shape, self.known, strict=True)]
        return Sample(np.pad(image, widths, mode="edge"), self.labels, self.distance, self.known, self.alike)


def on_grid(pair: Pair, card: Card, least: int) -> OnGrid:
    """Bring a pair to a network's grid, as `prepare` would bring the image.

    Args:
        pair: image and objects.
        card: of a sized model; gives spacing and way of resampling.
        least: voxels that each axis has at least; shorter ones are filled up with unknown voxels.
    """
    geometry = pair.image.geometry
    grid = card_grid(geometry, card)
    is_smoothed = card.resampling.fit != "first-voxel"
    image = resample_volume(pair.image, grid, fill=None, smooth=is_smoothed).array
    small = _renumbered(pair.labels)
    labels = resample_labels(small, grid).array.astype(np.int32)
    widths = [(0, max(0, least - n)) for n in labels.shape]
    distance = normalised_distance(labels)
    equal = [np.isclose(s, geometry.spacing_mm, rtol=0.05).sum() for s in geometry.spacing_mm]
    alike = tuple(axis for axis in range(3) if equal[axis] >= 2)
    i, j, k = labels.shape
    return OnGrid(
        np.pad(image, widths, mode="edge"), np.pad(labels, widths), np.pad(distance, widths), (i, j, k), alike
    )


def _renumbered(labels: LabelVolume) -> LabelVolume:
    """Ids 1, 2, … without gaps, so that tables by id stay small."""
    ids, places = np.unique(labels.array, return_inverse=True)
    first = 0 if ids[0] == 0 else 1
    array = (places.reshape(labels.array.shape) + first).astype(np.int32)
    return LabelVolume(array, labels.geometry, labels.labels)
