"""Images that a user annotated: pairs of an image and its objects, read and brought to a network's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.models.card import Card
from medseg.preprocess.prepare import card_grid
from medseg.resample import resample_labels, resample_volume
from medseg.training.case_reading import read_case_data
from medseg.training.dataset_check import CheckedDataset
from medseg.training.instance_target import mean_diameter_mm, normalised_distance
from medseg.training.nuclei import Sample, scaled
from medseg.volume import LabelVolume, Volume


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its objects.

    Attributes:
        image: intensities.
        labels: object ids on the same grid, 0 for background.
    """

    image: Volume
    labels: LabelVolume


def read_pairs(dataset: CheckedDataset) -> tuple[Pair, ...]:
    """The first image of every case with its objects.

    Args:
        dataset: of objects.

    Raises:
        ReadError: a file can no longer be read.
    """
    cases = [read_case_data(case) for case in dataset.cases]
    return tuple(Pair(data.images[0], data.labels) for data in cases)


def typical_diameter_mm(pairs: Sequence[Pair]) -> float:
    """Diameter of a typical object of the pairs; see `mean_diameter_mm`."""
    volumes = []
    for pair in pairs:
        sizes = np.unique(pair.labels.array[pair.labels.array > 0], return_counts=True)[1]
        volumes.append(sizes * pair.labels.geometry.voxel_volume_mm3)
    return mean_diameter_mm(np.concatenate(volumes))


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
