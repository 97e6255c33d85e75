"""A result as tables: regions as CSV, the run as JSON. Nothing here names a patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import ReadError
from medseg.files import opened, write_json, write_text
from medseg.measure.regions import Region
from medseg.measure.shape import Shape
from medseg.result import Result, plain_data

Cell = int | float | str | bool | None

REGION_COLUMNS = (
    "id",
    "class",
    "name",
    "voxels",
    "volume_mm3",
    "centroid_x_mm",
    "centroid_y_mm",
    "centroid_z_mm",
    "kind",
    "start_i",
    "start_j",
    "start_k",
    "stop_i",
    "stop_j",
    "stop_k",
    "touches_border",
    "mean",
    "min",
    "max",
    "std",
    "score",
)
"""Columns of every table of regions. The first eight are a contract; world positions are RAS+ mm; `stop`
is one past the last voxel; intensities are empty without an image, the score of what was not detected."""

SHAPE_COLUMNS = (
    "equivalent_diameter_mm",
    "longest_diameter_mm",
    "perpendicular_diameter_mm",
    "sphericity",
    "box_x_mm",
    "box_y_mm",
    "box_z_mm",
    "nearest_neighbour_mm",
)
"""Columns that follow where shapes were measured; empty in the row of a class."""


def region_rows(
    regions: Iterable[Region], shapes: Mapping[int, Shape] | None = None
) -> list[dict[str, Cell]]:
    """One row per region, by column name.

    Args:
        regions: classes and objects.
        shapes: object id -> shape; None leaves the columns of `SHAPE_COLUMNS` out.
    """
    return [_row(region, shapes) for region in regions]


def _row(region: Region, shapes: Mapping[int, Shape] | None) -> dict[str, Cell]:
    cells: tuple[Cell, ...] = (
        region.id,
        region.class_id,
        region.name,
        region.voxels,
        region.volume_mm3,
        *region.centroid_mm,
        region.kind,
        *region.box_start,
        *region.box_stop,
        region.touches_border,
        region.mean,
        region.minimum,
        region.maximum,
        region.std,
        region.score,
    )
    row = dict(zip(REGION_COLUMNS, cells, strict=True))
    if shapes is not None:
        shape = shapes.get(region.id) if region.kind == "object" else None
        row |= dict(zip(SHAPE_COLUMNS, _shape_cells(shape), strict=True))
    return row


def _shape_cells(shape: Shape | None) -> tuple[Cell, ...]:
    if shape is None:
        return (None,) * len(SHAPE_COLUMNS)
    return (
        shape.equivalent_diameter_mm,
        shape.longest_diameter_mm,
        shape.perpendicular_diameter_mm,
        shape.sphericity,
        *shape.box_mm,
        shape.nearest_neighbour_mm,
    )


def write_regions_csv(
    regions: Iterable[Region], path: str | Path, shapes: Mapping[int, Shape] | None = None
) -> Path:
    """Write one row per region: UTF-8, commas, a decimal point, nine significant digits.

    Args:
        regions: classes and objects.
        path: CSV file; its folder must exist.
        shapes: object id -> shape, for the columns of `SHAPE_COLUMNS`.

    Returns:
        The path.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    columns = REGION_COLUMNS if shapes is None else REGION_COLUMNS + SHAPE_COLUMNS
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    for row in region_rows(regions, shapes):
        table.writerow([_text(row[column]) for column in columns])
    path = Path(path)
    write_text(path, text.getvalue())
    return path


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)


def read_scores(path: str | Path) -> dict[int, float]:
    """Score of every object in a table that `write_regions_csv` wrote.

    Args:
        path: CSV file with columns `id`, `kind` and `score`; rows without a score are passed over.

    Raises:
        ReadError: `NOT_A_REGION_TABLE`, no such columns, or other than numbers in them;
            `FILE_NOT_FOUND`, `NOT_A_FILE`, `NOT_READABLE`.
    """
    with opened(Path(path)) as stream:
        content = stream.read()
    try:
        rows = list(csv.DictReader(content.decode().splitlines()))
        objects = [row for row in rows if row["kind"] == "object" and row["score"]]
        return {int(row["id"]): float(row["score"]) for row in objects}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ReadError(
            "NOT_A_REGION_TABLE",
            "expected a regions.csv with id, kind and score, got another file; name that of the prediction",
        ) from error


def run_data(result: Result, files: Iterable[str]) -> dict[str, Any]:
    """What `run.json` holds: the record, the grid, the classes, and the files written beside it."""
    grid = result.labels.geometry
    return {
        "program": "medseg",
        **result.record.as_data(),
        "grid": {
            "shape": list(grid.shape),
            "spacing_mm": list(grid.spacing_mm),
            "axes": grid.axis_codes,
            "affine_ras": grid.affine.tolist(),
        },
        "classes": [plain_data(label) for label in result.labels.labels],
        "files": sorted(files),
    }


def write_run_json(result: Result, path: str | Path, files: Iterable[str]) -> Path:
    """Write the run record.

    Args:
        result: what was made.
        path: JSON file; its folder must exist.
        files: names of the files written, relative to the folder.

    Returns:
        The path.

    Raises:
        WriteError: `NOT_WRITABLE`, `DISK_FULL`.
    """
    path = Path(path)
    write_json(path, plain_data(run_data(result, files)))
    return path
