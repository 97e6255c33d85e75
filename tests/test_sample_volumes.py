"""The sample volumes are what their README says."""

from __future__ import annotations

import hashlib
import re
import runpy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "sample_volumes"
LISTED = re.findall(
    r"^\| `([\w.]+)` .*`([0-9a-f]{64})` \|$", (FOLDER / "README.md").read_text(), re.MULTILINE
)


def test_every_volume_is_listed() -> None:
    assert {name for name, _ in LISTED} == {path.name for path in FOLDER.glob("*.nii.gz")}


@pytest.mark.parametrize(("name", "digest"), LISTED)
def test_checksum(name: str, digest: str) -> None:
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_the_synthetic_ones_can_be_made_again(tmp_path: Path) -> None:
    script: dict[str, Any] = runpy.run_path(str(FOLDER / "make_samples.py"))
    script["save"].__globals__["FOLDER"] = tmp_path
    script["make_ct"]()
    script["make_spheres"]()
    made = sorted(tmp_path.glob("*.nii.gz"))
    assert len(made) == 3
    for path in made:
        again: Any = nib.load(path)
        kept: Any = nib.load(FOLDER / path.name)
        assert np.array_equal(again.affine, kept.affine)
        assert np.array_equal(np.asarray(again.dataobj), np.asarray(kept.dataobj))


def test_spheres_have_the_volume_of_spheres() -> None:
    image: Any = nib.load(FOLDER / "touching_spheres.nii.gz")
    mm3 = np.count_nonzero(np.asarray(image.dataobj)) * 2.0
    sphere = 4 / 3 * np.pi * 8.0**3
    cap_height = 0.5
    lens = 2 * np.pi * cap_height**2 * (3 * 8.0 - cap_height) / 3
    # Six pairs centre-ring and six neighbours on the ring overlap by a lens each.
    assert mm3 == pytest.approx(7 * sphere - 12 * lens, rel=0.02)
