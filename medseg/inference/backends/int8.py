"""Post-training quantisation to int8, held against float32 on the scan at hand.

A network is calibrated on windows of the scan and must then label windows that were held back as the
float32 network does; otherwise float32 is used. What was calibrated is kept on disk with its model,
and checked again on every scan that it is used for.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.errors import ModelError
from medseg.inference.backends.cache import NetworkCache
from medseg.inference.backends.openvino_backend import (
    GRAPH_FILE,
    OpenVinoPredictor,
    Subject,
    compile_network,
    network_model,
    read_network,
)
from medseg.inference.backends.quiet import import_quietly, without_telemetry
from medseg.inference.predictor import Predictor

if TYPE_CHECKING:
    from torch import Tensor

Triple = tuple[int, int, int]
Labels = npt.NDArray[Any]
Labeller = Callable[[Sequence[Predictor], "Tensor"], Labels]
"""Labels of one window `(1, channels, i, j, k)` from the predictors of all folds."""

LEAST_VOXELS = 0.998
"""Share of voxels of the held-back windows that must have the same label."""

LEAST_DICE = 0.995
"""Dice overlap with float32 that every class in them must reach."""

CALIBRATION_WINDOWS = 6
HELD_BACK_WINDOWS = 3
_EIGHT_BITS = frozenset({
    "Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData", "MatMul",
})  # fmt: skip
"""What is done in int8. Skips, norms and activations are not: they take little time, and in int8 they are
what moves labels (`docs/backends.md` has figures)."""

_PLACES = 4
"""Places along an axis at which windows are looked for."""

_CONTENT = 0.25
"""Windows with less than this part of the strongest variation are not looked at."""


@dataclass(frozen=True)
class Agreement:
    """How equal two labellings are.

    Attributes:
        voxels: share of voxels with the same label.
        dice: lowest Dice overlap of a class that one of them has.
        label: the class that has it; 0 where there is none.
    """

    voxels: float
    dice: float
    label: int

    @property
    def is_enough(self) -> bool:
        """Whether int8 may be used."""
        return self.voxels >= LEAST_VOXELS and self.dice >= LEAST_DICE

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.voxels:.2%} of voxels equal, lowest Dice {self.dice:.4f}"


@dataclass(frozen=True)
class Quantised:
    """What came of the wish for int8.

    Attributes:
        predictors: int8, one for each fold; None where float32 is to be used.
        agreement: of int8 with float32 on windows that were held back.
        words: for the run record.
    """

    predictors: tuple[Predictor, ...] | None
    agreement: Agreement | None
    words: str


def agreement(reference: Sequence[Labels], other: Sequence[Labels]) -> Agreement:
    """Compare two labellings of the same windows.

    Dice is `2 |A and B| / (|A| + |B|)`, over all windows together.

    Args:
        reference: labels of each window.
        other: as many, of the same shapes.
    """
    one = np.concatenate([labels.reshape(-1) for labels in reference])
    two = np.concatenate([labels.reshape(-1) for labels in other])
    same = one == two
    bins = int(max(one.max(), two.max())) + 1
    sizes = np.bincount(one, minlength=bins) + np.bincount(two, minlength=bins)
    shared = np.bincount(one[same], minlength=bins)
    present = [label for label in np.flatnonzero(sizes).tolist() if label]
    scores = [(float(2 * shared[label] / sizes[label]), label) for label in present]
    dice, label = min(scores, default=(1.0, 0))
    return Agreement(float(same.mean()), dice, label)


def sample_windows(image: Tensor, size: Triple, fill: float) -> Tensor:
    """Windows of a scan that hold something, spread over it and a little beyond its borders.

    Args:
        image: `(1, channels, i, j, k)`.
        size: voxels of a window.
        fill: value beyond the border.

    Returns:
        `(n, channels, *size)`, n at most `CALIBRATION_WINDOWS + HELD_BACK_WINDOWS`.
    """
    import torch

    starts = [
        sorted({round(place) for place in np.linspace(-n // 4, max(side - n, 0) + n // 4, _PLACES)})
        for side, n in zip(image.shape[2:], size, strict=True)
    ]
    corners = list(itertools.product(*starts))
    content = [float(_cut(image, corner, size, fill).std()) for corner in corners]
    most = max(content)
    kept = [corner for corner, one in zip(corners, content, strict=True) if one >= _CONTENT * most]
    count = min(len(kept), CALIBRATION_WINDOWS + HELD_BACK_WINDOWS)
    chosen = [kept[round(n)] for n in np.linspace(0, len(kept) - 1, count)]
    return torch.cat([_cut(image, corner, size, fill) for corner in chosen])


def _cut(image: Tensor, corner: Sequence[int], size: Triple, fill: float) -> Tensor:
    result = image.new_full((1, image.shape[1], *size), fill)
    inside, there = [slice(None), slice(None)], [slice(None), slice(None)]
    for start, length, side in zip(corner, size, image.shape[2:], strict=True):
        low, high = max(start, 0), min(start + length, side)
        there.append(slice(low, high))
        inside.append(slice(low - start, high - start))
    result[tuple(inside)] = image[tuple(there)]
    return result


def int8_predictors(
    subjects: Sequence[Subject],
    exact: Sequence[Predictor],
    samples: Tensor,
    label: Labeller,
    threads: int,
    cache: NetworkCache,
) -> Quantised:
    """Quantised predictors, if they label as the exact ones do.

    Args:
        subjects: the module of each fold.
        exact: the float32 predictor of each.
        samples: windows of the scan (`sample_windows`).
        label: makes labels of answers.
        threads: at least 1.
        cache: where quantised networks are kept.

    Raises:
        SettingsError: `NO_BACKEND`, NNCF is not installed.
        ModelError: `NOT_CONVERTIBLE`.
    """
    is_held_back = [n % 3 == 1 for n in range(len(samples))]
    held = [samples[n : n + 1] for n, held_back in enumerate(is_held_back) if held_back]
    learned = [samples[n : n + 1] for n, held_back in enumerate(is_held_back) if not held_back]
    if not held:
        return Quantised(None, None, "f32 instead of int8: the scan is too small to check it")
    expected = [label(exact, window.clone()) for window in held]
    found: Agreement | None = None
    for is_new in (False, True):
        models = [_int8_model(subject, learned, cache, is_new=is_new) for subject in subjects]
        if any(model is None for model in models):
            continue
        made: tuple[Predictor, ...] = tuple(
            OpenVinoPredictor(compile_network(model, "f32", threads), "openvino int8 on cpu")
            for model in models
        )
        found = agreement(expected, [label(made, window.clone()) for window in held])
        if found.is_enough:
            return Quantised(made, found, f"int8: {found.words}")
    words = "" if found is None else f": {found.words}, worst in label {found.label}"
    return Quantised(None, found, f"f32 instead of int8, which does not agree well enough{words}")


def _int8_model(subject: Subject, windows: Sequence[Tensor], cache: NetworkCache, *, is_new: bool) -> Any:
    """The kept quantised network of a module, or a new one; None where none is kept."""
    if not subject.is_from_file:
        return quantise(network_model(subject, cache), windows) if is_new else None
    key = subject.key("int8")
    if not is_new:
        return read_network(cache, key)
    model = quantise(network_model(subject, cache), windows)
    openvino = import_quietly("openvino")

    def write(folder: Path) -> None:
        openvino.save_model(model, folder / GRAPH_FILE, compress_to_fp16=False)

    cache.put(key, write, {"windows": len(windows)})
    return model


def quantise(model: Any, windows: Sequence[Tensor]) -> Any:
    """Quantise the convolutions and products of an OpenVINO model with NNCF.

    Args:
        model: static shape, float32.
        windows: `(1, channels, i, j, k)` each, as the network sees them.

    Returns:
        A new `openvino.Model`.

    Raises:
        ModelError: `NOT_CONVERTIBLE`, NNCF fails on this network.
        SettingsError: `NO_BACKEND`.
    """
    import logging

    nncf = import_quietly("nncf")
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    others = sorted({node.get_type_name() for node in model.get_ordered_ops()} - _EIGHT_BITS)
    failures = (RuntimeError, ValueError, TypeError, nncf.errors.ValidationError, nncf.errors.InternalError)
    try:
        # NNCF draws bars on standard output, where a command may print its one JSON object.
        with without_telemetry(), contextlib.redirect_stdout(io.StringIO()):
            return nncf.quantize(
                model,
                nncf.Dataset([window.contiguous().numpy() for window in windows]),
                preset=nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(windows),
                ignored_scope=nncf.IgnoredScope(types=others, validate=False),
            )
    except failures as error:
        raise ModelError(
            "NOT_CONVERTIBLE",
            f"expected a network that NNCF can quantise, got an error ({str(error)[:200]}); "
            "choose --precision f32",
        ) from error
    finally:
        logger.setLevel(level)
