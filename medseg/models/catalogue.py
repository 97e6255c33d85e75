"""Models that can be fetched: their addresses, licences and structures, as data in `catalogue.json`.

Nothing here goes to the network. Sizes stand nowhere: publishers do not state them, and the server
says them before the first byte comes.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medseg.errors import ModelNotFoundError
from medseg.models.download import Remote

CATALOGUE_FILE = Path(__file__).parent / "catalogue.json"


@dataclass(frozen=True)
class CatalogueEntry:
    """One model that can be fetched.

    Attributes:
        name: what to ask for.
        title: a line for people.
        family: how it is published: `"monai-bundle"`, `"nnunet"` or `"auto3dseg"`.
        modality: as in DICOM.
        inputs: images that it wants at once.
        licence: SPDX name or a sentence.
        structures: what it finds; empty where its publisher does not list them.
        parts: its archives; several where several networks share the structures.
        note: what keeps it from running, or how it must be run; empty for most.
    """

    name: str
    title: str
    family: str
    modality: str
    inputs: int
    licence: str
    structures: tuple[str, ...]
    parts: tuple[Remote, ...]
    note: str = ""


@cache
def read_catalogue(path: Path = CATALOGUE_FILE) -> tuple[CatalogueEntry, ...]:
    """Every model that can be fetched, in the order of the file.

    Args:
        path: a catalogue; the project's own if left out.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return tuple(_entry(item) for item in content["models"])


def _entry(item: dict[str, Any]) -> CatalogueEntry:
    parts = tuple(Remote(p["url"], p.get("checksum", ""), p.get("size")) for p in item["parts"])
    words = {key: item[key] for key in ("name", "title", "family", "modality", "inputs", "licence")}
    return CatalogueEntry(
        **words, structures=tuple(item["structures"]), parts=parts, note=item.get("note", "")
    )


def find_entry(name: str, entries: tuple[CatalogueEntry, ...] | None = None) -> CatalogueEntry:
    """The entry of a name.

    Args:
        name: as the catalogue spells it.
        entries: to look among; the project's own if left out.

    Raises:
        ModelNotFoundError: `UNKNOWN_MODEL`, naming those of a similar name.
    """
    entries = read_catalogue() if entries is None else entries
    for entry in entries:
        if entry.name == name:
            return entry
    close = difflib.get_close_matches(name, [entry.name for entry in entries], n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else "medseg models list --remote shows them"
    raise ModelNotFoundError(
        "UNKNOWN_MODEL", f"expected the name of a model that can be fetched, got {name!r}; {hint}"
    )
