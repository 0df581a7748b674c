"""The same endpoint with LitServe and its OpenAI specification. argv: port."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import litserve

from benchmarks.serving.script import TEXT, TOKENS


class Scripted(litserve.LitAPI):  # type: ignore[misc]  # untyped where it is not installed
    """Everything at once; a request that is not streamed gets it in one piece."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def predict(self, prompt: Any, context: dict[str, Any]) -> Iterator[str]:
        yield from TOKENS if context["stream"] else [TEXT]


if __name__ == "__main__":
    server = litserve.LitServer(Scripted(spec=litserve.OpenAISpec()), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
        num_api_servers=1,
    )
