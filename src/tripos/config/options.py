"""The option structs: name, kind, default, range and unit of every setting. Reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

PREFIX = "TRIPOS_"
NATIVE_VARIABLES = ("TRIPOS_ISA", "TRIPOS_NATIVE_LIBRARY", "TRIPOS_PROFILE")
DEFAULT_MODEL = "demo:assistant"
LIVE_SETTINGS = ("drain_s", "memory", "model_roots")  # of the server, that may change while it runs

Kind = Literal["text", "path", "paths", "named_paths", "names", "count", "seconds", "bytes", "switch"]
Rule = Mapping[str, Any]


def _setting(
    default: Any,
    kind: Kind,
    doc: str,
    *,
    low: float = 0,
    high: float = 2**40,
    choices: tuple[str, ...] = (),
    is_flag: bool = True,  # False: in tripos.toml only
) -> Any:
    rule = {"kind": kind, "doc": doc, "low": low, "high": high, "choices": choices, "is_flag": is_flag}
    return field(default=default, metadata=rule)


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How one model is loaded, and its limits."""

    source: str = _setting(
        DEFAULT_MODEL, "path", "A directory, a .gguf file, hf:org/name, package:name or demo:assistant.", is_flag=False
    )
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
    tool_dialect: str = _setting(
        "auto",
        "text",
        "How the model writes tool calls. auto: as its chat template says.",
        choices=("auto", "hermes", "mistral", "mistral_list", "deepseek_r1", "deepseek_v31", "llama3", "json"),
    )
    memory: int = _setting(
        0,
        "bytes",
        "Memory for this model's weights and cache. 0: a share of the server's.",
        high=2**46,
        is_flag=False,
    )
    adapters: tuple[tuple[str, str], ...] = _setting(
        (), "named_paths", "LoRA adapters to serve as models of their own: names, and the directories that hold them."
    )
    max_adapters: int = _setting(
        0, "count", "Most LoRA adapters loaded at once. 0: as many as are named at the start.", high=1024
    )
    max_adapter_rank: int = _setting(16, "count", "Largest rank that an adapter may have.", low=1, high=512)
    preload: bool = _setting(True, "switch", "Load when the server starts. false: when an admin asks.", is_flag=False)

    @property
    def num_adapters(self) -> int:
        """Adapters that may be loaded at once."""
        return self.max_adapters or len(self.adapters)


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where the HTTP server listens, and which clients it accepts."""

    host: str = _setting("127.0.0.1", "text", "Address to listen on.")
    port: int = _setting(8000, "count", "Port to listen on. 0: any free one, printed when ready.", high=65535)
    api_key_file: str = _setting(
        "", "path", "File with one API key per line, and its scopes. Without it no key is asked for."
    )
    i_accept_no_auth: bool = _setting(False, "switch", "Listen beyond this machine although no key is asked for.")
    unix_socket: str = _setting(
        "", "path", "Path of a socket to listen on instead of host and port, for a proxy beside us."
    )
    tls_cert: str = _setting(
        "",
        "path",
        "File with our certificate and those up to its root (PEM). With it only TLS is spoken; SIGHUP reads it again.",
    )
    tls_key: str = _setting(
        "", "path", "File with the certificate's private key (PEM). Default: it stands in tls_cert."
    )
    allowed_hosts: tuple[str, ...] = _setting(
        (),
        "names",
        "Names of the Host header to answer to beside this machine's own, without port; * for any. Default: none where "
        "we listen for this machine only, else any.",
    )
    cors_origins: tuple[str, ...] = _setting(
        (), "names", "Origins whose pages may ask from a browser, such as https://app.example; * for any."
    )
    trusted_proxies: tuple[str, ...] = _setting(
        (),
        "names",
        "Addresses or networks of proxies whose X-Forwarded-For is believed; unix for the socket. Logs then name their "
        "clients, and max_peer_connections does not hold for the proxies.",
    )
    keep_alive_s: float = _setting(
        15.0,
        "seconds",
        "Time that a client may leave its connection idle. Longer than the proxy's own.",
        low=1,
        high=3600,
    )
    max_call_s: float = _setting(
        600.0, "seconds", "Longest that a call may take, where its route does not say.", low=0.001, high=86400
    )
    drain_s: float = _setting(
        30.0, "seconds", "Time that running requests get to finish on SIGTERM, or when their model goes.", high=86400
    )
    max_connections: int = _setting(
        1024, "count", "Most clients connected at once; fewer where the limit on open files says so.", low=1, high=65536
    )
    max_peer_connections: int = _setting(
        128, "count", "Of these, most from one address that is not this machine's.", low=1, high=65536
    )
    memory: int = _setting(
        0,
        "bytes",
        "Memory for the weights and caches of all models together. 0: what is free at the start, less a reserve.",
        high=2**46,
    )
    log_format: str = _setting("text", "text", "How each line of the log is written.", choices=("text", "json"))
    access_log: str = _setting(
        "on",
        "text",
        "A line of the log for each request. on: except probes and scrapes answered with 200; all: with them.",
        choices=("on", "all", "off"),
    )
    model_roots: tuple[str, ...] = _setting(
        (), "paths", "Directories below which an admin may load models at run time. None: only named models."
    )


@dataclass(frozen=True, kw_only=True)
class LimitsStage:
    """Refuses requests beyond these sizes before any work. The defaults are the limits of HTTP requests."""

    max_n: int = _setting(8, "count", "Most choices of one prompt.", low=1, high=8, is_flag=False)
    max_prompt_chars: int = _setting(
        4 * 2**20, "count", "Most characters of text, or token ids, in a prompt.", low=1, high=4 * 2**20, is_flag=False
    )
    max_messages: int = _setting(2048, "count", "Most messages of a chat.", low=1, high=2048, is_flag=False)
    max_logprobs: int = _setting(20, "count", "Most alternatives per token.", high=20, is_flag=False)
    max_stops: int = _setting(16, "count", "Most stop strings.", high=16, is_flag=False)


@dataclass(frozen=True, kw_only=True)
class DeadlineStage:
    """Ends a request that takes longer than its own deadline, or than the route's `need.deadline_s`."""


StageOptions = LimitsStage | DeadlineStage
STAGES: dict[str, type[StageOptions]] = {"limits": LimitsStage, "deadline": DeadlineStage}


@dataclass(frozen=True, kw_only=True)
class NeedOptions:
    """What the route's clients need. A trailing underscore is not part of a key."""

    class_: str = _setting(
        "interactive",
        "text",
        "Whose requests go first. bulk fills what interactive ones leave, and is preempted first.",
        choices=("interactive", "bulk"),
        is_flag=False,
    )
    deadline_s: float = _setting(
        600.0,
        "seconds",
        "After this time an answer is worthless. Default: the server's max_call_s.",
        low=0.001,
        high=86400,
        is_flag=False,
    )


@dataclass(frozen=True, kw_only=True)
class RouteOptions:
    """A name that clients ask for: stages in order, the first one outermost, and a model at the end."""

    name: str
    model: str = _setting("", "text", "Name of the model at the end.", is_flag=False)
    unknown_fields: str = _setting(
        "report",
        "text",
        "What becomes of a request with a field that nobody knows. report: it is answered, and names the field in the "
        "header x-tripos-ignored.",
        choices=("report", "refuse"),
        is_flag=False,
    )
    stages: tuple[StageOptions, ...] = (LimitsStage(), DeadlineStage())
    need: NeedOptions = NeedOptions()


@dataclass(frozen=True, kw_only=True)
class ServiceOptions:
    """Everything `tripos serve` needs. Each model has a route under its own name, beside those in `routes`.

    `origins`: the dotted key of a setting that somebody gave → where. `file`: what was read, if any. `is_default`:
    nobody named a model.
    """

    models: tuple[ModelOptions, ...] = (ModelOptions(),)
    routes: tuple[RouteOptions, ...] = ()
    server: ServerOptions = ServerOptions()
    origins: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    is_default: bool = False


def stage_name(stage: StageOptions) -> str:
    return next(name for name, struct in STAGES.items() if isinstance(stage, struct))


def rules(struct: type) -> dict[str, Rule]:
    """The settings of an option struct: key → kind, doc, range, choices and default."""
    return {
        each.name.rstrip("_"): {**each.metadata, "default": each.default, "field": each.name}
        for each in fields(struct)
        if each.metadata
    }


def flags(struct: type) -> tuple[str, ...]:
    """The settings of an option struct that are a flag and a variable too."""
    return tuple(name for name, rule in rules(struct).items() if rule["is_flag"])


def tables() -> dict[str, dict[str, Rule]]:
    """Every table of tripos.toml → its settings, in the order of the documentation."""
    stages = {f"stage {name}": rules(struct) for name, struct in STAGES.items()}
    models = {
        name: rule for name, rule in rules(ModelOptions).items() if name != "name"
    }  # the table's own key gives it
    found = {"server": rules(ServerOptions), "models.NAME": models, "routes.NAME": rules(RouteOptions)}
    return {**found, "routes.NAME.need": rules(NeedOptions), **stages}


@cache
def settings() -> dict[str, Rule]:
    """Every setting that is a flag and a variable too. Callers must not change them."""
    every = (*rules(ModelOptions).items(), *rules(ServerOptions).items())
    return {name: rule for name, rule in every if rule["is_flag"]}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + ("adapter" if name == "adapters" else name.replace("_", "-"))
