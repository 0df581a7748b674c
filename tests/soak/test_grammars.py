"""Mutated schemas and patterns against a running model, a canary beside them: nothing dies, nothing stalls, and what is
served follows its schema. `--soak N` draws N times as many; the figures are printed, not judged: machines differ.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine.answering import made_up
from tests.unit.engine.tiny import call, make_model
from tripos.engine.llm import LanguageModel
from tripos.errors import InvalidRequest, Overloaded
from tripos.grammar.compiler import MAX_CACHE_BYTES
from tripos.schema.conformance import text_violation
from tripos.schema.reading import check_schema
from tripos.types import Constraint, Delta

CASES = 300
AT_ONCE = 8
MAX_ANSWER_S = 60.0  # of one case, on any machine: more is a stall
SCHEMAS: list[Any] = [
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "age": {"type": "integer",
     "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": False},
    {"type": "array", "items": {"anyOf": [{"const": None}, {"enum": ["a", "b", 3]}]}, "minItems": 1, "maxItems": 4},
    {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"value": {"type": "number"},
     "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["value", "next"]}}},
    {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]{3}$"},
    {"type": "string", "format": "date-time"},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"]},
               {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}]},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
    {"prefixItems": [{"type": "boolean"}, {"multipleOf": 0.5}], "items": False, "type": "array"},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}, {"required": ["a"]}]},
]  # fmt: skip
PATTERNS = [
    "(a|b)*a(a|b){9}", r"\d{3}-\d{4}", "[A-Z][a-z]+( [A-Z][a-z]+)*", r"(\w+)@(\w+)\.com", "^(?:yes|no)$", ".{0,40}x",
    "((a{0,30}){0,30}){0,30}", r"[^\x00-\x1f]+", "(?i)hello", "a?b+c*",
]  # fmt: skip
_JUNK: list[Any] = [
    None, True, 0, -1, 1e308, 10**18, "", "x" * 300, [], {}, [[]], {"type": "string"}, {"$ref": "#"}, {"not": {}},
    "\ud800", "\x00", float("nan"),
]  # fmt: skip
_KEYWORDS = ["type", "enum", "const", "anyOf", "allOf", "oneOf", "$ref", "items", "minItems", "maxItems", "pattern",
             "format", "minimum", "maxLength", "required", "properties", "additionalProperties", "not", "if",
             "uniqueItems", "x-guidance", "multipleOf", "minProperties", "title"]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a value, with each of its keys."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        each = stack.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else []
        found += [(each, key) for key in keys]
        stack += [each[key] for key in keys]
    return found


def mutated_schema(chance: random.Random) -> str:
    schema = copy.deepcopy(chance.choice(SCHEMAS))
    for _ in range(chance.randrange(1, 5)):
        spots = places(schema)
        if not spots:
            break
        holder, key = chance.choice(spots)
        kind = chance.randrange(6)
        if kind == 0:
            holder[key] = copy.deepcopy(chance.choice(_JUNK))
        elif kind == 1:
            holder[key] = copy.deepcopy(chance.choice(chance.choice([SCHEMAS, [copy.deepcopy(schema)]])))
        elif kind == 2 and isinstance(holder, dict):
            holder[chance.choice(_KEYWORDS)] = holder.pop(key)
        elif kind == 3 and isinstance(holder, dict):
            holder[chance.choice(_KEYWORDS)] = copy.deepcopy(chance.choice([*_JUNK, *SCHEMAS]))
        elif kind == 4:
            for _ in range(chance.choice((3, 30, 80))):
                holder[key] = {chance.choice(("items", "additionalProperties", "anyOf")): holder[key]}
        elif isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
            holder[key] = chance.choice((-1, 0, 1, 2**31, 1e-9, 1e300)) * (holder[key] or 1)
    return mutated_text(chance, json.dumps(schema)) if chance.randrange(5) == 0 else json.dumps(schema)


def mutated_text(chance: random.Random, text: str) -> str:
    for _ in range(chance.randrange(1, 6)):
        at, end = sorted((chance.randrange(len(text) + 1), chance.randrange(len(text) + 1)))
        kind = chance.randrange(4)
        if kind == 0:
            text = text[:at] + chance.choice('(){}[]*+?|\\^$.,"-:09a\u00e9\U0001f600') + text[at:]
        elif kind == 1:
            text = text[:at] + text[min(end, at + 3) :]
        elif kind == 2:
            text = text[:end] + text[at : min(end, at + 40)] * chance.choice((1, 2, 50)) + text[end:]
        else:
            text = f"({text}){chance.choice(('*', '+', '{0,99}', '{9}'))}"
    return text


def mutated(chance: random.Random) -> Constraint:
    kind = chance.randrange(10)
    if kind < 5:
        return Constraint(kind="json_schema", source=mutated_schema(chance))
    pattern = mutated_text(chance, chance.choice(PATTERNS))
    if kind < 8:
        return Constraint(kind="regex", source=pattern)
    if kind == 8:
        escaped = pattern.replace("/", "\\/")
        return Constraint(
            kind="lark", source=mutated_text(chance, f"start: /{escaped}/ %json {mutated_schema(chance)}")
        )
    return Constraint(kind="gbnf", source=mutated_text(chance, 'root ::= "a" x* [b-d]+\nx ::= "e" | "(" root ")"'))


class Storm:
    """Cases one after the other in AT_ONCE tasks, and what became of them. They are drawn before and their answers are
    checked after: a client's work costs a server nothing.
    """

    def __init__(self, model: LanguageModel, num_cases: int, seed: int) -> None:
        self.model = model
        self.met: Counter[str] = Counter()
        self.slowest_s = 0.0
        chance = random.Random(seed)
        self._cases = [mutated(chance) for _ in range(num_cases)]
        self._whole: list[tuple[str, str]] = []  # schemas and the texts that follow them

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(AT_ONCE)))

    def check(self) -> None:
        for schema, text in self._whole:
            assert text_violation(check_schema(json.loads(schema)), text) is None, (schema, text)

    async def _work(self) -> None:
        while self._cases:
            constraint = self._cases.pop()
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(MAX_ANSWER_S):
                    self.met[await self._answer(constraint)] += 1
            except (InvalidRequest, Overloaded) as problem:
                self.met[problem.code] += 1
            except Exception as problem:
                raise AssertionError(f"{type(problem).__name__}: {problem} for {constraint!r}") from problem
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            assert self.model._grammars.cache_bytes <= MAX_CACHE_BYTES

    async def _answer(self, constraint: Constraint) -> str:
        text, reason = "", ""
        asked = call("x", constraint=constraint, max_tokens=48, seed=len(self._cases), ignore_eos=False)
        async for event in self.model.run(asked):
            if isinstance(event, Delta):
                text, reason = text + event.text, event.finish_reason or reason
        if reason == "stop" and constraint.kind == "json_schema":
            self._whole.append((constraint.source, text))
        return reason


async def canary_gaps(model: LanguageModel, until: asyncio.Event, least: int) -> list[float]:
    """Seconds between the tokens of a free stream, again and again until told to stop."""
    gaps: list[float] = []
    while not until.is_set() or len(gaps) < least:
        last_s = None
        async for event in model.run(call("canary", max_tokens=100)):
            now_s = time.monotonic()
            if isinstance(event, Delta) and last_s is not None:
                gaps.append(now_s - last_s)
            last_s = now_s
    return gaps


def p99_ms(gaps: list[float]) -> float:
    return sorted(gaps)[len(gaps) * 99 // 100] * 1e3


@pytest.mark.soak
async def test_mutated_grammars_never_kill_or_stall(soak: int, capsys: pytest.CaptureFixture[str]) -> None:
    executor = made_up()
    executor._step_s = 0.002  # a small model's
    model = make_model(num_blocks=512, executor=executor, max_num_seqs=16)
    await model.start()
    try:
        done = asyncio.Event()
        done.set()
        await canary_gaps(model, done, 200)  # the model still loads what renders chats
        idle = await canary_gaps(model, done, 1000)
        done.clear()
        canary = asyncio.create_task(canary_gaps(model, done, 100))
        storm = Storm(model, CASES * soak, seed=2026)
        began_s = time.monotonic()
        await storm.run()
        seconds = time.monotonic() - began_s
        done.set()
        busy = await canary
        storm.check()
        assert sum(storm.met.values()) == CASES * soak
        assert storm.met["stop"] > CASES * soak / 20  # or nothing was tried
        assert (await model.info()).is_progressing
        assert model._readers.streams == {}
        with capsys.disabled():
            num_pages = int(Path("/proc/self/statm").read_text().split()[1])
            rss = num_pages * os.sysconf("SC_PAGE_SIZE") >> 20
            print(
                f"\n{CASES * soak} mutated grammars in {seconds:.0f} s: {dict(storm.met.most_common())}; slowest "
                f"{storm.slowest_s:.2f} s; canary p99 {p99_ms(idle):.2f} ms idle, {p99_ms(busy):.2f} ms beside them; "
                f"cache {model._grammars.cache_bytes >> 20} MiB, process {rss} MiB"
            )
    finally:
        await model.stop()
        model.close()
    model.engine.pool.check_integrity()
    assert model.engine.pool.num_held == 0
