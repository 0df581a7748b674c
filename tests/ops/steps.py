"""Little plans and steps for comparing executors: a batch of sequences that advances by whole or partial chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tripos.plan.formats import FORMATS
from tripos.plan.ir import Plan, Weights, WeightTensor
from tripos.runtime.executor import SamplingInput, StepInput


def random_weights(plan: Plan, rng: np.random.Generator) -> Weights:
    """Float32 tensors for every part of a plan's weights, of unit output variance."""
    weights = {}
    for spec in plan.weights.values():
        for part in spec.parts:
            shape = (spec.shape[0] // len(spec.parts), *spec.shape[1:])
            scale = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 1.0
            data = (rng.standard_normal(shape) * scale).astype(np.float32)
            weights[part] = WeightTensor(part, "f32", shape, data)
    return weights


_HALVES = {"q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q2_k": (80, 82), "q3_k": (108,)}  # where float16 lies


def random_blocks(rng: np.random.Generator, dtype: str, num_blocks: int) -> npt.NDArray[np.uint8]:
    """Blocks of any bits, but with finite scales and minimums: [num_blocks, bytes]."""
    data = rng.integers(0, 256, (num_blocks, FORMATS[dtype][1])).astype(np.uint8)
    for at in _HALVES.get(dtype, (0, 2) if dtype.endswith("_1") else (0,)):
        data[:, at : at + 2] = rng.standard_normal(num_blocks).astype(np.float16)[:, None].view(np.uint8)
    return data


@dataclass
class Batch:
    """Sequences of random tokens with their blocks, from which steps are cut. Blocks are handed out in a shuffled
    order, so that a wrong block table shows."""

    lengths: Sequence[int]
    vocab_size: int
    block_size: int = 32
    seed: int = 0
    computed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.tokens = [rng.integers(0, self.vocab_size, n).astype(np.int32) for n in self.lengths]
        sizes = [-(-n // self.block_size) for n in self.lengths]
        self.num_blocks = sum(sizes) + 3
        ids = rng.permutation(self.num_blocks).astype(np.int32)
        ends = np.cumsum(sizes)
        self.tables = [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        self.computed = [0] * len(self.lengths)

    def step(
        self, chunks: dict[int, int], *, all_rows: bool = True, sampling: SamplingInput | None = None
    ) -> StepInput:
        """The next `chunks[b]` tokens of each sequence b; logits of every token, or of each sequence's last."""
        width = max(len(self.tables[b]) for b in chunks)
        tables = np.zeros((len(chunks), width), np.int32)
        tokens: list[npt.NDArray[np.int32]] = []
        positions: list[npt.NDArray[np.int32]] = []
        slots: list[npt.NDArray[np.int32]] = []
        starts, lengths = [0], []
        for row, (b, count) in enumerate(chunks.items()):
            span = np.arange(self.computed[b], self.computed[b] + count, dtype=np.int32)
            table = self.tables[b]
            tables[row, : len(table)] = table
            tokens.append(self.tokens[b][span])
            positions.append(span)
            slots.append(table[span // self.block_size] * self.block_size + span % self.block_size)
            self.computed[b] += count
            lengths.append(self.computed[b])
            starts.append(starts[-1] + count)
        last = np.arange(starts[-1]) if all_rows else np.array(starts[1:]) - 1
        return StepInput(
            token_ids=np.concatenate(tokens),
            positions=np.concatenate(positions),
            query_start=np.array(starts, np.int32),
            seq_lens=np.array(lengths, np.int32),
            block_tables=tables,
            slots=np.concatenate(slots).astype(np.int32),
            last_rows=last.astype(np.int32),
            sampling=sampling or SamplingInput.greedy(len(last)),
        )
