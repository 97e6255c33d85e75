"""Which models are at hand, and where.

Two shelves: models that come with medseg, and the user's folder. Listing reads small JSON files
and imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import ModelError, ModelNotFoundError
from medseg.models.archived import is_archive, unpacked
from medseg.models.card import Card
from medseg.models.catalogue import read_catalogue
from medseg.models.formats import FORMATS, format_of
from medseg.models.install import read_record
from medseg.models.weights import fingerprint

BUNDLED_FOLDER = Path(__file__).parent / "bundled"
"""Models that come with medseg."""

FOLDER_VARIABLE = "MEDSEG_MODELS"
"""Environment variable that names another folder for the user's own models."""


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be asked for by name.

    Attributes:
        name: what to ask for.
        path: its folder.
        shelf: `"bundled"` or `"user"`.
        card: what it says of itself, or None where it cannot be read.
        problem: why it cannot be read, or empty.
        hides: shelf of another model of this name that cannot be asked for because of this one, or empty.
    """

    name: str
    path: Path
    shelf: str
    card: Card | None
    problem: str = ""
    hides: str = ""


def user_folder() -> Path:
    """Where the user's own models lie; it need not exist."""
    if stated := os.environ.get(FOLDER_VARIABLE):
        return Path(stated).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_path("medseg", appauthor=False)) / "models"


def _folders() -> dict[str, tuple[Path, str, str]]:
    """Name to (folder, shelf, hidden shelf); the user's own model wins over a bundled one of that name."""
    found: dict[str, tuple[Path, str, str]] = {}
    for shelf, folder in (("bundled", BUNDLED_FOLDER), ("user", user_folder())):
        if folder.is_dir():
            places = ((path.name, model_place(path)) for path in sorted(folder.iterdir()))
            for name, place in places:
                if format_of(place) is not None:
                    found[name] = (place, shelf, found[name][1] if name in found else "")
    return found


def hidden_by(name: str) -> str:
    """The shelf of a model that another one of the same name hides, or empty.

    Args:
        name: as it is asked for.
    """
    return _folders().get(name, (None, "", ""))[2]


def model_place(folder: Path) -> Path:
    """Where in a folder its model lies: what was installed from an archive lies deeper than its record."""
    record = read_record(folder)
    if record is None or len(record.roots) != 1:
        return folder
    place = (folder / record.roots[0]).resolve()
    return place if place.is_relative_to(folder.resolve()) else folder


def list_models() -> tuple[ModelEntry, ...]:
    """Every model at hand, by name; a damaged one is listed with its problem."""
    entries = []
    for name, (path, shelf, hides) in sorted(_folders().items()):
        try:
            entries.append(ModelEntry(name, path, shelf, read_card(path), hides=hides))
        except ModelError as error:
            entries.append(ModelEntry(name, path, shelf, None, f"[{error.code}] {error}", hides))
    return tuple(entries)


def read_card(path: Path, *, trust_code: bool = False) -> Card:
    """What the model at a path says of itself, whatever its format; loads no weights.

    Args:
        path: as `find_model` gave it.
        trust_code: let the model's own Python run; otherwise a model that needs it is refused.

    Raises:
        ModelNotFoundError: `NOT_A_MODEL`.
        ModelError: the model is damaged or refused.
    """
    known = format_of(path)
    if known is None:
        raise not_a_model(path)
    return known.read(path, trust_code)


def model_fingerprint(path: Path) -> str:
    """SHA-256 of the recipe and the weights of the model at a path: what decides its answers.

    Raises:
        ModelNotFoundError: `NOT_A_MODEL`.
        ModelError: the model is damaged or refused, or has no weights.
    """
    known = format_of(path)
    if known is None:
        raise not_a_model(path)
    card = known.read(path, False)
    weights = fingerprint(known.weights(path, card))
    return hashlib.sha256(f"{card.sha256} {weights}".encode()).hexdigest()


def not_a_model(path: Path) -> ModelNotFoundError:
    """The error for a path that exists but holds no model."""
    return ModelNotFoundError(
        "NOT_A_MODEL",
        f"expected a model of a known format ({', '.join(known.description for known in FORMATS)}), "
        f"got {path.name!r}, which is none",
    )


def find_model(name_or_path: str | Path) -> Path:
    """Where a model lies.

    Args:
        name_or_path: name from `list_models`, or the path of a model's folder or file.

    Raises:
        ModelNotFoundError: `UNKNOWN_MODEL`, naming what there is; `NOT_A_MODEL`, a path that exists
            but holds no model.
        ModelError: a zip that is damaged, unsafe or holds no model.
    """
    folders = _folders()
    if isinstance(name_or_path, str) and name_or_path in folders:
        return folders[name_or_path][0]
    path = Path(name_or_path)
    with suppress(RuntimeError):  # ~name of nobody: such a path does not exist
        path = path.expanduser()
    if path.exists():
        path = unpacked(path) if is_archive(path) else model_place(path)
        if format_of(path) is None:
            raise not_a_model(path)
        return path
    known = ", ".join(sorted(folders)) or "none yet"
    raise ModelNotFoundError(
        "UNKNOWN_MODEL",
        f"expected the name of a model or the path of one, got {path.name!r}; models at hand: {known}"
        + _how_to_fetch(path.name),
    )


def _how_to_fetch(name: str) -> str:
    """What to type for a model of the catalogue that is not at hand."""
    return f"; medseg models install {name} fetches it" if name in {e.name for e in read_catalogue()} else ""
