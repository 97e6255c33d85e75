"""Does a left organ lie left of its right partner? Asked after a run.

Models trained with mirroring, and scans whose header mirrors them, give left organs on the right. The
world knows: in RAS+ mm the patient's left has the smaller first coordinate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from medseg.measure.regions import Region

LEAST_VOXELS = 8
"""Smaller structures have no centroid worth believing."""

LEAST_PAIRS = 2
"""So many pairs, all of them exchanged, make the scan's header suspect rather than the labels."""

_SIDES = {
    "left": "left", "l": "left", "lt": "left", "lh": "left", "sin": "left", "sinister": "left",
    "right": "right", "r": "right", "rt": "right", "rh": "right", "dex": "right", "dexter": "right",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def side_of(name: str) -> tuple[str, str] | None:
    """The side that a name tells, and the rest of the name.

    Words are split at anything but letters and digits and at capitals: `left kidney`, `kidney_left`,
    `Left-Hippocampus`, `KidneyLeft`, `ctx-lh-insula`, `L femur` and `lung_R` are read, `vertebrae_L5` is
    not a side. A name with two side words tells none.

    Args:
        name: of a class.

    Returns:
        `("left" or "right", the other words joined)`, or None.
    """
    words: list[str] = []
    for chunk in _WORD.findall(name):
        parts = _PART.findall(chunk)
        is_letter_within = len(parts) > 1 and min(map(len, parts)) == 1
        words += [chunk.lower()] if is_letter_within else [part.lower() for part in parts]
    found = [n for n, word in enumerate(words) if word in _SIDES]
    if len(found) != 1 or len(words) < 2:
        return None
    at = found[0]
    return _SIDES[words[at]], " ".join(words[:at] + words[at + 1 :])


def find_swapped_sides(regions: Iterable[Region]) -> tuple[str, ...]:
    """Warnings where a left structure does not lie left of its right partner.

    Args:
        regions: of a label map; objects are passed over, as are structures of a few voxels.

    Returns:
        A sentence with a code, or none: `SIDES_MIRRORED` where every one of several pairs is exchanged,
        which a mirrored header does; else `SIDES_SWAPPED` with the names of the pairs.
    """
    table: dict[str, dict[str, Region]] = {}
    for region in regions:
        told = side_of(region.name) if region.kind == "class" and region.voxels >= LEAST_VOXELS else None
        if told is not None:
            table.setdefault(told[1], {})[told[0]] = region
    pairs = [(key, both["left"], both["right"]) for key, both in sorted(table.items()) if len(both) == 2]
    wrong = [key for key, left, right in pairs if left.centroid_mm[0] > right.centroid_mm[0]]
    if not wrong:
        return ()
    names = ", ".join(wrong[:6]) + (", …" if len(wrong) > 6 else "")
    if len(wrong) == len(pairs) >= LEAST_PAIRS:
        sentence = (
            f"[SIDES_MIRRORED] all {len(pairs)} left structures lie right of their right partners ({names}): "
            "the scan's header probably mirrors it; compare left and right with another source before use"
        )
    else:
        sentence = (
            f"[SIDES_SWAPPED] {len(wrong)} of {len(pairs)} left structures lie right of their right partners "
            f"({names}): look at these labels before use"
        )
    return (sentence,)
