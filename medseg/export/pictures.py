"""Small pictures of a result: the largest section along each axis, outlined; the sizes of objects.

Sections are drawn as radiologists look at them: the patient's left is on the picture's right, the front up
in axial and left in sagittal ones, the head up in the others. An oblique grid is drawn along its own axes,
named by the closest world axis.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.files import whole_file
from medseg.labels import Colour, colour_of_id
from medseg.measure.regions import Region
from medseg.result import Result
from medseg.volume import InstanceVolume, LabelVolume, Volume

if TYPE_CHECKING:
    from PIL.Image import Image

PANEL_PIXELS = 420
"""Longest side of one section."""

MARGIN_PIXELS = 10
CAPTION_PIXELS = 24
LEGEND_PIXELS = 220
LEGEND_ROW_PIXELS = 17
MOST_LEGEND_ROWS = 22
BACKGROUND: Colour = (18, 20, 24)
INK: Colour = (225, 228, 232)

SAMPLED_VOXELS = 2_000_000
"""About how many voxels decide the grey scale."""

AIR_BELOW_HU = -500
"""A scan with so dark voxels is a CT in Hounsfield units."""

SOFT_TISSUE_HU = (-175.0, 275.0)
"""Window of an abdominal CT: width 450, level 50."""

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Section:
    """One plane of a label map, ready to draw: rows go down, columns to the right.

    Attributes:
        name: `"axial"`, `"coronal"` or `"sagittal"`.
        position_mm: where it lies along its world axis.
        labels: `(rows, columns)` ids.
        grey: `(rows, columns)` 0..255; zeros without an image.
        pixel_mm: height and width of a pixel.
    """

    name: str
    position_mm: float
    labels: npt.NDArray[Any]
    grey: npt.NDArray[np.uint8]
    pixel_mm: tuple[float, float]


def write_pictures(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write `labels.png` and, where objects were separated, `instances.png` and `sizes.png`.

    Args:
        result: what to draw.
        folder: an existing folder.

    Returns:
        The paths.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    return tuple(_written(png, folder / f"{name}.png") for name, png in pictures(result).items())


def pictures(result: Result) -> dict[str, bytes]:
    """PNG files by name: `labels`, and `instances` and `sizes` where objects were separated."""
    drawn = {"labels": draw_sections(result.labels, result.image)}
    if result.instances is not None:
        drawn["instances"] = draw_sections(result.instances, result.image)
        drawn["sizes"] = draw_sizes([r for r in result.regions if r.kind == "object"])
    return {name: png_of(picture) for name, picture in drawn.items()}


def largest_sections(
    labels: LabelVolume, image: Volume | None = None, planes_of: LabelVolume | None = None
) -> tuple[Section, ...]:
    """The axial, coronal and sagittal plane that hold most labelled voxels; the middle ones if none does.

    Args:
        labels: what to show.
        image: intensities on the same grid.
        planes_of: labels on the same grid that decide the planes in place of those shown.
    """
    upright = labels.reorient("RAS")
    shown = image.reorient("RAS") if image is not None else None
    inside = upright.array > 0 if planes_of is None else planes_of.reorient("RAS").array > 0
    window = _grey_window(shown.array) if shown is not None else (0.0, 1.0)
    spacing = upright.geometry.spacing_mm
    sections = []
    for name, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        across, up = (a for a in range(3) if a != axis)
        filled = inside.sum(axis=(across, up))
        place = int(np.argmax(filled)) if filled.any() else upright.geometry.shape[axis] // 2
        centre = [(n - 1) / 2 for n in upright.geometry.shape]
        centre[axis] = place
        plane = np.take(upright.array, place, axis=axis)
        grey = np.zeros(plane.shape, dtype=np.uint8)
        if shown is not None:
            grey = _grey(np.take(shown.array, place, axis=axis), window)
        sections.append(
            Section(
                name=name,
                position_mm=float(upright.geometry.to_world(centre)[axis]),
                labels=_facing(plane),
                grey=_facing(grey),
                pixel_mm=(spacing[up], spacing[across]),
            )
        )
    return tuple(sections)


def _facing(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """From (right or front, front or up) to (down, towards the patient's left or back)."""
    return plane.T[::-1, ::-1]


def _grey_window(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Dark and bright end: the 1st and 99.5th percentile of a sample; soft tissue where air is -1000."""
    step = max(1, round((array.size / SAMPLED_VOXELS) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, [1, 99.5]) if sample.size else (0.0, 1.0)
    if low < AIR_BELOW_HU:
        return SOFT_TISSUE_HU
    return float(low), float(high if high > low else low + 1)


def _grey(plane: npt.NDArray[Any], window: tuple[float, float]) -> npt.NDArray[np.uint8]:
    low, high = window
    scaled = (np.nan_to_num(plane.astype(np.float64), nan=low) - low) / (high - low)
    return (np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def draw_sections(
    labels: LabelVolume, image: Volume | None = None, planes_of: LabelVolume | None = None
) -> Image:
    """Three sections side by side with outlines and a legend.

    Args:
        labels: classes in their own colours, or objects each in another.
        image: intensities on the same grid; without one, labels are filled.
        planes_of: labels that decide the planes, such as those that the shown ones are compared with.
    """
    from PIL import Image as images
    from PIL import ImageDraw

    sections = largest_sections(labels, image, planes_of)
    panels = [_panel(section, _colours(labels, section), image is not None) for section in sections]
    legend = [] if isinstance(labels, InstanceVolume) else _legend(labels, sections)
    height = max(panel.shape[0] for panel in panels)
    height = max(height, LEGEND_ROW_PIXELS * len(legend))
    width = sum(p.shape[1] + MARGIN_PIXELS for p in panels) + MARGIN_PIXELS
    total = width + (LEGEND_PIXELS if legend else 0)
    canvas = images.new("RGB", (total, height + CAPTION_PIXELS + 2 * MARGIN_PIXELS), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    left = MARGIN_PIXELS
    for section, panel in zip(sections, panels, strict=True):
        canvas.paste(images.fromarray(panel), (left, CAPTION_PIXELS + MARGIN_PIXELS))
        axis = {"axial": "z", "coronal": "y", "sagittal": "x"}[section.name]
        _write_text(draw, (left, 8), f"{section.name}  {axis} = {_length(section.position_mm)}")
        left += panel.shape[1] + MARGIN_PIXELS
    for row, (name, colour) in enumerate(legend):
        top = CAPTION_PIXELS + MARGIN_PIXELS + row * LEGEND_ROW_PIXELS
        draw.rectangle((left, top + 2, left + 11, top + 13), fill=colour)
        _write_text(draw, (left + 18, top), name)
    return canvas


def _colours(labels: LabelVolume, section: Section) -> dict[int, Colour]:
    """Colour of every id in a section."""
    ids = [int(i) for i in np.unique(section.labels) if i > 0]
    if isinstance(labels, InstanceVolume):
        return {i: colour_of_id(i) for i in ids}
    own = {label.id: label.colour for label in labels.labels}
    return {i: own.get(i, colour_of_id(i)) for i in ids}


def _legend(labels: LabelVolume, sections: Sequence[Section]) -> list[tuple[str, Colour]]:
    """Names and colours of the classes to be seen; the last row tells how many do not fit."""
    colours: dict[int, Colour] = {}
    for section in sections:
        colours |= _colours(labels, section)
    names = labels.labels.names
    rows = [(names.get(i, f"label {i}"), colours[i]) for i in sorted(colours)]
    if len(rows) <= MOST_LEGEND_ROWS:
        return rows
    return [*rows[: MOST_LEGEND_ROWS - 1], (f"and {len(rows) - MOST_LEGEND_ROWS + 1} more", BACKGROUND)]


def _panel(section: Section, colours: dict[int, Colour], outlined: bool) -> Rgb:
    """One section in square pixels, `(rows, columns, 3)`."""
    from PIL import Image as images

    extent = [n * mm for n, mm in zip(section.labels.shape, section.pixel_mm, strict=True)]
    scale = PANEL_PIXELS / max(extent)
    rows, columns = (max(1, round(e * scale)) for e in extent)
    places, index = np.unique(section.labels, return_inverse=True)
    nearest = images.fromarray(index.reshape(section.labels.shape).astype(np.int32))
    ids = np.asarray(nearest.resize((columns, rows), images.Resampling.NEAREST))
    grey = images.fromarray(np.ascontiguousarray(section.grey))
    shades = np.asarray(grey.resize((columns, rows), images.Resampling.BILINEAR))
    panel: Rgb = np.repeat(shades[..., None], 3, axis=2)
    table = np.array([colours.get(int(i), (0, 0, 0)) for i in places], dtype=np.uint8)
    painted = (places[ids] > 0) & (_edges(ids) if outlined else np.ones(ids.shape, dtype=bool))
    panel[painted] = table[ids[painted]]
    return panel


def _edges(ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Pixels with another id beside them."""
    edges = np.zeros(ids.shape, dtype=bool)
    down, right = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def draw_sizes(regions: Sequence[Region]) -> Image:
    """Histogram of the equivalent diameters of objects.

    Args:
        regions: objects; none gives an empty diagram.
    """
    from PIL import Image as images
    from PIL import ImageDraw

    diameters = np.array([(6 * region.volume_mm3 / math.pi) ** (1 / 3) for region in regions])
    unit, factor = ("um", 1000.0) if diameters.size and diameters.max() < 0.5 else ("mm", 1.0)
    width, height, left, top, base = 560, 300, 50, 40, 250
    canvas = images.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    noun = "object" if len(regions) == 1 else "objects"
    _write_text(draw, (left, 12), f"{len(regions)} {noun}: equivalent diameter in {unit}")
    draw.line((left, base, width - 20, base), fill=INK)
    if not diameters.size:
        return canvas
    bins = int(np.clip(np.sqrt(len(diameters)) * 2, 5, 40))
    counts, edges = np.histogram(diameters * factor, bins=bins, range=(0, float(diameters.max() * factor)))
    step = (width - 20 - left) / bins
    for n, count in enumerate(counts):
        high = (base - top) * count / counts.max()
        if count:
            box = (left + n * step + 1, base - high, left + (n + 1) * step - 1, base - 1)
            draw.rectangle(box, fill=colour_of_id(1))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        place = left + share * (width - 20 - left)
        draw.line((place, base, place, base + 5), fill=INK)
        _write_text(draw, (int(place) - 12, base + 10), f"{edges[-1] * share:.3g}")
    _write_text(draw, (8, top - 6), f"{counts.max()}")
    _write_text(draw, (8, base - 8), "0")
    return canvas


def _length(millimetres: float) -> str:
    return f"{millimetres:.1f} mm" if abs(millimetres) >= 1 else f"{millimetres * 1000:.3g} um"


def _write_text(draw: Any, place: tuple[int, int], text: str) -> None:
    from PIL import ImageFont

    draw.text(place, text, fill=INK, font=ImageFont.load_default(13))


def png_of(picture: Image) -> bytes:
    """The bytes of a PNG file."""
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def _written(png: bytes, path: Path) -> Path:
    with whole_file(path) as stream:
        stream.write(png)
    return path
