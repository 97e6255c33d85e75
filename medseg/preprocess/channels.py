"""Several images of one case, such as T1 with contrast, T1, T2 and FLAIR, as the channels of a network.

The first image rules: its grid is the grid of the result. Another image on the same grid is taken
voxel by voxel; one on another grid is resampled onto the first, and the run record says so; one that
lies elsewhere in the world is refused, since no resampling can bring two patients together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from medseg.errors import GeometryError, ModelError
from medseg.geometry import Geometry, require_same_grid
from medseg.io.dicom_source import DicomVolume
from medseg.preprocess.prepare import check_volume, without_gaps
from medseg.resample import resample_volume
from medseg.volume import Volume

if TYPE_CHECKING:
    from medseg.models.card import Card

Images = Volume | Sequence[Volume] | Mapping[str, Volume]
"""One image, or several in the order of the card's channels, or by the names of the channels."""

LEAST_OVERLAP = 0.25
"""Part of the first image's field of view that every other image has to cover."""

_PROBES = 24
"""Points along each axis at which the overlap is looked at."""


def as_channels(images: Images, card: Card) -> tuple[Volume, ...]:
    """The images of a case in the order of a card's channels.

    Args:
        images: one image; several in the card's order; or a table from names of channels, whatever
            their case, to images.
        card: gives the number of channels and, where its recipe tells, their names.

    Raises:
        ModelError: `CHANNELS_MISMATCH`, too few or too many images; `UNKNOWN_CHANNEL`, a name that the
            card does not have.
    """
    if isinstance(images, Volume):
        volumes: tuple[Volume, ...] = (images,)
    elif isinstance(images, Mapping):
        volumes = _by_name(images, card)
    else:
        volumes = tuple(images)
    if len(volumes) != card.in_channels:
        raise ModelError(
            "CHANNELS_MISMATCH",
            f"expected {card.in_channels} image(s) for this model{_in_words(card)}, got {len(volumes)}; "
            "name each image once, in this order, or choose another model",
        )
    return volumes


def _in_words(card: Card) -> str:
    return f" ({', '.join(card.channel_names)})" if card.channel_names else ""


def _by_name(images: Mapping[str, Volume], card: Card) -> tuple[Volume, ...]:
    known = [name.strip().lower() for name in card.channel_names]
    given = {name.strip().lower(): volume for name, volume in images.items()}
    strange = sorted(set(given) - set(known))
    if strange or len(given) < len(images):
        raise ModelError(
            "UNKNOWN_CHANNEL",
            f"expected images by the names of the model's channels, each once{_in_words(card)}, got "
            f"{', '.join(strange) or 'one name twice'}; a model without names takes images in its order",
        )
    return tuple(given[name] for name in known if name in given)


def on_first_grid(volumes: Sequence[Volume]) -> tuple[tuple[Volume, ...], tuple[str, ...]]:
    """All images of a case on the grid of the first.

    Args:
        volumes: one or more.

    Returns:
        The images, and a sentence for each that had to be resampled, and where DICOM headers tell of
        several studies or frames of reference.

    Raises:
        GeometryError: `NO_OVERLAP`, an image covers less than `LEAST_OVERLAP` of the first one's field
            of view.
        VolumeError: an image that has to be resampled is no scan; codes as in `check_volume`.
    """
    first = volumes[0]
    result, notes = [first], _origins(volumes)
    for number, volume in enumerate(volumes[1:], start=2):
        if volume.geometry.is_close(first.geometry):
            result.append(replace(volume, geometry=first.geometry))
            continue
        share = covered_share(first.geometry, volume.geometry)
        if share < LEAST_OVERLAP:
            raise GeometryError(
                "NO_OVERLAP",
                f"expected images of one body, got image {number} that covers {share:.0%} of the first one's "
                "field of view; name images of one examination, or register them first",
            )
        check_volume(volume)
        filled, lowest = without_gaps(volume)
        result.append(resample_volume(filled, first.geometry, fill=lowest))
        covers = "" if share > 1 - 1e-9 else f"; it covers {share:.0%} of that"
        notes.append(
            f"[CHANNEL_RESAMPLED] image {number} lay on another grid and was resampled onto that of image 1"
            f"{covers}"
        )
    return tuple(result), tuple(notes)


def _origins(volumes: Sequence[Volume]) -> list[str]:
    """What DICOM headers tell against images of one case; a person may know better."""
    sources = [v.dicom for v in volumes if isinstance(v, DicomVolume) and v.dicom is not None]
    notes = []
    if len({source.study_uid for source in sources}) > 1:
        notes.append(
            "[SEVERAL_STUDIES] the images come from several studies; make sure that they show one patient"
        )
    if len({source.frame_of_reference_uid for source in sources}) > 1:
        notes.append(
            "[SEVERAL_FRAMES] the images have several frames of reference, so their places need not fit; "
            "register them first"
        )
    return notes


def covered_share(first: Geometry, other: Geometry) -> float:
    """Part of a grid's field of view that lies within another's, 0..1, looked at on a lattice of points."""
    along = [(np.arange(_PROBES) + 0.5) / _PROBES * n - 0.5 for n in first.shape]
    points = first.to_world(np.stack(np.meshgrid(*along, indexing="ij"), axis=-1))
    index = other.to_index(points)
    inside = (index >= -0.5) & (index <= np.array(other.shape) - 0.5)
    return float(inside.all(axis=-1).mean())


def require_one_grid(volumes: Sequence[Volume]) -> None:
    """Return if all images of a case lie on one grid.

    Raises:
        GeometryError: `GRID_MISMATCH`; `on_first_grid` helps.
    """
    for volume in volumes[1:]:
        require_same_grid(volumes[0].geometry, volume.geometry, "the images of a case")
