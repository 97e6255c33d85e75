"""Images that the numbers in their names make one case: `liver_007_0000.nii.gz`, `liver_007_0001.nii.gz`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.batch.cases import Found
from medseg.io.case_files import numbered


def as_cases(found: Sequence[Found], channels: int) -> list[Found]:
    """Put the images of a case together, for a model of several images.

    Args:
        found: inputs in any order.
        channels: images that the model takes; where it is one, every image is a case.

    Returns:
        Files of one folder and one name but for their numbers as one input, in the order of the numbers;
        all else as it was. A case that lacks an image stays one, and fails with that reason.
    """
    if channels == 1:
        return list(found)
    groups: dict[tuple[Path, str, str], list[tuple[int, Found]]] = {}
    result: list[Found] = []
    for one in found:
        path = one.sources[0].path
        told = numbered(path) if len(one.sources) == 1 and not one.code else None
        if told is None:
            result.append(one)
            continue
        case, number = told
        suffix = path.name[len(case) :].split(".", 1)[1]
        groups.setdefault((path.parent, case, suffix), []).append((number, one))
    for (_, case, _), members in groups.items():
        ordered = [one for _, one in sorted(members, key=lambda member: member[0])]
        sources = tuple(source for one in ordered for source in one.sources)
        result.append(replace(ordered[0], sources=sources, label=case))
    return result
