"""Which cases are learned from, and which are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.training.dataset import ALWAYS_TRAINING, Case

HELD_OUT_SHARE = 0.2
"""Of the cases, where one network is trained and nobody says which; at least one of two or more."""


@dataclass(frozen=True)
class Split:
    """Indices of cases.

    Attributes:
        training: learned from.
        held_out: scored on; empty where there is one case.
    """

    training: tuple[int, ...]
    held_out: tuple[int, ...]


def splits(cases: Sequence[Case], folds: int, seed: int) -> tuple[Split, ...]:
    """Divide cases for each network that is trained.

    What a dataset itself says counts. The other cases are shuffled; with one fold a fifth of them is held
    out, with several each case is held out once (cross-validation). Fewer cases than folds make fewer.

    Args:
        cases: one or more.
        folds: networks.
        seed: of the shuffle.
    """
    everyone = tuple(range(len(cases)))
    stated = [case.fold for case in cases]
    if any(fold is not None and fold >= 0 for fold in stated):
        numbers = sorted({fold for fold in stated if fold is not None and fold >= 0})[:folds]
        made = [_without([n for n in everyone if stated[n] == fold], everyone) for fold in numbers]
        return tuple(split for split in made if split.training) or (Split(everyone, ()),)
    free = [n for n in everyone if stated[n] != ALWAYS_TRAINING]
    if len(everyone) < 2 or not free:
        return (Split(everyone, ()),)
    shuffled = [free[n] for n in np.random.default_rng(seed).permutation(len(free))]
    if folds == 1:
        return (_without(shuffled[: max(1, round(HELD_OUT_SHARE * len(free)))], everyone),)
    count = min(folds, len(free))
    return tuple(_without(shuffled[n::count], everyone) for n in range(count))


def _without(held_out: Sequence[int], everyone: Sequence[int]) -> Split:
    chosen = set(held_out)
    return Split(tuple(n for n in everyone if n not in chosen), tuple(sorted(chosen)))
