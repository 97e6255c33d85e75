"""What the segments of a DICOM SEG are: number, name, code, colour."""

from __future__ import annotations

from medseg.errors import ReadError
from medseg.io.dicom_elements import Elements
from medseg.io.dicom_values import integers
from medseg.labels import Code, Colour, Label, LabelSet, colour_of_id

SEGMENTS = 0x00620002
_NUMBER, _LABEL, _TYPE_CODE, _COLOUR = 0x00620004, 0x00620005, 0x0062000F, 0x0062000D
_CODE_VALUE, _CODE_SCHEME, _CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
_WHITE_D65 = (95.047, 100.0, 108.883)
_XYZ_TO_RGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))


def labels_of_segments(elements: Elements, background: int) -> LabelSet:
    """The label set of a SEG; a name that stands twice gets its number behind it.

    Args:
        elements: data set with the segment sequence.
        background: number of the segment that is none, or -1.

    Raises:
        ReadError: `BAD_SEGMENTATION` where there is no segment, or a number stands twice.
    """
    labels: dict[int, Label] = {}
    names: set[str] = set()
    items = elements.items.get(SEGMENTS, ())
    for item in items:
        number = next(iter(integers(item, _NUMBER)), -1)
        if number in labels or number < 0:
            raise ReadError("BAD_SEGMENTATION", "expected each segment number once, got one twice or none")
        if number in (0, background):
            continue
        name = text_of(item, _LABEL) or f"segment {number}"
        name = f"{name} {number}" if name.lower() in names else name
        names.add(name.lower())
        labels[number] = Label(number, name, _colour(item, number), code_of(item, _TYPE_CODE))
    if not items:
        raise ReadError("BAD_SEGMENTATION", "expected at least one segment, got none; re-export it")
    return LabelSet(tuple(labels.values()))


def text_of(item: Elements, tag: int) -> str:
    """A short text, decoded as UTF-8 where it is that, else as Latin-1."""
    raw = item.values.get(tag, b"").strip(b"\0 ")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(c for c in text if c.isprintable()).strip()


def code_of(item: Elements, tag: int) -> Code | None:
    """The first code of a code sequence, or None where it has no value or scheme."""
    items = item.items.get(tag, ())
    if not items:
        return None
    value, scheme, meaning = (text_of(items[0], t) for t in (_CODE_VALUE, _CODE_SCHEME, _CODE_MEANING))
    return Code(scheme, value, meaning) if value and scheme else None


def _colour(item: Elements, number: int) -> Colour:
    """The recommended colour, or one made from the number."""
    stored = integers(item, _COLOUR)
    return rgb_of_cielab(stored[0], stored[1], stored[2]) if len(stored) == 3 else colour_of_id(number)


def rgb_of_cielab(lightness: int, a: int, b: int) -> Colour:
    """The sRGB of a colour as DICOM stores it: three unsigned 16-bit numbers (PS3.3 C.10.7.1.1).

    CIE 1976 L*a*b* to XYZ to sRGB (IEC 61966-2-1), white point D65, colours outside clipped.
    """
    level = lightness / 65535 * 100
    y = (level + 16) / 116
    x, z = y + (a / 65535 * 255 - 128) / 500, y - (b / 65535 * 255 - 128) / 200
    xyz = [
        white * (f**3 if f > 6 / 29 else (f - 16 / 116) / 7.787) / 100
        for f, white in zip((x, y, z), _WHITE_D65, strict=True)
    ]
    channels = []
    for row in _XYZ_TO_RGB:
        linear = max(0.0, sum(weight * value for weight, value in zip(row, xyz, strict=True)))
        encoded = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
        channels.append(min(255, round(255 * encoded)))
    return channels[0], channels[1], channels[2]
