"""Six readers of DICOM series, one per process: `dicom_readers.py` starts this with a list of folders.

python benchmarks/dicom_reader_child.py READER JOBS.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 240


def read_medseg(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import medseg

    for volume in medseg.read_all(folder):
        yield volume.array, volume.geometry.affine


def read_simpleitk(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import SimpleITK as sitk

    reader = sitk.ImageSeriesReader()
    for series in reader.GetGDCMSeriesIDs(str(folder)):
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series))
        image = reader.Execute()
        affine = np.eye(4)
        directions = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:3, :3]
        affine[:3, :3] = directions * image.GetSpacing()[:3]
        affine[:3, 3] = image.GetOrigin()[:3]
        yield sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def read_monai(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from monai.transforms.io.array import LoadImage

    image = LoadImage(reader="PydicomReader", image_only=True)(folder)
    yield np.asarray(image), np.asarray(image.affine)


def read_highdicom(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import highdicom
    import pydicom

    datasets = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    if all("NumberOfFrames" in d and d.NumberOfFrames > 1 for d in datasets):
        volumes = [highdicom.imread(path).get_volume() for path in sorted(folder.iterdir())]
    else:
        volumes = [highdicom.get_volume_from_series(datasets)]
    for volume in volumes:
        yield volume.array, np.diag([-1, -1, 1, 1]) @ volume.affine


def _nifti_files(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    import nibabel

    for path in sorted([*folder.rglob("*.nii"), *folder.rglob("*.nii.gz")]):
        image: Any = nibabel.load(path)
        yield np.asanyarray(image.dataobj), image.affine


def read_dicom2nifti(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    from dicom2nifti import convert_dicom

    with tempfile.TemporaryDirectory() as name:
        convert_dicom.dicom_series_to_nifti(str(folder), f"{name}/image.nii.gz", reorient_nifti=False)
        yield from _nifti_files(Path(name))


def read_dcm2niix(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    program = Path(sys.executable).with_name("dcm2niix")
    with tempfile.TemporaryDirectory() as name:
        command = [str(program), "-z", "n", "-b", "n", "-o", name, str(folder)]
        subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
        found = list(_nifti_files(Path(name)))
    if not found:
        raise RuntimeError("dcm2niix wrote nothing")
    yield from found


def child(reader: str, jobs: Path) -> None:
    """Read every series of a job file that has no answer yet."""
    read = globals()[f"read_{reader.lower()}"]
    for job in json.loads(jobs.read_text()):
        place = Path(job["answer"])
        if place.exists():
            continue
        place.mkdir()
        (place / "died").touch()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for n, (array, affine) in enumerate(read(Path(job["folder"]))):
                    np.savez(place / f"{n}.npz", array=array, affine=affine)
        except Exception as error:  # noqa: BLE001  another program's refusal, whatever it is
            words = getattr(error, "code", "") or f"{type(error).__name__}"
            (place / "refused").write_text(words)
        (place / "died").unlink()


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2]))
