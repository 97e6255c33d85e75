"""One stack per volume where a series holds several images at the same places.

Echoes, phases, time points, b-values and image types are told apart by what the headers say; only a
split that leaves each place once, in every part, is believed. Pure but for the pixel hash it is given.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from medseg.io.dicom_geometry import SAME_PLACE_MM
from medseg.io.dicom_records import ImageHeader, Plane

STRONG_KEYS = (
    "image_type",
    "echo_time",
    "echo_number",
    "temporal_position",
    "b_value",
    "gradient",
    "cardiac_phase",
    "inversion_time",
    "flip_angle",
    "kernel",
    "stack",
    "trigger_time",
)
"""Each part is a kind of its own, and may cover other places than the rest."""
WEAK_KEYS = ("acquisition_number", "image_index", "acquisition_time", "content_time")
"""These differ for many reasons, so all parts must cover the same places."""
_MOST_KEYS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A plane and the object that holds it."""

    header: ImageHeader
    plane: Plane

    @property
    def sequence(self) -> tuple[int, int]:
        """Place in the scanner's own order."""
        return self.header.instance_number or 0, self.plane.frame


Members = Sequence[Member]
Digest = Callable[[ImageHeader], bytes]


def split_volumes(members: Members, digest: Digest) -> tuple[list[list[Member]], tuple[str, ...]]:
    """Parts in which each place occurs once, if there is a way.

    Args:
        members: planes of one orientation, matrix and spacing.
        digest: hash of an object's pixels; asked only where headers do not tell images apart.

    Returns:
        (parts in the scanner's order, notes). Where no split is possible there is one part with all
        planes, whose geometry then says what is wrong.
    """
    places = _places(members)
    count = max(places) + 1
    if count == len(members) or count == 1:
        return [list(members)], ()
    parts = _by_keys(members, places) or _by_order(members, places)
    if parts is not None:
        return sorted(parts, key=lambda part: min(m.sequence for m in part)), ()
    kept = _without_copies(members, places, digest)
    dropped = len(members) - len(kept)
    notes = (f"DUPLICATES_DROPPED: {dropped} images repeat another at the same place",) if dropped else ()
    return [kept], notes


def _places(members: Members) -> list[int]:
    """Number of each plane's place along the normal, from 0."""
    first = members[0].plane
    normal = np.cross(first.row_direction, first.column_direction)
    along = np.array([m.plane.position_mm for m in members]) @ normal
    order = np.argsort(along, kind="stable")
    steps = np.concatenate([[0], np.diff(along[order]) > SAME_PLACE_MM])
    places = np.empty(len(members), dtype=int)
    places[order] = np.cumsum(steps)
    return [int(p) for p in places]


def _by_keys(members: Members, places: list[int]) -> list[list[Member]] | None:
    # A part has at least two planes, so a value that is another one nearly everywhere cannot tell parts.
    varied = [
        key
        for key in (*STRONG_KEYS, *WEAK_KEYS)
        if 1 < len({m.plane.keys.get(key, "") for m in members}) <= len(members) // 2
    ]
    for size in range(1, _MOST_KEYS + 1):
        for keys in combinations(varied, size):
            groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
            for n, member in enumerate(members):
                groups[tuple(member.plane.keys.get(key, "") for key in keys)].append(n)
            same_places = any(key in WEAK_KEYS for key in keys)
            if _is_split(list(groups.values()), places, same_places):
                return [[members[n] for n in group] for group in groups.values()]
    return None


def _is_split(groups: list[list[int]], places: list[int], same_places: bool) -> bool:
    covered = [{places[n] for n in group} for group in groups]
    once = all(len(group) == len(cover) >= 2 for group, cover in zip(groups, covered, strict=True))
    return once and (not same_places or all(cover == covered[0] for cover in covered))


def _by_order(members: Members, places: list[int]) -> list[list[Member]] | None:
    """By the scanner's own numbers: volume after volume, or all images of one place after another."""
    count, total = max(places) + 1, len(members)
    numbers = [m.sequence for m in members]
    if total % count or len(set(numbers)) != total:
        return None
    order = sorted(range(total), key=lambda n: numbers[n])
    after_another = [order[start : start + count] for start in range(0, total, count)]
    interleaved = [order[start :: total // count] for start in range(total // count)]
    for groups in (after_another, interleaved):
        if _is_split(groups, places, same_places=True):
            return [[members[n] for n in group] for group in groups]
    return None


def _without_copies(members: Members, places: list[int], digest: Digest) -> list[Member]:
    """All but planes that repeat the pixels of another at the same place."""
    at_place: dict[int, list[Member]] = defaultdict(list)
    for member, place in zip(members, places, strict=True):
        at_place[place].append(member)
    kept: list[Member] = []
    for found in at_place.values():
        seen: set[tuple[bytes, int]] = set()
        for member in found:
            mark = (digest(member.header), member.plane.frame) if len(found) > 1 else (b"", 0)
            if mark not in seen:
                kept.append(member)
            seen.add(mark)
    return kept
