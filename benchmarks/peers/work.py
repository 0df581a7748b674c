"""The work that every engine is given, and the conversation between run.py and a driver.

A driver is one process that holds one engine: `argv[1]` is its Setup, each line of standard input a Job, each line of
standard output an answer. Runs in every peer's environment, so it imports the standard library only.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

DECODE_TOKENS = 128  # of prompt, and of output, in decode; of output in a batch
BATCH_PROMPTS = (64, 512)  # tokens, uniform
COLD = "cold"  # a fresh process gets a text and gives one token; of 16 tokens where an engine takes ids only
COLD_TOKENS, COLD_WORDS = 16, 5
CACHE_UNIT = 64  # tokens; caches come in blocks, of 16 to 32 tokens in most engines


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a driver loads."""

    model: str  # a folder or file
    weights: str  # as the engine calls the type
    kv_cache: str
    threads: int
    vocab_size: int
    rows: list[str]  # what it must be able to do
    mode: str = ""  # where an engine can answer a batch in several ways

    @property
    def max_sequences(self) -> int:
        return max(len(work(row).lengths) for row in self.rows)

    @property
    def max_tokens(self) -> int:
        """Of the longest sequence."""
        return max(max(work(row).lengths) + work(row).max_tokens for row in self.rows)

    @property
    def cache_tokens(self) -> int:
        """That the largest row holds at its end, in whole units, and one unit more for each sequence."""
        return max(work(row).cache_tokens for row in self.rows)


@dataclass(frozen=True)
class Work:
    """Requests submitted at once: prompt lengths, and how many tokens each generates (greedy, to the end)."""

    lengths: tuple[int, ...]
    max_tokens: int

    @property
    def output_tokens(self) -> int:
        return len(self.lengths) * self.max_tokens

    @property
    def num_tokens(self) -> int:
        """Prompts and outputs: what the cache holds at the end."""
        return sum(self.lengths) + self.output_tokens

    @property
    def cache_tokens(self) -> int:
        return sum(((length + self.max_tokens) // CACHE_UNIT + 2) * CACHE_UNIT for length in self.lengths)


def work(name: str) -> Work:
    """By name: cold, decode, pp512 (any number of prompt tokens), batch16 (any number of requests)."""
    if name == COLD:
        return Work((COLD_TOKENS,), 1)
    found = re.fullmatch(r"(decode|pp|batch)(\d*)", name)
    if found is None or (found[1] == "decode") == bool(found[2]):
        raise ValueError(f"workload {name}: expected cold, decode, pp<tokens> or batch<requests>")
    if found[1] == "decode":
        return Work((DECODE_TOKENS,), DECODE_TOKENS)
    if found[1] == "pp":
        return Work((int(found[2]),), 1)
    draw = random.Random("lengths")
    return Work(tuple(draw.randint(*BATCH_PROMPTS) for _ in range(int(found[2]))), DECODE_TOKENS)


def prompts(name: str, turn: int, vocab_size: int) -> list[list[int]]:
    """The same for every engine in the same turn, never the same twice: nothing can come from a prefix cache."""
    draw = random.Random(f"{name}/{turn}")
    usable = range(16, min(vocab_size, 49_000))  # special tokens lie at the ends
    return [draw.choices(usable, k=length) for length in work(name).lengths]


def text(turn: int) -> str:
    """The prompt of a cold start: at most COLD_TOKENS tokens of any vocabulary that is measured here."""
    draw = random.Random(f"{COLD}/{turn}")
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=4)) for _ in range(COLD_WORDS))


@dataclass(frozen=True)
class Timing:
    """`first_s`: until the first token of any request. `total_s`: until the last of all."""

    first_s: float
    total_s: float


def tokens_per_s(name: str, timing: Timing) -> float:
    """The figure of a row: output tokens after the first (decode), prompt tokens (pp), all output tokens (batch)."""
    if name == "decode":
        return (work(name).max_tokens - 1) / (timing.total_s - timing.first_s)
    if name.startswith("pp"):
        return work(name).lengths[0] / timing.total_s
    return work(name).output_tokens / timing.total_s


class Clock:
    """Counts tokens as they come and keeps the two times of a Timing."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self._first_s = 0.0
        self._began_s = time.perf_counter()

    def add(self, num_tokens: int) -> None:
        if num_tokens and not self.num_tokens:
            self._first_s = time.perf_counter() - self._began_s
        self.num_tokens += num_tokens

    def stop(self, expected: int) -> Timing:
        total_s = time.perf_counter() - self._began_s
        if self.num_tokens != expected:
            raise RuntimeError(f"{self.num_tokens} tokens came, {expected} were asked for")
        return Timing(self._first_s, total_s)


Answer = Callable[[list[list[int]], int], Timing]
"""(prompts, output tokens of each) → Timing. May carry `facts` of the engine, and `complete`: (text) → the text of the
first token, for an engine whose tokenizer is part of its cold start."""


def serve(load: Callable[[Setup], Answer], *distributions: str) -> None:
    """Load once, then answer jobs until standard input ends. `distributions` are named with their versions. A cold
    start answers its one job first and then says what it is."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines that print do not disturb the conversation

    def reply(**found: object) -> None:
        replies.write(json.dumps(found) + "\n")
        replies.flush()

    setup = Setup(**json.loads(sys.argv[1]))
    began_s = time.perf_counter()
    answer = load(setup)
    load_s = time.perf_counter() - began_s
    cold = _first_token(answer, setup) if setup.rows == [COLD] else {}
    facts = getattr(answer, "facts", {})
    reply(load_s=load_s, version=_versions(distributions), facts=facts, peak_mb=_peak_mb(), **cold)
    for line in sys.stdin:
        job = json.loads(line)
        given = prompts(job["work"], job["turn"], setup.vocab_size)
        _forget_peak()
        timing = answer(given, work(job["work"]).max_tokens)
        reply(**asdict(timing), done_s=time.time(), peak_mb=_peak_mb())


def _first_token(answer: Answer, setup: Setup) -> dict[str, object]:
    """When it came, and which one it was."""
    turn = json.loads(sys.stdin.readline())["turn"]
    complete = getattr(answer, "complete", None)
    found = complete(text(turn)) if complete is not None else None
    if complete is None:
        answer(prompts(COLD, turn, setup.vocab_size), 1)
    return {"done_s": time.time(), "first": found}


def _versions(distributions: tuple[str, ...]) -> str:
    from importlib import metadata  # takes long, and a cold start counts

    found = []
    for name in distributions:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:  # run from a source tree
            found.append(f"{name} (from source)")
    return ", ".join(found)


def _forget_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the peak is that of the process so far


def _peak_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) * 1024 // 10**6
