"""`medseg models list|show|export|install|verify|remove`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from medseg.cli.options import Json
from medseg.cli.screen import print_json, print_table, progress_bar, say
from medseg.cli.segment import require_writable
from medseg.models.card import Card

models = App(name="models", help="List, show, export, install, verify or remove models.")


@models.command(name="list")
def list_(
    *, remote: Annotated[bool, Parameter(name="--remote", negative=())] = False, json: Json = False
) -> None:
    """List the models at hand by name.

    Args:
        remote: list those that can be fetched instead; asks no server.
        json: print one JSON object on standard output.
    """
    from medseg.models.registry import list_models

    if remote:
        _list_remote(json=json)
        return
    entries = list_models()
    if json:
        rows = [
            {"name": e.name, "shelf": e.shelf, "problem": e.problem or None, "hides": e.hides or None}
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
    for entry in entries:
        if entry.hides:
            say(hiding(entry.name, entry.hides))


def _list_remote(*, json: bool) -> None:
    from medseg.models.catalogue import read_catalogue
    from medseg.result import plain_data

    entries = read_catalogue()
    if json:
        print_json({"models": plain_data(entries)})
        return
    cells = [[e.name, e.title, e.modality, str(len(e.structures) or "?"), e.licence, e.note] for e in entries]
    print_table(
        "Models that can be fetched", ["name", "what", "modality", "structures", "licence", "note"], cells
    )


@models.command
def install(
    source: str,
    /,
    *,
    name: str = "",
    replace: Annotated[bool, Parameter(name="--replace", negative=())] = False,
    cache: Path | None = None,
    json: Json = False,
) -> None:
    """Fetch a model by name, or take one from a zip on this machine.

    A download that breaks off goes on where it stopped when the command is given again.

    Args:
        source: a name from `medseg models list --remote`, or the path of a zip.
        name: what to call a model from a zip; the zip's name if not given.
        replace: take the place of a model of that name.
        cache: folder of archives: one that lies there is not fetched, one that is fetched stays there,
            so that it installs on a machine without a network.
        json: print one JSON object on standard output.
    """
    from medseg.files import file_size
    from medseg.models.catalogue import find_entry
    from medseg.models.install import Shelf, install_archive, install_entry
    from medseg.models.registry import user_folder

    shelf, path = Shelf(user_folder(), cache), Path(source)
    with progress_bar() as report:
        if path.suffix.lower() == ".zip":
            file_size(path)
            record = install_archive(path, shelf, name=name, replace_old=replace, progress=report)
        else:
            entry = find_entry(source)
            say(f"{entry.name}: {entry.title}; licence: {entry.licence}")
            if entry.note:
                say(f"note: {entry.note}")
            record = install_entry(entry, shelf, replace_old=replace, progress=report)
    if json:
        print_json({"name": record.name, "licence": record.licence, "files": len(record.files)})
        return
    print(f"installed {record.name}: {len(record.files)} files")


@models.command
def verify(name: str, /, *, json: Json = False) -> None:
    """Check every file of an installed model against what was installed.

    Args:
        name: of the model.
        json: print one JSON object on standard output.
    """
    from medseg.models.install import verify_model
    from medseg.models.registry import user_folder

    record = verify_model(user_folder() / name)
    if json:
        print_json({"name": record.name, "whole": True, "files": len(record.files)})
        return
    print(f"{record.name} is whole: {len(record.files)} files as they were installed")


@models.command
def remove(name: str, /) -> None:
    """Take an installed model away.

    Args:
        name: of the model.
    """
    from medseg.models.install import remove_model
    from medseg.models.registry import user_folder

    remove_model(name, user_folder())
    print(f"removed {name}")


@models.command
def show(
    name: str,
    /,
    *,
    trust_code: Annotated[bool, Parameter(name="--trust-code", negative=())] = False,
    json: Json = False,
) -> None:
    """Show what a model says of itself.

    Args:
        name: a name from `medseg models list`, or the path of one.
        trust_code: let Python that the model brings along run, where its card needs it.
        json: print one JSON object on standard output.
    """
    from medseg.models.registry import find_model, hidden_by, read_card

    card = read_card(find_model(name), trust_code=trust_code)
    hides = hidden_by(name)
    structures = [{"id": label.id, "name": label.name} for label in card.labels]
    if json:
        told = {"labels": structures, "notes": list(card.notes), "hides": hides or None}
        print_json(summary(card) | told)
        return
    print_table(card.name, ["", "says"], [[key, str(value)] for key, value in summary(card).items()])
    print_table("Structures", ["id", "name"], [[str(s["id"]), str(s["name"])] for s in structures])
    for note in card.notes:
        print(f"note: {note}")
    if hides:
        say(hiding(name, hides))


@models.command
def export(
    name: str,
    /,
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    trust_code: Annotated[bool, Parameter(name="--trust-code", negative=())] = False,
    json: Json = False,
) -> None:
    """Write a model's network as ONNX, OpenVINO or TorchScript for another program.

    The file is run on one window before it is written. Beside it goes a card, NAME.card.json: what the
    network has to be shown, and what its answers mean. To run a model in medseg, MONAI Label or Slicer you
    need no export.

    Args:
        name: a name from `medseg models list`, or the path of a model.
        output: file to write; its ending, .onnx, .xml or .ts, says as what.
        trust_code: let Python that the model brings along run, where it needs it.
        json: print one JSON object on standard output.
    """
    from medseg.export.network import export_model
    from medseg.models.loading import load_model

    require_writable(output.parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = export_model(load_model(name, device="cpu", trust_code=trust_code), output)
    if json:
        print_json({"files": [str(file) for file in done.files], "difference": done.difference})
        return
    for file in done.files:
        say(f"written: {file}")
    say(f"its answer differs from the model's by at most {done.difference:.1g} of the largest")


def hiding(name: str, shelf: str) -> str:
    """That a model hides another of its name."""
    return f"note: {name!r} in your own folder hides the {shelf} model of that name; rename it to reach that"


def summary(card: Card) -> dict[str, Any]:
    """The lines of a card that a person chooses by."""
    return {
        "name": card.name,
        "version": card.version,
        "description": card.description,
        "licence": card.licence,
        "modality": card.modality,
        "input_images": card.in_channels,
        "image_names": list(card.channel_names) or None,
        "orientation": card.orientation,
        "spacing_mm": list(card.spacing_mm) if card.spacing_mm else None,
        "window": list(card.window.size),
        "overlap_fraction": card.window.overlap_fraction,
        "structures": len(card.labels),
        "network": card.network.target,
        "sha256": card.sha256,
    }
