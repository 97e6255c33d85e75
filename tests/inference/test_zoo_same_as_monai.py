"""Bundles of the model zoo get the labels that MONAI's own transforms, inferer and inversion give them.

Random weights make no structures but uncertain borders everywhere, which is the hard case: every voxel
whose two best scores differ by 1e-4 or more has to agree.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from zoo_bundles import SMALL, WITH_CODE, monai_run, write_zoo_bundle

from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.inference.settings import InferenceSettings
from medseg.io.formats import read_volume
from medseg.models.loading import load_model
from medseg.volume import Volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MONAI on its own arguments and on numpy
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # MONAI 1.6 on its own defaults
    pytest.mark.filterwarnings("ignore::UserWarning"),  # MONAI's LoadImage, Orientation, Invert; torch's
]

LEAST_AGREEMENT = 0.9999
SCORES_THAT_TIE = 1e-4
SPACING_MM = {"prostate_mri_anatomy": (0.83, 0.71, 0.62)}
TURNED = np.array([[0.96, -0.28, 0, 7], [0.28, 0.96, 0, -30], [0, 0, 1, 12], [0, 0, 0, 1]])
"""An oblique scan: about 16 degrees about the long axis of the body."""


def scans(folder: Path, name: str, channels: int, codes: str) -> list[Path]:
    """Smooth noise of both signs, as intensities of a scan."""
    import nibabel as nib

    spacing = SPACING_MM.get(name, (1.37, 1.21, 2.3))
    # An even number of planes may put one half-way between two of the grid: such voxels go home in MONAI
    # by the rounding of its last digit.
    geometry = Geometry.from_spacing((39, 33, 27), spacing).reorient(codes)
    chance = np.random.default_rng(5)
    files = []
    for channel in range(channels):
        array = gaussian_filter(chance.normal(size=geometry.shape), 2) * 1500 + 30
        array[:4] = array[:, :, -3:] = -300  # background for crops
        array = array if "_ct_" in name or "btcv" in name else np.maximum(array, 0)
        file = folder / f"channel{channel}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.float32), TURNED @ geometry.affine), file)
        files.append(file)
    return files


def require_same_labels(bundle: Path, files: list[Path]) -> None:
    model = load_model(bundle, device="cpu", trust_code=bundle.name in WITH_CODE)
    theirs = monai_run(bundle, files, model.network)
    volumes: list[Volume] = [read_volume(file) for file in files]
    ours = predict(volumes, model, InferenceSettings(device="cpu", backend="torch"))
    numbers = np.unique(theirs.labels)
    assert len(numbers) > 1
    differs = ours.array != theirs.labels
    assert differs.mean() <= 1 - LEAST_AGREEMENT
    assert (theirs.margin[differs] < SCORES_THAT_TIE).all()


QUICK = ("spleen_ct_segmentation", "wholeBody_ct_segmentation", "prostate_mri_anatomy")
OTHERS = [name for name in SMALL if name not in QUICK and name != "brats_mri_segmentation"]


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_small_networks(name: str, tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path, name)
    require_same_labels(bundle, scans(tmp_path, name, 1, "LPI"))


def test_several_images_and_nested_regions(tmp_path: Path) -> None:
    name = "brats_mri_segmentation"
    require_same_labels(write_zoo_bundle(tmp_path, name), scans(tmp_path, name, 4, "LPS"))


def test_the_coarse_variant_of_a_recipe_by_its_own_switch(tmp_path: Path) -> None:
    name = "wholeBody_ct_segmentation"
    switch = {"displayable_configs": {"highres": False, "sw_overlap": 0.5, "sw_batch_size": 1}}
    bundle = write_zoo_bundle(tmp_path, name, changes=switch)
    assert (bundle / "models" / "model_lowres.pt").is_file()
    require_same_labels(bundle, scans(tmp_path, name, 1, "SAL"))


@pytest.mark.parametrize(
    "name", ["spleen_ct_segmentation", "prostate_mri_anatomy", "pediatric_abdominal_ct_segmentation"]
)
def test_published_networks_and_windows(name: str, tmp_path: Path) -> None:
    bundle = write_zoo_bundle(tmp_path, name, full=True)
    require_same_labels(bundle, scans(tmp_path, name, 1, "LPI"))
