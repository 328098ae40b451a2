"""A closed world for templates: what can be called is listed, and all work is counted.

Jinja's sandbox keeps a template from reaching Python; it does not keep it from running for ever
or filling the memory (``lipsum``, ``'%999999999d' % 1``, loops in loops, a text that doubles).
Here every loop, call, operator and output draws on one budget, so that a render ends by
construction, at the same place on every machine, without a clock or another process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import StrictUndefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_SOURCE = 100_000
"""Characters of a template."""

MOST_WORK = 10_000_000
"""Characters put out or joined, loop steps and calls in one render."""

_MOST_NUMBER = 1000
_MOST_BITS = 1024
_STEP = 20
_CALL = 200

# Their output is no larger than a few times what they are given.
_FILTERS = (
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "forceescape", "groupby", "int", "items", "join", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select",
    "selectattr", "sort", "string", "striptags", "sum", "title", "tojson", "trim", "truncate",
    "unique", "upper", "wordcount",
)  # fmt: skip
# Their numbers say how much they add, so these are bounded.
_FILLING = ("batch", "center", "indent", "slice", "tojson", "wordwrap")
_METHODS = frozenset((
    "capitalize", "casefold", "count", "endswith", "find", "get", "index", "isalnum", "isalpha",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "items", "join", "keys",
    "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper", "values",
))  # fmt: skip


class _Budget(threading.local):
    """Work that the render of this thread may still do."""

    left = MOST_WORK


_budget = _Budget()


def draw(work: int) -> None:
    """Take from the budget of this render.

    Raises:
        SecurityError: It is used up.
    """
    _budget.left -= work
    if _budget.left < 0:
        raise SecurityError(f"it does more than {MOST_WORK:,} steps of work, or never ends")


def renew() -> None:
    """Begin a render."""
    _budget.left = MOST_WORK


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict, range)) else 1


class _Counted(NodeTransformer):
    """Puts loops and ``~`` under the budget."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (named by Jinja)
        self.generic_visit(node)
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        cost = nodes.Const(_STEP + literal)
        node.iter = nodes.Filter(node.iter, "_counted", [cost], [], None, None)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        parts = nodes.List(node.nodes)
        return nodes.Filter(parts, "join", [], [], None, None)


def _counted(values: Iterable[Any], cost: int) -> Iterator[Any]:
    for value in values:
        draw(cost)
        yield value


def _finalize(value: Any) -> Any:
    if isinstance(value, str):
        draw(len(value))
        return value
    text = str(value)
    draw(len(text))
    return text


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of all templates."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        """Set up the closed world."""
        super().__init__(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            optimized=False,
            finalize=_finalize,
        )
        known = self.filters
        self.filters = {name: _bounded(known[name], name) for name in _FILTERS if name in known}
        self.filters |= {name: _bounded(known[name], name) for name in _FILLING}
        self.filters |= {"_counted": _counted, "letter": letter}
        self.globals = {name: self.globals[name] for name in ("dict", "namespace", "range")}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > MOST_SOURCE:
            raise SecurityError(f"it is longer than {MOST_SOURCE:,} characters")
        tree: nodes.Template = super()._parse(source, name, filename)
        return tree

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        code: str = super()._generate(_Counted().visit(source), *args, **kwargs)
        return code

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` where the result is of bounded size."""
        draw(_step(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call what is listed."""
        draw(_CALL)
        if isinstance(function, LoopContext):  # of a recursive loop: its steps are not counted
            draw(_CALL * sum(map(_size, args)))
            return super().call(context, function, *args, **kwargs)
        if isinstance(function, Macro) or function in self.globals.values():
            return super().call(context, function, *args, **kwargs)
        name = getattr(function, "__name__", type(function).__name__)
        is_method = isinstance(function, (MethodType, BuiltinMethodType))
        if not is_method or name not in _METHODS:
            raise SecurityError(f"{name!r} cannot be called in a template")
        draw(_joined(name, getattr(function, "__self__", None), args))
        result = super().call(context, function, *args, **kwargs)
        draw(_size(result))
        return result


def _bounded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A filter under the budget."""
    from functools import wraps

    passes = int(hasattr(function, "jinja_pass_arg"))

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        own = args[passes:]
        draw(_STEP + _joined(name, own[0], own[1:]))
        if name in _FILLING:
            for number in (*own[1:], *kwargs.values()):
                if isinstance(number, int) and not 0 < number <= _MOST_NUMBER:
                    raise SecurityError(f"{name}: use numbers from 1 to {_MOST_NUMBER}")
        result = function(*args, **kwargs)
        draw(_size(result))
        return result

    return run


def _joined(name: str, value: Any, args: tuple[Any, ...]) -> int:
    """The size that ``join`` or ``replace`` may give, before it is made."""
    if name == "join":
        parts = args[0] if isinstance(value, str) and args else value
        between = value if parts is not value else (args[0] if args else "")
        if isinstance(parts, (list, tuple, str)):
            return sum(map(_size, parts)) + len(parts) * _size(between)
    if name == "replace" and len(args) > 1 and isinstance(value, str):
        old, new = args[0], args[1]
        return len(value) + (value.count(old) if isinstance(old, str) else 0) * _size(new)
    return _size(value)


def _step(operator: str, left: Any, right: Any) -> int:
    """The work of an operator, which is the size of what it gives."""
    if operator == "%" and not isinstance(left, (int, float)):
        raise SecurityError("`%` is for numbers in a template; put texts together with `~`")
    if operator == "+":
        return 1 + (_size(left) + _size(right) if not _is_number(left) else 0)
    if operator == "*" and not (_is_number(left) and _is_number(right)):
        times = max(n for n in (left, right, 0) if isinstance(n, int))
        return 1 + times * max(_size(left), _size(right))
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        _require_bits(left.bit_length() * abs(right))
    if operator == "*" and isinstance(left, int) and isinstance(right, int):
        _require_bits(left.bit_length() + right.bit_length())
    return 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _require_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise SecurityError(f"a number of more than {_MOST_BITS} bits")


def letter(index: int) -> str:
    """The option letter of a position: 0 is A."""
    return chr(ord("A") + index)
