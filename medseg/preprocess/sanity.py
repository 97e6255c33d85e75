"""Is this scan what the model was made for? Asked before a run, answered with reason and cure.

A finding that is certain (a CT for an MR model, by the scan's own header) refuses the run; one that may
be right all the same is a warning on the run record. `InferenceSettings.sanity` turns refusals into
warnings, or all of it off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import GeometryError, ModelError
from medseg.geometry import Geometry
from medseg.preprocess.prepare import THINNEST_VOXELS, card_grid, straight_grid
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.models.card import Card

SANITY = ("refuse", "warn", "off")
"""What is done about a certain finding: the run is refused; warned of like the rest; nothing is looked at."""

LEAST_GRID_VOXELS = 4
"""Fewer voxels of the card's spacing along an axis show a network nothing."""

LEAST_WINDOW_SHARE = 0.25
"""A scan that fills less of a window along an axis leaves the network mostly padding."""

COARSEST_FACTOR = 4.0
"""Voxels longer than so many of the card's have nothing of the detail that the model was trained on."""

MOST_OBLIQUE_DEGREES = 30.0
"""Voxel axes turned further out of the body's are no standard pose."""

_MODALITY_OF_CHANNEL = {
    "CT": "CT", "PET": "PT", "PT": "PT", "SUV": "PT", "US": "US",
    "MR": "MR", "MRI": "MR", "T1": "MR", "T1C": "MR", "T1CE": "MR", "T1GD": "MR", "T1N": "MR", "T1W": "MR",
    "T2": "MR", "T2W": "MR", "T2F": "MR", "FLAIR": "MR", "ADC": "MR", "DWI": "MR", "PD": "MR",
}  # fmt: skip
"""Words in channel names that tell a modality, as DICOM calls it."""

_VAGUE = ("", "OT", "SC", "DOC")
"""Modalities of converted or secondary images: they tell nothing."""

_SAMPLE = 200_000


@dataclass(frozen=True)
class Finding:
    """Something about a scan that does not fit the model.

    Attributes:
        code: stable word in capitals.
        message: expected, got, cure.
        is_certain: whether no run can be right.
    """

    code: str
    message: str
    is_certain: bool = False

    @property
    def words(self) -> str:
        """Code and message, as a run record has them."""
        return f"[{self.code}] {self.message}"


def judge(findings: Sequence[Finding], sanity: str = "refuse") -> tuple[str, ...]:
    """Refuse a run, or say what is to be said on its record.

    Args:
        findings: of `find_misfits`.
        sanity: one of `SANITY`.

    Returns:
        A warning for each finding.

    Raises:
        ModelError: a certain finding of modality, under its own code.
        GeometryError: a certain finding of place or size, under its own code.
    """
    if sanity == "off":
        return ()
    for finding in findings:
        if finding.is_certain and sanity == "refuse":
            words = f"{finding.message} (sanity=warn runs it all the same)"
            kind = ModelError if finding.code == "WRONG_MODALITY" else GeometryError
            raise kind(finding.code, words)
    return tuple(finding.words for finding in findings)


def find_misfits(volumes: Sequence[Volume], card: Card) -> tuple[Finding, ...]:
    """Everything about the images of a case that speaks against running a model on them.

    Args:
        volumes: in the order of the card's channels, on one grid.
        card: what the model wants.
    """
    findings: list[Finding] = []
    for number, volume in enumerate(volumes):
        wanted = wanted_modality(card, number)
        which = f"image {number + 1}: " if len(volumes) > 1 else ""
        findings += _modality(volume, wanted, which)
        findings += _intensities(volume, wanted, which)
    geometry = volumes[0].geometry
    return (*findings, *_pose(geometry, volumes, card), *_size(geometry, card))


def wanted_modality(card: Card, channel: int) -> str:
    """The modality that a card wants for one of its channels, as DICOM calls it; empty where unknown."""
    if channel < len(card.channel_names):
        words = card.channel_names[channel].upper().replace("-", " ").replace("_", " ").split()
        told = {_MODALITY_OF_CHANNEL[word] for word in words if word in _MODALITY_OF_CHANNEL}
        if len(told) == 1:
            return told.pop()
    return card.modality


def _modality(volume: Volume, wanted: str, which: str) -> list[Finding]:
    got = volume.modality.upper()
    if got in _VAGUE or not wanted or got == wanted.upper():
        return []
    message = (
        f"{which}expected a scan of modality {wanted}, got {got}; choose a model for {got} "
        "(`medseg models list` tells the modality of each)"
    )
    return [Finding("WRONG_MODALITY", message, is_certain=True)]


def _sampled(volume: Volume) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """At most some 200,000 finite voxels, evenly spread."""
    step = max(1, round((volume.geometry.voxels / _SAMPLE) ** (1 / 3)))
    values = volume.array[::step, ::step, ::step].astype(np.float64).ravel()
    return values[np.isfinite(values)]


def _intensities(volume: Volume, wanted: str, which: str) -> list[Finding]:
    """CT is measured in Hounsfield units: air -1000, water 0. MR never is."""
    if wanted not in ("CT", "MR"):
        return []
    values = _sampled(volume)
    if not values.size:
        return []
    low, high = float(values.min()), float(values.max())
    if wanted == "CT" and low >= 0:
        picture = high <= 255
        reason = (
            "as in an 8-bit picture" if picture else "as in raw values without rescale slope and intercept"
        )
        if high <= 1:
            reason = "as in a scan that was scaled already"
        message = (
            f"{which}expected Hounsfield units with air near -1000, got values from {low:g} to {high:g}, "
            f"{reason}; export the scan with its own units"
        )
        return [Finding("NOT_HOUNSFIELD", message)]
    air = float(np.percentile(values, 2))
    if wanted == "MR" and -1100 <= air <= -900:
        message = (
            f"{which}expected an MR image, got values with a floor of {air:g}, which is air in CT; "
            "choose a model for CT"
        )
        return [Finding("LOOKS_LIKE_CT", message)]
    return []


def _pose(geometry: Geometry, volumes: Sequence[Volume], card: Card) -> list[Finding]:
    findings = []
    if any("[NO_ORIENTATION]" in note for volume in volumes for note in volume.notes):
        message = (
            "expected a file that says how the patient lay, got none that does; left and right of the "
            "result may be exchanged: write the orientation into the file"
        )
        findings.append(Finding("UNKNOWN_ORIENTATION", message))
    if card.orientation is not None:
        cosine = float(np.abs(geometry.directions).max(axis=0).min())
        degrees = math.degrees(math.acos(min(1.0, cosine)))
        if degrees > MOST_OBLIQUE_DEGREES:
            message = (
                f"expected a scan along the body's axes, got one that is turned by {degrees:.0f} degrees; "
                "the model may not know this view: resample the scan along the axes to compare"
            )
            findings.append(Finding("OBLIQUE", message))
    if not geometry.is_orthogonal:
        message = (
            "expected voxel axes at right angles, got a sheared grid; the run goes over a straight one and "
            "labels come back by the nearest voxel"
        )
        findings.append(Finding("SHEARED", message))
    return findings


def _size(geometry: Geometry, card: Card) -> list[Finding]:
    """Field of view and voxel size against the card's spacing."""
    if card.spacing_mm is None or min(geometry.shape) < THINNEST_VOXELS:  # `check_volume` refuses the latter
        return []
    grid = card_grid(straight_grid(geometry), card)
    extent = np.array(grid.shape) * grid.spacing_mm
    view = " x ".join(f"{e:.3g}" for e in np.array(geometry.shape) * geometry.spacing_mm)
    wanted = " x ".join(f"{s:.3g}" for s in card.spacing_mm)
    if min(grid.shape) < LEAST_GRID_VOXELS:
        shape = " x ".join(map(str, grid.shape))
        message = (
            f"expected at least {LEAST_GRID_VOXELS} voxels of {wanted} mm along each axis, got {shape} "
            f"from a field of view of {view} mm; choose a model for smaller structures, or check the voxel "
            "size in the file's header"
        )
        return [Finding("FIELD_OF_VIEW_TOO_SMALL", message, is_certain=True)]
    findings = []
    window = np.array(card.window.size) * card.spacing_mm
    if float((extent / window).min()) < LEAST_WINDOW_SHARE:
        words = " x ".join(f"{w:.3g}" for w in window)
        message = (
            f"expected a field of view not far below a window of {words} mm, got {view} mm; the model sees "
            "little of the surroundings: look at the result with care"
        )
        findings.append(Finding("FIELD_OF_VIEW_SMALL", message))
    turned = geometry.reorient(grid.axis_codes).spacing_mm
    factor = max(s / c for s, c in zip(turned, card.spacing_mm, strict=True))
    if factor > COARSEST_FACTOR:
        got = " x ".join(f"{s:.3g}" for s in turned)
        message = (
            f"expected voxels of about {wanted} mm, got {got} mm; structures thinner than a voxel cannot be "
            "found: take the series with thinner slices if there is one"
        )
        findings.append(Finding("VOXELS_COARSE", message))
    return findings
