"""Values of settings, as text (flags, variables) or typed (tripos.toml, requests): kinds, units and ranges.

An error names where the value was written.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from tripos.config.options import Rule, settings
from tripos.errors import ConfigError, plain, shown

NEAR = 0.75  # difflib's ratio of a misspelt word
_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse_bytes(text: str) -> int:
    """`4GiB`, `512 MiB`, `2GB` or a plain number of bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)", text.strip(), re.ASCII)
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("is not a size such as 512MiB, 4GiB or 2GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse(name: str, text: str, where: str) -> Any:
    """The value of setting `name` written as text. `where` names the flag or variable in the error.

    Raises ConfigError when it is no value of its kind or out of range.
    """
    rule = settings()[name]
    return _checked(rule, text, _PARSERS[rule["kind"]], where)


def check(rule: Rule, value: Any, where: str) -> Any:
    """A typed value (of TOML or JSON), converted for the setting. Raises ConfigError."""
    return _checked(rule, value, _CHECKS[rule["kind"]], where)


def hint(word: str, known: Iterable[str]) -> str:
    """The nearest known word to an unknown one, for the end of a message; "" where none is near."""
    import difflib  # only for misspelt words

    near = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=NEAR)
    return f": did you mean {near[0]}?" if near else ""


def written(value: Any) -> str:
    """A value as it is written in tripos.toml."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "{" + ", ".join(f"{written(name)} = {written(each)}" for name, each in value) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(written(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else plain(value) if isinstance(value, float) else str(value)


def _checked(rule: Rule, given: Any, read: Any, where: str) -> Any:
    try:
        value = read(given)
    except ValueError as error:
        raise ConfigError(f"{where}: {shown(given)} {error}") from None
    if rule["choices"] and value not in rule["choices"]:
        raise ConfigError(f"{where}: {shown(given)} is not one of {', '.join(rule['choices'])}")
    if rule["kind"] in ("count", "seconds", "bytes") and not rule["low"] <= value <= rule["high"]:
        raise ConfigError(f"{where}: {shown(given)} is outside {plain(rule['low'])} to {plain(rule['high'])}")
    return value


def _switch(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("is not true or false")
    return text.lower() in _TRUE


def _count(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text, re.ASCII):
        raise ValueError("is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?", text, re.ASCII):
        raise ValueError("is not a number of seconds")
    return float(text)


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("is not printable text")
    return text


def _paths(text: str) -> tuple[str, ...]:
    return tuple(_text(each) for each in text.split(os.pathsep) if each)


def _names(text: str) -> tuple[str, ...]:
    return tuple(_text(each.strip()) for each in text.split(",") if each.strip())


def _named_paths(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [each.partition("=") for each in _paths(text)]
    if not all(name and path for name, _, path in pairs):
        raise ValueError("is not NAME=PATH")
    return _named([(name, path) for name, _, path in pairs])


def _named(pairs: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("has the same name twice")
    return tuple(pairs)


def _require(value: Any, kinds: tuple[type, ...], what: str) -> Any:
    """The value, where it is of one of these types: bool is an int in Python, and no whole number here."""
    if type(value) not in kinds:
        raise ValueError(f"is not {what}")
    return value


def _typed_text(value: Any) -> str:
    return _text(_require(value, (str,), "text: put it in quotes"))


def _typed_seconds(value: Any) -> float:
    if not math.isfinite(_require(value, (int, float), "a number of seconds")):
        raise ValueError("is not a number of seconds")
    return float(value)


def _typed_bytes(value: Any) -> Any:
    if isinstance(value, str):
        return parse_bytes(value)
    return _require(value, (int,), 'a size such as 1073741824 or "4GiB"')


def _typed_list(value: Any, what: str) -> tuple[str, ...]:
    return tuple(map(_typed_text, _require(value, (list,), f"a list of {what}")))


def _typed_named_paths(value: Any) -> tuple[tuple[str, str], ...]:
    table = _require(value, (dict,), 'a table of paths such as {name = "path"}')
    return _named([(_text(name), _typed_text(path)) for name, path in table.items()])


_PARSERS = {
    "text": _text,
    "path": _text,
    "paths": _paths,
    "named_paths": _named_paths,
    "names": _names,
    "count": _count,
    "seconds": _seconds,
    "bytes": parse_bytes,
    "switch": _switch,
}
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "text": _typed_text,
    "path": _typed_text,
    "paths": lambda value: _typed_list(value, "paths"),
    "named_paths": _typed_named_paths,
    "names": lambda value: _typed_list(value, "names"),
    "count": lambda value: _require(value, (int,), "a whole number"),
    "seconds": _typed_seconds,
    "bytes": _typed_bytes,
    "switch": lambda value: _require(value, (bool,), "true or false"),
}
