"""A model's network as a file for other programs: ONNX, OpenVINO or TorchScript, tried before it is kept.

The file takes one window of the card's size, `image` `(1, in_channels, i, j, k)` after the card's intensity
steps, and answers `scores` `(1, out_channels, i, j, k)` before the card's activation. What else a program has
to do stands beside it as NAME.card.json (`medseg.models.card_json`), with which a TorchScript file is a model
of medseg again. A detector has a second file, NAME.masks, for crops `(1, 3, 32, 32, 32)` about its boxes.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import ModelError, WriteError
from medseg.files import whole_file, write_json
from medseg.inference.backends.convert import convert_module, with_exact_norms
from medseg.inference.backends.quiet import import_quietly
from medseg.instances.crops import CROP_VOXELS
from medseg.models.atlas import write_atlas
from medseg.models.card import NetworkRecipe
from medseg.models.card_json import card_to_json
from medseg.models.loading import Model
from medseg.models.torchscript import TORCHSCRIPT_TARGET, card_path

OPSET = 18
"""Of ONNX."""

MOST_DIFFERENCE = 0.01
"""Of an answer, as a part of the largest one; rounding stays far below."""

MASK_SHAPE = (1, 3, CROP_VOXELS, CROP_VOXELS, CROP_VOXELS)
"""What a detector's second network sees (`medseg.instances.crops`)."""

Shape = tuple[int, ...]
Content = dict[str, bytes]
"""Bytes of the files of one network, by their endings, the one that names the others last."""

Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    Attributes:
        files: those of the network, then the card.
        difference: largest one between an answer of a written file and of the model, as a part of the
            largest answer.
    """

    files: tuple[Path, ...]
    difference: float


class MeanAnswer(nn.Module):
    """The mean answer of networks; of those that answer at several scales the full one.

    Args:
        networks: one or more, of one card.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """`(n, in_channels, i, j, k)` to `(n, out_channels, i, j, k)`."""
        outputs = [network(image) for network in self.networks]
        answers: list[Tensor] = [one if isinstance(one, Tensor) else one[0] for one in outputs]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)


def export_model(model: Model, path: str | Path) -> ExportedModel:
    """Write a model's network for another program, and its card beside it.

    What is written was run on one window before: ONNX and OpenVINO files by OpenVINO. Files of these names
    are replaced.

    Args:
        model: of any format; several folds become one network.
        path: file to write; `.onnx`, `.xml` (OpenVINO, its weights go to `.bin`) or `.ts` (TorchScript).

    Raises:
        WriteError: `UNKNOWN_FORMAT`, another ending; `NOT_WRITABLE`, `DISK_FULL`.
        ModelError: `PACKAGE_MISSING`, ONNX is wanted and its package is not there; `NOT_CONVERTIBLE`, the
            network cannot be written so; `EXPORT_DIFFERS`, the file answers otherwise than the model.
        SettingsError: `NO_BACKEND`, OpenVINO is not there.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise WriteError(
            "UNKNOWN_FORMAT",
            f"expected a name that ends in {', '.join(_FORMATS)}, got {path.name!r}; choose one of them",
        )
    card, whole = model.card, (1, model.card.in_channels, *model.card.window.size)
    networks: dict[Path, tuple[list[nn.Module], Shape]] = {path: ([model.network, *model.members], whole)}
    if card.detection is not None and model.masks is not None:
        masks = path.with_name(f"{path.stem}.masks{path.suffix}")
        networks[masks] = ([model.masks], MASK_SHAPE)
        recipe = NetworkRecipe(TORCHSCRIPT_TARGET, {}, masks.name)
        card = replace(card, detection=replace(card.detection, masks=recipe))
    made, difference = dict[Path, bytes](), 0.0
    for place, (members, shape) in networks.items():
        content, differs = _tried(members, shape, path.suffix)
        made |= {place.with_suffix(ending): data for ending, data in content.items()}
        difference = max(difference, differs)
    for place, data in made.items():
        with whole_file(place) as stream:
            stream.write(data)
    files = [*made]
    if model.atlas is not None:
        beside = path.with_name(f"{path.stem}.atlas.npz")
        write_atlas(model.atlas, beside)
        card = replace(card, atlas_file=beside.name)
        files.append(beside)
    write_json(card_path(path), card_to_json(card))
    return ExportedModel((*files, card_path(path)), difference)


def scripted_network(networks: Sequence[nn.Module], shape: Shape) -> torch.jit.ScriptModule:
    """Networks as one of TorchScript, traced on an empty window: they do the same for every image.

    Args:
        networks: on the CPU; their answers are averaged.
        shape: of the window.
    """
    module = MeanAnswer(networks).eval()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against TorchScript; other programs take it
        trace: Any = torch.jit.trace
        traced: torch.jit.ScriptModule = trace(module, torch.zeros(shape), check_trace=False)
    return traced


def scripted_bytes(traced: torch.jit.ScriptModule, extra: dict[str, bytes] | None = None) -> bytes:
    """A TorchScript file.

    Args:
        traced: of `scripted_network`.
        extra: small files that lie in it, by name.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(traced, buffer, extra or {})
    return buffer.getvalue()


def _tried(members: Sequence[nn.Module], shape: Shape, suffix: str) -> tuple[Content, float]:
    """The files of a network, and how far their answer is from its own."""
    write, runner = _FORMATS[suffix]
    networks = [copy.deepcopy(one).cpu() for one in members]
    try:
        content = write(networks, shape)
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        reason = str(error).strip().partition("\n")[0][:300]
        raise ModelError(
            "NOT_CONVERTIBLE",
            f"expected a network that can be written as {suffix}, got one that cannot ({reason}); choose "
            "another ending",
        ) from error
    window = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = MeanAnswer(networks).eval()(window)
        difference = float((runner(content)(window) - expected).abs().max() / expected.abs().max())
    if not difference <= MOST_DIFFERENCE:
        raise ModelError(
            "EXPORT_DIFFERS",
            f"expected the answer of the model from the {suffix} file, got one that differs by "
            f"{difference:.2g} of it; choose another ending",
        )
    return content, difference


def _onnx(networks: Sequence[nn.Module], shape: Shape) -> Content:
    """By torch's tracing exporter: its newer one needs more packages, and keeps weights in a second file."""
    if importlib.util.find_spec("onnx") is None:
        raise ModelError(
            "PACKAGE_MISSING",
            "expected the package onnx, got none; install it with `pip install medseg[onnx]`, or choose .xml",
        )
    module = MeanAnswer(networks).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called old, and says what becomes a constant
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            module,
            (torch.zeros(shape),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores"],
        )
        return {".onnx": file.read_bytes()}


def _openvino(networks: Sequence[nn.Module], shape: Shape) -> Content:
    model = convert_module(MeanAnswer(networks), shape[1], (shape[2], shape[3], shape[4]))
    with_exact_norms(model)
    model.input(0).set_names({"image"})
    model.output(0).set_names({"scores"})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.xml"
        import_quietly("openvino").save_model(model, file, compress_to_fp16=False)
        return {ending: file.with_suffix(ending).read_bytes() for ending in (".bin", ".xml")}


def _torchscript(networks: Sequence[nn.Module], shape: Shape) -> Content:
    return {".ts": scripted_bytes(scripted_network(networks, shape))}


def _run_by_openvino(content: Content) -> Answer:
    core = import_quietly("openvino").Core()
    *weights, graph = content.values()
    model = core.read_model(graph, *weights)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda window: torch.from_numpy(compiled([window.numpy()])[0])


def _run_by_torch(content: Content) -> Answer:
    load: Any = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network: Answer = load(io.BytesIO(content[".ts"]), map_location="cpu")
    return network


_FORMATS: dict[str, tuple[Callable[[Sequence[nn.Module], Shape], Content], Callable[[Content], Answer]]] = {
    ".onnx": (_onnx, _run_by_openvino),
    ".xml": (_openvino, _run_by_openvino),
    ".ts": (_torchscript, _run_by_torch),
}
"""What each ending is written by, and run by."""
