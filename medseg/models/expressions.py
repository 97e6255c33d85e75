"""The Python that published bundles write into their recipes, read without running any.

A `$` expression of a MONAI bundle is parsed (`ast`) and evaluated by this module node by node: numbers,
words, lists and tables, arithmetic, comparisons, choices, a few builtin functions. There is no name
but references to the recipe and what `_FUNCTIONS` lists, no attribute, no import, no call of anything
else, and a bound on work and size; whatever is not understood is `Unreadable`, never run.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.errors import ModelError

MOST_CHARACTERS = 4096
"""Of one expression, and of one string that it makes (times 16)."""

MOST_STEPS = 200_000
"""Nodes that are evaluated for one expression, loops counted, and items that they give."""

MOST_ITEMS = 20_000
"""Of one list, range or table."""

_LARGEST = 10**18
"""Of whole numbers."""

_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_PLACEHOLDER = "reference_{}_"

Resolve = Callable[[str], Any]
"""From `id::key` to the value there."""


class Unreadable(ModelError):
    """An expression that this module does not read."""

    def __init__(self, reason: str) -> None:
        super().__init__("CODE_REFUSED", reason)

    def __reduce__(self) -> tuple[type[Unreadable], tuple[str]]:  # type: ignore[override]  # one argument
        """Rebuild from the reason."""
        return type(self), (str(self),)


def evaluate(expression: str, resolve: Resolve, load: Callable[[str], Any] | None = None) -> Any:
    """The value of an expression.

    Args:
        expression: without the leading `$`; `@id::key` and `@id#key` refer to the recipe.
        resolve: gives the value of such a reference.
        load: gives what the file of a name holds, for `torch.load`; None reads no file.

    Returns:
        Numbers, words, truths, None, and lists, tuples, sets and tables of them.

    Raises:
        ModelError: `Unreadable`, anything else than what the module's first lines say; and whatever
            `resolve` raises.
    """
    tree, references = _parsed(expression)
    return _Reader(references, resolve, load).read(tree.body)


def _parsed(expression: str) -> tuple[ast.Expression, dict[str, str]]:
    if len(expression) > MOST_CHARACTERS:
        raise Unreadable(f"an expression of more than {MOST_CHARACTERS} characters")
    references: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        name = _PLACEHOLDER.format(len(references))
        references[name] = found.group(1).replace("#", "::")
        return name

    text = _REFERENCE.sub(named, expression.strip())
    try:
        return ast.parse(text, mode="eval"), references
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unreadable("no expression") from error


_OPERATORS: Mapping[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Is: operator.is_, ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip

_SIGNS: Mapping[type[ast.AST], Callable[[Any], Any]] = {
    ast.Not: operator.not_, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def _bounded_range(*ends: int) -> list[int]:
    return list(itertools.islice(range(*ends), MOST_ITEMS + 1))


def _joined(*parts: str) -> str:
    """`os.path.join`, with `/`."""
    start = max((n for n, part in enumerate(parts) if part.startswith("/")), default=0)
    return "/".join(part.rstrip("/") for part in parts[start:-1] if part) + "/" + parts[-1]


def _text(value: Any = "") -> str:
    if not isinstance(value, (bool, int, float, str, type(None))):
        raise Unreadable(f"a {type(value).__name__} as text")
    return str(value)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len, "int": int, "float": float, "str": _text, "bool": bool, "list": list, "tuple": tuple,
    "dict": dict, "set": set, "sorted": sorted, "min": min, "max": max, "sum": sum, "abs": abs,
    "round": round, "range": _bounded_range, "os.path.join": _joined,
    "torch.cuda.is_available": lambda: False, "torch.device": _text,
    "torch.from_numpy": lambda array: array,
}  # fmt: skip
"""Functions that may be called. What a recipe chooses by the device does not decide the answer, so
there is no GPU as far as an expression can see; arrays are lists."""


@dataclass
class _Reader:
    """Evaluates one tree, counting its steps."""

    references: Mapping[str, str]
    resolve: Resolve
    load: Callable[[str], Any] | None = None
    names: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    def read(self, node: ast.AST) -> Any:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Unreadable(f"more than {MOST_STEPS} steps of work")
        method = getattr(self, f"_read_{type(node).__name__}", None)
        if method is None:
            raise Unreadable(f"{type(node).__name__} in an expression")
        try:
            value = method(node)
            self.steps += _size(value)
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError) as error:
            if isinstance(error, ModelError):
                raise
            raise Unreadable(f"an expression that fails ({type(error).__name__})") from error
        return value

    def _read_Constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, (bool, int, float, str, type(None))):
            raise Unreadable(f"a {type(node.value).__name__} in an expression")
        return node.value

    def _read_Name(self, node: ast.Name) -> Any:
        if node.id in self.references:
            return self.resolve(self.references[node.id])
        if node.id in self.names:
            return self.names[node.id]
        raise Unreadable(f"the name {node.id!r}")

    def _read_List(self, node: ast.List) -> list[Any]:
        return [self.read(item) for item in node.elts]

    def _read_Tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.read(item) for item in node.elts)

    def _read_Set(self, node: ast.Set) -> set[Any]:
        return {self.read(item) for item in node.elts}

    def _read_Dict(self, node: ast.Dict) -> dict[Any, Any]:
        table: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            table |= self.read(value) if key is None else {self.read(key): self.read(value)}
        return table

    def _read_BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.read(node.left), self.read(node.right)
        if isinstance(node.op, ast.Mult):
            _check_product(left, right)
            _check_product(right, left)
        if isinstance(node.op, ast.Mod) and isinstance(left, str):
            raise Unreadable("formatting with %")
        if isinstance(node.op, ast.Pow):
            if abs(right) > 64 or abs(left) > 10**6:
                raise Unreadable("a large power")
            return left**right
        return self._apply(node.op, left, right)

    def _read_Compare(self, node: ast.Compare) -> bool:
        values = [self.read(part) for part in (node.left, *node.comparators)]
        pairs = zip(node.ops, itertools.pairwise(values), strict=True)
        return all(bool(self._apply(op, left, right)) for op, (left, right) in pairs)

    def _apply(self, op: ast.AST, left: Any, right: Any) -> Any:
        if type(op) not in _OPERATORS:
            raise Unreadable(f"{type(op).__name__} in an expression")
        return _OPERATORS[type(op)](left, right)

    def _read_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if type(node.op) not in _SIGNS:
            raise Unreadable(f"{type(node.op).__name__} in an expression")
        return _SIGNS[type(node.op)](self.read(node.operand))

    def _read_BoolOp(self, node: ast.BoolOp) -> Any:
        wants = isinstance(node.op, ast.Or)
        value = None
        for part in node.values:
            value = self.read(part)
            if bool(value) == wants:
                break
        return value

    def _read_IfExp(self, node: ast.IfExp) -> Any:
        return self.read(node.body if self.read(node.test) else node.orelse)

    def _read_Subscript(self, node: ast.Subscript) -> Any:
        value = self.read(node.value)
        if not isinstance(value, (list, tuple, str, Mapping)):
            raise Unreadable(f"a part of a {type(value).__name__}")
        if isinstance(node.slice, ast.Slice):
            ends = (node.slice.lower, node.slice.upper, node.slice.step)
            return value[slice(*(None if end is None else self.read(end) for end in ends))]
        return value[self.read(node.slice)]

    def _read_JoinedStr(self, node: ast.JoinedStr) -> str:
        return "".join(_text(self.read(part)) for part in node.values)

    def _read_FormattedValue(self, node: ast.FormattedValue) -> str:
        if node.format_spec is not None or node.conversion != -1:
            raise Unreadable("a formatted value")
        return _text(self.read(node.value))

    def _read_ListComp(self, node: ast.ListComp) -> list[Any]:
        return list(self._looped(node))

    def _read_GeneratorExp(self, node: ast.GeneratorExp) -> list[Any]:
        return list(self._looped(node))

    def _looped(self, node: ast.ListComp | ast.GeneratorExp) -> Iterator[Any]:
        loop = node.generators[0]
        if len(node.generators) > 1 or loop.is_async or not isinstance(loop.target, ast.Name):
            raise Unreadable("a loop of several names")
        name = loop.target.id
        outer = dict(self.names)
        for value in self.read(loop.iter):
            self.names[name] = value
            if all(self.read(condition) for condition in loop.ifs):
                yield self.read(node.elt)
        self.names = outer

    def _read_Call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        is_load = name == "torch.load" and self.load is not None
        if (name not in _FUNCTIONS and not is_load) or name in self.names:
            raise Unreadable(f"a call of {name[:60]!r}")
        names = [k.arg for k in node.keywords]
        if None in names or any(isinstance(part, ast.Starred) for part in node.args):
            raise Unreadable("a call with * or **")
        keywords = {str(k.arg): self.read(k.value) for k in node.keywords}
        values = [self.read(part) for part in node.args]
        if is_load and self.load is not None:
            if len(values) != 1 or keywords.keys() - {"map_location", "weights_only"}:
                raise Unreadable("a file that is loaded in another way")
            return self.load(_text(values[0]))
        if keywords.keys() - {"reverse", "default"}:
            raise Unreadable(f"a call of {name!r} with {', '.join(keywords)}")
        return _FUNCTIONS[name](*values, **keywords)


def _check_product(times: Any, what: Any) -> None:
    if isinstance(what, (str, list, tuple)) and isinstance(times, int):
        limit = 16 * MOST_CHARACTERS if isinstance(what, str) else MOST_ITEMS
        if times * len(what) > limit:
            raise Unreadable("a large product")


def _size(value: Any) -> int:
    """Items in a value and in what it holds, whether they stand there once or are shared.

    Raises:
        ModelError: `Unreadable`, they are too many, or one of them is too large.
    """
    count, open_parts = 0, [value]
    while open_parts:
        part = open_parts.pop()
        count += 1
        if count > MOST_ITEMS:
            raise Unreadable(f"more than {MOST_ITEMS} items")
        if isinstance(part, Mapping):
            open_parts += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple, set)):
            if len(part) > MOST_ITEMS:
                raise Unreadable(f"more than {MOST_ITEMS} items")
            open_parts += part
        elif isinstance(part, str) and len(part) > 16 * MOST_CHARACTERS:
            raise Unreadable("a very long text")
        elif isinstance(part, complex) or (isinstance(part, int) and abs(part) > _LARGEST):
            raise Unreadable("a complex or very large number")
    return count


def claim_order(expression: str) -> tuple[tuple[int, int], ...]:
    """The regions of a nested choice, as published brain-tumour bundles write it.

    Such as `lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))`: where channel 2 is set
    the label is 4, else where channel 0 is set it is 1, else it is background.

    Args:
        expression: without the leading `$`.

    Returns:
        `(channel, label id)` in the order in which they claim voxels, the last one winning.

    Raises:
        ModelError: `Unreadable`, any other function.
    """
    tree, references = _parsed(expression)
    node = tree.body
    if not isinstance(node, ast.Lambda) or references or [a.arg for a in node.args.args] != ["x"]:
        raise Unreadable("a function of another form")
    regions: list[tuple[int, int]] = []
    choice: ast.AST = node.body
    while isinstance(choice, ast.Call):
        if ast.unparse(choice.func) != "torch.where" or len(choice.args) != 3 or choice.keywords:
            raise Unreadable(f"a call of {ast.unparse(choice.func)[:60]!r}")
        condition, label, choice = choice.args
        channel = re.fullmatch(r"x\[\[?(\d{1,3})\]?\] (?:> 0|== 1)", ast.unparse(condition))
        if channel is None or not isinstance(label, ast.Constant) or type(label.value) is not int:
            raise Unreadable("a function of another form")
        regions.append((int(channel.group(1)), label.value))
    if not isinstance(choice, ast.Constant) or choice.value != 0 or not regions:
        raise Unreadable("a function of another form")
    return tuple(reversed(regions))
