"""One page for people: pictures, measures, provenance. It needs no other file and names no patient."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from medseg.export.pictures import pictures
from medseg.files import write_text
from medseg.labels import Colour, colour_of_id
from medseg.measure.regions import Region
from medseg.measure.shape import Shape
from medseg.result import Result

Row = tuple[str, list[str]]


def write_report(result: Result, path: str | Path, shapes: Mapping[int, Shape] | None = None) -> Path:
    """Write a self-contained HTML page: no script, nothing loaded from elsewhere.

    Args:
        result: what to tell of.
        path: HTML file; its folder must exist.
        shapes: object id -> form.

    Returns:
        The path.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    path = Path(path)
    write_text(path, report_page(result, shapes or {}))
    return path


def report_page(result: Result, shapes: Mapping[int, Shape]) -> str:
    """The page as text. Every name in it is escaped.

    Args:
        result: what to tell of.
        shapes: object id -> form; may be empty.
    """
    shown = [(name, base64.b64encode(png).decode()) for name, png in pictures(result).items()]
    return rendered(
        "medseg.export",
        "report.html.j2",
        headline=" · ".join(_headline(result)),
        warnings=result.record.warnings,
        pictures=shown,
        tables=list(_tables(result, shapes)),
        provenance=list(_provenance(result)),
    )


def rendered(package: str, template: str, **content: Any) -> str:
    """A page of the house: one style, no script, every word escaped.

    Args:
        package: that holds the template.
        template: its name; it extends `page.html.j2`.
        content: what it shows.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    sources = {"page.html.j2": "medseg.export", template: package}
    texts = {name: resources.files(home).joinpath(name).read_text("utf-8") for name, home in sources.items()}
    house = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return house.get_template(template).render(**content)


def _headline(result: Result) -> Iterator[str]:
    record = result.record
    if record.model:
        yield f"model {record.model} {record.model_version}".strip()
    if record.started:
        yield record.started.replace("T", " ").replace("+00:00", " UTC")
    classes = sum(region.kind == "class" for region in result.regions)
    objects = len(result.regions) - classes
    yield f"{classes} {'structure' if classes == 1 else 'structures'}"
    if result.instances is not None:
        yield f"{objects} separated {'object' if objects == 1 else 'objects'}"


def _tables(result: Result, shapes: Mapping[int, Shape]) -> Iterator[tuple[str, list[str], list[Row]]]:
    colours = {label.id: label.colour for label in result.labels.labels}
    unit = _volume_unit(result.regions)
    classes = [r for r in result.regions if r.kind == "class"]
    head = ["name", "voxels", f"volume {unit[0]}", "centroid mm", "mean", "std", "border"]
    rows = [(_css(colours.get(r.id, colour_of_id(r.id))), _class_cells(r, unit)) for r in classes]
    yield "Structures", head, rows
    if result.instances is not None:
        objects = [r for r in result.regions if r.kind == "object"]
        head = [
            "object",
            "class",
            f"volume {unit[0]}",
            "longest mm",
            "across mm",
            "sphericity",
            "centroid mm",
        ]
        head.append("border")
        rows = [(_css(colour_of_id(r.id)), _object_cells(r, unit, shapes.get(r.id))) for r in objects]
        yield "Objects", head, rows


def _class_cells(region: Region, unit: tuple[str, float]) -> list[str]:
    return [
        region.name,
        str(region.voxels),
        f"{region.volume_mm3 / unit[1]:.4g}",
        ", ".join(f"{x:.4g}" for x in region.centroid_mm),
        "" if region.mean is None else f"{region.mean:.4g}",
        "" if region.std is None else f"{region.std:.3g}",
        "yes" if region.touches_border else "",
    ]


def _object_cells(region: Region, unit: tuple[str, float], shape: Shape | None) -> list[str]:
    form = ["", "", ""]
    if shape is not None:
        lengths = (shape.longest_diameter_mm, shape.perpendicular_diameter_mm, shape.sphericity)
        form = [f"{x:.3g}" for x in lengths]
    return [
        str(region.id),
        region.name,
        f"{region.volume_mm3 / unit[1]:.4g}",
        *form,
        ", ".join(f"{x:.4g}" for x in region.centroid_mm),
        "yes" if region.touches_border else "",
    ]


def _volume_unit(regions: tuple[Region, ...]) -> tuple[str, float]:
    """Unit in which the largest volume reads well, and its mm3."""
    largest = max((region.volume_mm3 for region in regions), default=1000.0)
    if largest >= 100:
        return "ml", 1000.0
    return ("mm³", 1.0) if largest >= 0.01 else ("µm³", 1e-9)


def _provenance(result: Result) -> Iterator[tuple[str, str]]:
    record, grid = result.record, result.labels.geometry
    yield "image", record.input_name or "not named"
    yield "image SHA-256", record.input_sha256 or "not known"
    yield "grid", " x ".join(map(str, grid.shape)) + " voxels of " + _spacing(grid.spacing_mm)
    if record.model:
        yield "model", f"{record.model} {record.model_version}".strip()
        yield "model SHA-256", record.model_sha256 or "not known"
    if record.device:
        yield "device", record.device
    for name, fields in record.settings.items():
        yield name, _words(fields)
    if record.seconds:
        yield "seconds", _words(record.seconds)
    if record.peak_memory_bytes:
        yield "peak memory", f"{record.peak_memory_bytes / 2**30:.2f} GiB"
    if record.versions:
        yield "versions", _words(record.versions)


def _words(fields: Any) -> str:
    if isinstance(fields, Mapping):
        return ", ".join(f"{name} {value}" for name, value in fields.items())
    return str(fields)


def _spacing(spacing_mm: tuple[float, float, float]) -> str:
    if max(spacing_mm) < 0.05:
        return " x ".join(f"{1000 * s:.4g}" for s in spacing_mm) + " µm"
    return " x ".join(f"{s:.4g}" for s in spacing_mm) + " mm"


def _css(colour: Colour) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
