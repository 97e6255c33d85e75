"""The labels of the `brain-mri` model and how a whole-head label map is read for training.

Training maps follow FreeSurfer's numbering for the brain, and the numbers 500-599 for
everything outside it (skin, fat, muscle, bone, ...), as in Billot et al., Medical Image
Analysis 2023 (SynthSeg), whose maps these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

BRAIN_STRUCTURES: tuple[tuple[int, str], ...] = (
    (2, "left cerebral white matter"),
    (3, "left cerebral cortex"),
    (4, "left lateral ventricle"),
    (5, "left inferior lateral ventricle"),
    (7, "left cerebellum white matter"),
    (8, "left cerebellum cortex"),
    (10, "left thalamus"),
    (11, "left caudate"),
    (12, "left putamen"),
    (13, "left pallidum"),
    (14, "3rd ventricle"),
    (15, "4th ventricle"),
    (16, "brain-stem"),
    (17, "left hippocampus"),
    (18, "left amygdala"),
    (24, "cerebrospinal fluid"),
    (26, "left accumbens area"),
    (28, "left ventral DC"),
    (41, "right cerebral white matter"),
    (42, "right cerebral cortex"),
    (43, "right lateral ventricle"),
    (44, "right inferior lateral ventricle"),
    (46, "right cerebellum white matter"),
    (47, "right cerebellum cortex"),
    (49, "right thalamus"),
    (50, "right caudate"),
    (51, "right putamen"),
    (52, "right pallidum"),
    (53, "right hippocampus"),
    (54, "right amygdala"),
    (58, "right accumbens area"),
    (60, "right ventral DC"),
)
"""(FreeSurfer id, name) of every class that the network answers, in channel order from 1."""

_ALIASES = {25: 2, 57: 41, 136: 4, 137: 5, 163: 43, 164: 44}
"""Source labels that count as another structure: lesions in white matter, choroid plexus."""

_LEFT_OF_RIGHT = {
    41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18,
    57: 25, 58: 26, 60: 28, 62: 30, 163: 136, 164: 137,
}  # fmt: skip
"""Right-sided source label -> its left twin."""

FIRST_OUTER_LABEL = 500
"""Source labels from here on lie outside the brain and its fluid."""


@dataclass(frozen=True)
class HeadMap:
    """One whole head as labels, ready to be turned into images.

    Attributes:
        source: `(i, j, k)` uint8, index into `HeadLabels.source_ids`; axes are R, A, S.
        affine: 4x4 voxel index -> world, RAS+ mm; diagonal up to sign.
    """

    source: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadLabels:
    """Look-up tables over the dense index of a `HeadMap`; all of length `len(source_ids)`.

    Attributes:
        source_ids: label of the file for every dense index.
        channel: network channel, 0 for everything that is no structure.
        mirrored: dense index of the twin on the other side of the head.
        tissue: index of the intensity class; both sides share one.
        is_outer: true outside the brain and its fluid, background included.
    """

    source_ids: npt.NDArray[np.int64]
    channel: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.int64]
    tissue: npt.NDArray[np.int64]
    is_outer: npt.NDArray[np.bool_]


def head_labels(source_ids: npt.ArrayLike) -> HeadLabels:
    """Build the look-up tables for the labels that occur in the training maps.

    Args:
        source_ids: every label of the files, 0 included.
    """
    ids = np.unique(np.asarray(source_ids, dtype=np.int64))
    position = {int(label): index for index, label in enumerate(ids)}
    channel_of = {label: index for index, (label, _) in enumerate(BRAIN_STRUCTURES, start=1)}
    channel = np.array([channel_of.get(_ALIASES.get(int(i), int(i)), 0) for i in ids])
    right_of_left = {left: right for right, left in _LEFT_OF_RIGHT.items()}
    twin = {**_LEFT_OF_RIGHT, **right_of_left}
    mirrored = np.array([position.get(twin.get(int(i), int(i)), position[int(i)]) for i in ids])
    lefts = [_LEFT_OF_RIGHT.get(int(i), int(i)) for i in ids]
    tissues = {label: index for index, label in enumerate(sorted(set(lefts)))}
    tissue = np.array([tissues[label] for label in lefts])
    return HeadLabels(ids, channel, mirrored, tissue, (ids >= FIRST_OUTER_LABEL) | (ids == 0))


def read_head_map(path: Path, labels: HeadLabels) -> HeadMap:
    """Read one training map, turned to R, A, S axes.

    Args:
        path: NIfTI label map of a whole head.
        labels: tables of the labels that may occur.

    Raises:
        ValueError: the file holds a label that the tables lack.
    """
    image: Any = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj).astype(np.int64)
    index = np.searchsorted(labels.source_ids, values)
    index = np.minimum(index, len(labels.source_ids) - 1)
    if not np.array_equal(labels.source_ids[index], values):
        raise ValueError(f"{path.name}: expected only labels of the table, got others")
    affine = np.asarray(image.affine, dtype=np.float64)
    return HeadMap(index.astype(np.uint8), affine)
