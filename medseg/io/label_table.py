"""The names of a label map as other programs write them into an image file.

NIfTI: the XML extension of Caret and Connectome Workbench, as TotalSegmentator writes and reads it.
NRRD and MetaImage: `Segment0_Name`-style keys, as 3D Slicer writes and reads them. Codes of a
vocabulary travel in both, where the foreign program expects its own notes (MetaData; Tags).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

from medseg.errors import VolumeError
from medseg.io.plain_xml import parse_plain_xml
from medseg.labels import Code, Colour, Label, LabelSet, colour_of_id
from medseg.volume import InstanceVolume, LabelVolume

MAX_LABELS = 2**20
MAX_WRITTEN_NAMES = 10_000
"""A longer table would outgrow what readers take for a header; ids without a name are called `label 7`."""

CODES_NAME = "medseg_codes"
SEGMENT_KEY = re.compile(r"Segment(\d{1,7})_(Name|LabelValue|Color|Tags)")
SLICER_LIST = "Segmentation category and type - 3D Slicer General Anatomy list"
STRUCTURE = "SCT^123037004^Anatomical Structure"
UNSAID_TERM = "85756007"
"""SNOMED "Tissue", which Slicer writes for every segment whose type nobody chose."""

SEGMENT_TERM = re.compile(r"TerminologyEntry:[^~|]*~[^~|]*~([^~^|]*)\^([^~^|]*)\^([^~^|]*)")
"""Type of a segment in Slicer's tag: context ~ category ~ type ~ …, each `scheme^value^meaning`."""
_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


def label_set(entries: Iterable[Label]) -> LabelSet:
    """A valid set of labels that a stranger wrote: what cannot be kept is left out or renamed.

    Id 0 and ids that stand twice are left out; a name that stands twice gets its id behind it.
    """
    kept: dict[int, Label] = {}
    names: set[str] = set()
    for label in entries:
        name = label.name.strip() or f"label {label.id}"
        name = name if name not in names else f"{name} ({label.id})"
        if label.id in kept or label.id == 0 or name in names:
            continue
        names.add(name)
        kept[label.id] = Label(label.id, name, label.colour, label.code)
    try:
        return LabelSet(tuple(kept.values()))
    except VolumeError:  # an id out of range: the table is not to be trusted at all
        return LabelSet()


def written_names(labels: LabelVolume) -> LabelSet:
    """What the ids of a map are called in a file: classes by their names, objects `lesion 7`.

    None at all where there are more than `MAX_WRITTEN_NAMES`.
    """
    names = labels.labels
    if isinstance(labels, InstanceVolume):
        if len(labels.classes) > MAX_WRITTEN_NAMES:
            return LabelSet()
        kinds = {label.id: label for label in labels.labels}
        objects = []
        for object_id, class_id in labels.classes.items():
            kind = kinds.get(class_id) or Label(class_id, f"label {class_id}", colour_of_id(class_id))
            objects.append(Label(object_id, f"{kind.name} {object_id}", colour_of_id(object_id), kind.code))
        names = label_set(objects)
    return names if len(names) <= MAX_WRITTEN_NAMES else LabelSet()


# ---------------------------------------------------------------------- Caret XML (NIfTI)


def caret_xml(labels: LabelSet) -> bytes:
    """The labels as a Caret volume extension, UTF-8."""
    rows = []
    for label in labels:
        red, green, blue = (f"{c / 255:.6g}" for c in label.colour)
        key = f'<Label Key="{label.id}" Red="{red}" Green="{green}" Blue="{blue}" Alpha="1">'
        rows.append(f"{key}{escape(_NOT_XML.sub(' ', label.name))}</Label>")
    codes = {x.id: [x.code.scheme, x.code.value, x.code.meaning] for x in labels if x.code}
    notes = escape(json.dumps(codes, sort_keys=True))
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<CaretExtension>",
        '<VolumeInformation Index="0">',
        "<LabelTable>",
        *rows,
        "</LabelTable>",
        f"<MetaData><MD><Name>{CODES_NAME}</Name><Value>{notes}</Value></MD></MetaData>" if codes else "",
        "<VolumeType>Label</VolumeType>",
        "</VolumeInformation>",
        "</CaretExtension>",
    ]
    return "\n".join(line for line in lines if line).encode()


def labels_from_caret_xml(content: bytes) -> LabelSet:
    """The labels of a Caret volume extension; none where it holds none or is damaged."""
    root = parse_plain_xml(content) if b"<CaretExtension" in content else None
    if root is None:
        return LabelSet()
    codes: dict[int, Code] = {}
    for note in root.iter("MD"):
        if note.findtext("Name") == CODES_NAME:
            codes = _codes(note.findtext("Value") or "")
    rows = [row for _, row in zip(range(MAX_LABELS), root.iter("Label"), strict=False)]
    labels = [_caret_label(row.attrib, row.text or "", codes) for row in rows]
    return label_set(label for label in labels if label is not None)


def _caret_label(row: Mapping[str, str], name: str, codes: Mapping[int, Code]) -> Label | None:
    try:
        label_id = int(row["Key"])
    except (KeyError, ValueError):
        return None
    colour = _colour([row.get(c, "") for c in ("Red", "Green", "Blue")]) or colour_of_id(label_id)
    return Label(label_id, name, colour, codes.get(label_id))


def _colour(parts: list[str]) -> Colour | None:
    """Three fractions 0..1 as a colour."""
    try:
        red, green, blue = (round(255 * min(1.0, max(0.0, float(part)))) for part in parts)
    except ValueError:
        return None
    return red, green, blue


def _codes(text: str) -> dict[int, Code]:
    try:
        found = json.loads(text)
        return {int(i): Code(str(a), str(b), str(c)) for i, (a, b, c) in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


# ---------------------------------------------------------------------- segment keys (NRRD, MetaImage)


def segment_keys(labels: LabelSet, shape: tuple[int, int, int]) -> dict[str, str]:
    """The labels as 3D Slicer's key/value pairs of a segmentation of `shape` voxels."""
    extent = " ".join(f"0 {n - 1}" for n in shape)
    keys: dict[str, str] = {}
    for n, label in enumerate(labels):
        keys[f"Segment{n}_ID"] = f"Segment_{label.id}"
        keys[f"Segment{n}_Name"] = " ".join(label.name.split())
        keys[f"Segment{n}_LabelValue"] = str(label.id)
        keys[f"Segment{n}_Layer"] = "0"
        keys[f"Segment{n}_Extent"] = extent
        keys[f"Segment{n}_Color"] = " ".join(f"{c / 255:.6g}" for c in label.colour)
        if label.code:
            parts = (label.code.scheme, label.code.value, label.code.meaning)
            term = "^".join(re.sub(r"[\^~|\s]+", " ", part) for part in parts)
            keys[f"Segment{n}_Tags"] = f"TerminologyEntry:{SLICER_LIST}~{STRUCTURE}~{term}~^^~~^^~^^|"
    return keys


def labels_from_segment_keys(pairs: Mapping[str, str]) -> LabelSet:
    """The labels of 3D Slicer's key/value pairs; none where there are none."""
    segments: dict[int, dict[str, str]] = {}
    for key, value in pairs.items():
        match = SEGMENT_KEY.fullmatch(key)
        if match:
            segments.setdefault(int(match[1]), {})[match[2]] = value
    labels = [_segment_label(segments[n]) for n in sorted(segments)]
    return label_set(label for label in labels if label is not None)


def _segment_label(keys: Mapping[str, str]) -> Label | None:
    try:
        label_id = int(keys["LabelValue"])
    except (KeyError, ValueError):
        return None
    colour = _colour(keys.get("Color", "").split()) or colour_of_id(label_id)
    match = SEGMENT_TERM.search(keys.get("Tags", ""))
    code = Code(match[1], match[2], match[3]) if match and match[2] not in ("", UNSAID_TERM) else None
    return Label(label_id, keys.get("Name", ""), colour, code)
