"""The option structs: name, kind, default, range and unit of every setting. Reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

PREFIX = "TRIPOS_"
NATIVE_VARIABLES = ("TRIPOS_ISA", "TRIPOS_NATIVE_LIBRARY")
DEFAULT_MODEL = "demo:assistant"

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
        "auto",
        "text",
        "Type of the cached keys and values. auto: int8 with int8 or int4 weights, else fp16.",
        choices=("auto", "fp32", "fp16", "int8"),
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
