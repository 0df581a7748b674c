"""Feeds token ids to an executor, a step at a time, the way the engine does but without one: tests only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from tripos.models.config import ModelConfig, parse_config
from tripos.models.files.safetensors import open_checkpoint
from tripos.models.files.strict_json import read_json
from tripos.models.registry import adapt_weights
from tripos.plan.ir import Weights
from tripos.runtime.executor import Executor, SamplingInput, StepInput

GOLDEN = Path(__file__).parent / "golden"
BLOCK_SIZE = 16
NUM_BLOCKS = 24
TOLERANCE = 1e-4  # of the largest logit


def golden_names() -> list[str]:
    return sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


class Golden:
    """A tiny model and what its original implementation says: prompts, their logits, greedy continuations."""

    def __init__(self, name: str) -> None:
        self.config: ModelConfig = parse_config(read_json(GOLDEN / name / "config.json"))
        self.stored: Weights = open_checkpoint(GOLDEN / name)
        self.weights = adapt_weights(self.config, self.stored)
        with np.load(GOLDEN / name / "golden.npz") as arrays:
            count = sum(key.startswith("prompt_") for key in arrays)
            self.prompts = [arrays[f"prompt_{i}"].tolist() for i in range(count)]
            self.logits = [arrays[f"logits_{i}"] for i in range(count)]
            self.greedy = [arrays[f"greedy_{i}"].tolist() for i in range(count)]


class Cache:
    """Hands sequences blocks from all over the cache, in an order that no sequence's positions follow."""

    def __init__(self, seed: int = 0) -> None:
        self._free = np.random.default_rng(seed).permutation(NUM_BLOCKS).tolist()
        self._blocks: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}

    def step(self, chunks: dict[int, list[int]]) -> StepInput:
        """The step that appends each sequence's tokens; every row gets logits."""
        starts = {seq: self._lengths.get(seq, 0) for seq in chunks}
        self._lengths |= {seq: starts[seq] + len(chunk) for seq, chunk in chunks.items()}
        positions = [starts[seq] + i for seq, chunk in chunks.items() for i in range(len(chunk))]
        owners = [seq for seq, chunk in chunks.items() for _ in chunk]
        tables = {seq: self._table(seq) for seq in chunks}
        widest = max(map(len, tables.values()))
        return StepInput(
            token_ids=np.array([token for chunk in chunks.values() for token in chunk], np.int32),
            positions=np.array(positions, np.int32),
            query_start=np.cumsum([0, *map(len, chunks.values())], dtype=np.int32),
            seq_lens=np.array([self._lengths[seq] for seq in chunks], np.int32),
            block_tables=np.array([table + [0] * (widest - len(table)) for table in tables.values()], np.int32),
            slots=np.array(
                [
                    tables[s][p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE
                    for s, p in zip(owners, positions, strict=True)
                ],
                np.int32,
            ),
            last_rows=np.arange(len(positions), dtype=np.int32),
            sampling=SamplingInput.greedy(len(positions)),
        )

    def _table(self, seq: int) -> list[int]:
        table = self._blocks.setdefault(seq, [])
        while len(table) * BLOCK_SIZE < self._lengths[seq]:
            table.append(self._free.pop())
        return table


def run_in_chunks(executor: Executor, prompt: list[int], chunk: int) -> npt.NDArray[np.float32]:
    """Logits of every position of the prompt [len, vocab_size], fed `chunk` tokens a step."""
    executor.reserve(NUM_BLOCKS)
    cache = Cache()
    rows = [logits_of(executor, cache.step({0: prompt[at : at + chunk]})) for at in range(0, len(prompt), chunk)]
    return np.concatenate(rows)


def continue_together(executor: Executor, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """Greedy continuations of all prompts, each step one ragged batch: the first step holds the whole prompts."""
    executor.reserve(NUM_BLOCKS)
    cache = Cache()
    chunks = dict(enumerate(prompts))
    outputs: list[list[int]] = [[] for _ in prompts]
    for _ in range(num_tokens):
        step = cache.step(chunks)
        token_ids = executor.run(step).token_ids[step.query_start[1:] - 1].tolist()
        for output, token_id in zip(outputs, token_ids, strict=True):
            output.append(token_id)
        chunks = {seq: [token_id] for seq, token_id in enumerate(token_ids)}
    return outputs


def relative_error(logits: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest difference, as a share of the largest logit."""
    return float(np.abs(logits - expected).max() / np.abs(expected).max())


def logits_of(executor: Executor, step: StepInput) -> npt.NDArray[np.float32]:
    logits = executor.run(step).logits
    assert logits is not None, "the executor was not told to keep logits"
    return logits.copy()
