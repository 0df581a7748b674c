"""Clients that leave in every state that a request can be in: no block, call, task or descriptor stays."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.api.after import After, Log
from tests.api.running import VOCAB_SIZE, Running, TinyModel, running
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.scheduler import SchedulerOptions
from tripos.engine.sequence import Sequence, Status
from tripos.grammar.compiler import CompiledConstraint
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import Constraint, ModelCard

NUM_BLOCKS, WINDOW, BUDGET = 26, 512, 32
COUNT, MOST = 200, 10_000  # --soak multiplies, up to MOST
CROWD = 12  # requests under way at once: more than there is room for, so that some wait and some are preempted
CHECK_EVERY = 1000


class Crowded(TinyModel):
    """Few blocks, few places, small steps: requests wait, are computed in pieces, and lose their blocks."""

    def __init__(self) -> None:
        executor = ScriptedExecutor(
            VOCAB_SIZE, ExecutorOptions(block_size=16), step_s=0.0005,
            next_token=lambda tokens, seed, counter: 97 + (sum(tokens) * 31 + seed + counter) % 26,
        )  # fmt: skip
        executor.reserve(NUM_BLOCKS)
        scheduler = SchedulerOptions(max_num_seqs=4, token_budget=BUDGET, max_waiting=64)
        engine = Engine(executor, EngineOptions(NUM_BLOCKS, 16, WINDOW, scheduler))
        card = ModelCard(
            name="tiny", task="generate", digest="ab" * 32, max_model_len=WINDOW, vocab_size=VOCAB_SIZE, created=1
        )
        LanguageModel.__init__(self, card, byte_tokenizer(), engine, self._template)
        self.compiling: set[str] = set()  # the sources that requests wait for
        self._compile, self._grammars.get = self._grammars.get, self._get  # type: ignore[method-assign]

    async def _get(self, constraint: Constraint) -> CompiledConstraint:
        self.compiling.add(constraint.source)
        try:
            return await self._compile(constraint)
        finally:
            self.compiling.discard(constraint.source)

    def sequences(self) -> list[Sequence]:
        return list(self._readers.streams)


def is_waiting(sequence: Sequence) -> bool:
    return sequence.status is Status.WAITING


def is_preempted(sequence: Sequence) -> bool:
    return sequence.status is Status.PREEMPTED


def is_in_prefill(sequence: Sequence) -> bool:
    return sequence.status is Status.RUNNING and 0 < sequence.num_computed_tokens < sequence.num_prompt_tokens


def is_decoding(sequence: Sequence) -> bool:
    return sequence.status is Status.RUNNING and sequence.num_output_tokens > 1


def pattern_of(number: int) -> str:
    """One that nobody has asked for before, and that takes some milliseconds."""
    return "|".join(f"[a-z]{{{i}}}{number}[a-z]" for i in range(1, 60))


def among_new(is_there: Callable[[Sequence], bool]) -> IsThere:
    return lambda tiny, _, known: any(is_there(sequence) for sequence in tiny.sequences() if sequence not in known)


IsThere = Callable[[Crowded, int, set[Sequence]], bool]
"""(model, number of the client, sequences that were there before it) → whether its request is in the state."""
STATES: dict[str, IsThere | None] = {
    "parsing the head": None,
    "parsing the body": None,
    "compiling a grammar": lambda tiny, number, _: pattern_of(number) in tiny.compiling,
    "queued": among_new(is_waiting),
    "prefill": among_new(is_in_prefill),
    "decode": among_new(is_decoding),
    "streaming": None,
    "preempted": among_new(is_preempted),
    "any": None,
}


def make_request(rng: random.Random, number: int, state: str) -> bytes:
    is_long = state == "preempted" or rng.random() < 0.4  # two of these fill the cache
    prompt = "".join(rng.choices("abcdefgh ", k=150 if is_long else rng.choice((5, 60))))
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 120 if is_long else 20, "ignore_eos": True}
    body |= {"stream": state == "streaming" or rng.random() < 0.5, "n": rng.choice((1, 1, 1, 2))}
    if state == "compiling a grammar":
        body |= {"structured_outputs": {"regex": pattern_of(number)}, "ignore_eos": False}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"x-request-id: leaver-{number}\r\n"
    )
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def leave_in(server: Running, tiny: Crowded, rng: random.Random, number: int, reached: Counter[str]) -> None:
    """One client that comes, waits for its moment, and goes: by closing or by a reset."""
    state = rng.choice(list(STATES))
    data = make_request(rng, number, state)
    cut = {"parsing the head": rng.randrange(1, data.index(b"\r\n\r\n")), "parsing the body": len(data) - 3}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    known = set(tiny.sequences())
    writer.write(data[: cut.get(state, len(data))])
    is_there = STATES[state]
    if state == "streaming":
        await reader.read(400)
        reached[state] += 1
    elif is_there is not None:
        for _ in range(1000):
            if is_there(tiny, number, known):
                reached[state] += 1
                break
            await asyncio.sleep(0.0005)
    else:
        await asyncio.sleep(rng.random() * 0.02)
        reached[state] += 1
    sock: Any = writer.get_extra_info("socket")
    if rng.random() < 0.5:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


@pytest.mark.soak
async def test_clients_that_leave_in_any_state_leave_nothing(soak: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(11)
    tiny, log = Crowded(), Log()
    reached: Counter[str] = Counter()
    async with running(tiny) as server:
        server.http.headers["connection"] = "close"
        after = await After.of(server, tiny, log, num_blocks=NUM_BLOCKS)
        left = min(MOST, COUNT * soak)
        while left:
            turn = min(left, CHECK_EVERY)
            places = asyncio.Semaphore(CROWD)

            async def one(number: int, places: asyncio.Semaphore = places) -> None:
                async with places:
                    await leave_in(server, tiny, rng, number, reached)

            await asyncio.gather(*(one(left - i) for i in range(turn)))
            await after.check()
            left -= turn
    assert set(reached) == set(STATES), f"states that nobody was in: {set(STATES) - set(reached)}"
    if soak > 1:
        with capsys.disabled():
            print(f"\n{sum(reached.values()):,} left, each in its state: {dict(reached)}")
