"""Real DICOM series read by six readers side by side; writes docs/dicom-readers.md.

    python benchmarks/dicom_readers.py DATA [--oracles PYTHON] [--output docs/dicom-readers.md]

DATA is the folder of public series (`dicom/…`, `ct/…`). PYTHON is an interpreter of an environment with
`pip install dicom2nifti dcm2niix`, which stay out of medseg's own; without it these columns are empty.
Every reader runs in a child of its own; one that dies is told, and goes on with the next series.

What is right is decided by what a reader's volume says of each original slice: its values are looked for
among the volume's planes, and the place of the plane that holds them is compared with the place that the
file states. A volume that holds no such plane was interpolated; it is sampled at the slices' pixels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 240
PLACE_MM = 0.01
READERS = ("medseg", "SimpleITK", "MONAI", "highdicom", "dicom2nifti", "dcm2niix")
LEAST_AGREEMENT = 0.6
"""Correlation of a slice with the volume sampled at it; some series are noise, which blurs most."""
_GLANCE = 40
"""Pixels along a side that are compared first."""
FOREIGN = ("dicom2nifti", "dcm2niix")
D2N = "dicom/d2n_small"
SERIES = {
    "CT, plain (JPEG 2000, UIDs emptied)": "ct/example_ct_dicom",
    "CT, gantry tilt -18.5 degrees (Philips)": "dicom/philips_tilt_ct/S2010",
    "CT, tilt and gaps of 1.08 to 7.0 mm (GE)": "dicom/ct_ge_variable_tilt_spacing",
    "CT, gantry tilt, 4 slices (Siemens)": f"{D2N}/failing/gantrytilting/001",
    "CT, one slice missing": f"{D2N}/failing/sliceincrement/001",
    "CT, one slice missing, 0.75 mm": f"{D2N}/failing/sliceincrement/002",
    "CT, four images at one place": f"{D2N}/failing/notavolume/001",
    "CT, 3 slices": "dicom/dcmqi_segmentations/ct-3slice",
    "CT, legacy converted multi-frame": "dicom/dcmqi_segmentations/24x38x3/multiframe",
    "CT, 2 slices beside 3 RTSTRUCT": "dicom/rtstruct_mim_ge_ct",
    "MR, two orientations": f"{D2N}/failing/sliceorientation/001",
    "MR, 2 slices": f"{D2N}/failing/slicecount/001",
    "MR, 15 slices x 10 time points (GE)": "dicom/mr_ge_epi_4d",
    "MR, diffusion, 4 slices x 2 (GE)": f"{D2N}/ge/dti/001",
    "MR, diffusion, 4 slices x 4 (GE)": f"{D2N}/ge/dti/002",
    "MR, mosaic, 5 slices x 2 (Siemens)": "dicom/mr_siemens_mosaic",
    "MR, magnitude and phase (Philips)": f"{D2N}/philips/anatomical/002",
    "MR, implicit encoding (Philips)": f"{D2N}/philips/anatomical/001",
    "MR, Enhanced (Siemens XA30)": "dicom/mr_enh_siemens_xa30_t1",
    "MR, Enhanced, two types, private index (Philips)": "dicom/mr_enh_philips_b0_2types",
    "MR, Enhanced (Philips)": f"{D2N}/philips_enhanced/anatomical/001",
    "MR, Enhanced (Siemens)": f"{D2N}/siemens_multiframe/anatomical/001",
    "MR, Enhanced (Hyperfine)": f"{D2N}/hyperfine/anatomical/001",
    "MR (Hitachi)": f"{D2N}/hitachi/anatomical/001",
    "MR, JPEG 2000": f"{D2N}/generic/compressed_j2k/001",
    "MR, JPEG lossless": f"{D2N}/generic/compressed_jpeg/001",
    "MR, JPEG-LS": f"{D2N}/generic/compressed_jpegls/001",
    "MR, RLE": f"{D2N}/generic/compressed_rle/001",
}
NIFTI_ORACLES = {
    "dicom/mr_siemens_mosaic": "dicom/mr_siemens_mosaic/EPI_PE=AP_3.nii",
    f"{D2N}/generic/compressed_jpeg/001": f"{D2N}/generic/compressed_jpeg/001_ground_truth.nii.gz",
}
"""pydicom alone does not unpack these."""


@dataclass(frozen=True)
class Plane:
    """One original slice: real values `(columns, rows)` and 4x4 (column, row, 0) -> RAS mm."""

    values: np.ndarray
    affine: np.ndarray


# ---------------------------------------------------------------------- what is right


def oracle(data: Path, name: str, files: Path) -> list[Plane]:
    """Every original slice by pydicom and the definitions of PS3.3, or by a reference NIfTI."""
    if name in NIFTI_ORACLES:
        import nibabel

        image: Any = nibabel.load(data / NIFTI_ORACLES[name])
        array = np.asanyarray(image.dataobj)
        array = array.reshape(*array.shape[:3], -1)
        shifts = [image.affine @ _shift(k) for k in range(array.shape[2])]
        return [Plane(array[:, :, k, t], s) for t in range(array.shape[3]) for k, s in enumerate(shifts)]
    planes = []
    for path in sorted(files.iterdir()):
        planes += list(_planes_of(path))
    return planes


def _shift(k: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = k
    return matrix


def _planes_of(path: Path) -> Iterator[Plane]:
    import pydicom

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = dataset.pixel_array
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None:
        yield _plane(dataset, dataset, dataset, dataset, pixels)
        return
    shared = dataset.get("SharedFunctionalGroupsSequence", [pydicom.Dataset()])[0]
    for group, frame in zip(groups, pixels, strict=True):

        def of(name: str, group: Any = group) -> Any:
            found = group.get(name) or shared.get(name)
            return found[0] if found else pydicom.Dataset()

        yield _plane(
            of("PlanePositionSequence"),
            of("PlaneOrientationSequence"),
            of("PixelMeasuresSequence"),
            of("PixelValueTransformationSequence"),
            frame,
        )


def _plane(place: Any, turn: Any, measures: Any, rescale: Any, pixels: np.ndarray) -> Plane:
    affine = np.eye(4)
    direction = np.array(turn.ImageOrientationPatient, float)
    affine[:3, 0] = direction[:3] * float(measures.PixelSpacing[1])
    affine[:3, 1] = direction[3:] * float(measures.PixelSpacing[0])
    affine[:3, 2] = np.cross(direction[:3], direction[3:])
    affine[:3, 3] = np.array(place.ImagePositionPatient, float)
    values = pixels * float(rescale.get("RescaleSlope", 1)) + float(rescale.get("RescaleIntercept", 0))
    return Plane(values.T, np.diag([-1, -1, 1, 1]) @ affine)


def judge(planes: list[Plane], volumes: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """One verdict over all slices; of several volumes the best counts."""
    stacks = []
    for array, affine in volumes:
        wide = array.reshape(*array.shape[:3], -1) if array.ndim >= 3 else array.reshape(*array.shape, 1, 1)
        if abs(np.linalg.det(affine[:3, :3])) > 1e-9:
            stacks += [(wide[..., t], affine) for t in range(wide.shape[3])]
    if not stacks:
        return "WRONG: no place at all"
    errors = np.array([[_place_error(plane, *stack) for plane in planes] for stack in stacks])
    best = errors.min(axis=0)
    if best.max() < PLACE_MM:
        return "right"
    # A volume that holds the slices themselves is judged by their place, one that does not by sampling it.
    for stack, row in zip(stacks, errors, strict=True):
        if np.isfinite(row).mean() < 0.5 and all(_is_in_place(plane, *stack) for plane in planes):
            return "right (resampled)"
    if np.isfinite(best).all():
        return f"WRONG by {best.max():.1f} mm"
    lost = int(np.isinf(best).sum())
    return f"WRONG: {lost} of {len(planes)} slices lost" if lost < len(planes) else "WRONG: values or places"


def _place_error(plane: Plane, array: np.ndarray, affine: np.ndarray) -> float:
    """How far a volume's plane with these values lies from where the slice is, mm; infinite without one."""
    inverse = np.linalg.inv(affine)
    step = inverse[:3, :3] @ plane.affine[:3, :2]
    axes = np.abs(step).argmax(axis=0)
    if axes[0] == axes[1]:
        return float("inf")
    across = 3 - axes[0] - axes[1]
    turned = array.transpose(axes[0], axes[1], across)
    flips = [n for n in range(2) if step[axes[n], n] < 0]
    turned = np.flip(turned, tuple(flips)) if flips else turned
    if turned.shape[:2] != plane.values.shape:
        return float("inf")
    best = float("inf")
    for k in range(turned.shape[2]):
        if not _same(turned[:, :, k], plane.values):
            continue
        index = np.zeros(4)
        index[across], index[3] = k, 1
        for n in flips:
            index[axes[n]] = array.shape[axes[n]] - 1
        best = min(best, float(np.linalg.norm((affine @ index)[:3] - plane.affine[:3, 3])))
    return best


def _same(found: np.ndarray, values: np.ndarray) -> bool:
    """Whether planes are equal; a few of their pixels are compared first."""
    every = tuple(slice(None, None, max(1, n // _GLANCE)) for n in found.shape)
    return _equal(found[every], values[every]) and _equal(found, values)


def _equal(found: np.ndarray, values: np.ndarray) -> bool:
    """Equal, or equal but for one factor: two programs scale Philips data differently."""
    if np.allclose(found, values, rtol=1e-4, atol=1e-5 * (np.ptp(values) or 1)):
        return True
    total = float((values.astype(float) ** 2).sum())
    factor = float((found * values.astype(float)).sum()) / total if total else 0.0
    tolerance = 1e-6 * factor * np.ptp(values)
    return factor > 0 and bool(np.allclose(found, factor * values, rtol=1e-3, atol=tolerance))


def _is_in_place(plane: Plane, array: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a volume, sampled at a slice's pixels, agrees with it there best of all shifts nearby."""
    from scipy.ndimage import map_coordinates

    columns, rows = plane.values.shape
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"))
    points = np.concatenate(
        [grid.reshape(2, -1), np.zeros((1, columns * rows)), np.ones((1, columns * rows))]
    )
    at = (np.linalg.inv(affine) @ plane.affine @ points)[:3]
    inside = ((at > -0.5) & (at < np.array(array.shape)[:, None] - 0.5)).all(axis=0)
    if inside.mean() < 0.9:
        return False
    sampled = map_coordinates(array.astype(np.float32), at, order=1, mode="nearest").reshape(columns, rows)
    shifts = [(a, b) for a in (-2, -1, 0, 1, 2) for b in (-2, -1, 0, 1, 2)]
    core = plane.values[4:-4, 4:-4].astype(np.float64)
    agreement = {s: _correlation(np.roll(sampled, s, (0, 1))[4:-4, 4:-4], core) for s in shifts}
    return agreement[0, 0] > LEAST_AGREEMENT and max(agreement, key=lambda s: agreement[s]) == (0, 0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (np.sqrt((a**2).sum() * (b**2).sum()) or 1))


# ---------------------------------------------------------------------- table


def run_reader(reader: str, python: str, jobs: Path) -> None:
    """Children until every series has an answer."""
    count = len(json.loads(jobs.read_text()))
    for _ in range(count + 1):
        command = [python, str(Path(__file__).with_name("dicom_reader_child.py")), reader, str(jobs)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS * count, check=False)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return


def verdict(answer: Path, planes: list[Plane]) -> str:
    """Judged once; kept beside the answer."""
    known = answer / "verdict"
    if not known.exists() and answer.exists():
        known.write_text(_verdict(answer, planes))
    return known.read_text() if known.exists() else "not run"


def _verdict(answer: Path, planes: list[Plane]) -> str:
    if (answer / "died").exists():
        return "CRASHED"
    volumes = []
    for path in sorted(answer.glob("*.npz")):
        with np.load(path) as stored:
            volumes.append((stored["array"], stored["affine"]))
    if not volumes and (answer / "refused").exists():
        return f"refused ({(answer / 'refused').read_text()})"
    return judge(planes, volumes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("data", type=Path)
    parser.add_argument("--oracles", default="", help="interpreter with dicom2nifti and dcm2niix")
    parser.add_argument("--output", type=Path, default=Path("docs/dicom-readers.md"))
    parser.add_argument(
        "--work", type=Path, help="folder for what readers say; what is there is not read again"
    )
    options = parser.parse_args()
    readers = [r for r in READERS if r not in FOREIGN or options.oracles]
    with tempfile.TemporaryDirectory() as name:
        rows = compare(options.data, readers, options.oracles, options.work or Path(name))
    options.output.write_text(page(readers, rows, versions(readers, options.oracles)))


def compare(data: Path, readers: list[str], foreign: str, work: Path) -> list[tuple[str, list[str]]]:
    """(series, verdict of every reader)."""
    work.mkdir(exist_ok=True)
    folders = {title: work / f"series{n}" for n, title in enumerate(SERIES)}
    for title, series in SERIES.items():
        folders[title].mkdir(exist_ok=True)
        for path in sorted((data / series).iterdir()):
            if path.is_file() and path.read_bytes()[128:132] == b"DICM":
                shutil.copy(path, folders[title] / path.name)
    for reader in readers:
        jobs = work / f"{reader}.json"
        answers = [{"folder": str(f), "answer": str(work / f"{reader}-{f.name}")} for f in folders.values()]
        jobs.write_text(json.dumps(answers))
        run_reader(reader, foreign if reader in FOREIGN else sys.executable, jobs)
    rows = []
    for title, series in SERIES.items():
        planes = oracle(data, series, folders[title])
        told = [verdict(work / f"{r}-{folders[title].name}", planes) for r in readers]
        rows.append((title, told))
        print(title, told, flush=True)
    return rows


def versions(readers: list[str], foreign: str) -> str:
    ask = "from importlib.metadata import version; import sys; print(version(sys.argv[1]))"
    import medseg

    found = [f"medseg {medseg.__version__}"]
    for reader in readers[1:]:
        python = foreign if reader in FOREIGN else sys.executable
        done = subprocess.run([python, "-c", ask, reader], capture_output=True, text=True, check=False)
        found.append(f"{reader} {done.stdout.strip()}".strip())
    return ", ".join(found)


def page(readers: list[str], rows: list[tuple[str, list[str]]], used: str) -> str:
    head = (__doc__ or "").split("\n\n")
    right = [sum(t[n].startswith("right") for _, t in rows) for n in range(len(readers))]
    wrong = [sum(t[n].startswith(("WRONG", "CRASHED")) for _, t in rows) for n in range(len(readers))]
    lines = ["# DICOM series, reader by reader", "", *head[3].splitlines(), ""]
    lines += [f"Generated by `python benchmarks/dicom_readers.py DATA --oracles PYTHON` with {used}.", ""]
    lines += ["| series | " + " | ".join(readers) + " |", "|---" * (len(readers) + 1) + "|"]
    lines += [f"| {title} | " + " | ".join(told) + " |" for title, told in rows]
    lines += [f"| **right** of {len(rows)} | " + " | ".join(map(str, right)) + " |"]
    lines += ["| **wrong** or crashed | " + " | ".join(map(str, wrong)) + " |", ""]
    lines += [
        "`right`: every slice within 0.01 mm of its stated place, values equal. `right (resampled)`: tilted",
        "or uneven slices interpolated to an even grid, anatomy in place. `WRONG by N mm`: the slice that is",
        "farthest from its place. dcm2niix writes several files for an irregular series, among them the",
        "plain stack that is out of place; its best one is judged. A refusal names the error or its code.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
