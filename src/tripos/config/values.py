"""Values of settings as text: kinds, units and ranges. An error names where the value was written."""

from __future__ import annotations

import re
from typing import Any

from tripos.config.options import settings
from tripos.errors import ConfigError

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def parse_bytes(text: str) -> int:
    """`4GiB`, `512 MiB`, `2GB` or a plain number of bytes. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in _UNITS:
        raise ValueError("is not a size such as 512MiB, 4GiB or 2GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse(name: str, text: str, where: str) -> Any:
    """The value of setting `name` written as text. `where` names the flag or variable in the error.

    Raises ConfigError when it is no value of its kind or out of range.
    """
    rule = settings()[name]
    try:
        value = _PARSERS[rule["kind"]](text)
    except ValueError as error:
        reason = str(error) if str(error).startswith("is not") else f"is not a number of {rule['kind']}"
        raise ConfigError(f"{where}: {shown(text)} {reason}") from None
    if rule["choices"] and value not in rule["choices"]:
        raise ConfigError(f"{where}: {shown(text)} is not one of {', '.join(rule['choices'])}")
    if rule["kind"] in ("count", "seconds", "bytes") and not rule["low"] <= value <= rule["high"]:
        raise ConfigError(f"{where}: {shown(text)} is outside {rule['low']:g} to {rule['high']:g}")
    return value


def shown(text: str) -> str:
    """Quoted for a message, and short."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _switch(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("is not true or false")
    return text.lower() in _TRUE


def _count(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise ValueError("is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"-?\d{1,12}(\.\d{1,9})?", text):
        raise ValueError("is not a number of seconds")
    return float(text)


def _text(text: str) -> str:
    if not text.isprintable():
        raise ValueError("is not printable text")
    return text


_PARSERS = {"text": _text, "count": _count, "seconds": _seconds, "bytes": parse_bytes, "switch": _switch}
