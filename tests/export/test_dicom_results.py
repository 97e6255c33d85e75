"""A result of a DICOM series saved in every DICOM kind: real scans, tilted, uneven, enhanced, mosaic, 4D."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_makers import complaints

from medseg.io.dicom_rtstruct_reader import read_dicom_rtstruct
from medseg.io.dicom_seg_reader import read_dicom_seg
from medseg.io.dicom_series import read_all
from medseg.io.dicom_source import DicomVolume, labels_on_slices
from medseg.labels import LabelSet
from medseg.result import Result
from medseg.volume import LabelVolume

KINDS = ("dicom-seg", "dicom-seg-labelmap", "rtstruct", "sr")
FILES = ("segmentation.dcm", "segmentation_labelmap.dcm", "rtstruct.dcm", "report.dcm")
SERIES = {
    "philips_tilt_ct": ("dicom/philips_tilt_ct", 54),
    "ge tilted and uneven": ("dicom/ct_ge_variable_tilt_spacing", 28),
    "siemens mosaic": ("dicom/mr_siemens_mosaic", 5),
    "siemens enhanced": ("dicom/mr_enh_siemens_xa30_t1", 96),
    "philips enhanced, private index": ("dicom/mr_enh_philips_b0_2types", 32),
    "ge 4d": ("dicom/mr_ge_epi_4d", 15),
    "ge ct of dcmqi": ("dicom/dcmqi_segmentations/ct-3slice", 3),
}


def two_balls(volume: DicomVolume) -> LabelVolume:
    """Two balls in voxels, one with a hollow."""
    array = np.zeros(volume.geometry.shape, dtype=np.uint8)
    for label, place in ((1, 0.35), (2, 0.65)):
        along = [((np.arange(n) - place * n) / (0.22 * n + 0.6)) ** 2 for n in array.shape]
        away = np.sqrt(sum(np.ix_(*along)[axis].astype(np.float32) for axis in range(3)))
        array[(away < 1) & ((away > 0.4) | (label == 1))] = label
    return LabelVolume(array, volume.geometry, LabelSet.from_names({1: "left thalamus", 2: "skull"}))


@pytest.mark.filterwarnings("ignore::medseg.io.notices.ReadNotice")  # tilted series are resampled
@pytest.mark.parametrize("name", SERIES)
def test_a_result_of_a_real_series(name: str, shared_data: Path, tmp_path: Path) -> None:
    place, slices = SERIES[name]
    volume = next(v for v in read_all(shared_data / place) if v.dicom and len(v.dicom.slices) == slices)
    source = volume.dicom
    assert source is not None
    labels = two_balls(volume)
    folder = Result(labels, image=volume).save(tmp_path / "out", export=KINDS)
    for file in FILES:
        assert complaints(folder / file) == [], file
    planes = labels_on_slices(labels, source)
    label_map = pydicom.dcmread(folder / "segmentation_labelmap.dcm")
    assert label_map.NumberOfFrames == slices
    frames = dict.fromkeys((s.sop_instance_uid, s.frame, s.position_mm) for s in source.slices)
    order = {key: n for n, key in enumerate(frames)}
    for groups, frame in zip(
        label_map.PerFrameFunctionalGroupsSequence,
        label_map.pixel_array.reshape(-1, source.rows, source.columns),
        strict=True,
    ):
        image = groups.DerivationImageSequence[0].SourceImageSequence[0]
        at = np.array([float(x) for x in groups.PlanePositionSequence[0].ImagePositionPatient])
        key = next(
            k
            for k in order
            if k[0] == image.ReferencedSOPInstanceUID
            and k[1] == int(image.get("ReferencedFrameNumber", 0))
            and np.abs(at - k[2]).max() < 1e-4
        )
        assert np.array_equal(frame, planes[order[key]])
    onto_slices = (
        read_dicom_seg(folder / FILES[0], grid=source),
        read_dicom_rtstruct(folder / FILES[2], grid=source),
    )
    for back in onto_slices:
        assert back.geometry is source.grid
        assert np.array_equal(labels_on_slices(back, source), planes), "the way there, back and there again"
    if not source.resampled:
        for file in FILES[:2]:
            assert np.array_equal(read_dicom_seg(folder / file, grid=volume.geometry).array, labels.array)
        back = read_dicom_rtstruct(folder / "rtstruct.dcm", grid=volume.geometry)
        assert np.array_equal(back.array, labels.array)
