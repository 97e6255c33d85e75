"""Plans as JSON that a person can read, edit and give again."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from medseg.errors import ReadError
from medseg.training.fingerprint import Fingerprint
from medseg.training.plan import Plan


def read_plan(path: Path) -> Plan:
    """Read a plan that was written, and perhaps edited.

    Raises:
        ReadError: `FILE_NOT_FOUND`; `BAD_PLAN`, naming what is missing, unknown or of another kind.
    """
    if not path.is_file():
        raise ReadError("FILE_NOT_FOUND", f"expected a plan in {path.name}, got no such file; check its name")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_plan(f"JSON in {path.name}, got something else ({str(error)[:80]})") from error
    known = {item.name for item in fields(Plan)}
    if not isinstance(content, dict) or not set(content) <= known:
        strange = (
            ", ".join(sorted(set(content) - known)[:4]) if isinstance(content, dict) else "another value"
        )
        raise _bad_plan(f"the fields of a plan, got {strange}")
    try:
        plan = Plan(**{name: _frozen(value) for name, value in content.items()})
    except TypeError as error:
        raise _bad_plan(f"every field that has no default ({error})") from error
    _check(plan)
    return plan


def require_fit(plan: Plan, fingerprint: Fingerprint) -> None:
    """Return if a plan can be that of a dataset.

    Raises:
        ReadError: `BAD_PLAN`, it is for other channels, another number of classes, or for objects.
    """
    has_objects = fingerprint.object_diameter_mm > 0
    wanted = (len(fingerprint.channels), 2 if has_objects else len(fingerprint.classes) + 1)
    got = (plan.network.get("in_channels"), plan.network.get("out_channels"))
    if got != wanted or plan.has_objects != has_objects:
        raise _bad_plan(
            f"a network of {wanted[0]} image(s) and {wanted[1]} outputs for this dataset, got {got}"
        )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check(plan: Plan) -> None:
    """A file may hold anything in any field."""
    content: dict[str, Any] = vars(plan)
    triples = [content["spacing_mm"], content["patch"]]
    whole = [isinstance(value, tuple) and len(value) == 3 for value in triples]
    numbers = [*(n for value in triples if isinstance(value, tuple) for n in value), content["batch"]]
    positive = [isinstance(n, (int, float)) and not isinstance(n, bool) and n > 0 for n in numbers]
    if not all(whole + positive) or not all(
        isinstance(n, int) for n in (*plan.patch, plan.batch, plan.steps)
    ):
        raise _bad_plan("three spacings, three sizes of a patch and a batch above 0")
    if plan.loss not in ("dice-ce", "blob", "objects") or (plan.loss == "objects") != plan.has_objects:
        raise _bad_plan(f"the loss dice-ce or blob, or objects for objects, got {plan.loss!r}")
    for name in ("network", "intensity"):
        if not isinstance(content[name], dict) or "_target_" not in content[name]:
            raise _bad_plan(f"a _target_ in {name}")


def _bad_plan(expected: str) -> ReadError:
    return ReadError("BAD_PLAN", f"expected {expected}; repair the plan, or train without --plan")
