"""/admin and keys: who may do what, and models that come and go."""

from __future__ import annotations

from typing import Any

from tests.recorded.models import KEYS
from tests.recorded.request import Request, get, post

LOAD, RELOAD, UNLOAD = "/admin/models/load", "/admin/models/reload", "/admin/models/unload"
BODY: dict[str, Any] = {"model": "talker", "prompt": "x", "max_tokens": 4}
BEARER = {scope: {"authorization": f"Bearer {key}"} for scope, key in KEYS.items()}
WRONG = {"authorization": "Bearer nobody-key-0123456789"}
KEYED: dict[str, Any] = {"server": "keyed"}
ORIGIN = {"origin": "https://app.example"}
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
PATHS = (
    "/livez",
    "/readyz",
    "/health",
    "/version",
    "/v1/models",
    "/admin/models",
    "/nothing",
)
LATER = {"model": "later", "prompt": "x", "max_tokens": 4}


def loaded() -> list[Request]:
    """Of the open server: from this machine, without a key."""
    return [
        get("listed", "/admin/models"),
        post("loaded: of the configuration", LOAD, {"name": "later"}),
        post("loaded: an answer of it", "/v1/completions", LATER),
        post("loaded: twice", LOAD, {"name": "later"}),
        post(
            "loaded: a source",
            LOAD,
            {
                "name": "extra",
                "source": "@(root)/writer",
                "options": {"weights": "fp32", "memory": "32MiB", "threads": 1},
            },
        ),
        post("loaded: an answer of a source", "/v1/completions", {**LATER, "model": "extra"}),
        get("loaded: its card", "/v1/models/extra"),
        post("loaded: nothing", LOAD, {}),
        post("loaded: an unknown name", LOAD, {"name": "nobody"}),
        post("loaded: outside the roots", LOAD, {"name": "x", "source": "/nothing"}),
        post("loaded: no such source", LOAD, {"name": "x", "source": "@(root)/nothing"}),
        post("loaded: a damaged model", LOAD, {"name": "x", "source": "@(root)/damaged"}),
        post(
            "loaded: an option that is none",
            LOAD,
            {"name": "x", "source": "@(root)/writer", "options": {"colour": "red"}},
        ),
        post(
            "loaded: a value that is none",
            LOAD,
            {"name": "x", "source": "@(root)/writer", "options": {"weights": "int3"}},
        ),
        post(
            "loaded: more than there is", LOAD, {"name": "x", "source": "@(root)/writer", "options": {"memory": "9GiB"}}
        ),
        post("loaded: an unknown field", LOAD, {"name": "later", "colour": "red"}),
        post("reloaded", RELOAD, {"name": "later"}),
        post("reloaded: another source", RELOAD, {"name": "extra", "source": "@(root)/talker"}),
        post("reloaded: an answer of another source", "/v1/completions", {**LATER, "model": "extra"}),
        post("reloaded: an unknown name", RELOAD, {"name": "nobody"}),
        post("reloaded: no name", RELOAD, {}),
        post("unloaded", UNLOAD, {"name": "extra"}),
        post("unloaded: twice", UNLOAD, {"name": "extra"}),
        post("unloaded: an answer of it", "/v1/completions", {**LATER, "model": "extra"}),
        post("unloaded: of the configuration", UNLOAD, {"name": "later"}),
        post("unloaded: no name", UNLOAD, {}),
        post("unloaded: an unknown name", UNLOAD, {"name": "nobody"}),
        post("read again", "/admin/reread", {}),
        post("read again: an unknown field", "/admin/reread", {"colour": "red"}),
        get("listed at the end", "/admin/models"),
        get("a proxy between", "/admin/models", headers={"x-forwarded-for": "192.0.2.1"}),
    ]


REQUESTS: list[Request] = [
    *loaded(),
    *(get(f"no key at {path}", path, **KEYED) for path in PATHS),
    get("no key at /metrics", "/metrics", **KEYED),
    *(get(f"{scope} key at /metrics", "/metrics", method="HEAD", headers=BEARER[scope], **KEYED) for scope in KEYS),
    *(get(f"{scope} key at {path}", path, headers=BEARER[scope], **KEYED) for scope in KEYS for path in PATHS),
    get("wrong key", "/v1/models", headers=WRONG, **KEYED),
    get("a key of another form", "/v1/models", headers={"authorization": "Basic eDp5"}, **KEYED),
    get("a key as Anthropic has it", "/v1/models", headers={"x-api-key": KEYS["generate"]}, **KEYED),
    post("no key to ask", "/v1/completions", BODY, **KEYED),
    post("no key to ask as Anthropic does", "/v1/messages", BODY, **KEYED),
    post("no key to ask as Ollama does", "/api/generate", BODY, **KEYED),
    *(post(f"{scope} key to ask", "/v1/completions", BODY, headers=BEARER[scope], **KEYED) for scope in KEYS),
    *(post(f"{scope} key to load", LOAD, {"name": "later"}, headers=BEARER[scope], **KEYED) for scope in KEYS),
    *(post(f"{scope} key to unload", UNLOAD, {"name": "later"}, headers=BEARER[scope], **KEYED) for scope in KEYS),
    *(
        post(
            f"{scope} key to load an adapter",
            "/v1/load_lora_adapter",
            {"lora_name": "x", "lora_path": "y"},
            headers=BEARER[scope],
            **KEYED,
        )
        for scope in KEYS
    ),
    post("admin key to read again", "/admin/reread", {}, headers=BEARER["admin"], **KEYED),
    get("a preflight", "/v1/models", method="OPTIONS", headers={**ORIGIN, **PREFLIGHT}, **KEYED),
    get(
        "a preflight of another page",
        "/v1/models",
        method="OPTIONS",
        headers={"origin": "https://a.example", **PREFLIGHT},
        **KEYED,
    ),
    get("a page that may ask", "/v1/models", headers={**ORIGIN, **BEARER["generate"]}, **KEYED),
    get("a page that may not", "/v1/models", headers={"origin": "https://a.example", **BEARER["generate"]}, **KEYED),
    get("a host that is allowed", "/v1/models", headers={"host": "models.example", **BEARER["generate"]}, **KEYED),
    get("a host that is not", "/v1/models", headers={"host": "other.example", **BEARER["generate"]}, **KEYED),
    post(
        "a stored response of one key",
        "/v1/responses",
        {"model": "talker", "input": "x", "max_output_tokens": 3},
        headers=BEARER["generate"],
        keep={"own": "id"},
        **KEYED,
    ),
    get("its own key sees it", "/v1/responses/@(own)", headers=BEARER["generate"], **KEYED),
    get("another key does not", "/v1/responses/@(own)", headers=BEARER["admin"], **KEYED),
]
