"""Make the synthetic sample volumes again, voxel for voxel: `python sample_volumes/make_samples.py`.

`colin27_t1.nii.gz` is a real scan and is not made here; see README.md.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).resolve().parent
Points = npt.NDArray[np.float64]


def world_positions(shape: tuple[int, int, int], affine: Points) -> Points:
    """Centre of every voxel, `(i, j, k, 3)`, RAS mm."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    positions: Points = index @ affine[:3, :3].T + affine[:3, 3]
    return positions


def inside_ellipsoid(
    points: Points, centre_mm: tuple[float, ...], radii_mm: tuple[float, ...]
) -> npt.NDArray[np.bool_]:
    """Whether each point lies in an axis-parallel ellipsoid."""
    distance = ((points - np.array(centre_mm)) / np.array(radii_mm)) ** 2
    return np.asarray(distance.sum(-1) <= 1)


def save(name: str, array: npt.NDArray[np.generic], affine: Points) -> None:
    """Write a NIfTI whose bytes depend on its content alone."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with (FOLDER / name).open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(image.to_bytes())


def make_ct() -> None:
    """An abdomen-like CT: body, two kidneys, liver, spine, three liver lesions; 2 x 2 x 3 mm."""
    shape = (120, 90, 50)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-119.0, -89.0, -73.5)
    points = world_positions(shape, affine)
    organs = {
        1: ("body", 0, (0, 0, 0), (112, 82, 400)),
        2: ("liver", 60, (50, 10, 20), (48, 52, 45)),
        3: ("left kidney", 35, (-48, -30, -5), (20, 18, 48)),
        4: ("right kidney", 35, (50, -48, -38), (18, 16, 30)),
        5: ("spine", 400, (0, -50, 0), (16, 16, 400)),
        6: ("lesion", 20, (40, 20, 30), (8, 8, 8)),
    }
    hounsfield = np.full(shape, -1000.0)
    labels = np.zeros(shape, np.uint8)
    for label, (_, value, centre, radii) in organs.items():
        mask = inside_ellipsoid(points, centre, radii)
        hounsfield[mask], labels[mask] = value, label
    for centre, radius in (((62, 0, 10), 6.0), ((55, 30, 5), 4.5)):
        mask = inside_ellipsoid(points, centre, (radius, radius, radius))
        hounsfield[mask], labels[mask] = 20, 6
    noise = np.random.default_rng(27).normal(0, 12, shape)
    save("phantom_ct.nii.gz", (np.round((hounsfield + noise) / 4) * 4).astype(np.int16), affine)
    save("phantom_ct_labels.nii.gz", labels, affine)


def make_spheres() -> None:
    """Seven spheres of 8 mm radius that touch in a ring about one; 1 x 1 x 2 mm, one class."""
    shape = (72, 72, 24)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-35.5, -35.5, -23.0)
    points = world_positions(shape, affine)
    angles = np.arange(6) * np.pi / 3
    centres = [(0.0, 0.0, 0.0)] + [(15.0 * np.cos(a), 15.0 * np.sin(a), 0.0) for a in angles]
    labels = np.zeros(shape, np.uint8)
    for centre in centres:
        labels[inside_ellipsoid(points, centre, (8.0, 8.0, 8.0))] = 1
    save("touching_spheres.nii.gz", labels, affine)


if __name__ == "__main__":
    make_ct()
    make_spheres()
