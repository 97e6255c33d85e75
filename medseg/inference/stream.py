"""All windows of one run: answered, summed in a slab, and sent home as soon as planes are finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.errors import DeviceMemoryError, VolumeError
from medseg.inference.answer import Answerer, check_finite, in_words
from medseg.inference.home import PlaneTaker
from medseg.inference.importance import importance_map
from medseg.inference.slab import Slab
from medseg.inference.windows import Triple, WindowGrid
from medseg.progress import CancelToken, Progress, ProgressCallback, silent

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.models.card import SlidingWindow

STAGE = "segment"
"""Name of the stage in progress reports; a unit is a window."""


@dataclass(frozen=True)
class Listener:
    """Who waits for a run.

    Attributes:
        progress: told after every window.
        cancel: looked at before every window.
        note: told with the first report.
    """

    progress: ProgressCallback = silent
    cancel: CancelToken | None = None
    note: str = ""

    def tell(self, done: int, total: int) -> None:
        """Report, and stop if that was asked for."""
        self.progress(Progress(STAGE, done, total, "" if done else self.note))
        if self.cancel is not None:
            self.cancel.check()


class Stream:
    """One image under one model.

    Where the device has no memory left, sums and image go to the processor's memory, fewer planes are
    decided together, and the work goes on with the window at which it stood.

    Args:
        image: `(1, channels, i, j, k)` float32 on the CPU, not padded.
        windows: positions on it.
        recipe: blending and padding.
        answerer: answers windows.
        axis: along which the work goes on.
        flush_planes: planes that are decided together.
    """

    def __init__(
        self,
        image: Tensor,
        windows: WindowGrid,
        recipe: SlidingWindow,
        answerer: Answerer,
        axis: int = 2,
        flush_planes: int = 16,
    ) -> None:
        self._windows = windows
        self._answerer = answerer
        self._axis = axis
        self._flush_planes = flush_planes
        self._image = padded(image, windows, recipe)
        self._weight = importance_map(windows.size, recipe.blend, recipe.sigma_scale)
        self._slab = self._new_slab()

    def run(self, homes: Sequence[PlaneTaker], listener: Listener | None = None) -> None:
        """Answer every window, and hand averaged planes to every home in turn.

        Raises:
            ModelError: the network answers what it should not.
            DeviceMemoryError: memory is short and nothing is left to give up.
            CancelledError: a stop was asked for.
        """
        listener = listener or Listener()
        done, count = 0, self._windows.count
        listener.tell(done, count)
        for first, end, corners in self._windows.layers(self._axis):
            for corner in corners:
                self._add(corner)
                done += 1
                listener.tell(done, count)
            self._send_home(homes, first, end)

    def _new_slab(self) -> Slab:
        shape, channels = self._windows.padded_shape, self._answerer.channels
        device, channels_last = self._answerer.device, self._answerer.channels_last
        try:
            with in_words(self._windows.size):
                if device.type == "cuda":
                    self._image = self._image.to(device)
                return Slab(channels, shape, self._weight.to(device), self._axis, channels_last=channels_last)
        except DeviceMemoryError:
            if device.type == "cpu":
                raise
        self._image = self._image.cpu()
        return Slab(channels, shape, self._weight, self._axis, channels_last=channels_last)

    def _add(self, corner: Triple) -> None:
        """Answer and sum one window; with less memory, if need be."""
        part = tuple(slice(a, a + n) for a, n in zip(corner, self._windows.size, strict=True))
        while True:
            try:
                with in_words(self._windows.size):
                    # A copy: the network may write into its input, and windows overlap.
                    window = self._image[(slice(None), slice(None), *part)].clone()
                    self._slab.add(self._answerer(window)[0], corner)
            except DeviceMemoryError:
                if not self._can_shrink:
                    raise
            else:
                return
            self._shrink()  # out of the handler, which keeps the failed attempt's memory alive

    @property
    def _can_shrink(self) -> bool:
        return self._answerer.keeps_an_answer or self._slab.device.type != "cpu" or self._flush_planes > 1

    def _shrink(self) -> None:
        """Give some memory up."""
        import torch

        self._flush_planes = max(1, self._flush_planes // 2)
        self._answerer.forget()
        if self._slab.device.type != "cpu":
            self._slab.move("cpu")
            self._image = self._image.cpu()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _taken(self, start: int, stop: int) -> Tensor:
        """Averages of finished planes."""
        while True:
            try:
                with in_words(self._windows.size):
                    return self._slab.take(start, stop)
            except DeviceMemoryError:
                if self._slab.device.type == "cpu":
                    raise
            self._shrink()

    def _send_home(self, homes: Sequence[PlaneTaker], first: int, end: int) -> None:
        """Hand the finished planes `first` to `end` of the padded image over, a few at a time."""
        before, shape = self._windows.before, self._windows.image_shape
        at = first
        while at < end:
            stop = min(at + self._flush_planes, end)
            low, high = max(at, before[self._axis]), min(stop, before[self._axis] + shape[self._axis])
            values = self._taken(at, stop)
            if low < high:
                inside = [slice(b, b + n) for b, n in zip(before, shape, strict=True)]
                inside[self._axis] = slice(low - at, high - at)
                values = values[(slice(None), *inside)]
                check_finite(values, f"in planes {low} to {high - 1} of axis {self._axis}")
                with in_words(self._windows.size):
                    for home in homes:
                        home.feed(values, low - before[self._axis])
            at = stop


def padded(image: Tensor, windows: WindowGrid, recipe: SlidingWindow) -> Tensor:
    """An image `(1, channels, i, j, k)` filled up to at least one window.

    Raises:
        VolumeError: `TOO_SMALL`, too little to reflect.
    """
    import torch

    before, after = windows.before, windows.after
    if not any((*before, *after)):
        return image
    widths = [width for axis in (2, 1, 0) for width in (before[axis], after[axis])]
    if recipe.padding_mode == "constant":
        return torch.nn.functional.pad(image, widths, value=recipe.padding_value)
    room = 1 if recipe.padding_mode == "reflect" else 0
    most = [n - room for n in image.shape[2:]]
    if recipe.padding_mode != "replicate" and any(a > m for a, m in zip(after, most, strict=True)):
        raise VolumeError(
            "TOO_SMALL",
            f"expected a scan of at least half a window of {windows.size} voxels, got "
            f"{tuple(image.shape[2:])} after resampling; choose another model",
        )
    return torch.nn.functional.pad(image, widths, mode=recipe.padding_mode)
