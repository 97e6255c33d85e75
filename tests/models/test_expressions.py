"""Expressions of published bundles are read as Python would; nothing else is, and nothing is run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ModelError
from medseg.models.expressions import Unreadable, claim_order, evaluate

RECIPE: dict[str, Any] = {
    "bundle_root": ".",
    "highres": True,
    "raw": False,
    "size": [96, 96, 96],
    "label_names": {"spleen": 1, "background": 0},
    "channels": 1,
    "first": [{"_target_": "A"}],
    "second": [{"_target_": "B"}],
    "displayable_configs::highres": False,
    "arch::code_a": [[1, 0], [0, 1]],
}


def value(expression: str) -> Any:
    return evaluate(expression, RECIPE.__getitem__)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@bundle_root + '/models/model.pt'", "./models/model.pt"),
        ("[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]", [3.0, 3.0, 3.0]),
        ("'model.pt' if @highres else 'model_lowres.pt'", "model.pt"),
        ("len(@label_names) + @channels", 3),
        ("len(@size)", 3),
        ("(not @raw)", True),
        ("@first + @second", [{"_target_": "A"}, {"_target_": "B"}]),
        ("@first ", [{"_target_": "A"}]),
        ("@arch::code_a[1]", [0, 1]),
        ("@label_names['spleen']", 1),
        ("os.path.join(@bundle_root, 'models', 'a.pt')", "./models/a.pt"),
        ("f'{@bundle_root}/models'", "./models"),
        ("list(range(33, 36)) + [114, 120]", [33, 34, 35, 114, 120]),
        ("sorted(set([i+1 for i in range(5)]) - set([2, 4]))", [1, 3, 5]),
        ("'cuda:0' if torch.cuda.is_available() else 'cpu'", "cpu"),
        ("{'image': @channels, **@label_names}", {"image": 1, "spleen": 1, "background": 0}),
        ("-2 ** 3 % 5 // 1 >= 0 and 1 < 2 <= 2 or None", True),
        ("[x for x in @size if x > 100]", []),
        ("@size[:2]", [96, 96]),
        ("tuple(int(s * 0.5) for s in @size)", (48, 48, 48)),
    ],
)
def test_what_published_bundles_write_is_read(expression: str, expected: Any) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch {}')",
        "open('{}', 'w')",
        "().__class__.__base__.__subclasses__()",
        "@size.append(1)",
        "@label_names.keys()",
        "torch.load('{}')",
        "eval('1')",
        "(lambda: 1)()",
        "[i for i in range(3) for j in range(3)]",
        "[len for len in [1]][0]('a')",
        "sorted([2, 1], key=len)",
        "max(*[1, 2])",
        "'%d' % 3",
        "f'{1:>100}'",
        "f'{1!r}'",
        "b'bytes'",
        "1j",
        "...",
        "(x := 3)",
        "1 / 0",
        "[1][3]",
        "'a' + 1",
        "@size @ @size",
        "~1",
        "1 << 2",
        "import os",
        "",
        "(" * 300 + ")" * 300,
        "-" * 4000 + "1",
        "not " * 900 + "1",
    ],
)
def test_anything_else_is_refused(expression: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(Unreadable) as caught:
        value(expression.replace("{}", str(trace)))
    assert caught.value.code == "CODE_REFUSED"
    assert not trace.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "9 ** 9 ** 9",
        "[0] * 10 ** 9",
        "10 ** 9 * [0]",
        "'a' * 10 ** 9",
        "list(range(10 ** 12))",
        "sum([i for i in range(10 ** 12)])",
        "[[[i for i in range(300)] for j in range(300)] for k in range(300)]",
        "'a' + " * 1500 + "'a'",
        "10 ** 18 * 10 ** 18",
        "str(10 ** 17 * 9) * 10 ** 6",
        "[" * 90 + "0" + "] * 9" * 90,
        "str(" + "[y,y] for y in [".join(["["] * 12) + "0" + "]" * 12 + ")",
        "[[y, y] for y in " * 40 + "[0]" + "]" * 40,
    ],
)
def test_bombs_are_refused_in_time(expression: str) -> None:
    began = time.monotonic()
    with pytest.raises(Unreadable):
        value(expression)
    assert time.monotonic() - began < 5


def test_errors_of_references_pass_through() -> None:
    def nowhere(name: str) -> Any:
        raise ModelError("BAD_BUNDLE", f"no {name}")

    with pytest.raises(ModelError) as caught:
        evaluate("len(@a::b#c)", nowhere)
    assert (caught.value.code, str(caught.value)) == ("BAD_BUNDLE", "no a::b::c")


numbers = st.integers(-50, 50) | st.floats(-50, 50)
terms = st.recursive(
    st.one_of(numbers.map(repr), st.booleans().map(repr), st.lists(numbers, max_size=3).map(repr)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", "and", "or"]), inner).map(
            lambda parts: "({} {} {})".format(*parts)
        ),
        st.tuples(inner, inner, inner).map(lambda parts: "({} if {} else {})".format(*parts)),
        inner.map(lambda part: f"[{part}][0]"),
        inner.map(lambda part: f"str({part})"),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(terms)
def test_a_value_is_the_value_that_python_gives(expression: str) -> None:
    """Python's own answer, in a namespace of nothing but `str`; the grammar above holds no other name."""
    try:
        ours = value(expression)
    except Unreadable:
        return
    theirs = eval(expression, {"__builtins__": {"str": str}})  # noqa: S307  the oracle
    assert repr(ours) == repr(theirs)
    assert type(ours) is type(theirs)


def test_regions_of_a_nested_choice() -> None:
    published = (
        "lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"
    )
    assert claim_order(published) == ((1, 2), (0, 1), (2, 4))


@pytest.mark.parametrize(
    "expression",
    [
        "lambda x: x",
        "lambda x: torch.where(x[[2]] > 0, 4, 1)",
        "lambda x: torch.where(x[[2]] > 0.5, 4, 0)",
        "lambda x: torch.where(x[[2]] > 0, True, 0)",
        "lambda x: os.system(x[[2]] > 0, 4, 0)",
        "lambda x, y: torch.where(x[[2]] > 0, 4, 0)",
        "lambda x: torch.nan_to_num(x, nan=255)",
        "torch.where(x[[2]] > 0, 4, 0)",
    ],
)
def test_other_functions_are_no_regions(expression: str) -> None:
    with pytest.raises(Unreadable):
        claim_order(expression)
