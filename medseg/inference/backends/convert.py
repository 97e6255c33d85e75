"""A torch module as an OpenVINO model of one window size, in memory.

The module is traced at the true window: networks may build its size into their graph, and small
ones leave a single voxel at the bottom, which instance norms refuse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from medseg.errors import ModelError
from medseg.inference.backends.quiet import import_quietly, without_telemetry

if TYPE_CHECKING:
    from torch import nn

Triple = tuple[int, int, int]

MAX_POOL = 16
"""Sides of the boxes over which means are taken first; bounds the length of a sum."""


def convert_module(module: nn.Module, in_channels: int, window: Triple) -> Any:
    """Convert a module.

    Args:
        module: `(1, in_channels, i, j, k)` to one tensor, or to a sequence whose first item counts; in
            evaluation mode, on the CPU.
        in_channels: channels of its input.
        window: voxels of its input.

    Returns:
        An `openvino.Model` of static shape with one input and one output, float32.

    Raises:
        ModelError: `NOT_CONVERTIBLE`.
        SettingsError: `NO_BACKEND`.
    """
    import torch

    passes = import_quietly("openvino.passes")
    frontend = import_quietly("openvino.frontend")
    decoders = import_quietly("openvino.frontend.pytorch.ts_decoder")

    class FirstOutput(torch.nn.Module):
        """Deep supervision answers at several scales; the first is the full one."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            output = self.module(image)
            first: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
            return first

    shape = (1, in_channels, *window)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    failures = (
        RuntimeError, ValueError, TypeError, IndexError, KeyError, frontend.OpConversionFailure,
        frontend.GeneralFailure, frontend.NotImplementedFailure, frontend.OpValidationFailure,
    )  # fmt: skip
    try:
        # Tensors of inference mode cannot be traced; tracing warns of what is a constant here.
        with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace
            traced = trace(FirstOutput().eval(), image.clone(), check_trace=False)
            with without_telemetry():
                decoder = decoders.TorchScriptPythonDecoder(traced)  # must live until it is converted
                reader = frontend.FrontEndManager().load_by_framework("pytorch")
                model = reader.convert(reader.load(decoder))
        model.reshape(list(shape))
        model.validate_nodes_and_infer_types()
    except failures as error:
        raise _not_convertible(str(error).strip().partition("\n")[0]) from error
    if len(model.outputs) != 1 or model.output(0).partial_shape.is_dynamic:
        raise _not_convertible("its answer has no fixed shape")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def _not_convertible(why: str) -> ModelError:
    return ModelError(
        "NOT_CONVERTIBLE",
        f"expected a network that OpenVINO can run, got one that it cannot ({why[:300]}); "
        "choose --backend torch",
    )


def with_channels_last(model: Any) -> Any:
    """A model that answers `(1, i, j, k, channels)`, which is how OpenVINO computes on a CPU.

    It spares a reordering of the answer, a sixth of the time of MONAI's UNet of 25 classes.

    Args:
        model: an `openvino.Model` with one output `(1, channels, i, j, k)`; not to be used any more.
    """
    openvino = import_quietly("openvino")
    ops = import_quietly("openvino.opset13")
    answer = model.output(0).get_node().input_value(0)
    turned = ops.transpose(answer, [0, 2, 3, 4, 1])
    return openvino.Model([turned], model.get_parameters(), model.get_friendly_name())


def with_exact_norms(model: Any) -> int:
    """Replace instance and group norms by steps that add up in short sums, in the same model.

    OpenVINO's own norm adds up a whole channel in float32, one voxel after another: with 96^3 voxels
    the variance comes out 1e-4 too small, and the scores of a UNet differ by 2e-3. Means of boxes, and
    then their mean, are exact to rounding, and no slower.

    Args:
        model: an `openvino.Model` of static shapes.

    Returns:
        How many were replaced.
    """
    count = 0
    for node in model.get_ordered_ops():
        made = None
        if node.get_type_name() == "MVN":
            made = _instance_norm(node)
        elif node.get_type_name() == "GroupNormalization":
            made = _group_norm(node)
        if made is not None:
            made.get_node().set_friendly_name(node.get_friendly_name())
            node.output(0).replace(made)
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _instance_norm(node: Any) -> Any:
    """The output of a norm of each channel over all voxels; None where it normalises otherwise."""
    attributes = node.get_attributes()
    axes = node.input_value(1).get_node()
    shape = tuple(node.output(0).shape)
    if axes.get_type_name() != "Constant" or len(shape) != 5:
        return None
    over = sorted(int(axis) % 5 for axis in axes.data.reshape(-1))
    inside = attributes["eps_mode"].upper() == "INSIDE_SQRT"
    if over != [2, 3, 4] or not attributes["normalize_variance"] or not inside:
        return None
    return _normalised(node.input_value(0), shape, float(attributes["eps"]), groups=shape[1])


def _group_norm(node: Any) -> Any:
    shape = tuple(node.output(0).shape)
    if len(shape) != 5:
        return None
    ops = import_quietly("openvino.opset13")
    attributes = node.get_attributes()
    plain = _normalised(
        node.input_value(0), shape, float(attributes["epsilon"]), groups=int(attributes["num_groups"])
    )
    per_channel = [1, shape[1], 1, 1, 1]
    scale = ops.reshape(node.input_value(1), per_channel, special_zero=False)
    bias = ops.reshape(node.input_value(2), per_channel, special_zero=False)
    return ops.add(ops.multiply(plain, scale), bias).output(0)


def _normalised(source: Any, shape: Sequence[int], epsilon: float, *, groups: int) -> Any:
    """`(x - mean) / sqrt(variance + epsilon)` over each group's channels and voxels."""
    import numpy as np

    ops = import_quietly("openvino.opset13")
    box = [max(n for n in range(1, MAX_POOL + 1) if side % n == 0) for side in shape[2:]]

    def mean(values: Any) -> Any:
        if math.prod(box) > 1:
            none = [0, 0, 0]
            values = ops.avg_pool(
                values, box, none, none, box, exclude_pad=False, rounding_type="floor", auto_pad="valid"
            ).output(0)
        per_channel = ops.reduce_mean(values, np.array([2, 3, 4]), keep_dims=True)
        if groups == shape[1]:
            return per_channel
        grouped = ops.reshape(per_channel, [1, groups, -1, 1, 1], special_zero=False)
        of_group = ops.reduce_mean(grouped, np.array([2]), keep_dims=True)
        spread = ops.broadcast(of_group, [1, groups, shape[1] // groups, 1, 1])
        return ops.reshape(spread, [1, shape[1], 1, 1, 1], special_zero=False)

    centred = ops.subtract(source, mean(source))
    variance = mean(ops.multiply(centred, centred))
    deviation = ops.sqrt(ops.add(variance, np.float32(epsilon)))
    return ops.multiply(centred, ops.divide(np.float32(1), deviation)).output(0)
