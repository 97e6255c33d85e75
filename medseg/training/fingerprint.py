"""What a dataset is like, in a page of numbers: all that a plan is made from.

After nnU-Net's dataset fingerprint (Isensee et al., Nature Methods 18, 2021): shapes, spacings, intensities
of the foreground, classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg.labels import Code, Colour
from medseg.training.dataset_check import CaseFacts, CheckedDataset
from medseg.training.instance_target import mean_diameter_mm


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one channel in the foreground of all cases.

    Attributes:
        mean: of all sampled voxels.
        std: likewise.
        percentile_00_5: likewise.
        median: likewise.
        percentile_99_5: likewise.
    """

    mean: float
    std: float
    percentile_00_5: float
    median: float
    percentile_99_5: float


@dataclass(frozen=True)
class ClassFacts:
    """How one class occurs.

    Attributes:
        id: in the label files.
        name: of the class.
        cases: in which it occurs.
        median_volume_mm3: over these.
        share: of all voxels of the dataset.
        colour: that viewers give it, where labels or a model that was started from state one.
        code: what it is in a published vocabulary, likewise.
    """

    id: int
    name: str
    cases: int
    median_volume_mm3: float
    share: float
    colour: Colour | None = None
    code: Code | None = None


@dataclass(frozen=True)
class Fingerprint:
    """A dataset in numbers.

    Attributes:
        cases: their number.
        shapes: voxels of each along R, A, S.
        spacings_mm: of each along R, A, S.
        modality: as DICOM calls it, empty where unknown.
        channel_names: of the images; empty where nobody tells.
        channels: intensities of each channel.
        zero_share: median part of a first image that is exactly 0.
        classes: what is to be learned, background left out.
        pieces: median number of pieces that a case's foreground has.
        object_diameter_mm: of a typical object; 0 where labels are classes.
    """

    cases: int
    shapes: tuple[tuple[int, int, int], ...]
    spacings_mm: tuple[tuple[float, float, float], ...]
    modality: str
    channel_names: tuple[str, ...]
    channels: tuple[ChannelFacts, ...]
    zero_share: float
    classes: tuple[ClassFacts, ...]
    pieces: float
    object_diameter_mm: float = 0.0


def fingerprint_of(dataset: CheckedDataset) -> Fingerprint:
    """The fingerprint of a dataset that was looked into.

    Args:
        dataset: of `check_dataset`, with at least one case.
    """
    facts = dataset.facts
    channels = len(facts[0].intensities)
    modalities = {one.modality for one in facts if one.modality}
    return Fingerprint(
        cases=len(facts),
        shapes=tuple(one.shape for one in facts),
        spacings_mm=tuple(one.spacing_mm for one in facts),
        modality=_modality(dataset.channel_names, modalities, facts),
        channel_names=dataset.channel_names,
        channels=tuple(_channel(facts, channel) for channel in range(channels)),
        zero_share=float(np.median([one.zero_share for one in facts])),
        classes=tuple(_class(dataset, facts, i, name) for i, name in dataset.class_names.items()),
        pieces=float(np.median([one.pieces for one in facts])),
        object_diameter_mm=_diameter_mm(facts) if dataset.has_objects else 0.0,
    )


LOWEST_AIR_HU = -500.0
"""Foreground that begins below, or an image that holds less, is a CT in Hounsfield units."""


def _modality(names: tuple[str, ...], stated: set[str], facts: tuple[CaseFacts, ...]) -> str:
    """What headers or channel names tell; else CT, where every image reaches from air to bone."""
    if len(stated) == 1:
        return next(iter(stated))
    words = {name.strip().upper() for name in names}
    if words and all(word == "CT" or word.startswith("CT ") for word in words):
        return "CT"
    looks_like_ct = all(one.lowest <= LOWEST_AIR_HU and len(one.intensities) == 1 for one in facts)
    return "CT" if looks_like_ct and not words else ""


def _channel(facts: tuple[CaseFacts, ...], channel: int) -> ChannelFacts:
    values = np.concatenate([one.intensities[channel] for one in facts]).astype(np.float64)
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    return ChannelFacts(float(values.mean()), float(values.std()), float(low), float(median), float(high))


def _class(dataset: CheckedDataset, facts: tuple[CaseFacts, ...], i: int, name: str) -> ClassFacts:
    counts = [dataset.class_voxels(one, i) for one in facts]
    volumes = [n * np.prod(one.spacing_mm) for n, one in zip(counts, facts, strict=True) if n]
    total = sum(int(np.prod(one.shape)) for one in facts)
    median = float(np.median(volumes)) if volumes else 0.0
    label = dataset.described.get(name.casefold())
    look = (None, None) if label is None else (label.colour, label.code)
    return ClassFacts(i, name, len(volumes), median, sum(counts) / total, *look)


def _diameter_mm(facts: tuple[CaseFacts, ...]) -> float:
    """Diameter of a typical object."""
    return mean_diameter_mm(
        np.array([n * np.prod(one.spacing_mm) for one in facts for n in one.voxels.values()])
    )
