"""What the integers of a label map mean."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from medseg.errors import VolumeError

Colour = tuple[int, int, int]
"""Red, green, blue, each 0..255."""

MAX_LABEL_ID = 2**31 - 1


@dataclass(frozen=True)
class Code:
    """A term of a published vocabulary, as DICOM writes it.

    Attributes:
        scheme: vocabulary, such as `"SCT"` for SNOMED CT.
        value: code in it, such as `"10200004"`.
        meaning: words of the vocabulary for it, such as `"Liver"`.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One class of a label map.

    Attributes:
        id: integer in the voxels, above 0.
        name: for people, such as `"left hippocampus"`.
        colour: for viewers; made from the id if not given.
        code: what it is in a published vocabulary, if known.
    """

    id: int
    name: str
    colour: Colour
    code: Code | None = None


def colour_of_id(label_id: int) -> Colour:
    """A steady, well-spread colour for an id: golden-ratio steps around the hue circle."""
    hue = (label_id * 0.618033988749895) % 1.0
    saturation = (0.65, 0.85, 0.5)[label_id % 3]
    value = (0.95, 0.75)[label_id // 3 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


@dataclass(frozen=True)
class LabelSet:
    """The classes of a label map, ordered by id; 0 is background and never a member.

    Raises:
        VolumeError: an id below 1 or above 2^31 - 1, an id or a name that stands twice, an empty name.
    """

    labels: tuple[Label, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.labels, key=lambda label: label.id))
        for label in ordered:
            if not 1 <= label.id <= MAX_LABEL_ID or not label.name.strip():
                raise VolumeError(
                    "BAD_LABELS",
                    f"expected ids from 1 to 2^31 - 1 with names, got {label.id}: {label.name!r}",
                )
        for what, values in (("id", [x.id for x in ordered]), ("name", [x.name for x in ordered])):
            if len(set(values)) != len(values):
                raise VolumeError("BAD_LABELS", f"expected every label {what} once, got one twice; rename it")
        object.__setattr__(self, "labels", ordered)

    @classmethod
    def from_names(cls, names: Mapping[int, str]) -> Self:
        """Labels with made-up colours.

        Args:
            names: id to name; an entry for 0 is left out.
        """
        return cls(tuple(Label(i, name, colour_of_id(i)) for i, name in names.items() if i != 0))

    @classmethod
    def unnamed(cls, ids: Iterable[int]) -> Self:
        """Labels that are called `label 1`, `label 2`, …; 0 is left out."""
        return cls.from_names({int(i): f"label {int(i)}" for i in ids})

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __contains__(self, label_id: object) -> bool:
        return any(label.id == label_id for label in self.labels)

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids, ascending."""
        return tuple(label.id for label in self.labels)

    @property
    def names(self) -> dict[int, str]:
        """Id to name."""
        return {label.id: label.name for label in self.labels}

    def find(self, name_or_id: str | int) -> Label:
        """The label of that id, or of that name whatever its case; words match a name before an id.

        Raises:
            VolumeError: there is none.
        """
        wanted = str(name_or_id).strip().lower()
        for label in self.labels:
            if isinstance(name_or_id, str) and label.name.strip().lower() == wanted:
                return label
        for label in self.labels:
            if str(label.id) == wanted:
                return label
        known = ", ".join(label.name for label in self.labels[:12]) + (", …" if len(self) > 12 else "")
        raise VolumeError("UNKNOWN_LABEL", f"expected one of: {known or 'no labels'}; got {name_or_id!r}")

    def completed(self, ids: Iterable[int]) -> LabelSet:
        """This set plus labels called `label 5`, … for ids that it lacks; 0 is left out."""
        missing = sorted({int(i) for i in ids} - set(self.ids) - {0})
        taken = set(self.names.values())
        names = {i: f"label {i}" for i in missing}
        names |= {i: f"{name} (id {i})" for i, name in names.items() if name in taken}
        return LabelSet(self.labels + LabelSet.from_names(names).labels)

    def with_parts(self, parents: Mapping[int, int]) -> LabelSet:
        """This set plus labels called `liver 2`, `liver 3`, … for parts that were split off.

        Args:
            parents: new id -> id that it was a part of; ids that have a name keep it.
        """
        names = self.names
        for new, old in parents.items():
            stem, number = names.get(old, f"label {old}"), 2
            while f"{stem} {number}" in names.values():
                number += 1
            names.setdefault(new, f"{stem} {number}")
        added = {new: name for new, name in names.items() if new not in self.names}
        return LabelSet(self.labels + LabelSet.from_names(added).labels)

    def renamed(self, label_id: int, name: str) -> LabelSet:
        """This set with another name for one label, which is added where it is missing.

        Raises:
            VolumeError: the name is empty or another label's.
        """
        known = self if label_id in self else LabelSet(self.labels + LabelSet.unnamed([label_id]).labels)
        return LabelSet(tuple(replace(x, name=name.strip()) if x.id == label_id else x for x in known))
