"""The page stands alone, tells what was measured, and runs nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from phantoms import Sphere, label_map, linear_ramp

from medseg.export.report import report_page, write_report
from medseg.geometry import Geometry
from medseg.measure.regions import measure_regions
from medseg.measure.shape import measure_shapes
from medseg.result import Result, RunRecord
from medseg.volume import InstanceVolume, LabelVolume

GRID = Geometry.from_spacing((30, 28, 26))
HOSTILE = "<script>alert(1)</script>"
LABELS = label_map(GRID, {HOSTILE: Sphere((10, 12, 13), 8), "liver": Sphere((22, 20, 13), 5)})
OBJECTS = InstanceVolume(LABELS.array, GRID, LABELS.labels, classes={1: 1, 2: 2})
RECORD = RunRecord(
    input_name="t1.nii.gz",
    model="brain-mri",
    model_version="0.1",
    settings={"InferenceSettings": {"overlap_fraction": 0.5}},
    seconds={"segment": 2.0},
    peak_memory_bytes=2**31,
    warnings=("thick slices",),
    started="2026-01-02T03:04:05+00:00",
)
REGIONS = measure_regions(LABELS, linear_ramp(GRID)) + measure_regions(OBJECTS)
RESULT = Result(LABELS, OBJECTS, REGIONS, RECORD, linear_ramp(GRID))


class Outline(HTMLParser):
    """Tags, links and text of a page; every tag that opens must close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    assert parser.open == []
    return parser


def test_page_is_well_formed_and_stands_alone(tmp_path: Path) -> None:
    path = write_report(RESULT, tmp_path / "report.html", measure_shapes(OBJECTS))
    page = outline(path.read_text(encoding="utf-8"))
    assert "script" not in page.seen
    assert len(page.links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    text = " ".join(page.text)
    for words in ("liver", "brain-mri 0.1", "thick slices", "2.00 GiB", "overlap_fraction 0.5", HOSTILE):
        assert words in text
    assert "2026-01-02 03:04:05 UTC" in text
    assert "2 structures" in text
    assert "2 separated objects" in text
    assert "Not a medical device" in text


def test_volumes_in_the_page_are_those_of_the_regions() -> None:
    text = outline(report_page(RESULT, {})).text
    assert f"{REGIONS[1].volume_ml:.4g}" in text


def test_empty_result_and_bare_record_make_a_page() -> None:
    empty = Result(LabelVolume(np.zeros(GRID.shape, np.uint8), GRID))
    text = " ".join(outline(report_page(empty, {})).text)
    assert "Nothing was found." in text
    assert "model" not in re.sub(r"[^a-z]", " ", text.replace("model SHA-256", "")).split()


@pytest.mark.parametrize(("scale", "unit"), [(1.0, "ml"), (0.05, "mm³"), (0.0005, "µm³")])
def test_volumes_have_a_unit_that_reads_well(scale: float, unit: str) -> None:
    grid = Geometry.from_spacing(GRID.shape, (scale, scale, scale))
    labels = LabelVolume(LABELS.array, grid, LABELS.labels)
    result = replace(RESULT, labels=labels, instances=None, regions=measure_regions(labels), image=None)
    assert f"volume {unit}" in outline(report_page(result, {})).text
