"""What answers windows, whatever it runs on.

A backend turns a torch module into a `Predictor`. The module may be the whole network or its part
before the head (`medseg.inference.hoist`): a predictor does not know the difference.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Precision = Literal["f32", "f16", "bf16"]


class Predictor(Protocol):
    """Answers windows, the same windows always with the same answer."""

    @property
    def device(self) -> torch.device:
        """Where answers lie, hence where they are summed."""

    @property
    def description(self) -> str:
        """Backend, precision and device for people and the run record, such as `"torch f32 on cpu"`."""

    @property
    def channels_last(self) -> bool:
        """Whether the channels of a voxel of an answer lie side by side in memory."""

    def __call__(self, windows: Tensor) -> Tensor:
        """Answer some windows.

        Args:
            windows: `(n, in_channels, i, j, k)` float32 on the CPU, the predictor's own: it may write
                into it.

        Returns:
            `(n, channels, i, j, k)` of a floating type on `device`; valid until the next call only, so
            that a backend may answer from memory that it uses again.

        Raises:
            RuntimeError: whatever the backend raises; `medseg.inference.answer` puts it into words.
        """


class TorchPredictor:
    """A torch module on its device.

    Args:
        module: `(n, in_channels, i, j, k)` to one tensor, or to a sequence whose first item counts (deep
            supervision); in evaluation mode, on `device`.
        device: `"cpu"`, `"cuda"` or `"mps"`.
        precision: `"f32"`, or the type that autocast uses where it may.
        channels_last: keep the channels of a voxel side by side. Quicker for some networks, slower for
            others; rounding differs.
    """

    def __init__(
        self, module: nn.Module, device: str, *, precision: Precision = "f32", channels_last: bool = False
    ) -> None:
        import torch

        self.device = torch.device(device)
        self.description = f"torch {precision} on {device}"
        self.channels_last = channels_last
        self._precision = precision
        if channels_last:
            module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # stub
        self._module = module

    def __call__(self, windows: Tensor) -> Tensor:
        """Answer some windows; see `Predictor`."""
        import torch

        windows = windows.to(self.device, non_blocking=True)
        if self.channels_last:
            windows = windows.contiguous(memory_format=torch.channels_last_3d)
        with self._autocast():
            output = self._module(windows)
        return output if isinstance(output, torch.Tensor) else output[0]

    def _autocast(self) -> AbstractContextManager[object]:
        import torch

        if self._precision == "f32":
            return nullcontext()
        kind = torch.float16 if self._precision == "f16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=kind)
