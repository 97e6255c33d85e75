"""Which scan of a path is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medseg.errors import ModelError

if TYPE_CHECKING:
    from medseg.models.card import Card
    from medseg.volume import Volume

Irregular = Literal["resample", "reject", "fill"]


@dataclass(frozen=True)
class SourceFlags:
    """What a person says of the input beside its path.

    Attributes:
        series: UID of a DICOM series, or empty where the path holds one volume.
        volume: number of a volume in that series, from 1; 0 where it holds one.
        irregular: what to do with DICOM slices that do not lie as a grid.
    """

    series: str = field(
        default="",
        metadata={"help": "UID of the series, where a path holds several (`medseg series` lists them)"},
    )
    volume: int = field(
        default=0,
        metadata={
            "help": "which volume of a series of several (time points, echoes), from 1; 0 where it has one",
            "min": 0,
        },
    )
    irregular: Irregular = field(
        default="resample",
        metadata={
            "help": "tilted or unevenly spaced DICOM slices; fill bridges missing ones too",
            "choices": ("resample", "reject", "fill"),
        },
    )


def read_source(path: Path, flags: SourceFlags) -> Volume:
    """Read the one volume of a path, or the named series of it.

    Raises:
        ReadError: there is no such volume, or it is damaged.
        GeometryError: its grid is none.
    """
    from medseg.io.formats import is_dicom_place, read_volume

    if flags.series or flags.volume or is_dicom_place(path):
        from medseg.io.dicom_series import read_series

        return read_series(path, flags.series or None, volume=flags.volume or None, irregular=flags.irregular)
    return read_volume(path)


def channel_paths(inputs: Sequence[Path], card: Card) -> tuple[Path, ...]:
    """What a person named as a case, as one path per channel of the model.

    Args:
        inputs: paths in the order of the card's channels; or each as `NAME=PATH` with the name of its
            channel; or with nnU-Net's numbers, which then give the order; or one such path for all.
        card: gives the number of channels and their names.

    Raises:
        ModelError: `CHANNELS_MISMATCH`, another number of images than the model has channels;
            `UNKNOWN_CHANNEL`, a name that it does not have.
        ReadError: `CHANNELS_MISSING`, a gap in nnU-Net's numbers.
    """
    from medseg.io.case_files import channel_files, in_order_of_numbers

    paths = _in_order_of_names(inputs, card)
    if paths is None:
        alone = len(inputs) == 1 and card.in_channels > 1
        paths = channel_files(inputs[0]) if alone else in_order_of_numbers(inputs)
    if len(paths) != card.in_channels:
        names = f" ({', '.join(card.channel_names)})" if card.channel_names else ""
        raise ModelError(
            "CHANNELS_MISMATCH",
            f"expected {card.in_channels} input image(s) for this model{names}, got {len(paths)}; name each, "
            "one 3D image per file",
        )
    return paths


def _in_order_of_names(inputs: Sequence[Path], card: Card) -> tuple[Path, ...] | None:
    """Paths behind `NAME=`, in the order of the card's channels; None where not all are written so."""
    known = [name.strip().lower() for name in card.channel_names]
    told = [str(path).partition("=") for path in inputs]
    table = {name.strip().lower(): Path(path) for name, equals, path in told if equals}
    if not known or len(table) < len(inputs):
        return None
    strange = sorted(set(table) - set(known))
    if strange:
        if any(path.exists() for path in inputs):
            return None
        raise ModelError(
            "UNKNOWN_CHANNEL",
            f"expected images named {', '.join(card.channel_names)}, got {', '.join(strange)}; use those",
        )
    return tuple(table[name] for name in known if name in table)
