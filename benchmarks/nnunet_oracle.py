"""nnU-Net's own predictor on prepared cases; runs in its environment, see `nnunet_agreement.py`.

    ENV/bin/python benchmarks/nnunet_oracle.py FOLDER

Every folder in FOLDER holds `model.txt` (path of the trained model), `mirror.txt` (0 or 1) and
`image_0000.nii.gz`, ... It gets `float32.npz` and `stock.npz`: labels, the lead of the decision
(difference of the two best scores, or the least distance of a region's score from its threshold), and
seconds. nnU-Net sums scores in half precision; `float32` is the same code with float32 in its place.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as to_segmentation,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans


class Trainer:
    """What the predictor wants of nnU-Net's trainer, whose module imports all that training needs."""

    @staticmethod
    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> Any:
        """The network of the plans, as `nnUNetTrainer` builds it."""
        del plans_manager
        return get_network_from_plans(
            configuration_manager.network_arch_class_name,
            configuration_manager.network_arch_init_kwargs,
            configuration_manager.network_arch_init_kwargs_req_import,
            num_input_channels,
            num_output_channels,
            allow_init=False,
            deep_supervision=enable_deep_supervision,
        )


predict_from_raw_data.recursive_find_trainer_class_by_name = lambda _name: Trainer


def main() -> None:
    """Answer every case in the folder that is named on the command line."""
    half = torch.half
    for case in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
        for name, kind in (("stock", half), ("float32", torch.float32)):
            torch.half = kind
            labels, lead, seconds = answer(case)
            np.savez_compressed(case / f"{name}.npz", labels=labels, lead=lead, seconds=seconds)
        torch.half = half


def answer(case: Path) -> tuple[Any, Any, float]:
    """Labels and lead of one case, (i, j, k), and the time of prediction."""
    mirror = (case / "mirror.txt").read_text() == "1"
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=mirror)
    predictor.initialize_from_trained_model_folder((case / "model.txt").read_text(), None)
    files = [str(path) for path in sorted(case.glob("image_*.nii.gz"))]
    began = time.perf_counter()
    image, properties = SimpleITKIO().read_images(files)
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    data, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        image, None, properties, plans, configuration, predictor.dataset_json
    )
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    labels = to_segmentation(
        logits, plans, configuration, predictor.label_manager, properties, return_probabilities=False
    )
    seconds = time.perf_counter() - began
    return labels.transpose(2, 1, 0), leads(logits, properties, predictor).transpose(2, 1, 0), seconds


def leads(logits: torch.Tensor, properties: dict[str, Any], predictor: nnUNetPredictor) -> Any:
    """How clear every decision was, on the grid of the scan; infinite outside of the crop."""
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    shape = properties["shape_after_cropping_and_before_resampling"]
    home = np.asarray(
        configuration.resampling_fn_probabilities(logits.float(), shape, configuration.spacing, spacing)
    )
    if predictor.label_manager.has_regions:
        lead = np.abs(home).min(0)
    else:
        best = np.sort(home, 0)
        lead = best[-1] - best[-2]
    whole = np.full(properties["shape_before_cropping"], np.inf, dtype=np.float32)
    whole[tuple(slice(*ends) for ends in properties["bbox_used_for_cropping"])] = lead
    return whole.transpose(plans.transpose_backward)


if __name__ == "__main__":
    main()
