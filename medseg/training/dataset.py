"""What a training is made from: cases of images and labels, in the layouts that the field keeps them in.

Nothing is read here but lists of names; `dataset_check` looks into the files.

| layout | how it is known |
|---|---|
| `images/NAME.*` and `labels/NAME.*` | both; several images of a case end in `_0000`, `_0001`, … |
| nnU-Net and Medical Segmentation Decathlon | `imagesTr`, `labelsTr`, names of classes in `dataset.json` |
| MONAI datalist | a `.json` file with `training`, `validation`: `[{"image": …, "label": …, "fold": 0}]` |
| table | a `.csv` file with a column `label`, columns of images, and if wanted `name` and `split` or `fold` |

An image may be a folder of DICOM slices, its label a SEG or RTSTRUCT file (or a folder with that one file).
"""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.errors import ReadError
from medseg.io.case_files import numbered
from medseg.io.formats import known_suffixes

ALWAYS_TRAINING = -1
"""`Case.fold` of a case that is never held out."""

PAIRS_OF_FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
LIST_SUFFIXES = (".json", ".csv")
LISTS = ("dataset.json", "datalist.json", "dataset.csv")
_NOT_IMAGES = frozenset({"label", "name", "case", "split", "fold"})


@dataclass(frozen=True)
class Fault:
    """Something about a dataset that a person should know.

    Attributes:
        code: stable word in capitals.
        message: what was expected, what came, with the names of the files.
        case: name of the case that it concerns; empty where it concerns no single one.
        is_grave: whether training as it stands would be wrong or impossible.
    """

    code: str
    message: str
    case: str = ""
    is_grave: bool = True

    @property
    def words(self) -> str:
        """Code and message in a line."""
        return f"[{self.code}] {self.message}"


@dataclass(frozen=True)
class Case:
    """One sample: images on one grid, and the labels drawn on them.

    Attributes:
        name: of the case, unique in its dataset.
        images: one path for each channel, a file or a folder of DICOM slices.
        labels: of the label map, or of a SEG or RTSTRUCT.
        fold: the fold in which it is held out; `ALWAYS_TRAINING`; None where chance may decide.
    """

    name: str
    images: tuple[Path, ...]
    labels: Path
    fold: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A list of cases, not looked into yet.

    Attributes:
        cases: sorted by name.
        class_names: id to name, as far as the layout tells them.
        channel_names: of the images of a case; empty where the layout does not tell.
        faults: what the names of the files alone show.
    """

    cases: tuple[Case, ...]
    class_names: Mapping[int, str]
    channel_names: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


def list_dataset(path: str | Path) -> Dataset:
    """Find the cases of a dataset, in whichever of the layouts above.

    Args:
        path: a folder, a datalist (`.json`) or a table (`.csv`).

    Raises:
        ReadError: `FILE_NOT_FOUND`; `NOT_A_DATASET`, no such layout or no case in it; `BAD_DATASET_LIST`,
            a list that is damaged or names files that are not there.
    """
    path = Path(path)
    if not path.exists():
        raise ReadError(
            "FILE_NOT_FOUND", "expected a dataset, got a path to nothing; check the spelling of the folder"
        )
    if path.is_file() and path.suffix.lower() not in LIST_SUFFIXES:
        raise _not_a_dataset(f"a single file, {path.name}")
    found = _from_list(path) if path.is_file() else _from_folder(path)
    if not found.cases and not found.faults:
        raise _not_a_dataset("no case in it")
    cases = tuple(sorted(_told_apart(found.cases), key=lambda case: case.name))
    twice = sorted({a.name for a, b in itertools.pairwise(cases) if a.name == b.name})
    faults = tuple(Fault("NAME_TWICE", f"expected every name once, got {name} twice", name) for name in twice)
    return replace(found, cases=cases, faults=found.faults + faults)


def _told_apart(cases: Sequence[Case]) -> list[Case]:
    """Cases whose names differ: a list may hold `p1/image.nii.gz` and `p2/image.nii.gz`."""
    names = Counter(case.name for case in cases)
    paths = {case: case.images[0].with_name(case.name).parts for case in cases if names[case.name] > 1}
    columns = zip(*paths.values(), strict=False)
    shared = len([*itertools.takewhile(lambda column: len({*column}) == 1, columns)])
    return [replace(case, name="_".join(paths.get(case, ())[shared:]) or case.name) for case in cases]


def _not_a_dataset(got: str) -> ReadError:
    return ReadError(
        "NOT_A_DATASET",
        "expected a folder with images/NAME.nii.gz and labels/NAME.nii.gz (or imagesTr and labelsTr, a MONAI "
        f"datalist .json, a .csv with the columns image and label), got {got}; sort the files so",
    )


def _from_folder(folder: Path) -> Dataset:
    for images, labels in PAIRS_OF_FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            return _from_pairs(folder, folder / images, folder / labels)
    for name in LISTS:
        if (folder / name).is_file():
            return _from_list(folder / name)
    raise _not_a_dataset("none of them")


def _from_pairs(folder: Path, image_folder: Path, label_folder: Path) -> Dataset:
    labels = {name: paths[0] for name, paths in _by_name(label_folder, {}).items()}
    images = _by_name(image_folder, labels)
    both = images.keys() & labels.keys()
    lonely = [
        Fault(
            "LABEL_MISSING",
            f"expected a label named as {images[n][0].name}, got none in {label_folder.name}",
            n,
        )
        for n in sorted(images.keys() - both)
    ]
    lonely += [
        Fault(
            "IMAGE_MISSING",
            f"expected an image named as {labels[n].name}, got none in {image_folder.name}",
            n,
        )
        for n in sorted(labels.keys() - both)
    ]
    cases = tuple(Case(name, images[name], labels[name]) for name in both)
    if not images and not labels:
        strange = [path.name for path in sorted(image_folder.iterdir()) if not path.name.startswith(".")]
        held = f"such as {strange[0]}" if strange else "the folder is empty"
        raise _not_a_dataset(f"no file of a known format in {image_folder.name} ({held})")
    about = _parsed(folder / "dataset.json") if (folder / "dataset.json").is_file() else {}
    return Dataset(cases, _class_names(about), _channel_names(about), tuple(lonely))


def _by_name(folder: Path, labels: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """Files, and folders of DICOM slices, by the name of their case; channels in order of their numbers.

    Args:
        folder: to look into.
        labels: of the dataset; a number at the end of a name counts as part of it where a label has it too.
    """
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.iterdir()):
        name = _stem(path)
        if name is None or path.name.startswith("."):
            continue
        told = numbered(path)
        case, number = (name, 0) if told is None or name in labels else told
        found.setdefault(case, []).append((number, path))
    return {name: tuple(path for _, path in sorted(paths)) for name, paths in found.items()}


def _stem(path: Path) -> str | None:
    """A file's name without the suffix of a known format; None where it is no image."""
    if path.is_dir():
        return path.name
    suffixes = sorted(known_suffixes(), key=len, reverse=True)
    suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
    is_second_half = suffix is not None and suffix.startswith(".img")  # of a pair: .hdr names the image
    return None if suffix is None or is_second_half else path.name[: -len(suffix)]


def _from_list(path: Path) -> Dataset:
    if path.suffix.lower() == ".csv":
        return _from_rows(_rows(path), path)
    about = _parsed(path)
    if not isinstance(about.get("training"), list):
        raise _bad_list(path, "a list under training")
    held_out = about.get("validation")
    held_out = held_out if isinstance(held_out, list) else []
    others = ALWAYS_TRAINING if held_out else None
    entries = [*((entry, others) for entry in about["training"]), *((entry, 0) for entry in held_out)]
    cases, faults = [], []
    for entry, fold in entries:
        if not isinstance(entry, Mapping) or "image" not in entry:
            raise _bad_list(path, "an image in every entry")
        images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
        if not images:
            raise _bad_list(path, "an image in every entry")
        if "label" not in entry:
            faults.append(_without_label(str(images[0])))
            continue
        own = entry.get("fold", fold)
        cases.append(_listed(path.parent, None, [str(i) for i in images], str(entry["label"]), own))
    return Dataset(tuple(cases), _class_names(about), _channel_names(about), tuple(faults))


def _without_label(image: str) -> Fault:
    name = Path(image).name
    return Fault("LABEL_MISSING", f"expected a label for {name}, got none", _stem(Path(image)) or name)


def _listed(folder: Path, name: str | None, images: Sequence[str], label: str, fold: Any) -> Case:
    """A case of a list; paths count from the list's folder."""
    paths = tuple(folder / image for image in images)
    told = numbered(paths[0]) if len(paths) > 1 else None
    stem = told[0] if told else _stem(paths[0]) or paths[0].name
    return Case(name or stem, paths, folder / label, fold if isinstance(fold, int) else None)


def _rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_list(path, "a table in UTF-8") from error
    lines = text.splitlines()
    marks = [mark for mark in ",;\t" if lines and mark in lines[0]]  # spreadsheets of many countries take ;
    for row in csv.DictReader(lines, delimiter=marks[0] if marks else ","):
        yield {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key}


def _from_rows(rows: Iterator[dict[str, str]], path: Path) -> Dataset:
    cases, faults = [], []
    channels: tuple[str, ...] = ()
    for row in rows:
        channels = tuple(key for key in row if key not in _NOT_IMAGES)
        images = [row[key] for key in channels if row[key]]
        if not images or "label" not in row:
            raise _bad_list(path, "a column label and at least one of images, filled in")
        if not row["label"]:
            faults.append(_without_label(images[0]))
            continue
        fold = row.get("fold") or row.get("split", "")
        number = int(fold) if fold.isdigit() else {"training": -1, "train": -1}.get(fold.lower())
        held_out = fold.lower() in ("validation", "val", "valid", "test")
        name = row.get("name") or row.get("case") or None
        cases.append(_listed(path.parent, name, images, row["label"], 0 if held_out else number))
    return Dataset(tuple(cases), {}, channels if len(channels) > 1 else (), tuple(faults))


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_list(path, "JSON") from error
    if not isinstance(content, Mapping):
        raise _bad_list(path, "a JSON object")
    return content


def _bad_list(path: Path, expected: str) -> ReadError:
    return ReadError(
        "BAD_DATASET_LIST", f"expected {expected} in {path.name}, got something else; repair the list"
    )


def _class_names(about: Mapping[str, Any]) -> dict[int, str]:
    """Id to name: nnU-Net v2 has it the other way round; regions of several ids are no names of one."""
    stated = about.get("labels")
    names: dict[int, str] = {}
    for key, value in stated.items() if isinstance(stated, Mapping) else ():
        id_, name = (key, value) if str(key).isdigit() else (value, key)
        if isinstance(id_, (int, str)) and str(id_).isdigit() and int(id_) > 0:
            names[int(id_)] = str(name)
    return names


def _channel_names(about: Mapping[str, Any]) -> tuple[str, ...]:
    stated = about.get("channel_names", about.get("modality"))
    if not isinstance(stated, Mapping) or not all(str(key).isdigit() for key in stated):
        return (stated,) if isinstance(stated, str) else ()
    return tuple(str(stated[key]) for key in sorted(stated, key=int))
