"""An Auto3DSeg checkpoint gets the labels that MONAI's own transforms, network and inferer give it.

The steps are those of Auto3DSeg's SegResNet template as MONAI's transforms, written out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInfererAdapt
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import CropForegroundd
from monai.transforms.intensity.dictionary import NormalizeIntensityd, ScaleIntensityRanged
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd, EnsureTyped, Lambdad
from scipy.ndimage import gaussian_filter
from small_checkpoints import write_auto3dseg

from medseg.geometry import Geometry
from medseg.inference.predict import predict
from medseg.io.formats import read_volume
from medseg.models.loading import load_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # MONAI on its own arguments and on numpy
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # MONAI on its own defaults
    pytest.mark.filterwarnings("ignore::UserWarning"),  # MONAI's Orientation, Invert
]

CASES: dict[str, dict[str, Any]] = {
    "ct": {},
    "mri": {"normalize_mode": "mri", "orientation_ras": False},
    "tanh": {"normalize_mode": "meanstdtanh", "crop_foreground": False},
    "range of the source's grid": {"normalize_mode": "range", "resample": False},
    "an axis that is near enough": {"resample_resolution": [1.6, 2.0, 2.5]},
}


def write_scan(file: Path) -> Path:
    """Smooth noise above 0 with a rim of 0, axes in a clinical order."""
    geometry = Geometry.from_spacing((35, 31, 27), (1.43, 1.37, 2.9)).reorient("LPI")
    array = gaussian_filter(np.random.default_rng(3).normal(size=geometry.shape), 2) * 1200 + 60
    array = np.maximum(array, 1)
    array[:13] = array[:, -2:] = 0
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), geometry.affine), file)
    return file


def preprocessing(config: dict[str, Any]) -> Compose:
    steps: list[Any] = [LoadImaged("image"), EnsureChannelFirstd("image"), EnsureTyped("image")]
    if config["orientation_ras"]:
        steps.append(Orientationd("image", "RAS"))
    if config["crop_foreground"]:
        steps.append(CropForegroundd("image", source_key="image", margin=10, allow_smaller=True))
    if config["resample"]:
        goal = config["resample_resolution"]
        nearby: dict[str, Any] = {
            "min_pixdim": [0.75 * g for g in goal],
            "max_pixdim": [1.25 * g for g in goal],
            "dtype": torch.float,
        }
        steps.append(Spacingd("image", pixdim=goal, mode="bilinear", **nearby))
    mode, (low, high) = config["normalize_mode"], config["intensity_bounds"]
    if mode in ("ct", "range"):
        steps.append(ScaleIntensityRanged("image", low, high, b_min=-1, b_max=1, clip=False))
        steps.append(Lambdad("image", func=torch.sigmoid))
    else:
        steps.append(NormalizeIntensityd("image", nonzero=True, channel_wise=True))
    if mode == "meanstdtanh":
        steps.append(Lambdad("image", func=lambda x: 3 * torch.tanh(x / 3)))
    return Compose(steps)


def their_labels(file: Path, checkpoint: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Labels on the source's grid, and how far apart the two best scores are."""
    stored = torch.load(checkpoint, weights_only=False)
    config = stored["config"]
    network = SegResNetDS(**{k: v for k, v in config["network"].items() if not k.startswith("_")})
    network.load_state_dict(stored["state_dict"])
    network.eval()
    before = preprocessing(config)
    data = before({"image": str(file)})
    inferer = SlidingWindowInfererAdapt(config["roi_size"], overlap=0.625, mode="gaussian")
    with torch.inference_mode():
        scores = inferer(data["image"][None], network)[0].softmax(0)
    best = scores.sort(dim=0).values[-2:]
    results = []
    for values in (scores.argmax(0, keepdim=True), (best[1] - best[0])[None]):
        back = Invertd("pred", before, orig_keys="image", nearest_interp=True, to_tensor=True)
        results.append(back(dict(data) | {"pred": values.float()})["pred"][0].numpy())
    return results[0].astype(np.int64), results[1]


@pytest.mark.parametrize("name", CASES)
def test_labels_are_those_of_monai(name: str, tmp_path: Path) -> None:
    file = write_scan(tmp_path / "scan.nii.gz")
    checkpoint = write_auto3dseg(tmp_path / "abdomen.pt", **CASES[name])
    theirs, margin = their_labels(file, checkpoint)
    ours = predict(read_volume(file), load_model(checkpoint, device="cpu")).array
    assert len(np.unique(theirs)) == 3
    differs = ours != theirs
    assert differs.mean() <= 1e-4
    assert (margin[differs] < 1e-4).all()
