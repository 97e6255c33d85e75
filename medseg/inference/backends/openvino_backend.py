"""Networks on OpenVINO: converted, kept on disk, compiled for this processor, answering windows."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.inference.backends.cache import NetworkCache, fingerprint_of
from medseg.inference.backends.convert import convert_module, with_channels_last, with_exact_norms
from medseg.inference.backends.quiet import import_quietly
from medseg.inference.predictor import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Triple = tuple[int, int, int]

FORMAT = 1
"""Raised when what is kept on disk changes its meaning."""

GRAPH_FILE = "network.xml"
_KEPT: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()
"""Compiled networks of modules that are still in use."""


@dataclass(frozen=True)
class Subject:
    """A module, and what decides its converted form.

    Attributes:
        module: in evaluation mode, on the CPU.
        in_channels: of its input.
        window: voxels of its input.
        card_sha256: fingerprint of the model's card.
        is_from_file: whether its weights come from a file; others are not kept on disk.
    """

    module: nn.Module
    in_channels: int
    window: Triple
    card_sha256: str
    is_from_file: bool

    @cached_property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights as they are now."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def key(self, purpose: str) -> str:
        """Where the disk keeps something made of it."""
        return fingerprint_of(
            {
                "purpose": purpose,
                "format": FORMAT,
                "weights": self.weights_sha256,
                "modules": [(name, type(one).__qualname__) for name, one in self.module.named_modules()],
                "card": self.card_sha256,
                "channels": self.in_channels,
                "window": self.window,
                "versions": {name: metadata.version(name) for name in ("openvino", "torch", "monai")},
            }
        )


def network_model(subject: Subject, cache: NetworkCache) -> Any:
    """The OpenVINO model of a module: from the disk, or converted and put there.

    Args:
        subject: the module.
        cache: looked at for modules whose weights come from a file.

    Raises:
        ModelError: `NOT_CONVERTIBLE`.
        SettingsError: `NO_BACKEND`.
    """
    openvino = import_quietly("openvino")
    if not subject.is_from_file:
        return convert_module(subject.module, subject.in_channels, subject.window)
    key = subject.key("network")
    kept = read_network(cache, key)
    if kept is not None:
        return kept
    model = convert_module(subject.module, subject.in_channels, subject.window)

    def write(folder: Path) -> None:
        openvino.save_model(model, folder / GRAPH_FILE, compress_to_fp16=False)

    cache.put(key, write, {})
    return model


def read_network(cache: NetworkCache, key: str) -> Any:
    """An OpenVINO model from the disk; None where there is none that can be read."""
    entry = cache.find(key)
    if entry is None:
        return None
    core = import_quietly("openvino").Core()
    try:
        return core.read_model(entry.folder / GRAPH_FILE)
    except RuntimeError:  # whole, but of no use to this version
        cache.drop(key)
        return None


def compile_network(model: Any, precision: Precision, threads: int) -> Any:
    """An OpenVINO model ready to run on this processor; it answers `(1, i, j, k, channels)`.

    Args:
        model: changed where its norms are replaced (`f32`).
        precision: `"f32"` or `"bf16"`; a quantised model keeps its int8 parts in both.
        threads: at least 1.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """
    core = import_quietly("openvino").Core()
    if precision == "f32":
        with_exact_norms(model)
    model = with_channels_last(model)
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    return core.compile_model(model, "CPU", hints)


def has_bf16() -> bool:
    """Whether this processor computes in bfloat16 itself.

    Raises:
        SettingsError: `NO_BACKEND`.
    """
    core = import_quietly("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def processor_name() -> str:
    """The processor, as OpenVINO names it."""
    return str(import_quietly("openvino").Core().get_property("CPU", "FULL_DEVICE_NAME"))


class OpenVinoPredictor:
    """A compiled network as a `medseg.inference.predictor.Predictor`.

    Args:
        compiled: takes one window; of `compile_network`.
        description: for people and the run record.
    """

    def __init__(self, compiled: Any, description: str) -> None:
        import torch

        self._request = compiled.create_infer_request()
        self.device: torch.device = torch.device("cpu")
        self.description = description
        self.channels_last = True

    def __call__(self, windows: Tensor) -> Tensor:
        """Answer some windows; see `Predictor`."""
        import torch

        if len(windows) == 1:
            return self._one(windows)
        return torch.cat([self._one(window[None]).clone() for window in windows])

    def _one(self, window: Tensor) -> Tensor:
        import torch

        given = window.contiguous().numpy()
        answers = self._request.infer([given], share_inputs=True, share_outputs=True)
        return torch.from_numpy(answers[0]).movedim(-1, 1)


def openvino_predictor(
    subject: Subject, precision: Precision, threads: int, cache: NetworkCache
) -> OpenVinoPredictor:
    """A predictor for a module; the same one again while the module lives.

    Args:
        subject: the module.
        precision: `"f32"` or `"bf16"`.
        threads: at least 1.
        cache: where converted networks are kept.

    Raises:
        ModelError: `NOT_CONVERTIBLE`.
        SettingsError: `NO_BACKEND`.
    """
    known = _KEPT.setdefault(subject.module, {})
    state = (subject.in_channels, subject.window, precision, threads, subject.weights_sha256)
    if state not in known:
        known.clear()  # one at a time: each holds weights and working memory
        model = network_model(subject, cache)
        compiled = compile_network(model, precision, threads)
        known[state] = OpenVinoPredictor(compiled, f"openvino {precision} on cpu")
    predictor: OpenVinoPredictor = known[state]
    return predictor


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's compiled network and its working memory are in this process already."""
    return bool(_KEPT.get(module))


def forget_compiled(module: nn.Module) -> None:
    """Free what is kept for a module."""
    _KEPT.pop(module, None)
