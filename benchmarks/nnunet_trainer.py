"""nnU-Net v2 trained for a budget of processor time; run by `benchmarks/train_against_nnunet.py`.

    NNUNET_ENV/bin/python benchmarks/nnunet_trainer.py WORK CPU_SECONDS LOOKS

`WORK/raw/Dataset001_Brains` is a dataset in nnU-Net's layout. Its own fingerprint, plan, preprocessing,
augmentation, network, loss and optimiser, fold 0 of its own split; only the length is ours: an epoch's end is
the end of the budget, so the learning rate falls with the time spent as it would fall with the epochs. The
budget counts everything from the fingerprint on. At `LOOKS` times in equal distance the weights are kept, and
the images of `imagesTs` are predicted from each afterwards, outside the budget, the last one with its usual
mirroring. Writes `WORK/looks.json` and `WORK/look_N/`.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    f"nnUNet_{name}": str(Path(sys.argv[1]).resolve() / name) for name in ("raw", "preprocessed", "results")
}
os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "false", "OMP_NUM_THREADS": "1"}

import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args

WORK = Path(sys.argv[1]).resolve()


def spent() -> float:
    """Seconds of processor time of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def learned(began: float, budget: float, looks: int) -> tuple[Any, list[tuple[float, Any]], int]:
    """Plan and train; the trainer, weights by seconds spent, and the number of steps."""
    planning.extract_fingerprints([1], num_processes=1, verbose=False, show_progress_bar=False)
    planning.plan_experiments([1])
    planning.preprocess_dataset(
        1, configurations=("3d_fullres",), num_processes=(1,), show_progress_bar=False
    )
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # its planner wants 1; patches are then made in this process
    trainer = get_trainer_from_args("1", "3d_fullres", 0, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.network.train()
    kept: list[tuple[float, Any]] = []
    steps = 0
    while len(kept) < looks:
        done = (spent() - began) / budget
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * max(0.0, 1 - done) ** 0.9
        if done >= (len(kept) + 1) / looks:
            kept.append((spent() - began, copy.deepcopy(trainer.network.state_dict())))
            continue
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    return trainer, kept, steps


def predict(trainer: Any, weights: Any, folder: Path, *, mirrored: bool) -> None:
    """Labels of the images of `imagesTs`."""
    trainer.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [weights],
        trainer.dataset_json, "nnUNetTrainer", trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    folder.mkdir()
    images = WORK / "raw" / "Dataset001_Brains" / "imagesTs"
    predictor.predict_from_files_sequential(str(images), str(folder))


def main() -> None:
    """Train, predict, write what was spent."""
    torch.set_num_threads(1)
    began = spent()
    trainer, kept, steps = learned(began, float(sys.argv[2]), int(sys.argv[3]))
    for number, (_, weights) in enumerate(kept):
        predict(trainer, weights, WORK / f"look_{number}", mirrored=number == len(kept) - 1)
    configuration = trainer.configuration_manager
    told = {
        "seconds": [seconds for seconds, _ in kept],
        "steps": steps,
        "patch": list(map(int, configuration.patch_size)),
        "batch": int(configuration.batch_size),
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
    }
    (WORK / "looks.json").write_text(json.dumps(told))


if __name__ == "__main__":  # its pools start this file again
    main()
