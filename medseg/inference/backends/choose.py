"""Which backend runs a network, and why: decided before the run, by a trial where that pays."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from medseg.errors import ModelError, SettingsError
from medseg.inference.backends.cache import NetworkCache, cache_folder, fingerprint_of
from medseg.inference.backends.openvino_backend import (
    Subject,
    forget_compiled,
    has_bf16,
    openvino_predictor,
    processor_name,
)
from medseg.inference.backends.work import answer_flops
from medseg.inference.predictor import Precision, Predictor, TorchPredictor

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.inference.settings import InferenceSettings
    from medseg.models.loading import Model

Triple = tuple[int, int, int]
Backend = Literal["torch", "openvino"]

WORTH_FLOPS = 5e11
"""Runs of less work are over before a network is converted: some 10 s on two cores."""

TOLERANCE = 1e-4
"""Relative to the largest score: what a backend may differ from torch in float32."""

FASTER = 1.05
"""A backend must be this much quicker than torch to be taken."""

_TRIALS: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Trial]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Trial:
    """One window answered by torch and by OpenVINO.

    Attributes:
        torch_s: seconds that torch took.
        openvino_s: seconds that OpenVINO took.
        difference: largest difference of two scores, relative to the largest score.
    """

    torch_s: float
    openvino_s: float
    difference: float

    @property
    def ratio(self) -> float:
        """How many times as fast as torch OpenVINO is."""
        return self.torch_s / self.openvino_s if self.openvino_s > 0 else math.inf


@dataclass(frozen=True)
class BackendChoice:
    """What runs the networks of a model.

    Attributes:
        backend: `"torch"` or `"openvino"`.
        precision: of the arithmetic; `"int8"` holds only if the check on the case itself passes.
        reason: why, for people.
    """

    backend: Backend
    precision: Literal["f32", "f16", "bf16", "int8"]
    reason: str = ""

    @property
    def words(self) -> str:
        """For the printed plan and the run record."""
        return f"{self.backend} {self.precision}" + (f" ({self.reason})" if self.reason else "")


PLAIN = BackendChoice("torch", "f32")
"""What needs no trial."""

OPENVINO = BackendChoice("openvino", "f32", "as asked for")
"""What a user may ask for."""


def subject_of(module: nn.Module, model: Model, window: Triple) -> Subject:
    """A module of a model, as the backends want it."""
    return Subject(module, model.card.in_channels, window, model.card.sha256, bool(model.weights_sha256))


def thread_count(settings: InferenceSettings) -> int:
    """Threads that a backend takes."""
    import torch

    return settings.threads or torch.get_num_threads()


def choose_backend(
    modules: Sequence[nn.Module], model: Model, window: Triple, answers: int, settings: InferenceSettings
) -> BackendChoice:
    """Decide what runs the modules of a model.

    On a CPU, `auto` takes OpenVINO where a trial on one window finds it quicker than torch and equal to
    it. The trial is made once for a model, window, processor and number of threads, and kept on disk. A
    run of little work keeps to torch unless that trial was made before.

    Args:
        modules: one for each fold.
        model: gives device, card and fingerprints.
        window: voxels of a window.
        answers: windows that each module will answer.
        settings: the user's wishes.

    Raises:
        SettingsError: `BAD_SETTING`, wishes that contradict each other; `NO_BACKEND`.
        ModelError: `NOT_CONVERTIBLE`, where OpenVINO was asked for.
    """
    wish, precision = settings.backend, settings.precision
    if model.device != "cpu":
        return _on_device(model.device, settings)
    if precision == "int8" and wish == "torch":
        raise SettingsError(
            "BAD_SETTING", "expected int8 on OpenVINO, got it with backend torch; choose another of the two"
        )
    if wish == "torch":
        return BackendChoice("torch", "bf16" if precision == "bf16" else "f32", "as asked for")
    if precision == "int8":
        return BackendChoice("openvino", "int8", "where the check on this scan passes, else f32")
    if precision == "bf16":
        return _bf16()
    if wish == "openvino":
        return OPENVINO
    return _by_trial(modules[0], model, window, answers * len(modules), settings)


def _on_device(device: str, settings: InferenceSettings) -> BackendChoice:
    if settings.backend == "openvino" or settings.precision == "int8":
        raise SettingsError(
            "BAD_SETTING",
            f"expected backend openvino and precision int8 on the cpu only, got device {device}; choose cpu",
        )
    if settings.precision in ("f32", "bf16"):
        return BackendChoice("torch", "bf16" if settings.precision == "bf16" else "f32", "as asked for")
    return BackendChoice("torch", "f16")


def _bf16() -> BackendChoice:
    if not has_bf16():
        return BackendChoice("openvino", "f32", "this processor has no bfloat16")
    return BackendChoice("openvino", "bf16", "as asked for")


def _by_trial(
    module: nn.Module, model: Model, window: Triple, answers: int, settings: InferenceSettings
) -> BackendChoice:
    subject = subject_of(module, model, window)
    threads = thread_count(settings)
    is_short = answers * answer_flops(module, model.card.in_channels, window) < WORTH_FLOPS
    try:
        trial = _trial(subject, threads, is_short=is_short)
    except SettingsError:
        return BackendChoice("torch", "f32", "OpenVINO is not installed")
    except ModelError:
        return BackendChoice("torch", "f32", "OpenVINO cannot run this network")
    if trial is None:
        return BackendChoice("torch", "f32", "too short a run to try another backend")
    found = f"{trial.ratio:.2g} times as fast as torch, difference {trial.difference:.0e}"
    if trial.difference > TOLERANCE or trial.ratio < FASTER:
        forget_compiled(module)
        return BackendChoice("torch", "f32", f"a trial finds OpenVINO {found}")
    return BackendChoice("openvino", "f32", found)


def _trial(subject: Subject, threads: int, *, is_short: bool) -> Trial | None:
    """The trial of a module, made now where none is known and the run is long enough."""
    known = _TRIALS.setdefault(subject.module, {})
    cache = NetworkCache(cache_folder())
    if is_short and not known and not (subject.is_from_file and cache.folder.is_dir()):
        return None
    state = (subject.window, threads, subject.weights_sha256)
    if state in known:
        return known[state]
    key = ""
    if subject.is_from_file:
        key = fingerprint_of(
            {"network": subject.key("trial"), "processor": processor_name(), "threads": threads}
        )
        entry = cache.find(key)
        if entry is not None and set(entry.note) == {"torch_s", "openvino_s", "difference"}:
            known[state] = Trial(**entry.note)
            return known[state]
    if is_short:
        return None
    known[state] = made = _made_trial(subject, threads, cache)
    if key:
        cache.put(key, lambda _folder: None, asdict(made))
    return made


def _made_trial(subject: Subject, threads: int, cache: NetworkCache) -> Trial:
    """Answer one window of noise with both.

    Raises:
        ModelError: `NOT_CONVERTIBLE`.
        SettingsError: `NO_BACKEND`.
    """
    import torch

    noise = torch.randn((1, subject.in_channels, *subject.window), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch_threads(threads):
        other = openvino_predictor(subject, "f32", threads, cache)
        one = TorchPredictor(subject.module, "cpu")
        expected, torch_s = _timed(one, noise)
        expected = expected.clone()
        answer, openvino_s = _timed(other, noise)
        scale = float(expected.abs().max())
        difference = float((answer - expected).abs().max()) / scale if scale > 0 else math.inf
    return Trial(torch_s, openvino_s, difference if math.isfinite(difference) else math.inf)


def _timed(predictor: Callable[[Tensor], Tensor], windows: Tensor) -> tuple[Tensor, float]:
    """The answer, and the seconds of the quicker of two calls: the first one prepares."""
    seconds = math.inf
    for _ in range(2):
        given = windows.clone()
        began = time.perf_counter()
        answer = predictor(given)
        seconds = min(seconds, time.perf_counter() - began)
    return answer, seconds


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """That many threads of torch inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_predictor(
    module: nn.Module,
    model: Model,
    window: Triple,
    settings: InferenceSettings,
    choice: BackendChoice | None = None,
) -> Predictor:
    """A predictor for one module of a model.

    Args:
        module: the model's network, one of its members, or the part of either before the head; on
            `model.device`, in evaluation mode.
        model: gives device, input channels and fingerprints (for caches on disk).
        window: voxels of a window along i, j, k.
        settings: the user's wishes.
        choice: what was decided (`choose_backend`); None keeps to torch. Of `int8`, this is the float32
            that it is checked against (`medseg.inference.backends.int8`).

    Raises:
        ModelError: `NOT_CONVERTIBLE`.
        SettingsError: `NO_BACKEND`.
    """
    if choice is None:
        choice = BackendChoice("torch", "f32" if model.device == "cpu" else "f16")
    precision: Precision = "f32" if choice.precision == "int8" else choice.precision
    if choice.backend == "torch":
        # bfloat16 is quicker with channels side by side; float32 is not always.
        return TorchPredictor(
            module,
            model.device,
            precision=precision,
            channels_last=precision != "f32" and model.device != "mps",
        )
    cache = NetworkCache(cache_folder())
    return openvino_predictor(subject_of(module, model, window), precision, thread_count(settings), cache)
