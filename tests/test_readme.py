"""The first page keeps its word: its commands exist, its Python runs, its files are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import medseg
from medseg.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_two_command_lines_set_everything_up_themselves() -> None:
    shell = [text.strip() for kind, text in BLOCKS if kind == "bash"]
    segment, tests = shell[0], shell[1]
    for line in (segment, tests):
        assert "\n" not in line
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ")
    assert tests.endswith("-m pytest")
    scan = re.search(r"sample_volumes/\S+", segment)
    assert scan is not None
    assert (ROOT / scan.group()).is_file()


def test_every_verb_is_on_the_first_page() -> None:
    told = set(re.findall(r"`medseg (\w+)", README))
    assert set(VERBS) <= told
    assert told <= set(VERBS)


def test_the_python_uses_public_names_only() -> None:
    (code,) = (text for kind, text in BLOCKS if kind == "python")
    names = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "medseg"
    }
    assert names
    assert names <= set(medseg.__all__)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_bundled_model_is_on_the_first_page() -> None:
    bundled = [entry for entry in medseg.list_models() if entry.shelf == "bundled"]
    for entry in bundled:
        assert not entry.problem, entry.problem
        assert f"`{entry.name}`" in README


def test_it_says_that_it_is_no_medical_device() -> None:
    assert "Not a medical device" in README
