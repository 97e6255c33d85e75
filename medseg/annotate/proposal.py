"""What a tool proposes, and what of it may be written: locked labels stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from medseg.errors import VolumeError
from medseg.instances.edits import Edit
from medseg.instances.grid import Block, Triple, triple
from medseg.instances.separate import bounding_box


@dataclass(frozen=True, eq=False)
class Proposal:
    """New labels for the voxels of a box.

    Attributes:
        start: first voxel of the box.
        ids: int32, three axes; a label, `KEEP` where the voxel stays as it is, or `ERASE` where it becomes
            background.
        erasable: labels that `ERASE` may remove; every one where empty.
    """

    KEEP: ClassVar[int] = 0
    ERASE: ClassVar[int] = -1

    start: Triple
    ids: npt.NDArray[np.int32] = field(repr=False)
    erasable: frozenset[int] = frozenset()


def accept_proposal(labels: npt.NDArray[Any], proposal: Proposal, locked: Iterable[int] = ()) -> Edit:
    """The change that a proposal makes to a label map as it is now; decided, not carried out.

    Args:
        labels: the whole map, three axes; stays as it is.
        proposal: what a tool found for a part of it.
        locked: labels of which no voxel may be lost or won.

    Returns:
        The smallest box that changes, in a wider type where the map's own cannot hold the new labels; of one
        voxel that stays as it is where nothing changes.

    Raises:
        VolumeError: `OUTSIDE_IMAGE`, the box is no part of the map.
    """
    box = Block(
        proposal.start, triple([a + n for a, n in zip(proposal.start, proposal.ids.shape, strict=True)])
    )
    if labels.ndim != 3 or any(b > n for b, n in zip(box.stop, labels.shape, strict=True)):
        raise VolumeError("OUTSIDE_IMAGE", "expected a part of the label map, got another; preview again")
    kind = np.promote_types(labels.dtype, np.min_scalar_type(int(proposal.ids.max(initial=0))))
    now = labels[box.slices]
    wanted = np.where(proposal.ids == proposal.ERASE, 0, proposal.ids).astype(kind)
    changes = (proposal.ids != proposal.KEEP) & (wanted != now)
    if proposal.erasable:
        changes &= (proposal.ids != proposal.ERASE) | np.isin(now, list(proposal.erasable))
    shut = list(locked)
    if shut:
        changes &= ~np.isin(now, shut) & ~np.isin(wanted, shut)
    part = bounding_box(changes) or Block((0, 0, 0), (1, 1, 1))
    before = now[part.slices].copy()
    after = np.where(changes[part.slices], wanted[part.slices], before)
    return Edit(triple([a + b for a, b in zip(box.start, part.start, strict=True)]), before, after)
