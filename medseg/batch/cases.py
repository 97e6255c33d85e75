"""What is to be done: inputs that were found become cases with names. Pure; finding is in `find`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.batch.pseudonyms import pseudonym, safe_name


@dataclass(frozen=True)
class Source:
    """One image of a case.

    Attributes:
        path: an image file, or the folder, DICOMDIR or zip that holds a series.
        series_uid: which series; empty for an image file.
        files: the files that hold its content; their bytes decide whether a case is done already.
        volume: which volume of a series of several: its number, from 1, or the fingerprint of its planes;
            None where there is one.
    """

    path: Path = field(repr=False)
    series_uid: str = field(default="", repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)
    volume: int | str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Found:
    """An input before it has a name.

    Attributes:
        sources: one image per channel of the model.
        identity: words that identify it among all inputs; never shown.
        label: what a person would call it; used only where plain names were asked for.
        code: stable reason why it is not read, or empty.
        reason: the same for people, without a patient value.
        is_failure: whether it is a scan that should have been readable, not something else.
        part: what its name ends with where one identity gives several cases, such as `v03`.
    """

    sources: tuple[Source, ...] = field(repr=False)
    identity: tuple[str, ...] = field(repr=False)
    label: str = field(default="", repr=False)
    code: str = ""
    reason: str = ""
    is_failure: bool = False
    part: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Where its images lie."""
        return tuple(str(source.path.absolute()) for source in self.sources)


@dataclass(frozen=True)
class Case:
    """What one row of a batch processes.

    Attributes:
        name: safe in paths and logs; unique in its batch.
        sources: one image per channel of the model.
    """

    name: str
    sources: tuple[Source, ...] = field(repr=False)


@dataclass(frozen=True)
class Refused:
    """An input that is no case, and why.

    Attributes:
        name: safe in paths and logs.
        code: stable reason.
        reason: the same for people.
        state: `skipped`, or `failed` for a scan that should have been readable.
    """

    name: str
    code: str
    reason: str
    state: str = "skipped"


@dataclass(frozen=True)
class BatchPlan:
    """All that a batch will do, in order of name."""

    cases: tuple[Case, ...]
    refused: tuple[Refused, ...] = ()


def plan_batch(found: Sequence[Found], key: bytes, *, plain_names: bool = False) -> BatchPlan:
    """Give every input its name; an input found twice becomes one case.

    A name depends on the input's identity alone, so it stays when other inputs come and go or all
    move together; two inputs of one identity in two places are told apart by their places.

    Args:
        found: inputs in any order.
        key: of the pseudonyms.
        plain_names: name cases as the inputs are called.
    """
    single = list({(one.identity, one.places, one.code, one.part): one for one in found}.values())
    twins = Counter((one.identity, one.part) for one in single)
    wanted = [_with_part(safe_name(one.label), one.part) if plain_names else "" for one in single]
    taken = Counter(name.casefold() for name in wanted)
    cases: list[Case] = []
    refused: list[Refused] = []
    for one, plain in zip(single, wanted, strict=True):
        words = one.identity if twins[one.identity, one.part] == 1 else (*one.identity, *one.places, one.code)
        hidden = _with_part(pseudonym(key, words), one.part)
        is_taken = taken[plain.casefold()] > 1
        name = f"{plain}-{hidden.removeprefix('case-')}" if plain and is_taken else plain
        if one.code:
            state = "failed" if one.is_failure else "skipped"
            refused.append(Refused(name or hidden, one.code, one.reason, state))
        else:
            cases.append(Case(name or hidden, one.sources))
    return BatchPlan(
        tuple(sorted(cases, key=lambda case: case.name)), tuple(sorted(refused, key=lambda one: one.name))
    )


def _with_part(name: str, part: str) -> str:
    return f"{name}-{part}" if name and part else name
