"""The atlas of `brain-mri`: where structures lie in typical heads, from label maps.

Every head is brought to a common frame by the centres of its structures, and the mean of all is taken. Then
the mean is bent to every head, the heads' labels are carried back along that, and a sharper mean is taken, as
in Joshi et al., "Unbiased diffeomorphic atlas construction for computational anatomy", NeuroImage 23 (2004).
Both sides are one: every head counts with its mirror image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.geometry import Geometry
from medseg.labels import LabelSet
from medseg.models.atlas import PARTS, Atlas
from medseg.refine.atlas_fit import Fit, FitSettings, Stage, fit_atlas
from medseg.refine.lie import centres_of, lie_of
from medseg.training.brain_labels import BRAIN_STRUCTURES, HeadLabels, HeadMap
from medseg.volume import LabelVolume

Doubles = npt.NDArray[np.float64]
Centres = Mapping[int, Doubles]

NO_PLACE = ("cerebrospinal fluid",)
"""Structures whose centre says little about how a head lies."""

ALIGNMENTS = 3
"""Rounds in which the common frame of all heads is found."""

LEAST_SHARE = 0.05
"""Tissues that are nowhere more probable than this are left to the other ones."""

BENT = FitSettings(
    stages=(Stage(16, 40, 2.0), Stage(8, 60, 1.0)),
    points=30_000,
    stiffness=0.02,
    distrust=0.05,
    bias_rate=0.0,
)
"""How the mean is bent to a head whose labels are known."""


@dataclass(frozen=True)
class Frame:
    """The grid of an atlas.

    Attributes:
        shape: voxels along R, A, S.
        spacing_mm: of cubic voxels.
        middle_mm: of the grid, seen from the mean of all centres of structures.
    """

    shape: tuple[int, int, int] = (88, 108, 96)
    spacing_mm: float = 2.0
    middle_mm: tuple[float, float, float] = (0.0, -8.0, 10.0)

    @property
    def affine(self) -> Doubles:
        """4x4, voxel -> mm."""
        affine = np.diag([*[self.spacing_mm] * 3, 1.0])
        affine[:3, 3] = np.array(self.middle_mm) - (np.array(self.shape) - 1) / 2 * self.spacing_mm
        return affine


@dataclass(frozen=True, eq=False)
class Classes:
    """What an atlas tells apart.

    Attributes:
        labels: `(classes,)` label of the model, 0 for tissues outside of the brain.
        tissues: `(classes,)` tissues of the same number look alike.
        of_source: class of every dense index of a `HeadMap`.
        mirrored: class on the other side of the head.
    """

    labels: npt.NDArray[np.int64]
    tissues: npt.NDArray[np.int64]
    of_source: npt.NDArray[np.int64]
    mirrored: npt.NDArray[np.int64]


def classes_of(labels: HeadLabels) -> Classes:
    """One class for each structure of the model, and for each tissue outside of all structures."""
    ids = {channel: number for channel, (number, _) in enumerate(BRAIN_STRUCTURES, start=1)}
    keys = np.where(labels.channel > 0, labels.channel, -1 - np.arange(len(labels.channel)))
    kinds, first, of_source = np.unique(keys, return_index=True, return_inverse=True)
    # a structure looks like the source label that has its number, not like a lesion that counts to it
    for kind, key in enumerate(kinds):
        own = np.flatnonzero(labels.source_ids == ids.get(int(key), -1))
        first[kind] = own[0] if len(own) else first[kind]
    numbers = np.array([ids.get(int(key), 0) for key in kinds], dtype=np.int64)
    _, tissues = np.unique(labels.tissue[first], return_inverse=True)
    return Classes(numbers, tissues, of_source, of_source[labels.mirrored[first]])


def build_atlas(
    heads: Sequence[HeadMap],
    labels: HeadLabels,
    report: Callable[[str], None],
    frame: Frame | None = None,
    settings: FitSettings = BENT,
) -> Atlas:
    """Make the atlas of some heads.

    Args:
        heads: label maps.
        labels: tables of their labels.
        report: told one line per head.
        frame: grid of the atlas.
        settings: how the mean is bent to the heads.
    """
    from medseg.refine import atlas_loops

    frame = frame or Frame()
    classes = classes_of(labels)
    centres = common_centres(heads, labels)
    count = len(classes.labels)
    empty = np.zeros((*frame.shape, count), np.uint8)
    atlas = Atlas(empty, classes.labels, classes.tissues, frame.affine, centres)
    for is_bent in (False, True):
        counts = np.zeros((*frame.shape, count), np.float32)
        for number, head in enumerate(heads, start=1):
            fit = _brought(head, labels, classes, atlas, settings if is_bent else None)
            atlas_loops.carry(classes.of_source[head.source], fit.affine, fit.deformation, counts)
            report(f"atlas, {'bent' if is_bent else 'aligned'} to head {number} of {len(heads)}")
        atlas = replace(atlas, table=_shares(counts, classes))
    return _without_rare(atlas)


def common_centres(heads: Sequence[HeadMap], labels: HeadLabels) -> Centres:
    """Mean centre of every structure, `(3,)` mm each, in the frame that fits all heads best.

    Heads are aligned by affine maps; the frame keeps their mean size and is symmetric from left to right.
    """
    wanted = {number: np.zeros(3) for number, name in BRAIN_STRUCTURES if name not in NO_PLACE}
    seen = [centres_of(_as_labels(head, labels), wanted) for head in heads]
    numbers = sorted(set.intersection(*[set(one) for one in seen]))
    own = np.array([[one[number][0] for number in numbers] for one in seen])
    own -= own.mean(1, keepdims=True)
    twin = _twins(numbers)
    common = _even(own.mean(0), twin)
    for _ in range(ALIGNMENTS):
        aligned = [one @ np.linalg.lstsq(one, common, rcond=None)[0] for one in own]
        common = _even(np.mean(aligned, 0), twin)
    common *= np.linalg.norm(own, axis=2).mean() / np.linalg.norm(common, axis=1).mean()
    return dict(zip(numbers, common, strict=True))


def _twins(numbers: Sequence[int]) -> list[int]:
    """Position of the structure on the other side, among some structures."""
    names = dict(BRAIN_STRUCTURES)
    swap = {"left": "right", "right": "left"}
    by_name = {name: number for number, name in BRAIN_STRUCTURES}
    found = []
    for number in numbers:
        side, _, rest = names[number].partition(" ")
        found.append(numbers.index(by_name.get(f"{swap.get(side)} {rest}", number)))
    return found


def _even(centres: Doubles, twin: Sequence[int]) -> Doubles:
    """Centres made symmetric about the middle plane, R first."""
    result: Doubles = (centres + centres[list(twin)] * [-1, 1, 1]) / 2
    return result


def _as_labels(head: HeadMap, labels: HeadLabels) -> LabelVolume:
    ids = np.array([0, *(number for number, _ in BRAIN_STRUCTURES)], dtype=np.uint8)
    names = LabelSet.from_names(dict(BRAIN_STRUCTURES))
    return LabelVolume(ids[labels.channel][head.source], Geometry(head.source.shape, head.affine), names)


def _brought(
    head: HeadMap, labels: HeadLabels, classes: Classes, atlas: Atlas, settings: FitSettings | None
) -> Fit:
    """An atlas brought to a head by its known labels, without or with bending.

    Raises:
        ValueError: it shows too few structures.
    """
    lie = lie_of(_as_labels(head, labels), atlas)
    if lie is None:
        raise ValueError("expected a map of a whole head, got too few structures")
    affine = np.linalg.inv(atlas.affine) @ lie[0] @ head.affine
    known = classes.of_source[head.source]
    by_class = replace(atlas, labels=np.arange(len(atlas.labels)))
    blank = np.full(known.shape, 0.5, np.float32)  # intensities say nothing here
    how = settings or replace(BENT, stages=())
    return fit_atlas(blank, known, affine, by_class, how)


def _shares(counts: npt.NDArray[np.float32], classes: Classes) -> npt.NDArray[np.uint8]:
    """Probabilities in 255 parts, of both sides together; where nothing was counted, of air."""
    both = counts + counts[::-1][..., classes.mirrored]
    total = both.sum(-1, keepdims=True)
    shares = both / np.maximum(total, 1)
    shares[total[..., 0] == 0, classes.of_source[0]] = 1
    table: npt.NDArray[np.uint8] = np.rint(PARTS * shares).astype(np.uint8)
    return table


def _without_rare(atlas: Atlas) -> Atlas:
    """Without tissues outside of the brain that are probable nowhere."""
    highest = atlas.table.reshape(-1, atlas.table.shape[3]).max(0)
    kept = (highest >= LEAST_SHARE * PARTS) | (atlas.labels > 0)
    _, tissues = np.unique(atlas.tissues[kept], return_inverse=True)
    table: npt.NDArray[Any] = np.ascontiguousarray(atlas.table[..., kept])
    return replace(atlas, table=table, labels=atlas.labels[kept], tissues=tissues.astype(np.int64))
