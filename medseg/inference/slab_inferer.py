"""medseg's sliding window for programs that are written with MONAI.

This module imports MONAI; nothing else in medseg imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import SlidingWindowInferer
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple
from monai.utils.module import optional_import
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor, nn

from medseg.errors import SettingsError
from medseg.inference.answer import Answerer, Parts
from medseg.inference.hoist import Head, split_head
from medseg.inference.predictor import TorchPredictor
from medseg.inference.stream import Listener, Stream
from medseg.inference.windows import Triple, WindowGrid, place_windows
from medseg.models.card import SlidingWindow
from medseg.progress import Progress

Output = Literal["scores", "labels"]


class SlabInferer(SlidingWindowInferer):
    """A drop-in for `monai.inferers.SlidingWindowInferer` with less memory and, often, less time.

    The same windows, weights and padding; scores agree within rounding (1e-4). Sums are kept for one
    slab only, and where the network ends in a 1x1x1 convolution to more classes than it has features,
    the features are summed and that layer is applied once per voxel. With `output="labels"` scores of
    the whole volume never exist: memory no longer depends on the number of classes beyond the slab.

    Gradients are not recorded. `sw_batch_size`, `buffer_steps`, `buffer_dim`, `cpu_thresh` and
    `cache_roi_weight_map` change nothing. What MONAI's inferer can do and this one cannot (inputs of
    other than three spatial dimensions, one `sigma_scale` per axis, `with_coord`, `condition`, networks
    that answer several tensors or another size) is handed to MONAI's own code, scores only.

    Args:
        arguments: as of `SlidingWindowInferer`.
        output: `"scores"`, `(n, channels, i, j, k)` float32 as MONAI's; or `"labels"`, `(n, 1, i, j, k)`,
            the channel of the highest score, uint8 (int16 beyond 256 channels).
        options: as of `SlidingWindowInferer`.
    """

    def __init__(self, *arguments: Any, output: Output = "scores", **options: Any) -> None:
        super().__init__(*arguments, **options)
        if output not in ("scores", "labels"):
            raise SettingsError(
                "BAD_SETTING", f"expected output scores or labels, got {output!r}; choose one"
            )
        self.output = output

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a network over images.

        Args:
            inputs: `(n, channels, i, j, k)`.
            network: `(1, channels, *window)` to `(1, classes, *window)`.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network; `device` as of `SlidingWindowInferer`.

        Raises:
            SettingsError: `NOT_SUPPORTED`, labels were asked for where only MONAI's own code can answer.
            ModelError: `NETWORK_NAN`, a score that is no number.
            DeviceMemoryError: `OUT_OF_MEMORY`.
        """
        is_known = inputs.ndim == 5 and isinstance(self.sigma_scale, (int, float))
        if not is_known or self.with_coord or kwargs.get("condition") is not None:
            return self._by_monai(inputs, network, *args, **kwargs)
        options = dict(kwargs)
        device = torch.device(options.pop("device", None) or self.device or inputs.device)
        options.pop("buffer_steps", None)
        options.pop("buffer_dim", None)
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        windows = self._windows(image)
        called = _Called(network, self._network_device(image), args, options)
        with torch.no_grad():
            if not called.fits(image, windows, self._recipe(windows)):
                return self._by_monai(inputs, network, *args, **kwargs)
            parts = [self._one(image[n : n + 1], windows, called, device) for n in range(len(image))]
        result = torch.cat(parts)
        if isinstance(inputs, MetaTensor):
            meta = MetaTensor([])
            meta.copy_meta_from(inputs, copy_attr=False)  # type: ignore[no-untyped-call]  # MONAI's
            return convert_to_dst_type(result, meta, dtype=result.dtype, device=device)[0]
        return result

    def _by_monai(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.output != "scores":
            raise SettingsError(
                "NOT_SUPPORTED",
                "expected three spatial dimensions and a network of one answer of a window's size for "
                "labels, got others; ask for scores",
            )
        return super().__call__(inputs, network, *args, **kwargs)

    def _network_device(self, image: Tensor) -> torch.device:
        return torch.device(self.sw_device) if self.sw_device is not None else image.device

    def _windows(self, image: Tensor) -> WindowGrid:
        i, j, k = image.shape[2:]
        a, b, c = fall_back_tuple(self.roi_size, (i, j, k))
        x, y, z = ensure_tuple_rep(self.overlap, 3)
        return place_windows((i, j, k), (int(a), int(b), int(c)), (float(x), float(y), float(z)))

    def _recipe(self, windows: WindowGrid) -> SlidingWindow:
        return SlidingWindow(
            windows.size,
            blend="gaussian" if str(self.mode) == "gaussian" else "constant",
            sigma_scale=float(self.sigma_scale) if isinstance(self.sigma_scale, (int, float)) else 0.125,
            padding_mode=str(getattr(self.padding_mode, "value", self.padding_mode)),  # type: ignore[arg-type]  # checked by the class
            padding_value=float(self.cval),
        )

    def _one(self, image: Tensor, windows: WindowGrid, called: _Called, device: torch.device) -> Tensor:
        """Scores or labels of one image."""
        parts = Parts((), called.head, (called.channels,))
        answerer = Answerer([called], parts, windows.size)
        axis = windows.thinnest_axis
        taker = _Whole(windows.image_shape, called, axis, device, of_labels=self.output == "labels")
        plane = called.channels * 4 * (image[0, 0].numel() // image.shape[axis + 2])
        planes = max(1, min(16, 256_000_000 // max(1, plane)))
        stream = Stream(image.float(), windows, self._recipe(windows), answerer, axis, planes)
        stream.run([taker], Listener(_bar() if self.progress else _silent))
        return taker.result


class _Called:
    """A callable as a predictor, without its head where it has one that can be taken off."""

    def __init__(
        self,
        network: Callable[..., Any],
        device: torch.device,
        args: tuple[Any, ...],
        options: dict[str, Any],
    ) -> None:
        self.device = device
        self.description = f"torch on {device}"
        self.channels_last = False
        self.head: Head | None = None
        self.channels = self.classes = 0
        self._network = network
        self._args, self._options = args, options

    def fits(self, image: Tensor, windows: WindowGrid, recipe: SlidingWindow) -> bool:
        """Whether the answer to the first window is one tensor of its size; learns the channels."""
        size = windows.size
        window = image.new_full((1, image.shape[1], *size), recipe.padding_value)
        inside = tuple(slice(0, min(n, whole)) for n, whole in zip(size, image.shape[2:], strict=True))
        window[(slice(None), slice(None), *inside)] = image[(slice(0, 1), slice(None), *inside)]
        answer = self(window.float())
        if not isinstance(answer, Tensor) or tuple(answer.shape[2:]) != size or len(answer) != 1:
            return False
        self.channels = self.classes = int(answer.shape[1])
        if isinstance(self._network, nn.Module) and not self._network.training and not self._has_more:
            self._take_head_off(self._network, image.shape[1], size)
        return True

    @property
    def _has_more(self) -> bool:
        return bool(self._args or self._options)

    def _take_head_off(self, network: nn.Module, in_channels: int, size: Triple) -> None:
        split = split_head(network, in_channels, size)
        if split is not None and split.features < self.classes:
            body = TorchPredictor(split.body, str(self.device))
            self.head, self.channels, self._network = split.head, split.features, body

    def __call__(self, windows: Tensor) -> Any:
        """Answer windows; see `Predictor`."""
        return self._network(windows.to(self.device), *self._args, **self._options)


class _Whole:
    """Takes planes and holds scores or labels of the whole image."""

    def __init__(
        self, shape: Triple, called: _Called, axis: int, device: torch.device, *, of_labels: bool
    ) -> None:
        self._axis = axis
        self._head = called.head
        self._of_labels = of_labels
        kind = torch.uint8 if called.classes <= 256 else torch.int16
        self.result = torch.empty(
            (1, 1 if of_labels else called.classes, *shape),
            dtype=kind if of_labels else torch.float32,
            device=device,
        )

    def feed(self, values: Tensor, start: int) -> None:
        """Take planes; see `WayHome.feed`."""
        count = values.shape[self._axis + 1]
        for at in range(count):
            plane = values.narrow(self._axis + 1, at, 1)
            scores = plane if self._head is None else self._head(plane)
            place = self.result[0].narrow(self._axis + 1, start + at, 1)
            place.copy_(scores.argmax(0, keepdim=True) if self._of_labels else scores)


def _silent(progress: Progress) -> None:
    """Report to nobody."""


def _bar() -> Callable[[Progress], None]:
    """A bar of windows, as MONAI shows one."""
    tqdm, is_there = optional_import("tqdm", name="tqdm")
    if not is_there:
        return _silent
    bar = tqdm()

    def report(progress: Progress) -> None:
        bar.total = progress.total
        bar.update(progress.done - bar.n)
        if progress.done == progress.total:
            bar.close()

    return report
