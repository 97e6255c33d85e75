"""`CropForegroundd` in a recipe looks at the box that MONAI looks at, wherever the step stands.

The network sees another box as soon as one voxel is cropped otherwise, so labels tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from zoo_bundles import monai_run, write_zoo_bundle, zoo_recipe

from medseg.errors import ModelError
from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.io.formats import read_volume
from medseg.models.bundle import read_bundle
from medseg.models.loading import load_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MONAI on its own arguments and on numpy
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # MONAI on its own defaults
    pytest.mark.filterwarnings("ignore::UserWarning"),  # MONAI's LoadImage, Orientation, Invert
]

NAME = "spleen_ct_segmentation"
SHAPE = (33, 29, 25)


def crop(**more: Any) -> dict[str, Any]:
    return {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", **more}


def preprocessing(step: dict[str, Any], *, is_first: bool) -> dict[str, Any]:
    """The published steps with a crop after loading, or at the end."""
    steps = [
        one for one in zoo_recipe(NAME)["preprocessing"]["transforms"] if "Ensured" not in one["_target_"]
    ]
    kinds = [one["_target_"] for one in steps]
    at = kinds.index("EnsureChannelFirstd") + 1 if is_first else len(steps)
    return {"_target_": "Compose", "transforms": [*steps[:at], step, *steps[at:]]}


def write_scan(file: Path, inner: tuple[slice, slice, slice]) -> Path:
    """Noise of tissue inside of a box, and air of -1000 outside; oblique to no axis."""
    geometry = Geometry.from_spacing(SHAPE, (1.37, 1.21, 2.3)).reorient("LPS")
    array = np.full(SHAPE, -1000.0, np.float32)
    array[inner] = np.random.default_rng(2).normal(50, 60, SHAPE)[inner]
    nibabel.save(nibabel.Nifti1Image(array, geometry.affine), file)
    return file


SOME = (slice(6, 30), slice(0, 22), slice(4, 21))
CASES: dict[str, tuple[dict[str, Any], bool, tuple[slice, slice, slice]]] = {
    "above 0 at the end": (crop(), False, SOME),
    "above a threshold first": (crop(select_fn="$lambda x: x > -900"), True, SOME),
    "with a margin first": (crop(select_fn="$lambda x: x > -900", margin=3, allow_smaller=True), True, SOME),
    "with a margin at the end": (crop(margin=2, allow_smaller=True), False, SOME),
    "with nothing to crop": (crop(select_fn="$lambda x: x > -900"), True, (slice(None),) * 3),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_monai(name: str, tmp_path: Path) -> None:
    step, is_first, inner = CASES[name]
    changes = {"preprocessing": preprocessing(step, is_first=is_first)}
    bundle = write_zoo_bundle(tmp_path, NAME, changes=changes)
    assert read_bundle(bundle).foreground is not None
    file = write_scan(tmp_path / "scan.nii.gz", inner)
    model = load_model(bundle, device="cpu")
    theirs = monai_run(bundle, [file], model.network)
    ours = predict(read_volume(file), model).array
    assert len(np.unique(theirs.labels)) > 1
    differs = ours != theirs.labels
    assert differs.mean() <= 1e-4
    assert (theirs.margin[differs] < 1e-4).all()


@pytest.mark.parametrize(
    "more",
    [
        {"margin": 5},
        {"margin": [1, 2, 3], "allow_smaller": True},
        {"k_divisible": 16},
        {"channel_indices": 0},
        {"select_fn": "$lambda x: x.mean() > 3"},
    ],
)
def test_a_crop_that_is_not_the_same_is_refused(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        write_zoo_bundle(
            tmp_path, NAME, changes={"preprocessing": preprocessing(crop(**more), is_first=True)}
        )
    assert caught.value.code in ("UNSUPPORTED_RECIPE", "BAD_BUNDLE", "CODE_REFUSED")
