"""The one jinja2 environment: a sandbox whose loops, calls, operators and filters pay from a budget.

Owns what templates may call and how that is bounded (template_budget.py counts). Knows nothing of messages (chat.py).
Tested in tests/unit/models/text/test_chat.py.
"""

from __future__ import annotations

import html
import itertools
import json
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from types import BuiltinMethodType, ModuleType
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tripos.models.text.template_budget import (
    MAX_ITEMS,
    WIDE_FORMAT,
    BudgetExceeded,
    as_text,
    begin_budget,
    check_operation,
    current_budget,
    join_bounded,
    measure,
    strings_in,
)

MAX_SOURCE_CHARS = 128 << 10  # the longest public templates have 25 k; 128 k compile in about a second
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent", "int",
    "items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace",
    "reverse", "round", "safe", "select", "selectattr", "sort", "string", "title", "tojson", "trim", "unique", "upper",
)  # fmt: skip
_TEXT_FILTERS = frozenset(("capitalize", "lower", "title", "trim", "upper"))  # filters that call str(value) first
_LIST_METHODS = frozenset(("copy", "count", "get", "index", "items", "keys", "values"))
_STR_METHODS = frozenset((
    "capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isdigit", "islower",
    "isspace", "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper",
))  # fmt: skip


class TemplateRefusal(TemplateError):
    """The template called raise_exception(...): it does not accept these messages."""


class RenderingFailed(Exception):
    """A template raised an error: it did something forbidden, or does not fit the messages."""


class _Generator(CodeGenerator):
    """Compiles loops, `a ~ b` and the literals of lists so that they pass through the environment's budget."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.join_bounded((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802
        if node.recursive:
            self.fail("recursive loops are not supported", node.lineno)
        node.iter = nodes.Call(nodes.EnvironmentAttribute("turns"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._write_measured(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._write_measured(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._write_measured(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _write_measured(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.measured(")
        visit(node, frame)
        self.write(")")


class _GenerationTag(Extension):
    """{% generation %}…{% endgeneration %} marks the assistant's part for training; only its body is rendered."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with a budget. Loops, calls, operators, filters and joins count; operations with a result larger than
    their operands are measured before they run."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag])
        self.finalize = as_text  # every {{ value }}
        known = {name: self.filters[name] for name in _FILTERS}
        known |= {"tojson": _tojson, "indent": _indent, "join": _join, "replace": _replace}
        known |= {"string": as_text, "safe": as_text, "escape": _escape, "e": _escape}
        self.filters = {name: _counted(function, name in _TEXT_FILTERS) for name, function in known.items()}
        self.globals = {
            "range": _range, "namespace": self.globals["namespace"], "dict": _dict,
            "raise_exception": _raise_exception, "strftime_now": _strftime_now,
        }  # fmt: skip

    @staticmethod
    def concat(parts: Iterator[str]) -> str:  # type: ignore[override]
        """Called by jinja2 to join the output of a template, a macro or a block."""
        return join_bounded(parts)

    @staticmethod
    def join_bounded(parts: Sequence[Any]) -> str:
        return join_bounded(map(as_text, parts))

    @staticmethod
    def measured(value: Any) -> Any:
        measure(value)
        return value

    @staticmethod
    def turns(items: Any) -> Iterator[Any]:
        """The items; each costs a step of the budget."""
        for item in items:
            current_budget().spend()
            yield item

    def wrap_str_format(self, value: Any) -> None:
        """`format` stays the bound method, which `call` measures."""

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_operation(operator, left, right)
        result = self.binop_table[operator](left, right)
        measure(result)
        return result

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            kwargs = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
            result = _call_str_method(owner, __obj.__name__, args, kwargs)
            measure(result)
            return result
        current_budget().spend()
        is_method = isinstance(__obj, BuiltinMethodType) and not isinstance(owner, ModuleType)
        if is_method and not (isinstance(owner, dict | list | tuple) and __obj.__name__ in _LIST_METHODS):
            raise SecurityError(f"the method {__obj.__name__} is not available to templates")
        return super().call(__context, __obj, *args, **kwargs)


def _escape(value: Any) -> str:
    return html.escape(as_text(value))


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    value = dict(*args, **kwargs)
    measure(value)
    return value


def _format(template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """str.format over plain text and numbers, with plain widths."""
    fields = [(field or "", spec or "") for _, field, spec, _ in string.Formatter().parse(template)]
    if any(field and not field.isalnum() and not field.isidentifier() for field, _ in fields):
        raise SecurityError("format fields with attributes or indexes are not available to templates")
    specs = [spec for _, spec in fields]
    if any("{" in spec or WIDE_FORMAT.search(spec) for spec in specs):
        raise BudgetExceeded("a format with a width or precision above 999, or from a value")
    args = tuple(value if isinstance(value, int | float) else as_text(value) for value in args)
    kwargs = {name: value if isinstance(value, int | float) else as_text(value) for name, value in kwargs.items()}
    current_budget().check_size(len(template) + len(specs) * (1000 + sum(map(len, strings_in([args, kwargs])))))
    return template.format(*args, **kwargs)


def _call_str_method(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if name not in _STR_METHODS:
        raise SecurityError(f"the string method {name} is not available to templates")
    if name == "replace":
        return _replace(text, *args, **kwargs)
    if name == "join":
        (items,) = args
        return _join(items, text)
    if name == "format":
        return _format(text, args, kwargs)
    current_budget().spend(len(text))
    return getattr(text, name)(*args, **kwargs)


def _counted(function: Callable[..., Any], takes_text: bool) -> Callable[..., Any]:
    """A filter that pays for its arguments and for its result."""

    @wraps(function)  # keeps jinja2's marks on the function
    def paid(*args: Any, **kwargs: Any) -> Any:
        current_budget().spend()
        if takes_text:
            args = (as_text(args[0]), *args[1:])
        else:
            for arg in args:
                measure(arg)
        result = function(*args, **kwargs)
        measure(result)
        return result

    return paid


def _join(items: Any, separator: Any = "", attribute: str | int | None = None) -> str:
    parts = (as_text(item if attribute is None else _member(item, attribute)) for item in items)
    between: Iterator[str] = itertools.chain.from_iterable((as_text(separator), part) for part in parts)
    next(between, None)
    return join_bounded(between)


def _member(item: Any, attribute: str | int) -> Any:
    """An item of a mapping or list, never an attribute of a Python object."""
    try:
        return item[attribute]
    except (TypeError, LookupError):
        return ""


def _replace(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    held, requested, put = as_text(text), as_text(old), as_text(new)
    times = held.count(requested)
    current_budget().check_size(len(held) + (times if count is None or count < 0 else min(times, count)) * len(put))
    return held.replace(requested, put, -1 if count is None else count)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text, step = as_text(text), width if isinstance(width, str) else " " * min(int(width), 100)
    lines = text.split("\n")
    current_budget().check_size(len(text) + len(lines) * len(step))
    return "\n".join(step + line if (place or first) and (line or blank) else line for place, line in enumerate(lines))


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_ITEMS:
        raise BudgetExceeded(f"a range of more than {MAX_ITEMS}")
    return numbers


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON, without jinja2's escaping for HTML, as model templates expect. The encoder is the slow,
    iterating one, so that a value with many references to one big string stops at the budget."""
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii),
        indent=None if indent is None else min(int(indent), 16),
        separators=separators,
        sort_keys=bool(sort_keys),
    )
    return join_bounded(encoder.iterencode(value))


def _raise_exception(message: Any = "") -> None:
    raise TemplateRefusal(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 100 or WIDE_FORMAT.search(form):
        raise BudgetExceeded("a long date format")
    return time.strftime(form)


class Template:
    """One template, compiled. Safe to use from several threads."""

    def __init__(self, source: str) -> None:
        """Raises ValueError when the template cannot be compiled."""
        if len(source) > MAX_SOURCE_CHARS:
            raise ValueError(f"the template has {len(source)} characters, the limit is {MAX_SOURCE_CHARS}")
        environment = _Environment()
        begin_budget()  # constants are folded while compiling
        try:
            tree = environment.parse(source)
            if any(name.name in ("varargs", "kwargs") for name in tree.find_all(nodes.Name)):
                raise ValueError("varargs and kwargs are not supported")
            self.names = frozenset(meta.find_undeclared_variables(tree)) - environment.globals.keys()
            self._template = environment.from_string(tree)
        except (TemplateError, BudgetExceeded, RecursionError, MemoryError, SyntaxError, ValueError) as problem:
            raise ValueError(f"the template does not compile: {_first_line(problem)}") from problem

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises BudgetExceeded, TemplateRefusal, or RenderingFailed for whatever else goes wrong inside."""
        begin_budget()
        try:
            text: str = self._template.render(values)
            return text
        except (BudgetExceeded, TemplateRefusal):
            raise
        except Exception as problem:  # the template is a program, and may raise anything
            raise RenderingFailed(f"{type(problem).__name__}: {problem}") from problem


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:200]
