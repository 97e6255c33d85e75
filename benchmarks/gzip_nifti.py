"""How fast a packed NIfTI is read and written, by nibabel and by medseg, in one run.

    python benchmarks/gzip_nifti.py [scan.nii.gz]

Without a file: a CT-like volume (noise on a smooth body) and its label map. Prints process seconds
(best of three), bytes, and ratios; both programs write the same voxels, which is checked.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medseg.geometry import Geometry
from medseg.io import nifti
from medseg.volume import Volume

SHAPE = (256, 256, 200)


def a_body() -> Volume:
    random = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    inside = (grid**2).sum(axis=0) < 0.7
    array = np.where(inside, 40 + random.normal(0, 15, SHAPE), -1000).astype(np.int16, order="F")
    return Volume(array, Geometry.from_spacing(SHAPE, (0.8, 0.8, 1.5)))


def a_label_map() -> Volume:
    coarse = np.random.default_rng(2).integers(0, 30, [n // 20 + 1 for n in SHAPE])
    array = coarse.repeat(20, 0).repeat(20, 1).repeat(20, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return Volume(np.asfortranarray(array.astype(np.uint8)), Geometry.from_spacing(SHAPE))


def best_of_three(work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(3):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def compare(name: str, volume: Volume, folder: Path) -> None:
    theirs, ours = folder / "nibabel.nii.gz", folder / "medseg.nii.gz"
    image = nib.Nifti1Image(volume.array, volume.geometry.affine)
    write = (
        best_of_three(lambda: nib.save(image, theirs)),
        best_of_three(lambda: nifti.write_volume(volume, ours)),
    )
    loaded: Any = nib.load(ours)
    assert np.array_equal(np.asarray(loaded.dataobj), volume.array)
    assert np.array_equal(nifti.read_volume(theirs).array, volume.array)

    def read_by_nibabel() -> Any:
        again: Any = nib.load(theirs)
        return np.asarray(again.dataobj)

    read = best_of_three(read_by_nibabel), best_of_three(lambda: nifti.read_volume(theirs))
    sizes = theirs.stat().st_size, ours.stat().st_size
    print(f"{name}: {volume.array.nbytes / 1e6:.0f} MB, {volume.array.dtype}")
    for what, (a, b) in (("write", write), ("read", read)):
        print(f"  {what:5}  nibabel {a:6.3f} s   medseg {b:6.3f} s   ratio {a / b:5.2f}")
    a, b = (size / 1e6 for size in sizes)
    print(f"  file   nibabel {a:6.2f} MB  medseg {b:6.2f} MB  ratio {a / b:5.2f}")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        if len(sys.argv) > 1:
            compare("file", nifti.read_volume(Path(sys.argv[1])), Path(name))
            return
        compare("body", a_body(), Path(name))
        compare("label map", a_label_map(), Path(name))


if __name__ == "__main__":
    main()
