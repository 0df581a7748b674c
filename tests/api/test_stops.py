"""Stop strings of every protocol count in the answer alone: not in the reasoning, nor in white space behind it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.running import running
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.library import LLM
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import ModelCard

pytestmark = pytest.mark.asyncio(loop_scope="module")

MARKS = ("<think>", "</think>")
END = 256
HELLO = [{"role": "user", "content": "Hello"}]


def model(script: str) -> LanguageModel:
    """Reasons, and says a script behind a prompt of one token."""
    says: list[int] = []
    while script:
        mark = next((i for i, each in enumerate(MARKS) if script.startswith(each)), None)
        says += [257 + mark] if mark is not None else script[0].encode()
        script = script[len(MARKS[mark]) if mark is not None else 1 :]
    tokenizer = byte_tokenizer(MARKS)
    executor = ScriptedExecutor(
        tokenizer.vocab_size,
        ExecutorOptions(block_size=16),
        next_token=lambda tokens, seed, counter: [*says, END][min(counter - 1, len(says))],
    )
    executor.reserve(512)
    card = ModelCard(
        name="m", task="generate", digest="ab" * 32, max_model_len=4096, vocab_size=tokenizer.vocab_size,
        reasoning_dialect="think", marker_ids={mark: 257 + i for i, mark in enumerate(MARKS)},
    )  # fmt: skip
    return LanguageModel(card, tokenizer, Engine(executor, EngineOptions(512, 16, 4096)), lambda *_: [ord("x")])


THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
# path, body, where a whole answer has its text
WIRES: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("/v1/chat/completions", {"messages": HELLO, "stop": ["\n"]}, ("choices", 0, "message", "content")),
    ("/v1/chat/completions", {"messages": HELLO, "stop": "\n", "n": 2}, ("choices", 1, "message", "content")),
    ("/v1/messages", {"messages": HELLO, "stop_sequences": ["\n"], **THINKING}, ("content", -1, "text")),
    ("/api/chat", {"messages": HELLO, "options": {"stop": ["\n"]}, "stream": False}, ("message", "content")),
]


@pytest.mark.parametrize(("path", "body", "place"), WIRES)
async def test_a_line_break_stops_the_answer_and_not_the_reasoning(
    path: str, body: dict[str, Any], place: tuple[Any, ...]
) -> None:
    async with running(model("<think>\nHm.\n\nSo.\n</think>\n\nYes.\nNo.")) as server:
        whole = await server.post(path, {"model": "m", **body})
        streamed = await server.post(path, {"model": "m", **body, "stream": True})
    assert whole.status_code == 200, whole.text
    found = whole.json()
    for key in place:
        found = found[key]
    assert found == "Yes."
    assert "No." not in streamed.text
    assert "Yes." in "".join(_texts(streamed.text))


def _texts(stream: str) -> list[str]:
    """Text of a stream's pieces, whatever its protocol; of the first choice, where there are several."""
    found = []
    for line in stream.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            piece = json.loads(line)
            choices = [each for each in piece.get("choices") or () if each["index"] == 0] or [{}]
            delta = piece.get("delta") or piece.get("message") or choices[0].get("delta") or {}
            if isinstance(delta, dict):
                found += [text for key in ("text", "content") if isinstance(text := delta.get(key), str)]
    return found


async def test_the_library_looks_behind_the_reasoning_too() -> None:
    llm = LLM.__new__(LLM)  # around a model that is open already
    llm._model = model("<think>\nHm.\n</think>\n\nYes.\nNo.")
    try:
        [answer] = llm.chat(HELLO, stop=("\n",), temperature=0)
        assert (answer.reasoning, answer.text, answer.finish_reason) == ("Hm.", "Yes.", "stop")
        [text] = llm.generate([ord("x")], stop=("\n",), temperature=0, max_tokens=64)
        assert text.text == ""  # no conversation: a text like any other
    finally:
        llm.close()
