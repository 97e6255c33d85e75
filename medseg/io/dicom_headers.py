"""One DICOM file -> one frozen header record, with the reason where it cannot be part of a volume.

Nothing here raises for a bad value: a scan of a night's studies must tell all of them. What the file
says of the patient is kept as a hash alone, salted by study and series.
"""

from __future__ import annotations

import hashlib

from medseg.errors import ReadError
from medseg.io.dicom_elements import DEFLATED, EXPLICIT_BIG, Elements, RawHeader
from medseg.io.dicom_modality_lut import MODALITY_LUT, modality_lut_of
from medseg.io.dicom_mosaic import CSA_HEADER, MOSAIC_COUNT, mosaic_planes
from medseg.io.dicom_multiframe import FRAME_GROUPS, SHARED_GROUPS, multiframe_planes
from medseg.io.dicom_nuclear import NUCLEAR_IMAGE, NUCLEAR_TAGS, nuclear_planes
from medseg.io.dicom_planes import PLANE_TAGS, POSITION, rescale_of, single_plane
from medseg.io.dicom_records import ImageHeader, PixelLayout, Plane, Problem, one_of_equals
from medseg.io.dicom_source import SourceFile
from medseg.io.dicom_syntaxes import NATIVE_SYNTAXES, is_decodable
from medseg.io.dicom_values import integer_text, integers, safe_uid, uid, word, words

MAX_FRAME_BYTES = 2**28
"""One decoded frame; 11,585 x 11,585 pixels of 16 bits."""
MAX_FRAMES = 100_000
MAX_IMAGE_BYTES = 2**35
"""All frames of one object, decoded."""

_SOP_CLASS, _SOP_UID, _MODALITY, _IMAGE_TYPE = 0x00080016, 0x00080018, 0x00080060, 0x00080008
_STUDY, _SERIES, _INSTANCE, _REFERENCE = 0x0020000D, 0x0020000E, 0x00200013, 0x00200052
_PATIENT = (0x00100010, 0x00100020, 0x00100030)
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS = 0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011
_ALLOCATED, _STORED, _HIGH, _SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_PALETTE = 0x00281101
_PIXEL_DATA = 0x7FE00010
WANTED_TAGS = PLANE_TAGS | {
    *(_SOP_CLASS, _SOP_UID, _MODALITY, _IMAGE_TYPE, _STUDY, _SERIES, _INSTANCE, _REFERENCE, *_PATIENT),
    *(_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED, _STORED, _HIGH, _SIGNED),
    *(_PALETTE, MODALITY_LUT, SHARED_GROUPS, FRAME_GROUPS, CSA_HEADER, MOSAIC_COUNT),
    *NUCLEAR_TAGS,
}

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SEGMENTATIONS = {_STORAGE + "66.4", _STORAGE + "66.7"}
_DOSE = _STORAGE + "481.2"
_CAPTURES = {_STORAGE + "7", *(f"{_STORAGE}7.{n}" for n in range(1, 5))}
_ENHANCED = {_STORAGE + n for n in ("2.1", "2.2", "4.1", "4.4", "128.1", "130")}
_COLOURS = ("RGB", "YBR", "PALETTE COLOR", "ARGB", "HSV", "CMYK")
_LOCALIZERS = {"LOCALIZER", "SCOUT", "SURVEY", "TOPOGRAM"}
_POLYGLOT = ("POLYGLOT: a file begins like a program; its preamble is never copied",)
_NO_UIDS = ("NO_UID: the files state no UIDs; those of one folder were taken for one series",)


def header_of(raw: RawHeader, file: SourceFile, size: int) -> ImageHeader:
    """The record of one file.

    Args:
        raw: what the walker kept.
        file: where it is.
        size: of the file in bytes.

    Returns:
        the record; `problem` or `set_aside` say why it has no planes.
    """
    elements = raw.elements
    problem = None if raw.broken is None else Problem.of(raw.broken)
    set_aside = _set_aside(raw) if problem is None else None
    layout: PixelLayout | None = None
    planes: tuple[Plane, ...] = ()
    number: int | None = None
    notes: tuple[str, ...] = _POLYGLOT if raw.foreign_preamble else ()
    if problem is None and set_aside is None:
        try:
            notes += _uid_notes(elements)
            layout = _layout(raw, size)
            planes = _planes(elements, layout)
        except ReadError as error:
            problem = Problem.of(error)
    try:
        number = integer_text(elements, _INSTANCE, "BAD_NUMBER", "InstanceNumber")
    except ReadError:
        number = None
    return ImageHeader(
        file=file,
        sop_class_uid=safe_uid(elements, _SOP_CLASS) or raw.media_class,
        sop_instance_uid=safe_uid(elements, _SOP_UID) or raw.media_instance,
        study_uid=safe_uid(elements, _STUDY),
        series_uid=safe_uid(elements, _SERIES),
        frame_of_reference_uid=safe_uid(elements, _REFERENCE),
        modality=_modality(elements),
        patient=_patient_key(elements),
        instance_number=number,
        layout=one_of_equals(layout) if planes else None,
        planes=planes,
        problem=problem,
        set_aside=set_aside,
        notes=notes,
    )


def lost_header(file: SourceFile, problem: Problem) -> ImageHeader:
    """The record of a file of which nothing else is known."""
    return ImageHeader(file, "", "", "", "", "", "", b"", None, problem=problem)


def _uid_notes(elements: Elements) -> tuple[str, ...]:
    """Anonymisers empty all UIDs of a series; that is told. One that is empty among others is a fault.

    Raises:
        ReadError: `BAD_UID`.
    """
    stated = [bool(uid(elements, tag)) for tag in (_STUDY, _SERIES, _SOP_UID)]
    if any(stated) and not all(stated):
        raise ReadError("BAD_UID", "expected UIDs of study, series and object, got only some of them")
    return () if any(stated) else _NO_UIDS


def _modality(elements: Elements) -> str:
    found = word(elements, _MODALITY)
    return found if found.isascii() and found.isalnum() and len(found) <= 16 and found.isupper() else ""


def _patient_key(elements: Elements) -> bytes:
    """Tells patients of one series apart; in another series the same patient has another key."""
    digest = hashlib.blake2b(digest_size=16)
    for tag in (_STUDY, _SERIES):
        digest.update(elements.values.get(tag, b"") + b"\0")
    for tag in _PATIENT:
        # Carets at the end of a name are padding (PS3.5 section 6.2.1).
        digest.update(elements.values.get(tag, b"").strip(b"\0 ").rstrip(b"^ ") + b"\0")
    return digest.digest()


def _set_aside(raw: RawHeader) -> Problem | None:
    """Why this kind of object is no part of a volume, if it is none."""
    elements, kind = raw.elements, word(raw.elements, _SOP_CLASS)
    photometric = word(elements, _PHOTOMETRIC)
    lacks_palette = photometric.startswith("PALETTE") and _PALETTE not in elements.values
    types = {part.upper() for part in words(elements, _IMAGE_TYPE)[:4]}
    rules = (
        (kind in _SEGMENTATIONS, "SEGMENTATION", "a segmentation, not a scan; read it with read_labels"),
        (
            raw.pixels is None or raw.pixels.tag != _PIXEL_DATA,
            "NOT_AN_IMAGE",
            "an object without pixels of a scan, such as a report or a plan",
        ),
        (
            photometric.startswith(_COLOURS) and not lacks_palette,
            "COLOUR",
            "a colour image, such as a dose page or a rendering, not a scan",
        ),
        (bool(types & _LOCALIZERS), "LOCALIZER", "an overview image for planning, no part of a volume"),
        (kind in _CAPTURES, "SECONDARY_CAPTURE", "a secondary capture: a picture, not a scan"),
        (kind == _DOSE, "DOSE", "a planned dose, not a scan"),
    )
    return next((Problem(code, reason) for applies, code, reason in rules if applies), None)


def _planes(elements: Elements, layout: PixelLayout) -> tuple[Plane, ...]:
    if elements.items.get(FRAME_GROUPS) or word(elements, _SOP_CLASS) in _ENHANCED:
        return multiframe_planes(elements, layout.frames, layout.rows, layout.columns)
    if word(elements, _SOP_CLASS) == NUCLEAR_IMAGE and (
        layout.frames != 1 or POSITION not in elements.values
    ):
        return nuclear_planes(elements, layout.frames, layout.rows, layout.columns)
    if layout.frames != 1:
        raise ReadError(
            "NO_POSITION", "expected functional groups that place each frame, got none; it cannot be placed"
        )
    plane = single_plane(elements, layout.rows, layout.columns)
    if "MOSAIC" in words(elements, _IMAGE_TYPE):
        return mosaic_planes(elements, plane)
    return (plane,)


def _one(elements: Elements, tag: int, name: str) -> int:
    found = integers(elements, tag)
    if len(found) != 1:
        raise ReadError("BAD_PIXEL_MODULE", f"expected one number as {name}, got {len(found)}; re-export it")
    return found[0]


def _layout(raw: RawHeader, size: int) -> PixelLayout:
    """How the pixels stand.

    Raises:
        ReadError: `BAD_PIXEL_MODULE`, `BAD_FRAMES`, `BAD_TRANSFER_SYNTAX`, `UNSUPPORTED_TS`, `TOO_LARGE`,
            `PIXELS_TRUNCATED`.
    """
    elements, place = raw.elements, raw.pixels
    if place is None:
        raise ReadError("NOT_AN_IMAGE", "expected pixels, got none")
    photometric = word(elements, _PHOTOMETRIC)
    frames = _frames(elements)
    layout = PixelLayout(
        transfer_syntax=raw.transfer_syntax,
        rows=_one(elements, _ROWS, "Rows"),
        columns=_one(elements, _COLUMNS, "Columns"),
        frames=frames,
        bits_allocated=_one(elements, _ALLOCATED, "BitsAllocated"),
        bits_stored=_one(elements, _STORED, "BitsStored"),
        high_bit=_one(elements, _HIGH, "HighBit"),
        signed=_one(elements, _SIGNED, "PixelRepresentation") == 1,
        body=raw.body,
        offset=place.offset,
        length=place.length,
        words=raw.transfer_syntax == EXPLICIT_BIG and place.vr == "OW",
        modality_lut=_has_table(elements),
    )
    sound = (
        layout.rows > 0
        and layout.columns > 0
        and layout.bits_allocated in (8, 16, 32)
        and 0 < layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated
        and _one(elements, _SAMPLES, "SamplesPerPixel") == 1
        and photometric in ("MONOCHROME1", "MONOCHROME2")
        and integers(elements, _SIGNED)[0] in (0, 1)
    )
    if not sound:
        raise ReadError(
            "BAD_PIXEL_MODULE",
            "expected grey pixels of 8, 16 or 32 bits and a size above 0, got a header that says otherwise",
        )
    _check_syntax(layout)
    if layout.frame_bytes > MAX_FRAME_BYTES or layout.frame_bytes * frames > MAX_IMAGE_BYTES:
        raise ReadError("TOO_LARGE", "expected frames below 256 MiB and images below 32 GiB, got more")
    if layout.length is not None:
        _check_length(layout, layout.length, size)
    return layout


def _has_table(elements: Elements) -> bool:
    """Whether a look-up table gives the real values; it is checked here, and read again with the pixels.

    Raises:
        ReadError: `BAD_RESCALE` where it is damaged, or stands beside slopes, of which it takes the place.
    """
    if not elements.items.get(MODALITY_LUT):
        return False
    modality_lut_of(elements, signed=False)
    if rescale_of(elements) != (1.0, 0.0) or elements.items.get(FRAME_GROUPS):
        raise ReadError("BAD_RESCALE", "expected either a slope or a look-up table, got both; re-export it")
    return True


def _check_length(layout: PixelLayout, length: int, size: int) -> None:
    deflated = layout.transfer_syntax == DEFLATED
    present = length if deflated else min(length, max(0, size - layout.offset))
    needed = layout.frame_bytes * layout.frames
    if present < needed:
        raise ReadError(
            "PIXELS_TRUNCATED", f"expected {needed} bytes of pixels, got {present}; copy the file anew"
        )


def _check_syntax(layout: PixelLayout) -> None:
    native = layout.transfer_syntax in NATIVE_SYNTAXES
    if native != (layout.length is not None):
        raise ReadError(
            "BAD_TRANSFER_SYNTAX",
            "expected pixels stored as the transfer syntax says, got compressed for native or the reverse",
        )
    if not is_decodable(layout.transfer_syntax):
        raise ReadError(
            "UNSUPPORTED_TS",
            f"expected an image encoding that medseg decodes, got transfer syntax {layout.transfer_syntax};"
            " convert the series to Explicit VR Little Endian",
        )


def _frames(elements: Elements) -> int:
    """NumberOfFrames; absent, empty, or 0 in a single-frame object means 1."""
    stated = integer_text(elements, _FRAMES, "BAD_FRAMES", "NumberOfFrames")
    if stated is None or (stated == 0 and word(elements, _SOP_CLASS) not in _ENHANCED):
        return 1
    if not 1 <= stated <= MAX_FRAMES:
        raise ReadError("BAD_FRAMES", f"expected 1 to {MAX_FRAMES} frames, got a number outside")
    return stated
