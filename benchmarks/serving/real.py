"""A real model behind our server, or the engine alone. argv: checkpoint, weights, port (0: the engine alone, which
reads prompts from standard input and writes output tokens per second).
"""

from __future__ import annotations

import json
import logging
import sys
import time

from benchmarks.serve import OUTPUT, PROMPTS, STREAMS
from tripos.build import language as build
from tripos.build import service as build_service
from tripos.config import ModelOptions, ServerOptions, ServiceOptions


def options(checkpoint: str, weights: str) -> ModelOptions:
    """Random weights repeat themselves: guesses would flatter both sides."""
    return ModelOptions(
        source=checkpoint, name="real", weights=weights, max_sequences=STREAMS, max_model_len=PROMPTS[1] + OUTPUT,
        speculate="off",
    )  # fmt: skip


def serve(model: ModelOptions, port: int) -> None:
    from tripos.api.http import server

    service = build_service.build_service(ServiceOptions(models=(model,)))
    logging.getLogger("tripos.access").setLevel(logging.WARNING)
    server.serve(service, ServerOptions(port=port), lambda address: print("ready", flush=True))


def drive(model: ModelOptions) -> None:
    import numpy as np

    from tripos.engine.sequence import Sequence
    from tripos.types import Sampling

    engine = build.load_model(model).engine
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    print("ready", flush=True)
    for line in sys.stdin:
        prompts = [np.array(ids, np.int32) for ids in json.loads(line)]
        began_s = time.perf_counter()
        for prompt in prompts:
            engine.add(Sequence(prompt, OUTPUT, sampling))
        num_tokens = 0
        while engine.has_work:
            num_tokens += sum(len(output.tokens) for output in engine.step())
        if num_tokens != STREAMS * OUTPUT:
            raise RuntimeError(f"{num_tokens} tokens came, {STREAMS * OUTPUT} were asked for")
        print(num_tokens / (time.perf_counter() - began_s), flush=True)


if __name__ == "__main__":
    checkpoint, weights, port = sys.argv[1:]
    if int(port):
        serve(options(checkpoint, weights), int(port))
    else:
        drive(options(checkpoint, weights))
