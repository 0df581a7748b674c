"""What is read without a body: probes, models, the document, and at the end the names of the metrics."""

from __future__ import annotations

from tests.recorded.request import Request, get

PATHS = ("/", "/livez", "/readyz", "/health", "/version", "/v1/models")
NAMES = (
    "assistant",
    "talker",
    "strict",
    "thinker",
    "embedder",
    "reranker",
    "static",
    "first",
    "later",
    "nobody",
    "a/b:c",
)

REQUESTS: list[Request] = [
    *(get(f"GET {path}", path) for path in PATHS),
    *(get(f"the card of {name}", f"/v1/models/{name}") for name in NAMES),
    get("models as Anthropic lists them", "/v1/models?limit=2", headers={"anthropic-version": "2023-06-01"}),
    get("a query that nobody knows", "/v1/models?colour=red"),
    get("the document", "/openapi.json"),
    get("metrics", "/metrics"),
    get(
        "metrics, for OpenMetrics",
        "/metrics",
        method="HEAD",
        headers={"accept": "application/openmetrics-text; version=1.0.0"},
    ),
]
