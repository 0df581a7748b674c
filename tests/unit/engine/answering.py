"""Answers under constraints from an executor that makes them up: quick, and different for each seed."""

from __future__ import annotations

from tests.unit.engine.tiny import BLOCK_SIZE, VOCAB_SIZE, call
from tripos.engine.llm import LanguageModel
from tripos.errors import InvalidRequest
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, mix
from tripos.types import Constraint, Delta

_LIKELY = b'""""}}}]]],,,:: 0123456789-aetfn.u'  # so that answers come to an end
MAX_TOKENS = 200

Choices = list[tuple[str, str]]  # text and finish reason


def made_up() -> ScriptedExecutor:
    def next_token(tokens: list[int], seed: int, counter: int) -> int:
        state = mix(mix(seed, counter), tokens[-1])
        return _LIKELY[state % len(_LIKELY)] if state >> 40 & 3 else (state >> 20) % 256

    return ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=next_token)


def answers(
    model: LanguageModel, constraints: list[Constraint], *, n: int = 1, seed: int = 0
) -> list[Choices | InvalidRequest]:
    """The choices of each constraint, or why it was refused; all that are served share the engine."""
    found: list[Choices | InvalidRequest] = []
    calls = []
    for i, constraint in enumerate(constraints):
        try:
            model._grammars.compile(constraint)
        except InvalidRequest as problem:
            found.append(problem)
            continue
        fields = {"constraint": constraint, "n": n, "max_tokens": MAX_TOKENS, "seed": seed + i, "ignore_eos": False}
        calls.append((i, call("x", id=str(i), **fields)))
        found.append([("", "")] * n)
    for k, event in model.answer([each for _, each in calls]):
        choices = found[calls[k][0]]
        if isinstance(event, InvalidRequest):  # a limit that was met on the way
            found[calls[k][0]] = event
        elif isinstance(event, Exception):
            raise event
        elif isinstance(event, Delta) and isinstance(choices, list):
            text, reason = choices[event.index]
            choices[event.index] = (text + event.text, event.finish_reason or reason)
    return found
