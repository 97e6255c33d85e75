"""Structure sets of others and damaged ones: filled on the grid of their images, or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import PATIENT, SOURCES, kidneys, make_source
from pydicom.dataset import Dataset
from pydicom.uid import UID

from medseg.errors import ReadError
from medseg.export.contours import area
from medseg.export.dicom_rtstruct import write_dicom_rtstruct
from medseg.geometry import Geometry
from medseg.io.dicom_rtstruct_reader import filled, read_dicom_rtstruct
from medseg.io.dicom_series import read_series
from medseg.io.dicom_source import DicomSource
from medseg.io.notices import ReadNotice


@pytest.fixture
def source(tmp_path: Path) -> DicomSource:
    return make_source(tmp_path / "source", **SOURCES["ct"])


@pytest.fixture
def path(source: DicomSource, tmp_path: Path) -> Path:
    return write_dicom_rtstruct(kidneys(source), source, tmp_path / "rt.dcm")


def changed(path: Path, change: Callable[[Dataset], None]) -> Path:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)
    return path


def test_structure_sets_of_a_planning_system(shared_data: Path) -> None:
    """MIM drew a ring by two contours; others on a longer series, and what lies off ours is not lost."""
    folder = shared_data / "dicom" / "rtstruct_mim_ge_ct"
    volume = read_series(folder)
    back = read_dicom_rtstruct(folder / "rt.dcm", grid=volume.geometry)
    contours = pydicom.dcmread(folder / "rt.dcm").ROIContourSequence[0].ContourSequence
    drawn = [np.array([float(x) for x in c.ContourData]).reshape(-1, 3)[:, :2] for c in contours]
    pixel = volume.geometry.spacing_mm[0] * volume.geometry.spacing_mm[1]
    outer, hole = sorted((area(points) for points in drawn), reverse=True)
    assert back.array.sum() * pixel == pytest.approx(outer - hole, rel=0.03)
    inside = volume.geometry.to_world(np.argwhere(back.array))
    assert np.allclose(inside[:, 2], 60.0)
    low, high = np.min([d.min(axis=0) for d in drawn], axis=0), np.max([d.max(axis=0) for d in drawn], axis=0)
    assert (-inside[:, :2] >= low).all()
    assert (-inside[:, :2] <= high).all()
    for other in ("invalid_reference_rt.dcm", "non_existent_reference_rt.dcm"):
        with pytest.raises(ReadError) as caught:
            read_dicom_rtstruct(folder / other, grid=volume.geometry, only=(1,))
        assert caught.value.code == "OFF_GRID"


def test_a_square_is_filled_where_it_is_drawn(source: DicomSource, path: Path) -> None:
    """Corners at pixel centres 4..9 of slice 2, drawn as another system would: through the centres."""
    plane = source.slices[2]

    def square(data: Dataset) -> None:
        contour = data.ROIContourSequence[0].ContourSequence[0]
        corners = np.array([(3.6, 4.6), (9.4, 4.6), (9.4, 8.4), (3.6, 8.4)])
        points = np.array(plane.position_mm) + np.column_stack([corners * (1.25, 0.75), np.zeros(4)])
        contour.ContourData = [f"{x:.3f}" for x in points.ravel()]
        data.ROIContourSequence[0].ContourSequence = [contour]
        for roi in data.ROIContourSequence[1:]:
            del roi.ContourSequence

    back = read_dicom_rtstruct(changed(path, square), grid=source.grid)
    expected = np.zeros(source.grid.shape, dtype=bool)
    expected[4:10, 5:9, 2] = True
    assert np.array_equal(back.array == 1, expected)
    assert back.present_ids() == (1,)


def test_separate_inner_contours_are_holes() -> None:
    outer = np.array([(0.5, 0.5), (0.5, 8.5), (8.5, 8.5), (8.5, 0.5)])
    inner = np.array([(2.5, 2.5), (2.5, 5.5), (5.5, 5.5), (5.5, 2.5)])
    expected = np.zeros((10, 10), dtype=bool)
    expected[1:9, 1:9] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(filled([outer, inner], (10, 10)), expected)


def test_chosen_regions_and_overlap(source: DicomSource, path: Path) -> None:
    labels = kidneys(source)
    one = read_dicom_rtstruct(path, grid=source.grid, only=("lesion",))
    assert np.array_equal(one.array == 2, labels.array == 7)

    def same_twice(data: Dataset) -> None:
        data.ROIContourSequence[1].ContourSequence = data.ROIContourSequence[0].ContourSequence

    with pytest.raises(ReadError) as caught:
        read_dicom_rtstruct(changed(path, same_twice), grid=source.grid)
    assert caught.value.code == "SEGMENTS_OVERLAP"


def _no_numbers(data: Dataset) -> None:
    del data.StructureSetROISequence[0].ROINumber


def _number_twice(data: Dataset) -> None:
    for item in data.StructureSetROISequence:
        item.ROINumber = 1


def _no_text(data: Dataset) -> None:
    contour = data.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = contour.ContourData[:-1]


def _off_plane(data: Dataset) -> None:
    contour = data.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = [float(x) + 0.9 for x in contour.ContourData]


def _another_kind(data: Dataset) -> None:
    data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_no_numbers, "BAD_STRUCTURE_SET"),
        (_number_twice, "BAD_STRUCTURE_SET"),
        (_no_text, "BAD_CONTOUR"),
        (_off_plane, "OFF_GRID"),
        (_another_kind, "NOT_A_STRUCTURE_SET"),
    ],
)
def test_damage_is_refused(
    change: Callable[[Dataset], None], code: str, source: DicomSource, path: Path
) -> None:
    with pytest.raises(ReadError) as caught:
        read_dicom_rtstruct(changed(path, change), grid=source.grid)
    assert caught.value.code == code
    assert not any(value in str(caught.value) for value in PATIENT.values())


@pytest.mark.parametrize("text", [b"nan", b"inf", b"abc", b"1e999"])
def test_coordinates_that_are_no_numbers_are_refused(text: bytes, source: DicomSource, path: Path) -> None:
    data = path.read_bytes()
    where = data.index(b"CLOSED_PLANAR")
    start = data.index(b"-", where)
    path.write_bytes(data[:start] + text.ljust(len(text)) + data[start + len(text) :])
    with pytest.raises(ReadError) as caught:
        read_dicom_rtstruct(path, grid=source.grid)
    assert caught.value.code == "BAD_CONTOUR"


def test_truncated_and_foreign_files_are_refused(source: DicomSource, path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM")
    for wrong in (path, text):
        with pytest.raises(ReadError) as caught:
            read_dicom_rtstruct(wrong, grid=source.grid)
        assert caught.value.code in ("TRUNCATED", "NOT_DICOM")


def test_points_enclose_nothing_and_are_told(source: DicomSource, path: Path) -> None:
    def a_point(data: Dataset) -> None:
        contour = data.ROIContourSequence[0].ContourSequence[0]
        contour.ContourGeometricType, contour.NumberOfContourPoints = "POINT", 1
        contour.ContourData = contour.ContourData[:3]

    with pytest.warns(ReadNotice, match="OPEN_CONTOUR"):
        read_dicom_rtstruct(changed(path, a_point), grid=source.grid)


def test_another_grid_is_refused(source: DicomSource, path: Path) -> None:
    for grid in (Geometry.from_spacing((10, 10, 10)), source.grid.crop((0, 0, 0), (32, 24, 3))):
        with pytest.raises(ReadError) as caught:
            read_dicom_rtstruct(path, grid=grid)
        assert caught.value.code == "OFF_GRID"
