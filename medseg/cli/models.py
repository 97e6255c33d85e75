"""`medseg models list|show`."""

from __future__ import annotations

from typing import Any

from cyclopts import App

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table
from medseg.models.card import Card

models = App(name="models", help="List the models at hand, or show one.")


@models.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the models at hand by name."""
    from medseg.models.registry import list_models

    entries = list_models()
    if json:
        rows = [
            {"name": e.name, "shelf": e.shelf, "problem": e.problem or None}
            | (summary(e.card) if e.card else {})
            for e in entries
        ]
        print_json({"models": rows})
        return
    cells = [
        [
            e.name,
            e.card.version if e.card else "-",
            (e.card.modality or "any") if e.card else "-",
            str(len(e.card.labels)) if e.card else "-",
            e.card.licence if e.card else e.problem,
        ]
        for e in entries
    ]
    print_table("Models at hand", ["name", "version", "modality", "structures", "licence"], cells)


@models.command
def show(name: str, /, *, json: Json = False) -> None:
    """Show what a model says of itself.

    Args:
        name: a name from `medseg models list`, or the path of one.
        json: print one JSON object on standard output.
    """
    from medseg.models.registry import find_model, read_card

    card = read_card(find_model(name))
    structures = [{"id": label.id, "name": label.name} for label in card.labels]
    if json:
        print_json(summary(card) | {"labels": structures, "notes": list(card.notes)})
        return
    print_table(card.name, ["", "says"], [[key, str(value)] for key, value in summary(card).items()])
    print_table("Structures", ["id", "name"], [[str(s["id"]), str(s["name"])] for s in structures])
    for note in card.notes:
        print(f"note: {note}")


def summary(card: Card) -> dict[str, Any]:
    """The lines of a card that a person chooses by."""
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "licence": card.licence,
        "modality": card.modality,
        "input_images": card.in_channels,
        "orientation": card.orientation,
        "spacing_mm": list(card.spacing_mm) if card.spacing_mm else None,
        "window": list(card.window.size),
        "overlap_fraction": card.window.overlap_fraction,
        "structures": len(card.labels),
        "network": card.network.target,
        "sha256": card.sha256,
    }
