"""A process that opens models for test_files.py, uses them a little and says of each how it ended. It may well die."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from tripos.build.kinds import open_any
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.errors import InvalidRequest, TriposError
from tripos.models.files.lora import read_adapter
from tripos.plan.lora import Place
from tripos.predict.encoder import EncoderModel
from tripos.types import Call, Embed, Message, Rerank

MEMORY_BYTES = 64 * 2**20  # that a model may take
MOST_BYTES = 6 * 2**30  # of the whole address space: what asks for more than any of these files needs is a fault


def load(spec: str) -> None:
    """As a server does: open, check, pack. Raises TriposError."""
    module = "model.layers.0.self_attn.q_proj"
    if list(Path(spec).glob("adapter_*")):
        place = Place(module, 0, 0, (48, 48), 16)
        read_adapter(Path(spec), {f"{module}.weight": place}, max_rank=8, dtype="f32")
        return
    opening = open_any(ModelOptions(source=spec, threads=1, token_budget=32, max_sequences=2))
    try:
        opening.rows(MEMORY_BYTES)
        model = opening.load(MEMORY_BYTES, lambda phase, done: None)
    finally:
        opening.close()
    try:
        with contextlib.suppress(InvalidRequest):  # what a template or a short window says to these messages
            use(model)
    finally:
        model.close()


def use(model: Any) -> None:
    """A request of the usual kind. Raises TriposError."""
    tokenizer = model.tokenizer
    tokenizer.decode(tokenizer.encode("Hello, w\u00f6rld \U0001f642 " * 20))
    if isinstance(model, LanguageModel) and tokenizer.template_source is not None:
        tokenizer.encode_chat((Message(role="user", content="Hello"),))
    if isinstance(model, EncoderModel):
        with np.errstate(all="ignore"):  # weights may be anything
            request = (
                Embed(inputs=("where is my card",), truncate_to=0)
                if model.card.task == "embed"
                else Rerank(query="card", documents=("where is it",), truncate_to=0)
            )
            for _, event in model.answer([Call(id="0", route="x", request=request)]):
                if isinstance(event, TriposError):
                    raise event


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    for line in sys.stdin:
        began_s = time.process_time()
        answer: dict[str, Any]
        try:
            load(line.rstrip("\n"))
            answer = {"outcome": "loads"}
        except TriposError as error:
            outcome = "refused" if error.status < 500 else "failed"
            answer = {"outcome": outcome, "message": f"{type(error).__name__}: {error.message}"}
        except BaseException:
            answer = {"outcome": "raised", "message": traceback.format_exc()[-3000:]}
        print(json.dumps(answer | {"cpu_s": time.process_time() - began_s}), flush=True)


if __name__ == "__main__":
    main()
