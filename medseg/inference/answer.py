"""A model's answer to a window: folds and mirrored windows averaged, constant windows answered once.

Where all networks end in a pointwise linear layer and have fewer features than classes together,
the answer is their features side by side, and `Answerer.head` makes scores of averaged ones. The
layer commutes with mirroring.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.errors import DeviceMemoryError, ModelError
from medseg.inference.backends.cache import NetworkCache, cache_folder
from medseg.inference.backends.choose import BackendChoice, make_predictor, subject_of, thread_count
from medseg.inference.backends.int8 import Labels, int8_predictors
from medseg.inference.hoist import Head, joined, split_head
from medseg.inference.home import Decision
from medseg.inference.predictor import Predictor

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from medseg.inference.settings import InferenceSettings
    from medseg.models.card import Card
    from medseg.models.loading import Model

Triple = tuple[int, int, int]
Flips = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules that answer a window.

    Attributes:
        modules: one for each fold: whole networks, or their bodies.
        head: what makes scores of the bodies' features; None where the modules answer scores.
        widths: channels of each module's output.
    """

    modules: tuple[nn.Module, ...]
    head: Head | None
    widths: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Numbers per voxel of the answer: features side by side, or averaged scores."""
        return self.widths[0] if self.head is None else sum(self.widths)


def model_parts(model: Model, window: Triple) -> Parts:
    """Take the last layers off a model's networks where that makes the answer smaller.

    Args:
        model: card and networks.
        window: voxels of a window.
    """
    networks = (model.network, *model.members)
    scores = model.card.out_channels
    splits = [split_head(network, model.card.in_channels, window) for network in networks]
    there = [split for split in splits if split is not None and split.head.weight.shape[0] == scores]
    features = tuple(split.features for split in there)
    if len(there) < len(networks) or sum(features) >= scores:
        return Parts(networks, None, (scores,) * len(networks))
    return Parts(tuple(split.body for split in there), joined(there), features)


def mirrored_axes(card: Card, *, mirror: bool) -> Flips:
    """Axes `(2, 3, 4)` of `(n, channels, i, j, k)` to flip, for each pass over a window."""
    axes = [axis + 2 for axis in card.mirror_axes] if mirror else []
    sets = (itertools.combinations(axes, n) for n in range(len(axes) + 1))
    return tuple(itertools.chain.from_iterable(sets))


class Answerer:
    """Answers windows with a whole model.

    Args:
        predictors: one for each fold.
        parts: what the predictors were made of.
        window: voxels of a window.
        flips: axes to flip, for each pass; the first is empty.
    """

    def __init__(
        self, predictors: Sequence[Predictor], parts: Parts, window: Triple, flips: Flips = ((),)
    ) -> None:
        self._predictors = tuple(predictors)
        self._parts = parts
        self._window = window
        self._flips = flips
        self._is_checked = False
        self._constant: tuple[tuple[float, ...], Tensor] | None = None
        self.device: torch.device = predictors[0].device
        self.note = ""

    @property
    def channels(self) -> int:
        """Numbers per voxel of the answer."""
        return self._parts.channels

    @property
    def keeps_an_answer(self) -> bool:
        """Whether the answer to a constant window takes memory."""
        return self._constant is not None

    def forget(self) -> None:
        """Free the answer to a constant window."""
        self._constant = None

    @property
    def passes(self) -> int:
        """How often a network runs for one window."""
        return len(self._predictors) * len(self._flips)

    @property
    def channels_last(self) -> bool:
        """Whether the channels of a voxel of an answer lie side by side in memory."""
        return self.passes == 1 and self._predictors[0].channels_last

    @property
    def description(self) -> str:
        """Backend, precision, device."""
        return self._predictors[0].description

    def __call__(self, windows: Tensor) -> Tensor:
        """Answer some windows.

        Args:
            windows: `(n, in_channels, i, j, k)` float32, the answerer's own.

        Returns:
            `(n, channels, i, j, k)` of a floating type on `device`, valid until the next call.

        Raises:
            ModelError: another shape (`BAD_OUTPUT`), no numbers in the first window (`NETWORK_NAN`), a
                network that fails (`NETWORK_FAILED`).
            DeviceMemoryError: `OUT_OF_MEMORY`.
        """
        value = _constant_value(windows)
        if value is not None and self._constant is not None and self._constant[0] == value:
            return self._constant[1].expand(len(windows), -1, -1, -1, -1)
        with in_words(self._window):
            answer = self._averaged(windows)
            if value is not None:
                self._constant = value, answer[:1].clone()
        if not self._is_checked:
            check_finite(answer, "in the first window")
            self._is_checked = True
        return answer

    def _averaged(self, windows: Tensor) -> Tensor:
        import torch

        if self.passes == 1:
            return self._called(0, windows)
        size = (len(windows), self._parts.channels, *self._window)
        result = torch.zeros(size, device=self.device)
        first = 0
        for number, width in enumerate(self._parts.widths):
            for axes in self._flips:
                given = windows.flip(axes) if axes else windows.clone()
                result[:, first : first + width] += self._called(number, given).flip(axes)
            first += width if self._parts.head is not None else 0
        result /= self.passes if self._parts.head is None else len(self._flips)
        return result

    def _called(self, number: int, windows: Tensor) -> Tensor:
        answer = self._predictors[number](windows)
        expected = (len(windows), self._parts.widths[number], *self._window)
        if tuple(answer.shape) != expected:
            raise ModelError(
                "BAD_OUTPUT",
                f"expected scores of shape {expected}, got {tuple(answer.shape)}; the card does not fit",
            )
        return answer


def make_answerer(
    model: Model,
    window: Triple,
    settings: InferenceSettings,
    parts: Parts,
    choice: BackendChoice | None = None,
    samples: Tensor | None = None,
) -> Answerer:
    """An answerer on a backend.

    Args:
        model: card and networks.
        window: voxels of a window.
        settings: the user's wishes.
        parts: of the model (`model_parts`).
        choice: what was decided for the run; None keeps to torch.
        samples: windows of the scan, wanted where `choice` is int8; without them it is float32.
    """
    predictors: list[Predictor] = [
        make_predictor(module, model, window, settings, choice) for module in parts.modules
    ]
    flips = mirrored_axes(model.card, mirror=settings.mirror)
    if choice is None or choice.precision != "int8" or samples is None:
        return Answerer(predictors, parts, window, flips)
    decision = Decision.of(model.card, parts.head)

    def label(folds: Sequence[Predictor], one: Tensor) -> Labels:
        return decision.labels(Answerer(folds, parts, window)(one)[0])

    subjects = [subject_of(module, model, window) for module in parts.modules]
    cache = NetworkCache(cache_folder())
    found = int8_predictors(subjects, predictors, samples, label, thread_count(settings), cache)
    answerer = Answerer(found.predictors or predictors, parts, window, flips)
    answerer.note = found.words
    return answerer


def _constant_value(windows: Tensor) -> tuple[float, ...] | None:
    """The one value of each channel, where each of the windows has the same one everywhere.

    None too on a graphics processor: to ask it would make it wait, window by window.
    """
    if windows.device.type != "cpu":
        return None
    first = windows[0].flatten(1)[:, 0]
    if not bool((windows[0, 0, 0, 0] == first[0]).all()):  # a row of voxels tells most of them
        return None
    is_constant = bool((windows == first[None, :, None, None, None]).all())
    return tuple(first.tolist()) if is_constant else None


def check_finite(values: Tensor, where: str) -> None:
    """Return if all values are numbers.

    Args:
        values: answers or averages of them.
        where: for the message.

    Raises:
        ModelError: `NETWORK_NAN`.
    """
    # A sum is quick and not finite where a value is not; a sum of finite values may overflow.
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        raise ModelError(
            "NETWORK_NAN",
            f"expected finite scores, got NaN or infinity {where}; look at the scan's values, or install "
            "the model again",
        )


@contextmanager
def in_words(window: Triple) -> Iterator[None]:
    """Turn a backend's errors into medseg's.

    Raises:
        DeviceMemoryError: `OUT_OF_MEMORY`.
        ModelError: `NETWORK_FAILED`.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory() from error
    except MemoryError as error:
        raise error if isinstance(error, DeviceMemoryError) else out_of_memory() from error
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise out_of_memory() from error
        raise ModelError(
            "NETWORK_FAILED",
            f"expected an answer to a window of {window} voxels, got an error ({error}); "
            "the card does not fit the network",
        ) from error


def out_of_memory() -> DeviceMemoryError:
    """The error of a device that is full."""
    return DeviceMemoryError(
        "OUT_OF_MEMORY", "expected memory for one window, got none left; close programs or use the cpu"
    )
