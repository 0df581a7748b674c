"""Attention over the paged cache against its definition, and bit-equal however a context came to be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.executors import F32, assert_close, logits_of, native, reference
from tests.ops.steps import Batch, random_weights
from tripos.plan.ir import Plan, Weights
from tripos.plan.ops import Tracer
from tripos.runtime.native import NativeExecutor

VOCAB = 60
HEADS = [(1, 1), (2, 2), (3, 1), (4, 2), (8, 1), (9, 3), (17, 1), (40, 2)]
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 64, 65)
LONG = (511, 512, 513, 1100, 1)


def attention_plan(
    num_heads: int, num_kv_heads: int, head_dim: int, *, window: int = 0, softcap: float = 0.0, num_layers: int = 2
) -> Plan:
    """Layers that feed each other: q, k and v are views of the previous layer's output and of the embedding."""
    t = Tracer()
    q_cols, kv_cols = num_heads * head_dim, num_kv_heads * head_dim
    x = q = t.embed("table", VOCAB, q_cols)
    k, v = t.embed("k", VOCAB, kv_cols), t.embed("v", VOCAB, kv_cols)
    for _ in range(num_layers):
        q = t.attention(
            q, k, v, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim,
            scale=head_dim**-0.5, window=window, softcap=softcap,
        )  # fmt: skip
        q = t.add(q, x)
    return t.plan(t.select(q), vocab_size=q_cols)


def weights_for(plan: Plan) -> Weights:
    weights = random_weights(plan, np.random.default_rng(4))
    for tensor in weights.values():
        tensor.data[:] *= np.float32(np.sqrt(tensor.shape[-1]))  # scores of a few units: sharp and flat rows
    return weights


def whole(lengths: tuple[int, ...]) -> dict[int, int]:
    return dict(enumerate(lengths))


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), HEADS)
@pytest.mark.parametrize("head_dim", [8, 64])
def test_head_groups(isa: str, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
    check(attention_plan(num_heads, num_kv_heads, head_dim), isa, 2, LENGTHS)


@pytest.mark.parametrize("head_dim", [1, 7, 16, 24, 80, 128, 256])
def test_head_dims(isa: str, threads: int, head_dim: int) -> None:
    check(attention_plan(4, 2, head_dim), isa, threads, (33, 5, 64))


@pytest.mark.parametrize("window", [1, 2, 16, 31, 33, 512, 600])
def test_windows_over_partitions(isa: str, window: int) -> None:
    check(attention_plan(6, 2, 16, window=window), isa, 2, LONG)


def test_softcap(isa: str, threads: int) -> None:
    check(attention_plan(6, 2, 16, softcap=3.0), isa, threads, (70, 3), terms=50)


@pytest.mark.parametrize("block_size", [16, 32, 64, 512])
def test_block_sizes(isa: str, block_size: int) -> None:
    check(attention_plan(4, 2, 16), isa, 2, (1, 17, 600), block_size=block_size)


@pytest.mark.parametrize(("kv_cache", "error"), [("fp16", 2.0**-11), ("int8", 2.0**-7)])
def test_smaller_caches_lose_only_their_rounding(isa: str, kv_cache: str, error: float) -> None:
    check(attention_plan(6, 2, 64, num_layers=1), isa, 2, (1, 40, 600), kv_cache=kv_cache, error=error)


def check(
    plan: Plan, isa: str, threads: int, lengths: tuple[int, ...], *, block_size: int = 32, kv_cache: str = "fp32",
    error: float = 2.0**-23, terms: int = 16,
) -> None:  # fmt: skip
    weights = weights_for(plan)
    batch = Batch(lengths, VOCAB, block_size)
    step = batch.step(whole(lengths))
    want = logits_of(reference(plan, weights, num_blocks=batch.num_blocks, block_size=block_size), step)
    executor = native(
        plan, weights, isa=isa, threads=threads, num_blocks=batch.num_blocks, block_size=block_size, kv_cache=kv_cache
    )
    assert_close(logits_of(executor, step), want, terms=terms, error=error)


@pytest.mark.parametrize("kv_cache", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 24), (16, 8, 128), (40, 2, 8)])
def test_same_bits_in_any_chunks_batch_and_threads(
    isa: str, kv_cache: str, window: int, num_heads: int, num_kv_heads: int, head_dim: int
) -> None:
    plan = attention_plan(num_heads, num_kv_heads, head_dim, window=window)
    weights = weights_for(plan)
    lengths = (1, 33, 700, 40)
    at_once = Batch(lengths, VOCAB)
    one = native(plan, weights, isa=isa, threads=1, num_blocks=at_once.num_blocks, kv_cache=kv_cache)
    want = logits_of(one, at_once.step(whole(lengths)))
    for threads in (1, 2, 3):
        executor = native(plan, weights, isa=isa, threads=threads, num_blocks=at_once.num_blocks, kv_cache=kv_cache)
        np.testing.assert_array_equal(in_random_chunks(executor, lengths, np.random.default_rng(threads)), want)
        assert (executor.info().num_sliced_steps > 0) == (threads > 1)


@pytest.mark.parametrize("kv_cache", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("lengths", [(700, 2), (3, 600, 1, 1, 40), (1,) * 50, (2,) * 33, (30, 31, 3)])
def test_slices_of_a_step_have_the_bits_of_one_thread(isa: str, kv_cache: str, lengths: tuple[int, ...]) -> None:
    """Also where a slice begins inside a sequence, whose earlier keys another thread is still computing."""
    plan = attention_plan(6, 2, 16, num_layers=8)
    weights = weights_for(plan)
    want = None
    for threads in (1, 2, 3):
        batch = Batch(lengths, VOCAB)
        executor = native(plan, weights, isa=isa, threads=threads, num_blocks=batch.num_blocks, kv_cache=kv_cache)
        for _ in range(3):  # each on top of what the one before has left in the cache
            batch.computed = [0] * len(lengths)
            got = logits_of(executor, batch.step(whole(lengths)))
            want = got if want is None else want
            np.testing.assert_array_equal(got, want)
            poison_cache(executor, Batch(((batch.num_blocks - 3) * batch.block_size,), VOCAB))
        assert executor.info().num_sliced_steps == (3 if threads > 1 else 0)


def in_random_chunks(executor: NativeExecutor, lengths: tuple[int, ...], rng: np.random.Generator) -> F32:
    """All rows of all sequences, computed in steps of random membership and chunk size (often decode-like 1)."""
    batch = Batch(lengths, VOCAB)
    rows: list[list[F32]] = [[] for _ in lengths]
    while batch.computed != list(lengths):
        left = {b: n - batch.computed[b] for b, n in enumerate(lengths) if batch.computed[b] < n and rng.random() < 0.7}
        chunks = {b: min(n, int(rng.choice([1, 1, 3, 16, 150]))) for b, n in left.items()}
        if not chunks:
            continue
        logits, at = logits_of(executor, batch.step(chunks)), 0
        for b, count in chunks.items():
            rows[b].append(logits[at : at + count])
            at += count
    return np.concatenate([part for parts in rows for part in parts])


def test_garbage_in_freed_blocks_reaches_no_one(isa: str) -> None:
    """A poisoned request fills the cache with NaN; the next one that gets its blocks sees none of it."""
    plan = attention_plan(4, 2, 16, num_layers=1)
    weights = weights_for(plan)
    for kv_cache in ("fp32", "fp16", "int8"):
        batch = Batch((200,), VOCAB)
        executor = native(plan, weights, isa=isa, num_blocks=batch.num_blocks, kv_cache=kv_cache)
        clean = logits_of(executor, Batch((200,), VOCAB).step({0: 5}))
        poison_cache(executor, batch)
        after = logits_of(executor, Batch((200,), VOCAB).step({0: 5}))
        np.testing.assert_array_equal(after, clean)


def poison_cache(executor: NativeExecutor, batch: Batch) -> None:
    table = executor._arrays  # embeddings are read in place: change them under it
    saved = [array.copy() for array in table]
    for array in table:
        array[:] = np.nan
    assert not executor.run(batch.step({0: batch.lengths[0]})).ok.any()
    for array, values in zip(table, saved, strict=True):
        array[:] = values
