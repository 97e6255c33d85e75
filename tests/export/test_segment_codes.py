"""Terms of labels: every structure of our model and the common CT names has one, and it is a real one."""

from __future__ import annotations

import csv
from importlib import resources
from pathlib import Path
from typing import cast

import pytest
from pydicom.sr._concepts_dict import concepts

from medseg.export.segment_codes import CATEGORIES, SIDES, TISSUE, term_of
from medseg.labels import Code, Label, colour_of_id
from medseg.training.brain_labels import BRAIN_STRUCTURES

OTHER_CODES = {
    # where the vendor-neutral mapping beside the scans is wrong or vague, and DICOM's own lists are not
    "subclavian_artery_right": "36765005",  # the mapping names the right artery on both sides
    "subclavian_artery_left": "36765005",
    "atrial_appendage_left": "33626005",
    "metatarsal": "280711000",
    "gluteus_minimus": "75297007",  # the mapping names gluteus medius
    "pleural_effusion": "60046008",
    "pericardial_effusion": "373945007",
}


def plain(name: str, label_id: int = 5) -> Label:
    return Label(label_id, name, colour_of_id(label_id))


@pytest.mark.parametrize(("label_id", "name"), BRAIN_STRUCTURES)
def test_every_structure_of_the_brain_model_has_a_term(label_id: int, name: str) -> None:
    term = term_of(plain(name, label_id))
    assert term.type != TISSUE
    side = next((word for word in ("left", "right") if name.startswith(word)), None)
    assert term.side == (SIDES[side] if side else None)
    assert term.colour != colour_of_id(label_id)


def test_colours_of_the_brain_model_differ() -> None:
    colours = [term_of(plain(name, label_id)).colour for label_id, name in BRAIN_STRUCTURES]
    assert len(set(colours)) == len(colours)


def test_common_ct_structures_have_the_published_codes(shared_data: Path) -> None:
    with (shared_data / "ct" / "totalsegmentator_snomed_mapping.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    for (
        name,
        *_,
    ) in rows:
        row = next(r for r in rows if r[0] == name)
        term = term_of(plain(name))
        assert term.type.value == OTHER_CODES.get(name, row[5]), name
        sided = row[9] in ("Left", "Right") and name != "atrial_appendage_left"
        assert (term.side is not None) == sided, name


def test_codes_that_dicom_lists_carry_dicoms_meaning() -> None:
    text = (resources.files("medseg.export") / "codes.csv").read_text(encoding="utf-8")
    listed: dict[tuple[str, str], set[str]] = {}
    for scheme in ("SCT", "DCM", "NCIt"):
        for entries in cast("dict[str, dict[str, tuple[str, list[int]]]]", concepts[scheme]).values():
            for value, (meaning, _) in entries.items():
                listed.setdefault((scheme, value), set()).add(meaning.lower())
    known = 0
    for row in csv.DictReader(text.splitlines()):
        meanings = listed.get((row["scheme"], row["code"]))
        if meanings:
            known += 1
            assert row["meaning"].lower() in meanings, row["name"]
        assert len(row["meaning"]) <= 64
        assert row["category"] in CATEGORIES
    assert known > 150


def test_no_name_stands_twice() -> None:
    text = (resources.files("medseg.export") / "codes.csv").read_text(encoding="utf-8")
    names = [
        n
        for r in csv.DictReader(text.splitlines())
        for n in (r["name"], *filter(None, r["aliases"].split("|")))
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["left kidney", "kidney_left", "Left-Kidney", "KIDNEY LEFT"])
def test_a_side_is_found_wherever_it_is_written(name: str) -> None:
    term = term_of(plain(name))
    assert (term.type.value, term.side) == ("64033007", SIDES["left"])


def test_a_label_keeps_its_own_code_and_colour() -> None:
    own = Code("SCT", "10200004", "Hepar")
    term = term_of(Label(1, "my own name", (9, 8, 7), own))
    assert term.type == own
    assert term.colour == (9, 8, 7)
    assert term.category == CATEGORIES["anatomy"]


def test_an_unknown_name_is_tissue_in_its_own_colour() -> None:
    term = term_of(plain("flux capacitor"))
    assert (term.type, term.category, term.side) == (TISSUE, TISSUE, None)
    assert term.colour == colour_of_id(5)


def test_an_unknown_code_of_a_lesion_is_abnormal() -> None:
    label = Label(1, "strange tumour", colour_of_id(1), Code("99X", "1", "Strange"))
    assert term_of(label).category == CATEGORIES["abnormal"]
