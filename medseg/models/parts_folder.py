"""A folder that joins models: `parts.json` names them, and what lies in it is one model.

    {"name": "total", "version": "2.0", "description": "…", "licence": "Apache-2.0",
     "parts": ["organs", "vertebrae", "ribs"], "label_ids": {"spleen": 1, "kidney_right": 2}}

A part is a folder or file inside this folder, however deep, or beside it, of any other format. Only
`parts` has to be there; `label_ids` gives every class its id by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from medseg.errors import ModelError, VolumeError
from medseg.labels import LabelSet
from medseg.models.bundle_config import read_json
from medseg.models.card import Card
from medseg.models.parts import Joint, join_cards
from medseg.models.weights import BuiltNetwork

PARTS_FILE = "parts.json"


class PartFormat(Protocol):
    """What has to be known of a part's format; `medseg.models.formats.ModelFormat` is one."""

    @property
    def read(self) -> Callable[[Path, bool], Card]:
        """The card of a path."""

    @property
    def weights(self) -> Callable[[Path, Card], tuple[Path, ...]]:
        """The files that hold the weights."""

    @property
    def build(self) -> Callable[[Path, Card, bool], BuiltNetwork]:
        """The network with its weights."""


def is_parts(path: Path) -> bool:
    """Whether a path is a folder that joins models."""
    return (path / PARTS_FILE).is_file()


@dataclass(frozen=True)
class PartsFolder:
    """Reads and builds such folders.

    Attributes:
        format_of: the format of a part, or None.
    """

    format_of: Callable[[Path], PartFormat | None]

    def read(self, path: Path, trust_code: bool = False) -> Card:
        """The card of all parts together.

        Raises:
            ModelError: `BAD_PARTS`; those of the parts; those of `join_cards`.
        """
        return self._joint(path, trust_code).card

    def weights(self, path: Path, _card: Card) -> tuple[Path, ...]:
        """The files of all parts.

        Raises:
            ModelError: `BAD_PARTS`; those of the parts.
        """
        places = self._places(path)
        return tuple(file for place, one in places for file in one.weights(place, one.read(place, False)))

    def build(self, path: Path, _card: Card, trust_code: bool = False) -> BuiltNetwork:
        """The networks of all parts as one.

        Raises:
            ModelError: `BAD_PARTS`; those of the parts.
        """
        built = [
            one.build(place, one.read(place, trust_code), trust_code) for place, one in self._places(path)
        ]
        network = self._joint(path, trust_code).network([(part.network, *part.members) for part in built])
        notes = tuple(dict.fromkeys(note for part in built for note in part.notes))
        return BuiltNetwork(network, notes=notes)

    def _joint(self, path: Path, trust_code: bool) -> Joint:
        told = read_json(path / PARTS_FILE)
        cards = [one.read(place, trust_code) for place, one in self._places(path)]
        joint = join_cards(
            cards, name=str(told.get("name") or path.resolve().name), labels=_labels(told, cards)
        )
        words = {key: str(told[key]) for key in ("version", "description", "licence") if told.get(key)}
        return replace(joint, card=replace(joint.card, **words))  # type: ignore[arg-type]  # three texts

    def _places(self, path: Path) -> list[tuple[Path, PartFormat]]:
        """Where each part lies, and its format."""
        names = read_json(path / PARTS_FILE).get("parts")
        if not isinstance(names, Sequence) or isinstance(names, str) or not names:
            raise ModelError(
                "BAD_PARTS", f"expected a list of parts in {PARTS_FILE}, got {names!r}; repair it"
            )
        found = []
        for name in names:
            inside, beside = path / str(name), path.resolve().parent / str(name)
            words = PurePosixPath(str(name)).parts
            stays = isinstance(name, str) and bool(words) and not {"..", "/"} & set(words)
            place = inside if stays and inside.exists() else beside
            may_be = stays and (place is inside or len(words) == 1) and not is_parts(place)
            known = self.format_of(place) if may_be else None
            if known is None:
                raise ModelError(
                    "BAD_PARTS",
                    f"expected a model in or beside the folder for each part, got none for {str(name)!r}; "
                    "install it, or repair parts.json",
                )
            found.append((place, known))
        return found


def _labels(told: Mapping[str, Any], cards: Sequence[Card]) -> LabelSet | None:
    """The classes of the parts with the ids that the folder gives them."""
    ids = told.get("label_ids")
    if ids is None:
        return None
    if not isinstance(ids, Mapping) or any(type(i) is not int for i in ids.values()):
        raise ModelError(
            "BAD_PARTS", "expected label_ids from names to whole numbers, got others; repair them"
        )
    known = {name.strip().lower(): i for name, i in ids.items()}
    labels = [label for card in cards for label in card.labels]
    named = [replace(x, id=known[key]) for x in labels if (key := x.name.strip().lower()) in known]
    try:
        return LabelSet(tuple(named))
    except VolumeError as error:
        raise ModelError("BAD_PARTS", f"{error} (in {PARTS_FILE})") from error
