"""What a label is called in SNOMED CT, and which colour it is shown in.

The terms stand in `codes.csv`: the structures of the bundled `brain-mri` model, the common
structures of CT, and the common findings. Codes and meanings are those of DICOM's context groups
(CID 7140 brain structures for volumetric measurement, CID 7151 segmentation property types) where
these have the term.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from medseg.labels import Code, Colour, Label, colour_of_id

CATEGORIES = {
    "anatomy": Code("SCT", "91723000", "Anatomical Structure"),
    "abnormal": Code("SCT", "49755003", "Morphologically Abnormal Structure"),
    "tissue": Code("SCT", "85756007", "Tissue"),
    "substance": Code("SCT", "91720002", "Body Substance"),
    "object": Code("SCT", "260787004", "Physical object"),
}
"""Word of the table -> term of CID 7150, segmentation property categories."""

SIDES = {"left": Code("SCT", "7771000", "Left"), "right": Code("SCT", "24028007", "Right")}
"""Terms of CID 244, laterality."""

TISSUE = Code("SCT", "85756007", "Tissue")
"""Type and category of a label that no term is known for, as 3D Slicer and dcmqi write it."""

_NO_COLOUR = (0, 0, 0)

_RIGHT_SHADE = 0.78
"""Right-sided structures take their left twin's colour, darker."""


@dataclass(frozen=True)
class Term:
    """A label in the words of a vocabulary.

    Attributes:
        type: what it is, such as liver.
        category: what kind of thing that is, such as anatomical structure.
        side: left or right, or None.
        colour: recommended for display.
    """

    type: Code
    category: Code
    side: Code | None
    colour: Colour


@dataclass(frozen=True)
class _Row:
    type: Code
    category: Code
    paired: bool
    colour: Colour


def term_of(label: Label) -> Term:
    """The term of a label: by its own code, else by its name, else tissue.

    A colour that was only made up from the id gives way to the recommended one.

    Args:
        label: its name may be written as `"left kidney"`, `"kidney_left"` or `"Left-Kidney"`.
    """
    row, side = _find(label.name)
    if label.code is not None:
        by_code = next((r for r in _table().values() if _same_code(r.type, label.code)), None)
        known = row if row is not None and _same_code(row.type, label.code) else by_code
        recommended = known is not None
        row = known or _Row(label.code, _category_of_words(label), True, _NO_COLOUR)
        row = replace(row, type=label.code)
    else:
        recommended = row is not None
        row = row or _Row(TISSUE, CATEGORIES["tissue"], True, _NO_COLOUR)
    made_up = label.colour == colour_of_id(label.id)
    colour = label.colour
    if made_up and recommended:
        shade = _RIGHT_SHADE if side == "right" and row.paired else 1.0
        red, green, blue = (round(channel * shade) for channel in row.colour)
        colour = (red, green, blue)
    return Term(row.type, row.category, SIDES[side] if side and row.paired else None, colour)


def _same_code(a: Code, b: Code) -> bool:
    return (a.scheme, a.value) == (b.scheme, b.value)


def _category_of_words(label: Label) -> Code:
    words = f"{label.name} {label.code.meaning if label.code else ''}".lower()
    abnormal = re.search(r"lesion|tumou?r|neoplasm|metasta|cyst|h(a)?emorrhage|nodule|cancer|o?edema", words)
    return CATEGORIES["abnormal" if abnormal else "anatomy"]


def _find(name: str) -> tuple[_Row | None, str]:
    """The row of a name and its side (`"left"`, `"right"` or empty)."""
    words = _words(name)
    table = _table()
    sides = [word for word in words if word in SIDES]
    side = sides[0] if len(sides) == 1 else ""
    whole = table.get(" ".join(words))
    if whole is not None:
        return whole, side
    one_side = table.get(" ".join(word for word in words if word not in SIDES))
    return (one_side, side) if one_side is not None and one_side.paired else (None, side)


def _words(name: str) -> list[str]:
    return re.sub(r"[\W_]+", " ", name.lower()).split()


@cache
def _table() -> dict[str, _Row]:
    """Name or alias -> row; names in lower case, words apart by one space."""
    table: dict[str, _Row] = {}
    with (resources.files("medseg.export") / "codes.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            row = _Row(
                Code(line["scheme"], line["code"], line["meaning"]),
                CATEGORIES[line["category"]],
                line["paired"] == "yes",
                (int(line["red"]), int(line["green"]), int(line["blue"])),
            )
            for name in (line["name"], *filter(None, line["aliases"].split("|"))):
                table[" ".join(_words(name))] = row
    return table
