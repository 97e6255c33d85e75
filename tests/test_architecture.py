"""The laws of the house: who may import whom, how large a room may be, what nobody may do.

The code is read, not run: imports inside functions count as much as those at the top.
"""

from __future__ import annotations

import ast
import itertools
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import medseg

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    ("errors", "progress", "settings_bounds", "machine", "files", "cache"),
    ("geometry", "labels"),
    ("volume",),
    ("resample",),
    ("io",),
    ("models",),
    ("preprocess",),
    ("inference",),
    ("instances",),
    ("measure",),
    ("refine",),
    ("annotate",),
    ("result",),
    ("objects", "detection"),
    ("object_store", "pipeline"),
    ("export",),
    ("training",),
    ("batch",),
    ("active",),
    ("cli",),
)
STRANGERS = {"io", "models", "instances", "measure"}
"""Floors that do not know each other; they meet in the pipeline."""
FACE_USERS = {"medseg.result"}
"""May ask the lazy face for a name, inside a function only."""

MAX_MODULE_LINES = 400
MAX_BODY_LINES = 60
MAX_PARAMETERS = 7
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
HEAVY = {
    "torch", "monai", "scipy", "SimpleITK", "nibabel", "highdicom", "pydicom", "numba", "skimage",
    "napari", "qtpy", "PyQt5", "PyQt6", "PySide6", "openvino", "cc3d", "edt", "tifffile", "pandas",
}  # fmt: skip

PACKAGE = sorted((ROOT / "medseg").rglob("*.py"))
PLUGIN = sorted((ROOT / "napari_plugin").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
EVERYTHING = [*PACKAGE, *PLUGIN, *TESTS, *BENCHMARKS]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def floor_of(module: str) -> int | None:
    """Height of a module of medseg; None for the face itself."""
    parts = module.split(".")
    if len(parts) < 2:
        return None
    return next((n for n, rooms in enumerate(FLOORS) if parts[1] in rooms), -1)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """(module, names, whether inside a function) of every import, wherever it stands."""
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (), node in inside
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            yield dots + (node.module or ""), tuple(a.name for a in node.names), node in inside


def functions_of(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """(function, whether it is a method)."""
    methods = {
        item for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in ast.walk(node)
        if item in node.body
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, node in methods


# ---------------------------------------------------------------------- floors


def test_every_module_lives_on_a_floor() -> None:
    homeless = [name_of(p) for p in PACKAGE if floor_of(module_of(p)) == -1]
    assert not homeless


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    here = module_of(path)
    height = floor_of(here)
    wrong = []
    for module, names, in_function in imported(tree_of(path)):
        if module.startswith("."):
            wrong.append(f"relative import {module}")
        if module.split(".")[0] != "medseg" or height is None:
            continue
        if module == "medseg":
            rooms = [n for n in names if (ROOT / "medseg" / n).exists() or (ROOT / f"medseg/{n}.py").exists()]
            if rooms:
                wrong.append(f"from medseg import {rooms}: name the module")
            elif here.split(".")[1] != "cli" and not (here in FACE_USERS and in_function):
                wrong.append(f"from medseg import {names}")
            continue
        targets = [module, *(f"{module}.{n}" for n in names if (ROOT / module.replace(".", "/")).is_dir())]
        for target in targets:
            there = floor_of(target)
            same_floor = target.split(".")[1] == here.split(".")[1]
            if there is None or there > height or (there == height and not same_floor and height > 1):
                wrong.append(f"{target}, which lies above")
            if {target.split(".")[1], here.split(".")[1]} <= STRANGERS and not same_floor:
                wrong.append(f"{target}, a stranger")
    assert not wrong, f"{here} imports {wrong}"


def test_no_circle_of_modules() -> None:
    arrows: dict[str, set[str]] = {}
    names = {module_of(p) for p in PACKAGE}
    for path in PACKAGE:
        here = module_of(path)
        if here == "medseg":
            continue
        found: set[str] = set()
        for module, members, _ in imported(tree_of(path)):
            found |= {
                m for m in (module, *(f"{module}.{n}" for n in members)) if m in names and m != "medseg"
            }
        arrows[here] = found - {here}
    done: set[str] = set()
    while free := {m for m in arrows if m not in done and arrows[m] <= done}:
        done |= free
    assert set(arrows) == done, f"in a circle, or above one: {sorted(set(arrows) - done)}"


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_the_engine_knows_no_screen(path: Path) -> None:
    banned = {"napari", "qtpy", "magicgui", "PyQt5", "PyQt6", "PySide6", "napari_plugin"}
    if module_of(path).startswith("medseg.cli"):
        banned = {"qtpy", "magicgui", "PyQt5", "PyQt6", "PySide6"}  # `medseg view` opens napari itself
    else:
        banned |= {"rich", "cyclopts"}
    assert not {m.split(".")[0] for m, _, _ in imported(tree_of(path))} & banned


@pytest.mark.parametrize("path", PLUGIN, ids=name_of)
def test_the_plugin_stands_on_the_face_alone(path: Path) -> None:
    for module, names, _ in imported(tree_of(path)):
        if module.split(".")[0] == "medseg":
            assert module == "medseg", f"{module}: ask the face"
            assert set(names) <= set(medseg.__all__)


LOADED = "import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"


VERBS = [f"medseg.cli.{p.stem}" for p in (ROOT / "medseg" / "cli").glob("[a-z]*.py")]


@pytest.mark.parametrize("module", ["medseg", *sorted(VERBS), "medseg.models.registry"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(module=module)], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & HEAVY


# ---------------------------------------------------------------------- sizes and names


@pytest.mark.parametrize("path", [*PACKAGE, *PLUGIN, *BENCHMARKS], ids=name_of)
def test_modules_stay_small(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_MODULE_LINES, f"{lines} lines: split it by noun"


@pytest.mark.parametrize("path", [*PACKAGE, *PLUGIN, *BENCHMARKS], ids=name_of)
def test_functions_stay_small(path: Path) -> None:
    too_long, too_many = [], []
    for function, is_method in functions_of(tree_of(path)):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 > MAX_BODY_LINES:
            too_long.append(function.name)
        a = function.args
        count = len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) + bool(a.vararg) + bool(a.kwarg)
        static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
        if count - (is_method and not static) > MAX_PARAMETERS:
            too_many.append(function.name)
    assert not too_long, f"bodies over {MAX_BODY_LINES} lines"
    assert not too_many, f"more than {MAX_PARAMETERS} parameters"


def test_no_room_without_a_purpose() -> None:
    parts = itertools.chain.from_iterable(p.relative_to(ROOT).with_suffix("").parts for p in EVERYTHING)
    assert not set(parts) & EMPTY_NAMES


def test_test_files_have_names_of_their_own() -> None:
    names = sorted(p.name for p in TESTS if p.name != "conftest.py")  # pytest wants that name in a folder
    assert len(names) == len(set(names)), [a for a, b in itertools.pairwise(names) if a == b]
    assert "__init__.py" not in names


# ---------------------------------------------------------------------- manners


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = [handler.type] if not isinstance(handler.type, ast.Tuple) else handler.type.elts
    names = {k.id for k in kinds if isinstance(k, ast.Name)}
    raises_on = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return (handler.type is None or bool(names & {"Exception", "BaseException"})) and not raises_on


ENDS_OR_SPEAKS = {"print", "sys.exit", "exit", "quit", "os._exit", "breakpoint", "input", "eval", "exec"}
CHANGES_THE_PROGRAM = {
    "os.putenv", "os.environ.setdefault", "os.environ.update", "os.environ.pop",
    "logging.basicConfig", "torch.manual_seed",
}  # fmt: skip


def rude(tree: ast.Module) -> Iterator[str]:
    """What library code may not do, with the line."""
    for node in ast.walk(tree):
        at = f"line {getattr(node, 'lineno', 0)}"
        match node:
            case ast.Assert():
                yield f"{at}: assert"
            case ast.ExceptHandler() if is_broad(node):
                yield f"{at}: an except that catches all and goes on"
            case ast.Call(func=called) if ast.unparse(called) in ENDS_OR_SPEAKS | CHANGES_THE_PROGRAM:
                yield f"{at}: {ast.unparse(called)}()"
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                if any(ast.unparse(t).startswith("os.environ[") for t in targets):
                    yield f"{at}: writes os.environ"
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("warnings."):
            yield f"line {node.lineno}: changes warnings at import"


OWNS_ITS_PROCESS = {"medseg/training/optimise.py"}
"""A training sets the seed of every random choice."""


@pytest.mark.parametrize("path", [*PACKAGE, *PLUGIN], ids=name_of)
def test_library_code_has_manners(path: Path) -> None:
    if name_of(path).startswith("medseg/cli/"):
        return
    found = list(rude(tree_of(path)))
    if name_of(path) in OWNS_ITS_PROCESS:
        found = [f for f in found if "torch.manual_seed" not in f]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "assert x", "print(1)", "import sys\nsys.exit(1)", "import os\nos.environ['A'] = '1'", "eval('1')",
        "try:\n  f()\nexcept Exception:\n  pass", "try:\n  f()\nexcept:\n  pass",
        "import warnings\nwarnings.filterwarnings('ignore')",
    ],
)  # fmt: skip
def test_bad_manners_are_seen(text: str) -> None:
    assert list(rude(ast.parse(text)))


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_a_silenced_checker_says_which_and_why(path: Path) -> None:
    """The reason stands behind the code, or in a comment on the line above."""
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    for line, text in comments.items():
        if "type: ignore" in text:
            assert re.search(r"type: ignore\[[\w, -]+\]", text), f"line {line}: which?"
            assert re.search(r"\]\s+#? ?\S+", text) or line - 1 in comments, f"line {line}: why?"
        if "noqa" in text:
            assert re.search(r"noqa: [A-Z]+\d+(, ?[A-Z]+\d+)*", text), f"line {line}: which?"
            assert re.search(r"\d\s+\S+", text) or line - 1 in comments, f"line {line}: why?"


# ---------------------------------------------------------------------- nothing of one machine


HERE = "|".join(re.escape(str(place)) for place in (ROOT, ROOT.parent / "shared"))
PLACES_OF_ONE_MACHINE = re.compile(rf"(?:{HERE})/|/root/\w".encode())
"""This checkout, what lies beside it, and a home of root."""


def committed() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing is committed")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_no_committed_file_names_a_place_of_one_machine() -> None:
    guilty = [name_of(p) for p in committed() if PLACES_OF_ONE_MACHINE.search(p.read_bytes())]
    assert not guilty


def test_no_committed_file_is_large() -> None:
    large = {name_of(p): p.stat().st_size for p in committed() if p.stat().st_size > 31 * 2**20}
    assert not large
