"""What the bundled model `nuclei` learns, all of it drawn on the way, and how it is made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from medseg.training.instance_target import CHANNELS, foreground_and_distance, normalised_distance
from medseg.training.nuclei_publish import write_nuclei_bundle
from medseg.training.nuclei_recipe import PERCENTILES, NucleiRecipe
from medseg.training.nuclei_synthesis import NucleiSettings, synthesise_nuclei
from medseg.training.optimise import optimise


@dataclass(frozen=True)
class Sample:
    """What a network sees, and what it should say.

    Attributes:
        image: `(i, j, k)` float32, in 0..1.
        labels: `(i, j, k)` int32 object ids.
        distance: `(i, j, k)` float32 of `normalised_distance`.
        known: how many voxels along each axis, from the first on, the truth is known for; the rest fills
            the sample up to a window.
        alike: axes along which the image looks the same, so that they may change places.
    """

    image: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    distance: npt.NDArray[np.float32]
    known: tuple[int, int, int]
    alike: tuple[int, ...] = (0, 1, 2)


def window_of(sample: Sample, size: int, rng: np.random.Generator) -> list[npt.NDArray[np.float32]]:
    """A cube of a sample, turned and mirrored: image, distance, foreground, known, each `(i, j, k)`."""
    starts = [int(rng.integers(n - size + 1)) for n in sample.image.shape]
    box = tuple(slice(a, a + size) for a in starts)
    axes = np.arange(3)
    axes[list(sample.alike)] = rng.permutation(sample.alike)
    mirrored = tuple(slice(None, None, int(rng.choice([-1, 1]))) for _ in range(3))
    foreground = (sample.labels > 0).astype(np.float32)
    known = np.zeros(sample.image.shape, dtype=np.float32)
    known[tuple(slice(0, n) for n in sample.known)] = 1.0
    return [
        np.ascontiguousarray(part[box].transpose(axes)[mirrored])
        for part in (sample.image, sample.distance, foreground, known)
    ]


def window_loss(network: nn.Module, windows: Sequence[Sequence[npt.NDArray[np.float32]]]) -> Tensor:
    """Loss of a network on windows of `window_of`."""
    image, distance, foreground, known = (
        torch.from_numpy(np.stack(parts)) for parts in zip(*windows, strict=True)
    )
    return foreground_and_distance(forward(network, image[:, None]), foreground, distance, known)


def synthetic_sample(settings: NucleiSettings, seed: Sequence[int], *, jitter: bool) -> Sample:
    """A synthetic image with its truth.

    Args:
        settings: what it looks like.
        seed: the same one gives the same sample.
        jitter: whether it is scaled as a crop of something larger might be.
    """
    rng = np.random.default_rng(seed)
    image, labels = synthesise_nuclei(rng, settings)
    scale = scaled(image, rng if jitter else None)
    return Sample(scale, labels, normalised_distance(labels), settings.shape)


def scaled(image: npt.NDArray[np.float32], rng: np.random.Generator | None = None) -> npt.NDArray[np.float32]:
    """Intensities between two percentiles to 0..1, with `rng` not quite so, as a crop of more would be."""
    (lower, upper), gamma = PERCENTILES, 1.0
    if rng is not None:
        lower, upper = rng.uniform(0.1, 4.0), 100 - np.exp(rng.uniform(np.log(0.02), np.log(1.5)))
        gamma = np.exp(rng.normal(0, 0.2))
    low, high = np.percentile(image[::2, ::2, ::2], (lower, upper))
    parts = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.asarray(parts**gamma, dtype=np.float32)


class NucleiTask:
    """Foreground and distance from synthetic images."""

    def __init__(self, recipe: NucleiRecipe) -> None:
        self.recipe = recipe
        self._drawn: OrderedDict[int, Sample] = OrderedDict()

    def build(self) -> nn.Module:
        """The network of the recipe: BatchNorm, so that an answer does not depend on the window."""
        return build_network(self.recipe)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        """Loss on windows of the newest image and of those before."""
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        samples = [self._sample(max(0, step - back)) for back in range(self.recipe.batch)]
        return window_loss(network, [window_of(one, self.recipe.window, rng) for one in samples])

    @torch.inference_mode()
    def check(self, network: nn.Module) -> dict[str, float]:
        """Loss on images that are always the same."""
        losses = []
        for number in range(8):
            sample = synthetic_sample(self.recipe.synthesis, (987_654, number), jitter=False)
            whole = [sample.image, sample.distance, (sample.labels > 0).astype(np.float32)]
            losses.append(float(window_loss(network, [[*whole, np.ones_like(sample.image)]])))
        return {"validation_loss": float(np.mean(losses))}

    def _sample(self, number: int) -> Sample:
        if number not in self._drawn:
            seed = (self.recipe.seed, number)
            self._drawn[number] = synthetic_sample(self.recipe.synthesis, seed, jitter=True)
            while len(self._drawn) > self.recipe.batch:
                self._drawn.popitem(last=False)
        return self._drawn[number]


def build_network(recipe: NucleiRecipe) -> UNet:
    """The network of a recipe: one image channel in, `CHANNELS` out."""
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(CHANNELS),
        channels=recipe.channels,
        strides=recipe.strides,
        num_res_units=0,
        norm="batch",
    )
    # torch's stubs lack this overload of `to`, which halves the time of a step on a CPU.
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def forward(network: nn.Module, image: Tensor) -> Tensor:
    """`(batch, 2, i, j, k)` logits of `(batch, 1, i, j, k)` images, in bfloat16 where that is safe."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = network(image.to(memory_format=torch.channels_last_3d))
    return logits


def make_nuclei(run: Path, bundle: Path, report: Callable[[str], None]) -> None:
    """Train, and write the bundle.

    Args:
        run: folder for checkpoints; the same one goes on where it was.
        bundle: folder to write into.
        report: told one line per check.
    """
    recipe = NucleiRecipe()
    write_nuclei_bundle(optimise(NucleiTask(recipe), recipe, run, report), recipe, bundle)
