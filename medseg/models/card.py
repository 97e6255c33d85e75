"""All that a model says of itself: the plan of one inference, as data.

Recipes of every format are lowered to a `Card`; nothing after this knows where it came from.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from medseg.errors import ModelError
from medseg.geometry import AXIS_PAIRS
from medseg.labels import LabelSet
from medseg.models.foreground import ForegroundCrop
from medseg.models.intensity_steps import IntensityStep

Blend = Literal["constant", "gaussian", "gaussian-nnunet"]
Placement = Literal["clamped", "even"]
PaddingMode = Literal["constant", "reflect", "replicate", "circular"]
Activation = Literal["softmax", "sigmoid", "none"]
Home = Literal["scores-linear", "logits-linear", "labels-nearest"]
Crop = Literal["none", "nonzero"]


def _require(is_right: bool, expected: str, got: object) -> None:
    if not is_right:
        raise ModelError("BAD_CARD", f"expected {expected}, got {got}; repair the model's recipe")


def _told(value: Any) -> Any:
    """A dataclass as a table of the fields that differ from their defaults.

    So a field that is added later, with a default, leaves the fingerprints of all other cards alone.
    """
    if isinstance(value, tuple):
        return [_told(item) for item in value]
    if not is_dataclass(value):
        return value
    table = {f.name: (getattr(value, f.name), f.default) for f in fields(value)}
    return {name: _told(content) for name, (content, default) in table.items() if content != default}


def _told_steps(steps: tuple[IntensityStep, ...]) -> list[dict[str, Any]]:
    return [{"step": type(step).__name__, **_told(step)} for step in steps]


@dataclass(frozen=True)
class SlidingWindow:
    """How the network is moved over the grid.

    Attributes:
        size: voxels of a window along i, j, k of the card's grid.
        overlap_fraction: part of a window that the next one shares, 0 <= f < 1.
        blend: weights of a window's voxels, equal or falling from its centre; `"gaussian-nnunet"` is
            nnU-Net's own map, centred on a voxel and in half precision.
        sigma_scale: standard deviation of the Gaussian as a part of the window's size.
        padding_mode: how an image smaller than a window is filled up.
        padding_value: value of constant padding, in units after the intensity steps.
        placement: how windows are spread: whole steps, the last window moved back inside (`"clamped"`,
            as MONAI does), or about equal steps of at most that length (`"even"`, as nnU-Net does).
    """

    size: tuple[int, int, int]
    overlap_fraction: float = 0.25
    blend: Blend = "constant"
    sigma_scale: float = 0.125
    padding_mode: PaddingMode = "constant"
    padding_value: float = 0.0
    placement: Placement = "clamped"

    def __post_init__(self) -> None:
        _require([n >= 1 for n in self.size] == [True] * 3, "three window sizes of at least 1", self.size)
        _require(0 <= self.overlap_fraction < 1, "an overlap from 0 to below 1", self.overlap_fraction)
        blends = ("constant", "gaussian", "gaussian-nnunet")
        _require(self.blend in blends, f"one of {blends} as blending", self.blend)
        _require(self.placement in ("clamped", "even"), "clamped or even placement", self.placement)
        _require(self.sigma_scale > 0, "a Gaussian wider than 0", self.sigma_scale)
        modes = ("constant", "reflect", "replicate", "circular")
        _require(self.padding_mode in modes, f"one of {modes} as padding", self.padding_mode)
        _require(math.isfinite(self.padding_value), "a finite padding value", self.padding_value)


@dataclass(frozen=True)
class Resampling:
    """How voxels come onto the card's grid and scores back onto the source's.

    Attributes:
        order: 1 interpolates images linearly, 3 by cubic B-splines clipped to the range of the image.
        fit: `"spacing"`: voxels of exactly `spacing_mm` about the source's centre. `"extent"`: the
            nearest whole number of voxels that fill the source's field of view edge to edge, so the
            spacing is only about `spacing_mm`. `"first-voxel"`: voxels of exactly `spacing_mm` from
            the centre of the source's first voxel on, as MONAI's `Spacing` has it; the last one may lie
            up to half a voxel beyond the source's last centre, and is never blurred.
        keep_ratio: an axis whose source spacing is `spacing_mm` times a factor within these bounds keeps
            the source's spacing.
        anisotropic: `"same"`, or `"nearest"`: where the coarsest spacing of the source, or else of the
            card, exceeds the finest by more than 3 times and only along one axis, that axis is brought
            over by the nearest voxel and only the other two are interpolated, images and scores alike.
        intensity_first: whether the intensity steps come before the resampling.
    """

    order: Literal[1, 3] = 1
    fit: Literal["spacing", "extent", "first-voxel"] = "spacing"
    anisotropic: Literal["same", "nearest"] = "same"
    intensity_first: bool = False
    keep_ratio: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _require(self.order in (1, 3), "interpolation of order 1 or 3", self.order)
        fits = ("spacing", "extent", "first-voxel")
        _require(self.fit in fits, f"one of {fits} as fit", self.fit)
        low, high = self.keep_ratio or (1.0, 1.0)
        _require(0 < low <= 1 <= high < math.inf, "bounds of a factor about 1", self.keep_ratio)
        _require(self.anisotropic in ("same", "nearest"), "same or nearest", self.anisotropic)


@dataclass(frozen=True)
class NetworkRecipe:
    """Which network, built how, with which weights.

    Attributes:
        target: dotted name of its class, such as `"monai.networks.nets.UNet"`.
        arguments: keyword arguments of its constructor, plain JSON values; do not write into it.
        weights_file: path of the weights inside the model's folder, with `/`.
        member_files: of the weights of further networks of the same kind, such as other folds.
    """

    target: str
    arguments: Mapping[str, Any]
    weights_file: str
    member_files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.target.strip()), "a network's name", repr(self.target))
        _require(bool(self.weights_file.strip()), "a weights file", repr(self.weights_file))


@dataclass(frozen=True)
class Detection:
    """How a detector's answers become objects: boxes first, then a mask in every box.

    The network of such a card answers the eight maps that `medseg.instances.boxes` names.

    Attributes:
        masks: network from `(n, 3, s, s, s)` crops to `(n, 1, s, s, s)` logits of being the box's object.
        score_threshold: boxes that score less do not count, 0 < t < 1.
        most_overlap: highest intersection over union of two boxes that both count.
        mask_threshold: voxels that score more belong to the object.
        min_volume_mm3: smaller objects are dropped.
        merge_touching: whether objects of a class that touch are one.

    Raises:
        ModelError: `BAD_CARD`.
    """

    masks: NetworkRecipe
    score_threshold: float = 0.3
    most_overlap: float = 0.3
    mask_threshold: float = 0.5
    min_volume_mm3: float = 0.0
    merge_touching: bool = False

    def __post_init__(self) -> None:
        for name in ("score_threshold", "most_overlap", "mask_threshold"):
            _require(0 < getattr(self, name) < 1, f"{name} between 0 and 1", getattr(self, name))
        fine = math.isfinite(self.min_volume_mm3) and self.min_volume_mm3 >= 0
        _require(fine, "a least volume of 0 mm3 or more", self.min_volume_mm3)


@dataclass(frozen=True)
class LearnedDistance:
    """How a network's two answers become objects that may touch.

    The network of such a card answers, voxel by voxel, the depth below an object's surface in parts of
    the object's greatest depth, and then how likely the voxel is in an object at all. It is used on a
    grid on which objects have the size that it knows: the card's `spacing_mm` is that grid for objects
    of `diameter_voxels * spacing_mm`, and another diameter asks for another spacing.

    Attributes:
        diameter_voxels: of a typical object on the card's grid.
        diameter_mm: of a typical object where nobody states another; 0 where it is to be estimated.
        persistence: least rise of depth above a saddle that makes an object of its own.
        least_depth: objects whose deepest voxel has less are dropped as doubtful.

    Raises:
        ModelError: `BAD_CARD`.
    """

    diameter_voxels: float = 12.0
    diameter_mm: float = 0.0
    persistence: float = 0.1
    least_depth: float = 0.5

    def __post_init__(self) -> None:
        _require(3 <= self.diameter_voxels <= 100, "diameter_voxels from 3 to 100", self.diameter_voxels)
        fine = math.isfinite(self.diameter_mm) and self.diameter_mm >= 0
        _require(fine, "an expected diameter of 0 mm or more", self.diameter_mm)
        for name in ("persistence", "least_depth"):
            _require(0 <= getattr(self, name) < 1, f"{name} from 0 to below 1", getattr(self, name))


DETECTOR_MAPS = 8
"""Channels of a network whose card has a `Detection`."""


@dataclass(frozen=True)
class Card:
    """What a model is, what it wants to see, and what its answers mean.

    Attributes:
        name: short name, as typed on the command line.
        version: of the model.
        description: a sentence or more for people.
        licence: SPDX name or a sentence.
        modality: `"MR"`, `"CT"`, … as in DICOM, or empty where the recipe does not say.
        labels: classes of the result.
        output_ids: label id of every network channel, 0 for background.
        in_channels: images that the network wants at once.
        orientation: axis codes of the card's grid, such as `"RAS"`; None keeps the source's.
        spacing_mm: voxel spacing of the card's grid along its axes; None keeps the source's.
        intensity: steps in order, on the card's grid (`resampling.intensity_first`: on the source's).
        window: how the network is moved over the grid.
        activation: what turns averaged answers into scores.
        threshold: None where the highest score decides; else each channel whose score exceeds it
            claims the voxel, and later channels win over earlier ones.
        claim_order: with a threshold: channels in the order in which they claim voxels; that of the
            network if empty.
        keep_largest: label ids of which only the largest piece stays (26 neighbours), on the card's grid.
        foreground: a crop to what is not background.
        mirror_axes: axes of the card's grid (0, 1, 2) along which its training mirrored, so that a run
            may average over mirrored windows; none where sides were learned.
        channel_names: of the input images in their order, such as `("T1c", "T1", "T2", "FLAIR")`; empty
            where the recipe does not say.
        channel_intensity: steps of each input image where they differ, in place of `intensity`.
        crop: `"nonzero"`: only the box of voxels that are not 0 in some image is looked at, as if the
            scan were cropped to it; outside stands background.
        resampling: how voxels come onto the card's grid and scores back.
        home: what comes back to the source grid: scores, interpolated before the decision; averaged
            answers, interpolated before the activation; or labels, decided on the card's grid.
        network: class, arguments, weights.
        detection: how its maps become boxes and objects, for a detector; None for all other models.
        separation: how depth and foreground become objects, for a model that learned both; else None.
        atlas_file: path inside the model's folder of an atlas that is fitted to the image where the network
            has found how the head lies (`medseg.models.atlas`); empty for most models.
        notes: what was left out or changed when the recipe was read; not part of the hash.

    Raises:
        ModelError: `BAD_CARD`, a value that cannot be or values that contradict each other.
    """

    name: str
    version: str
    description: str
    licence: str
    modality: str
    labels: LabelSet
    output_ids: tuple[int, ...]
    in_channels: int
    orientation: str | None
    spacing_mm: tuple[float, float, float] | None
    intensity: tuple[IntensityStep, ...]
    window: SlidingWindow
    activation: Activation
    home: Home
    network: NetworkRecipe
    threshold: float | None = None
    mirror_axes: tuple[int, ...] = ()
    channel_names: tuple[str, ...] = ()
    channel_intensity: tuple[tuple[IntensityStep, ...], ...] = ()
    crop: Crop = "none"
    resampling: Resampling = Resampling()
    detection: Detection | None = None
    separation: LearnedDistance | None = None
    claim_order: tuple[int, ...] = ()
    keep_largest: tuple[int, ...] = ()
    foreground: ForegroundCrop | None = None
    atlas_file: str = ""
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        _require(bool(self.name.strip()), "a model name", repr(self.name))
        _require(self.in_channels >= 1, "at least one input channel", self.in_channels)
        _require(self.activation in ("softmax", "sigmoid", "none"), "a known activation", self.activation)
        homes = ("scores-linear", "logits-linear", "labels-nearest")
        _require(self.home in homes, f"one of {homes} as the way home", self.home)
        _require(self.crop in ("none", "nonzero"), "none or nonzero as crop", self.crop)
        fine = len(self.channel_intensity) in (0, self.in_channels)
        _require(fine, f"intensity steps of {self.in_channels} channels", len(self.channel_intensity))
        if self.spacing_mm is not None:
            positive = [math.isfinite(s) and s > 0 for s in self.spacing_mm]
            _require(positive == [True] * 3, "three spacings above 0 mm", self.spacing_mm)
        if self.orientation is not None:
            axes = [axis for c in self.orientation for axis, pair in enumerate(AXIS_PAIRS) if c in pair]
            fine = len(self.orientation) == 3 and sorted(axes) == [0, 1, 2]
            _require(fine, "axis codes such as RAS", repr(self.orientation))
        fine = sorted(set(self.mirror_axes) & {0, 1, 2}) == list(self.mirror_axes)
        _require(fine, "ascending mirror axes of 0, 1, 2", self.mirror_axes)
        fine = len(self.channel_names) in (0, self.in_channels)
        _require(fine, f"{self.in_channels} names of input channels", self.channel_names)
        fine = len({name.strip().lower() for name in self.channel_names}) == len(self.channel_names)
        _require(fine, "names of input channels that differ", self.channel_names)
        self._check_outputs()

    def _check_outputs(self) -> None:
        named = set(self.labels.ids)
        unnamed = [i for i in self.output_ids if i != 0 and i not in named]
        _require(not unnamed, "a label for every output channel", f"channels of unnamed ids {unnamed[:8]}")
        _require(any(self.output_ids), "at least one channel that is not background", self.output_ids)
        if self.threshold is None:
            _require(len(self.output_ids) >= 2, "two or more channels to choose from", len(self.output_ids))
            _require(0 in self.output_ids, "a background channel", self.output_ids[:8])
        else:
            _require(math.isfinite(self.threshold), "a finite threshold", self.threshold)
        fine = sorted(self.claim_order) in ([], list(range(self.out_channels)))
        _require(fine, "every channel once in the order of claims", self.claim_order)
        _require(set(self.keep_largest) <= named, "labels to keep the largest of", self.keep_largest)
        fine = not self.keep_largest or self.home == "labels-nearest"
        _require(fine, "labels that go home where only the largest piece stays", self.home)
        if self.detection is not None:
            fine = self.out_channels == DETECTOR_MAPS and len(set(self.output_ids) - {0}) == 1
            _require(fine, f"{DETECTOR_MAPS} maps of one class from a detector", self.output_ids)

        if self.separation is not None:
            fine = self.out_channels == 2 and self.output_ids[0] == 0 and self.threshold is not None
            _require(fine, "depth and foreground with a threshold", self.output_ids)
            grid = (self.orientation, None if self.spacing_mm is None else len(set(self.spacing_mm)))
            _require(grid == (None, 1), "an isotropic grid along the source's axes", grid)
            fine = self.activation == "sigmoid" and self.in_channels == 1 and self.detection is None
            _require(fine, "one image, and a sigmoid for both answers", self.activation)

    @property
    def out_channels(self) -> int:
        """Number of the network's output channels."""
        return len(self.output_ids)

    @property
    def claims(self) -> tuple[int, ...]:
        """Channels in the order in which they claim voxels, the last one winning."""
        return self.claim_order or tuple(range(self.out_channels))

    def steps(self, channel: int) -> tuple[IntensityStep, ...]:
        """Intensity steps of one input image."""
        return self.channel_intensity[channel] if self.channel_intensity else self.intensity

    @property
    def sha256(self) -> str:
        """A stable fingerprint of everything that decides the answer, but not of the weights' bytes."""
        content = _told(self)
        content.pop("notes", None)
        content["intensity"] = _told_steps(self.intensity)
        if self.channel_intensity:
            content["channel_intensity"] = [_told_steps(steps) for steps in self.channel_intensity]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()
