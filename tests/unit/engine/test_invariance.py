"""Batch invariance: a request gives the same tokens and bit-equal logprobs alone or in any batch, with any chunking,
prefix hits, preemptions and number of threads.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from msgspec.structs import replace

from tests.ops.adapters import random_adapter
from tests.ops.steps import random_weights
from tests.unit.engine.tiny import BLOCK_SIZE, VOCAB_SIZE
from tripos.engine.engine import Engine, EngineOptions, TokenOutput
from tripos.engine.scheduler import SchedulerOptions
from tripos.engine.sequence import Sequence
from tripos.models.config import parse_config
from tripos.models.registry import trace
from tripos.plan.lora import with_adapters
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor, ExecutorOptions, SamplingInput, StepInput
from tripos.runtime.native import NativeExecutor, find_library
from tripos.runtime.reference import ReferenceExecutor
from tripos.testing import ScriptedExecutor
from tripos.types import Priority, Sampling

NATIVE_BLOCK_SIZE = 16
WINDOW = 192
MAX_TOKENS = 32
NUM_REQUESTS = 64

needs_native = pytest.mark.skipif(
    find_library() is None, reason="needs the native kernels: make build, or set TRIPOS_NATIVE_LIBRARY"
)


@dataclass(frozen=True)
class Request:
    """What is asked, from which a fresh Sequence is made for each run."""

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    prompt_logprobs: int | None

    def sequence(self, priority: Priority = Priority.ONLINE) -> Sequence:
        return Sequence(
            np.array(self.prompt, np.int32),
            MAX_TOKENS,
            self.sampling,
            self.seed,
            priority=priority,
            prompt_logprobs=self.prompt_logprobs,
        )


Answer = tuple[list[TokenOutput], list[TokenOutput]]


def make_requests(chance: random.Random) -> list[Request]:
    """Half of them begin with one of two common prefixes, at any length of it."""
    common = [[chance.randrange(VOCAB_SIZE) for _ in range(80)] for _ in range(2)]
    requests = []
    for i in range(NUM_REQUESTS):
        prompt = chance.choice(common)[: chance.randrange(80)] if i % 2 else []
        prompt = prompt + [chance.randrange(VOCAB_SIZE) for _ in range(chance.randrange(1, 60))]
        sampling = Sampling(
            temperature=chance.choice((0.0, 0.7, 1.3)),
            top_k=chance.choice((0, 0, 20)),
            top_p=chance.choice((1.0, 0.9)),
            min_p=chance.choice((0.0, 0.02)),
            repetition_penalty=chance.choice((1.0, 1.0, 1.2)),
            presence_penalty=chance.choice((0.0, 0.5)),
            frequency_penalty=chance.choice((0.0, 0.3)),
            logit_bias=chance.choice(({}, {3: 2.0, 7: -1.0})),
            logprobs=chance.choice((None, 0, 5)),
        )
        if sampling.logprobs is not None:
            sampling = replace(sampling, logprob_token_ids=((), (9,), (0, 256, 31))[i % 3])
        requests.append(Request(tuple(prompt), sampling, chance.getrandbits(64), 2 if i % 5 == 0 else None))
    return requests


def answer(
    executor: Executor, requests: list[Request], num_blocks: int, options: SchedulerOptions, met: Counter[str]
) -> list[Answer]:
    """All tokens and prompt logprobs of requests that share an engine, arriving one by one in two priorities.
    `met` counts what must not matter.
    """
    engine = Engine(executor, EngineOptions(num_blocks, executor.options.block_size, WINDOW, options))  # type: ignore[attr-defined]
    sequences = [request.sequence(Priority(i % 3 == 1)) for i, request in enumerate(requests)]
    answers: dict[Sequence, Answer] = {each: ([], []) for each in sequences}
    arriving = list(sequences)
    while arriving or engine.has_work:
        for _ in range(min(len(arriving), 4)):
            engine.add(arriving.pop())
        for output in engine.step():
            assert output.error is None, output.error
            answers[output.sequence][0].extend(output.tokens)
            answers[output.sequence][1].extend(output.prompt_logprobs)
    engine.pool.check_integrity()
    assert engine.pool.num_held == 0
    info = executor.info()
    met[f"sliced by {info.threads}"] += info.num_sliced_steps
    met["preemptions"] += engine.scheduler.num_preemptions
    met["prefix hits"] += sum(each.num_cached_tokens > 0 for each in sequences)
    return list(answers.values())


def check(
    make: Callable[[int], Executor],
    num_batches: int,
    threads: tuple[int, ...] = (1, 2),
    vary: Callable[[int, Request], Request] = lambda i, request: request,
) -> Counter[str]:
    chance = random.Random(20)
    requests = [vary(i, request) for i, request in enumerate(make_requests(chance))]
    executor = make(threads[0])
    size = executor.options.block_size  # type: ignore[attr-defined]
    most = 64 * WINDOW // size
    executor.reserve(most)
    plain = SchedulerOptions(max_draft_tokens=0)
    alone = [answer(executor, [request], most, plain, Counter())[0] for request in requests]
    assert all(len(tokens) == MAX_TOKENS for tokens, _ in alone)
    executor.close()
    met: Counter[str] = Counter()
    for i in range(num_batches):
        executor = make(threads[i % len(threads)])
        num_seqs = chance.randrange(1, 65) if i else 64
        num_blocks = most if i % 2 else chance.randrange(2 * WINDOW // size, 4 * WINDOW // size)
        executor.reserve(num_blocks)
        budget = chance.choice((64, 67, 100, 256))
        options = SchedulerOptions(
            max_num_seqs=num_seqs, token_budget=budget, max_prefill_tokens=chance.choice((1, 5, 17, 64, 256))
        )
        chosen = chance.sample(range(NUM_REQUESTS), chance.randrange(1, NUM_REQUESTS + 1) if i else NUM_REQUESTS)
        together = answer(executor, [requests[k] for k in chosen], num_blocks, options, met)
        executor.close()
        for k, found in zip(chosen, together, strict=True):
            assert found == alone[k], f"request {k} differs in batch {i}: {num_seqs} sequences, {options}"
    assert met["preemptions"] > 0
    assert met["prefix hits"] > 0
    return met


def test_the_engine_alone_mixes_nothing_up() -> None:
    check(lambda threads: ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE)), 4)


MODELS = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "mistral-window": {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 24},
}


def load(executor: Executor, name: str, *, num_adapters: int = 0) -> Executor:
    """A random model of two layers, whose sizes fit no vector evenly, with random adapters in the first slots."""
    config = parse_config(
        {
            **MODELS[name],
            "hidden_size": 72,
            "intermediate_size": 104,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": VOCAB_SIZE,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": WINDOW,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
            "torch_dtype": "float32",
        }
    )
    plan = trace(config)
    weights = random_weights(plan, np.random.default_rng(5))
    ready = optimize(plan)
    if num_adapters:
        ready = with_adapters(ready, 16)
    executor.load(ready, weights)
    for slot in range(num_adapters):
        targets = ("q_proj.weight", "v_proj.weight") if slot == 0 else (".weight",)
        adapter = random_adapter(
            ready, weights, slot, rank=3 + 5 * slot, dtype="bf16", targets=lambda name, t=targets: name.endswith(t)
        )
        executor.load_adapter(slot, adapter)
    return executor


@needs_native
@pytest.mark.parametrize(
    ("model", "weights", "kv_cache"),
    [
        ("llama", "fp32", "fp32"),
        ("llama", "bf16", "fp16"),
        ("qwen3", "fp16", "fp16"),
        ("mistral-window", "fp32", "fp16"),
    ],
)
def test_same_tokens_and_logprobs_alone_and_in_any_batch(model: str, weights: str, kv_cache: str) -> None:
    def make(threads: int) -> Executor:
        options = ExecutorOptions(
            block_size=NATIVE_BLOCK_SIZE, max_num_tokens=512, threads=threads, weights=weights, kv_cache=kv_cache
        )
        return load(NativeExecutor(options), model)

    met = check(make, 6, threads=(1, 2, 3))
    assert met["sliced by 1"] == 0
    assert met["sliced by 2"] > 0
    assert met["sliced by 3"] > 0


def test_the_reference_runs_in_the_engine_too() -> None:
    """Its matrix products may round differently in other batch shapes, so only greedy text is compared."""
    prompts = [[5, 6, 7], list(range(40)), [200]]
    requests = [Request(tuple(prompt), Sampling(temperature=0.0), 0, None) for prompt in prompts]
    executor = load(ReferenceExecutor(ExecutorOptions(block_size=NATIVE_BLOCK_SIZE)), "llama")
    executor.reserve(64)
    alone = [answer(executor, [request], 64, SchedulerOptions(), Counter())[0] for request in requests]
    together = answer(executor, requests, 64, SchedulerOptions(max_prefill_tokens=7), Counter())
    for (one, _), (other, _) in zip(alone, together, strict=True):
        assert [token.token_id for token in one] == [token.token_id for token in other]


def test_a_batch_variant_executor_would_be_noticed() -> None:
    """The negative control: an executor that lets the batch show through fails the check."""

    class Leaky(ScriptedExecutor):
        def run(self, step: StepInput):  # type: ignore[no-untyped-def]
            out = super().run(step)
            out.logprobs += np.float32(1e-6) * len(step.query_start)
            return out

    with pytest.raises(AssertionError, match="differs in batch"):
        check(lambda threads: Leaky(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE)), 2)


@needs_native
def test_a_step_that_samples_nothing_is_run() -> None:
    """Prefill in chunks has steps without rows."""
    executor = load(NativeExecutor(ExecutorOptions(block_size=NATIVE_BLOCK_SIZE, threads=1)), "llama")
    executor.reserve(2)
    some = np.arange(3, dtype=np.int32)
    step = StepInput(
        token_ids=some, positions=some, query_start=np.array([0, 3], np.int32), seq_lens=np.array([3], np.int32),
        block_tables=np.zeros((1, 1), np.int32), slots=some, last_rows=np.zeros(0, np.int32),
        sampling=SamplingInput.greedy(0),
    )  # fmt: skip
    assert executor.run(step).token_ids.shape == (0,)
    executor.close()
