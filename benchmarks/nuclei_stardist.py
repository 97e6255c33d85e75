"""StarDist from scratch on the generator of the model `nuclei`; run by `benchmarks/nuclei.py --stardist`.

    STARDIST_ENV/bin/python benchmarks/nuclei_stardist.py FOLDER CPU_MINUTES

`FOLDER` holds `NAME.npy` images (z, y, x); labels go to `NAME.labels.npy`. Training stops when the
process has spent its minutes of processor time. Images come on the grid that the other model sees.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from stardist import Rays_GoldenSpiral
from stardist.models import Config3D, StarDist3D

from medseg.training.nuclei_synthesis import synthesise_nuclei

VOLUMES = 96
"""Images that it learns from, drawn again and again; StarDist's own demo has 27."""


def scaled(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (1, 99.8))
    scaled_up: np.ndarray = np.clip((image - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return scaled_up


class Stop(tf.keras.callbacks.Callback):  # type: ignore[misc]  # keras has no types
    """Ends training when the processor time is spent."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.steps = seconds, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Look at the clock."""
        del batch, logs
        self.steps += 1
        if time.process_time() > self.seconds:
            self.model.stop_training = True


def main() -> None:
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    pairs = [synthesise_nuclei(np.random.default_rng([0, n])) for n in range(VOLUMES)]
    images, labels = [scaled(image) for image, _ in pairs], [truth for _, truth in pairs]
    config = Config3D(
        rays=Rays_GoldenSpiral(48, anisotropy=(1, 1, 1)),
        grid=(1, 2, 2),
        anisotropy=(1, 1, 1),
        train_patch_size=(48, 48, 48),
        train_batch_size=1,
        train_steps_per_epoch=50,
        train_epochs=10_000,
        train_tensorboard=False,
        train_reduce_lr=None,
        unet_n_filter_base=16,
    )
    model = StarDist3D(config, name="stardist", basedir=str(folder))
    stop = Stop(60 * minutes)
    model.prepare_for_training()
    model.callbacks.append(stop)
    model.train(images[4:], labels[4:], validation_data=(images[:4], labels[:4]), augmenter=None)
    print(f"\nStarDist: {stop.steps} steps, {model.keras_model.count_params()} parameters", flush=True)
    model.thresholds = {"prob": 0.5, "nms": 0.3}
    for file in sorted(folder.glob("*.npy")):
        if not file.name.endswith(".labels.npy"):
            found, _ = model.predict_instances(scaled(np.load(file)))
            np.save(file.with_name(file.stem + ".labels.npy"), found)


if __name__ == "__main__":
    main()
