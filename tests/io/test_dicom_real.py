"""Real series of public data: right by a pydicom oracle and by reference NIfTI, or refused with a reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import ReadError
from medseg.geometry import Geometry
from medseg.io.dicom_series import list_series, read_all, read_series
from medseg.io.dicom_source import DicomVolume, labels_on_slices
from medseg.volume import LabelVolume, Volume

PLACE_MM = 0.01
D2N = "dicom/d2n_small"

REGULAR = {
    "ct/example_ct_dicom": 1,
    "dicom/mr_ge_epi_4d": 10,
    f"{D2N}/failing/slicecount/001": 1,
    f"{D2N}/failing/sliceorientation/001": 2,
    f"{D2N}/ge/dti/001": 2,
    f"{D2N}/ge/dti/001_implicit": 2,
    f"{D2N}/ge/dti/002": 4,
    f"{D2N}/generic/compressed_j2k/001": 1,
    f"{D2N}/generic/compressed_jpegls/001": 1,
    f"{D2N}/generic/compressed_rle/001": 1,
    f"{D2N}/hitachi/anatomical/001": 1,
    f"{D2N}/hitachi/anatomical/001_implicit": 1,
    f"{D2N}/philips/anatomical/001": 1,
    f"{D2N}/philips/anatomical/001_implicit": 1,
    f"{D2N}/philips/anatomical/002": 2,
    "dicom/dcmqi_segmentations/23x38x3/image": 1,
    "dicom/dcmqi_segmentations/24x38x3/image": 1,
    "dicom/dcmqi_segmentations/ct-3slice": 1,
    "dicom/rtstruct_mim_ge_ct": 1,
}
"""Single-frame series that lie as a grid -> number of volumes."""

REFUSED = {
    f"{D2N}/failing/notavolume/001": "NOT_A_VOLUME",
    f"{D2N}/failing/sliceincrement/001": "MISSING_SLICES",
    f"{D2N}/failing/sliceincrement/002": "MISSING_SLICES",
    f"{D2N}/generic/rgb/001": "COLOUR",
    "dicom/philips_tilt_ct/S1000": "LOCALIZER",
    "dicom/philips_tilt_ct/S4010": "NO_SERIES",
    "dicom/wg04_compressed": "NO_SERIES",
}

REFERENCES = {
    **{
        f"{D2N}/{name}": f"{D2N}/{name}_ground_truth.nii.gz"
        for name in (
            "failing/slicecount/001",
            "ge/dti/001",
            "ge/dti/001_implicit",
            "ge/dti/002",
            "generic/compressed_j2k/001",
            "generic/compressed_jpeg/001",
            "generic/compressed_jpegls/001",
            "generic/compressed_rle/001",
            "hitachi/anatomical/001",
            "hitachi/anatomical/001_implicit",
            "hyperfine/anatomical/001",
            "philips/anatomical/001",
            "philips/anatomical/001_implicit",
            "philips_enhanced/anatomical/001",
            "philips_enhanced/anatomical/001_implicit",
            "siemens_multiframe/anatomical/001",
        )
    },
    "dicom/mr_ge_epi_4d": "dicom/mr_ge_epi_4d/DCM2NIIX_regression_test_4.nii",
    "dicom/mr_siemens_mosaic": "dicom/mr_siemens_mosaic/EPI_PE=AP_3.nii",
    "dicom/mr_enh_siemens_xa30_t1": "dicom/mr_enh_siemens_xa30_t1/5_anat-T1w_acq-tfl.nii",
}
"""Folder -> what dicom2nifti or dcm2niix made of it."""


def quiet_volumes(path: Path) -> list[DicomVolume]:
    with warnings.catch_warnings():
        # What was passed over or assumed is told by notices; here only the volumes count.
        warnings.simplefilter("ignore")
        return list(read_all(path))


def images_of(path: Path) -> Iterable[Any]:
    import pydicom

    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix not in (".nii", ".gz", ".json"):
            dataset = pydicom.dcmread(file)
            if "PixelData" in dataset:
                yield dataset


def decoded(dataset: Any) -> np.ndarray:
    with warnings.catch_warnings():
        # The phantoms of one set carry more bytes than their headers say.
        warnings.simplefilter("ignore")
        return np.asarray(dataset.pixel_array)


@pytest.mark.parametrize("folder", REGULAR)
def test_every_pixel_is_at_its_place_with_its_value(folder: str, shared_data: Path) -> None:
    volumes = quiet_volumes(shared_data / folder)
    assert len(volumes) == REGULAR[folder]
    seen = 0
    for dataset in images_of(shared_data / folder):
        name = dataset.SOPInstanceUID or dataset.file_meta.MediaStorageSOPInstanceUID
        owners = [v for v in volumes if name in [s.sop_instance_uid for s in v.dicom.slices]]  # type: ignore[union-attr]  # read from DICOM
        assert len(owners) == 1
        volume = owners[0]
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        pixels = (decoded(dataset) * slope + intercept).astype(np.float32)
        rows, columns = pixels.shape
        turn = np.array(dataset.ImageOrientationPatient, float)
        row, column = np.meshgrid([0, rows - 1], [0, columns - 1], indexing="ij")
        lps = (
            np.array(dataset.ImagePositionPatient, float)
            + column[..., None] * turn[:3] * float(dataset.PixelSpacing[1])
            + row[..., None] * turn[3:] * float(dataset.PixelSpacing[0])
        )
        index = volume.geometry.to_index(lps * (-1, -1, 1))
        off = np.abs(index - np.round(index)) * volume.geometry.spacing_mm
        assert off.max() < PLACE_MM
        k = int(np.round(index[0, 0, 2]))
        assert np.array_equal(volume.array[:, :, k].T.astype(np.float32), pixels)
        seen += 1
    assert seen == sum(len(v.dicom.slices) for v in volumes if v.dicom)


@pytest.mark.parametrize("folder", REFUSED)
def test_what_cannot_be_right_is_refused(folder: str, shared_data: Path) -> None:
    with pytest.raises(ReadError) as caught:
        quiet_volumes(shared_data / folder)
    assert caught.value.code == REFUSED[folder]
    assert not any(info.readable for info in list_series(shared_data / folder))


@pytest.mark.parametrize("folder", REFERENCES)
def test_voxels_equal_the_reference_nifti(folder: str, shared_data: Path) -> None:
    import nibabel

    reference: Any = nibabel.load(shared_data / REFERENCES[folder])
    data = np.asanyarray(reference.dataobj)
    data = data.reshape(*data.shape[:3], -1)
    volumes = quiet_volumes(shared_data / folder)
    assert len(volumes) == data.shape[3]
    for t, volume in enumerate(volumes):
        there = Volume(data[..., t], Geometry(data.shape[:3], reference.affine)).reorient("RAS")
        here = volume.reorient("RAS")
        assert np.abs(here.geometry.affine - there.geometry.affine).max() < 1e-3
        # Two references were scaled in float64 and stored as float32.
        assert np.allclose(here.array, there.array, rtol=1e-6, atol=0)


def test_a_philips_field_map_and_its_magnitude(shared_data: Path) -> None:
    """dcm2niix scales the magnitude by Philips' private slope; the ratio of the two is one number."""
    import nibabel

    folder = shared_data / "dicom/mr_enh_philips_b0_2types"
    magnitude, field = quiet_volumes(folder)
    found = nibabel.as_closest_canonical(nibabel.load(folder / "Philips_WIP_B0_NS_801_e1.nii")).get_fdata()
    mine = magnitude.reorient("RAS").array
    ratio = found[mine > 10] / mine[mine > 10]
    assert np.ptp(ratio) < 1e-6 * ratio.mean()
    hertz = nibabel.as_closest_canonical(nibabel.load(folder / "Philips_WIP_B0_NS_801_e2_fieldmaphz.nii"))
    assert np.allclose(field.reorient("RAS").array, hertz.get_fdata(), atol=0.01)


@pytest.mark.parametrize(
    ("folder", "kind", "count"),
    [
        ("dicom/philips_tilt_ct/S2010", "tilted", 54),
        ("dicom/ct_ge_variable_tilt_spacing", "variable", 28),
        (f"{D2N}/failing/gantrytilting/001", "tilted", 4),
    ],
)
def test_irregular_ct_keeps_every_slice_in_place(
    folder: str, kind: str, count: int, shared_data: Path
) -> None:
    """The record holds each original slice at the place that its header states."""
    with warnings.catch_warnings():
        # That it was resampled is asserted below.
        warnings.simplefilter("ignore")
        volume = read_series(shared_data / folder)
    assert volume.dicom is not None
    assert (volume.dicom.geometry_class, len(volume.dicom.slices)) == (kind, count)
    assert volume.geometry.is_orthogonal
    with pytest.raises(ReadError) as caught:
        read_series(shared_data / folder, irregular="reject")
    assert caught.value.code == "IRREGULAR"
    stated = {
        str(d.SOPInstanceUID): np.array(d.ImagePositionPatient, float)
        for d in images_of(shared_data / folder)
    }
    for plane in volume.dicom.slices:
        assert np.abs(np.array(plane.position_mm) - stated[plane.sop_instance_uid]).max() < PLACE_MM


@pytest.mark.parametrize("folder", ["dicom/philips_tilt_ct/S2010", "dicom/ct_ge_variable_tilt_spacing"])
def test_labels_of_an_upright_ct_go_back_onto_the_slices(folder: str, shared_data: Path) -> None:
    """Bone by threshold, once on the slices and once on the volume and carried back, is the same bone."""
    with warnings.catch_warnings():
        # That it was resampled is known.
        warnings.simplefilter("ignore")
        volume = read_series(shared_data / folder)
    assert volume.dicom is not None
    bone = LabelVolume((volume.array > 250).astype(np.uint8), volume.geometry)
    back = labels_on_slices(bone, volume.dicom).astype(bool)
    by_name = {str(d.SOPInstanceUID): d for d in images_of(shared_data / folder)}
    direct = np.stack(
        [
            decoded(d) * float(d.RescaleSlope) + float(d.RescaleIntercept) > 250
            for d in (by_name[s.sop_instance_uid] for s in volume.dicom.slices)
        ]
    )
    assert back.shape == direct.shape
    assert direct.sum() > 10_000
    assert 2 * (back & direct).sum() / (back.sum() + direct.sum()) > 0.93


@pytest.mark.parametrize("image", ["CT1", "MR1", "MR2"])
def test_all_decoders_agree_on_the_nema_set(image: str, shared_data: Path) -> None:
    """Lossless encodings give one image; lossy ones, 12-bit JPEG among them, come close to it."""
    folder = shared_data / "dicom/wg04_compressed"
    found = {path.name.split("_")[1]: stored_values(path) for path in sorted(folder.glob(f"{image}_*"))}
    exact = found.pop("RLE")
    lossless = [found.pop(kind) for kind in ("J2KR", "JLSL", "JPLL")]
    assert all(np.array_equal(values, exact) for values in lossless)
    assert len(found) == (2 if image == "CT1" else 3)
    for values in found.values():
        assert np.abs(values.astype(int) - exact).mean() < 0.01 * np.ptp(exact)


def stored_values(path: Path) -> np.ndarray:
    """Stored values of a single image, which alone is no volume."""
    from medseg.io.dicom_archive import SourceReader
    from medseg.io.dicom_pixels import stored_planes
    from medseg.io.dicom_scan import scan

    (header,) = scan(path).headers
    with SourceReader() as reader:
        (values,) = stored_planes(reader, header, header.planes)
    return np.asarray(values)


def test_set_asides_have_their_reason(shared_data: Path) -> None:
    infos = list_series(shared_data / "dicom/philips_tilt_ct")
    assert [i.code for i in infos] == ["LOCALIZER", "", "SECONDARY_CAPTURE", "COLOUR"]
    infos = list_series(shared_data / "dicom/rtstruct_mim_ge_ct")
    assert sorted(i.code for i in infos) == ["", "NOT_AN_IMAGE", "NOT_AN_IMAGE"]
    infos = list_series(shared_data / "dicom/dcmqi_segmentations")
    assert {i.code for i in infos if i.modality == "SEG"} == {"SEGMENTATION"}


def test_a_tree_of_all_sets_is_listed_whole(shared_data: Path) -> None:
    """All files of all sets appear in the list or are no DICOM objects."""
    from medseg.io.dicom_scan import scan

    infos = list_series(shared_data / "dicom")
    found = scan(shared_data / "dicom")
    assert sum(i.files for i in infos) == len(found.headers)
    files = sum(1 for p in (shared_data / "dicom").rglob("*") if p.is_file() and not p.is_symlink())
    assert len(found.headers) + sum(found.skipped.values()) == files
