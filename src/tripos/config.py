"""Settings: flags and environment → option structs. The only reader of TRIPOS_ variables.

One exception, so that the library also obeys them: runtime/native.py reads TRIPOS_ISA and TRIPOS_NATIVE_LIBRARY.
Owns names, defaults, ranges and units of every setting; refuses to know what the settings do. A service file
(tripos.toml) will fill the same structs between environment and defaults.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from tripos.errors import ConfigError

PREFIX = "TRIPOS_"
NATIVE_VARIABLES = ("TRIPOS_ISA", "TRIPOS_NATIVE_LIBRARY")
DEFAULT_MODEL = "demo:assistant"

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

Kind = Literal["text", "count", "seconds", "bytes", "switch"]


def _setting(
    default: Any,
    kind: Kind,
    doc: str,
    *,
    low: float = 0,
    high: float = 2**40,
    choices: tuple[str, ...] = (),
) -> Any:
    metadata = {"kind": kind, "doc": doc, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How one model is loaded and how much it may hold at once."""

    source: str = DEFAULT_MODEL
    name: str = _setting("", "text", "Name that clients ask for. Default: the last part of the source.")
    threads: int = _setting(0, "count", "Threads of the native executor. 0: one per core we may use.", high=1024)
    weights: str = _setting(
        "auto",
        "text",
        "Type the weights run in. auto: the type of the checkpoint.",
        choices=("auto", "fp32", "bf16", "fp16", "int8", "int4", "fp8"),
    )
    kv_cache: str = _setting(
        "auto", "text", "Type of the cached keys and values.", choices=("auto", "fp32", "fp16", "int8")
    )
    max_sequences: int = _setting(64, "count", "Most sequences in one step.", low=1, high=4096)
    max_model_len: int = _setting(
        0, "count", "Most tokens of prompt and output together. 0: what the model was made for.", high=2**24
    )
    token_budget: int = _setting(2048, "count", "Most tokens computed in one step.", low=16, high=2**16)
    speculate: str = _setting(
        "auto",
        "text",
        "Guess tokens ahead from a text's own repetitions. auto: where measured steps say that it saves time.",
        choices=("auto", "off"),
    )
    memory: int = _setting(
        0, "bytes", "Memory for weights and cache together. 0: what is free now, less a reserve.", high=2**46
    )


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the HTTP door listens, and whom it lets in."""

    host: str = _setting("127.0.0.1", "text", "Address to listen on.")
    port: int = _setting(8000, "count", "Port to listen on. 0: any free one, printed when ready.", high=65535)
    api_key_file: str = _setting("", "text", "File with one API key per line. Without it no key is asked for.")
    i_accept_no_auth: bool = _setting(False, "switch", "Listen beyond this machine although no key is asked for.")
    drain_s: float = _setting(30.0, "seconds", "Time that running requests get to finish on SIGTERM.", high=86400)
    max_connections: int = _setting(
        1024, "count", "Most clients connected at once; fewer where the limit on open files says so.", low=1, high=65536
    )
    max_peer_connections: int = _setting(
        128, "count", "Of these, most from one address that is not this machine's.", low=1, high=65536
    )


Options = TypeVar("Options", ModelOptions, ServerOptions)


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Everything `tripos serve` needs."""

    models: tuple[ModelOptions, ...] = (ModelOptions(),)
    server: ServerOptions = ServerOptions()


def settings() -> dict[str, Mapping[str, Any]]:
    """Every setting's name → its kind, doc, range, choices and default, in the order of the documentation."""
    found: dict[str, Mapping[str, Any]] = {}
    for struct in (ModelOptions, ServerOptions):
        for each in fields(struct):
            if each.metadata:
                found[each.name] = {**each.metadata, "default": each.default}
    return found


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


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
        raise ConfigError(f"{where}: {_shown(text)} {reason}") from None
    if rule["choices"] and value not in rule["choices"]:
        raise ConfigError(f"{where}: {_shown(text)} is not one of {', '.join(rule['choices'])}")
    if rule["kind"] in ("count", "seconds", "bytes") and not rule["low"] <= value <= rule["high"]:
        raise ConfigError(f"{where}: {_shown(text)} is outside {rule['low']:g} to {rule['high']:g}")
    return value


def _shown(text: str) -> str:
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


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment gives. A variable with our prefix that we do not know is an error.

    Raises ConfigError.
    """
    known = {variable(name): name for name in settings()}
    values = {}
    for key, text in environment.items():
        if not key.startswith(PREFIX) or key in NATIVE_VARIABLES:
            continue
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *NATIVE_VARIABLES], n=1, cutoff=0)
            raise ConfigError(f"{_shown(key)} is not a setting of Tripos: did you mean {near[0]}?")
        values[known[key]] = parse(known[key], text, key)
    return values


def read_options(sources: tuple[str, ...], flags: Mapping[str, str], environment: Mapping[str, str]) -> ServiceOptions:
    """Options from flags, then environment, then defaults. `flags` holds what was given, as text.

    Raises ConfigError when a value is wrong or values contradict each other.
    """
    values = read_environment(environment)
    values |= {name: parse(name, text, flag(name)) for name, text in flags.items()}
    sources = sources or (DEFAULT_MODEL,)
    if values.get("name") and len(sources) > 1:
        raise ConfigError(f"--name names one model, {len(sources)} were given: leave it out")
    model = _fill(ModelOptions(), values)
    server = _fill(ServerOptions(), values)
    if not is_loopback(server.host) and not server.api_key_file and not server.i_accept_no_auth:
        raise ConfigError(
            f"--host {server.host} lets other machines in without a key: "
            "give --api-key-file, or --i-accept-no-auth if that is meant"
        )
    return ServiceOptions(models=tuple(replace(model, source=source) for source in sources), server=server)


def _fill(options: Options, values: Mapping[str, Any]) -> Options:
    mine = {each.name for each in fields(options)}
    return replace(options, **{name: value for name, value in values.items() if name in mine})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Names other than localhost count as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
