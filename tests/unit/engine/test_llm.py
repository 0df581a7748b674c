"""LanguageModel on an event loop: streams, cancellation, limits, errors."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from tests.unit.engine.tiny import BLOCK_SIZE, VOCAB_SIZE, call, make_model
from tripos.engine import llm, readers
from tripos.engine.llm import LanguageModel
from tripos.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    RequestTimeout,
)
from tripos.models.text.token_bytes import IncrementalDecoder
from tripos.runtime.executor import Executor, ExecutorOptions, StepInput, StepOutput
from tripos.testing import ScriptedExecutor
from tripos.types import Branch, Call, Delta, Embed, Event, Finish, Generate, Message, TokenLogprob

OPTIONS = ExecutorOptions(block_size=BLOCK_SIZE)


@asynccontextmanager
async def started(
    executor: Executor | None = None, num_blocks: int = 64, **scheduler: int
) -> AsyncIterator[LanguageModel]:
    """A running model that must end with nothing held, no thread and no task left."""
    before = threading.enumerate()
    model = make_model(num_blocks, executor, **scheduler)
    await model.start()
    try:
        yield model
        await settled(model)
    finally:
        await model.stop()
    model.engine.pool.check_integrity()
    assert model.engine.pool.num_held == 0
    assert model.engine.scheduler.admission.num_waiting == 0
    assert model.engine.scheduler.admission.num_waiting_tokens == 0
    assert not model._readers.streams
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert not model._readers.held
    assert set(threading.enumerate()) <= set(before)


async def settled(model: LanguageModel) -> None:
    """Wait until the engine has nothing to do."""
    loop = model._readers.engine_loop
    assert loop is not None
    for _ in range(500):
        if loop.is_idle and not model.engine.has_work:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the engine does not come to rest")


class Blocking:
    """Holds the executor until released, so that a test can look at a moment."""

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, before_run=self.wait)

    def wait(self, step: StepInput) -> None:
        self.may_run.wait(10)


async def read(model: LanguageModel, one: Call) -> list[Event]:
    return [event async for event in model.run(one)]


def tokens_of(events: Sequence[object], index: int = 0) -> list[int]:
    return [token for event in events if isinstance(event, Delta) and event.index == index for token in event.token_ids]


def logprobs_of(events: Sequence[object], index: int = 0) -> list[TokenLogprob]:
    return [
        each for event in events if isinstance(event, Delta) and event.index == index for each in event.logprobs or ()
    ]


def text_of(events: Sequence[object], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


async def test_a_run_ends_with_finish_and_usage() -> None:
    async with started() as model:
        events = await read(model, call("hello", max_tokens=9))
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.prompt_tokens, finish.usage.output_tokens) == ("length", 5, 9)
    assert len(tokens_of(events)) == 9
    assert finish.usage.ttft_s >= finish.usage.queue_s >= 0
    assert finish.usage.prefill_s > 0
    assert finish.usage.decode_s > 0


async def test_the_stream_the_whole_and_the_offline_answer_are_the_same() -> None:
    one = call("the same", max_tokens=30, logprobs=2, n=2)
    async with started() as model:
        events = await read(model, one)
    offline = [event for _, event in make_model().answer([one])]
    for index in (0, 1):
        assert tokens_of(events, index) == tokens_of(offline, index)
        assert text_of(events, index) == text_of(offline, index)  # type: ignore[arg-type]
    assert tokens_of(events, 0) != tokens_of(events, 1)


async def test_half_of_64_streams_vanish_and_the_others_do_not_notice() -> None:
    chance = random.Random(3)
    calls = [
        call("x" * chance.randrange(1, 60) + str(i), max_tokens=chance.randrange(1, 30), seed=i, n=1 + i % 2)
        for i in range(64)
    ]
    alone = make_model()
    expected = [[event for _, event in alone.answer([one])] for one in calls]
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, step_s=0.001)

    async def vanish(model: LanguageModel, i: int) -> None:
        """Leaves while queued or in prefill (cancelled), or while decoding (aclose after some events)."""
        if i % 4 == 0:
            task = asyncio.create_task(read(model, calls[i]))
            await asyncio.sleep(chance.random() * 0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        num_events = chance.randrange(1, 5)
        async with aclosing(model.run(calls[i])) as events:  # type: ignore[type-var]
            async for _ in events:
                num_events -= 1
                if num_events == 0:
                    break

    async with started(executor, num_blocks=48, max_num_seqs=16, token_budget=32) as model:
        stays = [i for i in range(64) if i % 2]
        jobs = [read(model, calls[i]) if i % 2 else vanish(model, i) for i in range(64)]
        results = await asyncio.gather(*jobs)
    for i in stays:
        events = results[i]
        assert events is not None
        for index in range(1 + i % 2):
            assert tokens_of(events, index) == tokens_of(expected[i], index)  # type: ignore[arg-type]


async def test_blocks_are_free_before_the_next_step_after_a_reader_left() -> None:
    blocking = Blocking()
    async with started(blocking.executor) as model:
        blocking.may_run.set()
        events = model.run(call("hello", max_tokens=200))
        await anext(events)
        blocking.may_run.clear()
        await events.aclose()  # type: ignore[attr-defined]
        num_steps = blocking.executor.num_steps
        blocking.may_run.set()
        await settled(model)
        assert blocking.executor.num_steps <= num_steps + 2, "only the step under way may still run"


async def test_a_slow_reader_gets_everything_in_few_deltas() -> None:
    async with started() as model:
        events = model.run(call("hello", max_tokens=100))
        first = await anext(events)
        await settled(model)
        rest = [event async for event in events]
    assert len(rest) == 2, "one merged Delta and Finish"
    assert len(tokens_of([first, *rest])) == 100


@pytest.mark.parametrize(("fields", "most"), [({"logprobs": 20}, 60), ({}, 190)])
async def test_a_stream_that_is_full_holds_its_sequences_until_it_is_read(fields: dict[str, int], most: int) -> None:
    one = call("hello", max_tokens=230, n=2, **fields)
    alone = [event for _, event in make_model().answer([one])]
    async with started(max_num_seqs=2) as model:
        events = model.run(one)
        first = await anext(events)
        await settled(model)
        assert model.engine.num_steps < most, "it went on though nobody reads"
        assert model.engine.pool.num_held == 0, "it keeps blocks that others could have"
        assert len(tokens_of(await read(model, call("another", max_tokens=50)))) == 50
        rest = [event async for event in events]
    for index in (0, 1):
        assert tokens_of([first, *rest], index) == tokens_of(alone, index)
        assert text_of([first, *rest], index) == text_of(alone, index)
        assert logprobs_of([first, *rest], index) == logprobs_of(alone, index)


async def test_a_stream_that_is_full_of_what_is_held_back_goes_on_once_it_is_read() -> None:
    def next_token(tokens: list[int], seed: int, counter: int) -> int:
        return ord("a") if tokens[-1] in b"ab" else ord("b")

    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, next_token=next_token)
    async with started(executor) as model:
        events = model.run(call("hello", max_tokens=60, logprobs=20, stop=("a" * 50 + "!",)))
        first = await anext(events)
        await settled(model)
        assert text_of([first]) == "b"
        assert model._readers.held
        async with asyncio.timeout(10):
            rest = [event async for event in events]
    assert text_of([first, *rest]) == "b" + "a" * 59


async def test_a_reader_of_a_full_stream_may_leave() -> None:
    async with started() as model:
        events = model.run(call("hello", max_tokens=230, logprobs=20))
        await anext(events)
        await settled(model)
        assert model._readers.held
        await events.aclose()  # type: ignore[attr-defined]
        assert not model._readers.held
        assert not model.engine.has_work


async def test_a_model_that_stops_ends_the_streams_that_are_held() -> None:
    async with started() as model:
        events = model.run(call("hello", max_tokens=230, logprobs=20))
        await anext(events)
        await settled(model)
        await model.stop()
        with pytest.raises(EngineFailed):
            async for _ in events:
                pass
        await model.start()


async def test_a_reader_that_stopped_reading_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READER_STALL_S", 0.05)
    async with started() as model:
        events = model.run(call("hello", max_tokens=230, logprobs=20))
        await anext(events)
        await settled(model)
        await asyncio.sleep(0.2)
        assert not model.engine.scheduler.unfinished()
        with pytest.raises(RequestTimeout, match="not read"):
            async for _ in events:
                pass


async def test_an_answer_that_cannot_become_text_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with started() as model:
        good = asyncio.create_task(read(model, call("good", max_tokens=100)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        decoder = model.tokenizer.decoder

        def broken(prompt: Sequence[int] = (), *_: object, **__: object) -> IncrementalDecoder:
            wrong = decoder(prompt)
            monkeypatch.setattr(wrong, "push", None)
            return wrong

        monkeypatch.setattr(model.tokenizer, "decoder", broken)
        with pytest.raises(RequestFailed, match="turned into text"):
            await read(model, call("bad", max_tokens=100))
        assert len(tokens_of(await good)) == 100


async def test_stop_strings_end_the_sequence_in_the_engine_too() -> None:
    async with started() as model:
        whole = text_of(await read(model, call("hello", max_tokens=200)))
        stop = whole[20:22]
        events = await read(model, call("hello", max_tokens=200, stop=(stop,)))
        await settled(model)
    assert text_of(events) == whole[: whole.index(stop)]
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "stop"
    assert events[-1].usage.output_tokens < 200


async def test_refusal_comes_before_the_prompt_is_encoded() -> None:
    blocking = Blocking()
    async with started(blocking.executor, max_num_seqs=1, max_waiting=1) as model:
        jobs = [asyncio.create_task(read(model, call("a", max_tokens=2)))]
        await asyncio.sleep(0.05)
        jobs.append(asyncio.create_task(read(model, call("b", max_tokens=2))))
        await asyncio.sleep(0.05)
        model.tokenizer = None  # type: ignore[assignment]
        with pytest.raises(Overloaded) as refusal:
            await read(model, call("c"))
        assert refusal.value.retry_after_s == 1.0
        blocking.may_run.set()
        await asyncio.gather(*jobs)


async def test_a_deadline_ends_a_waiting_and_a_running_call() -> None:
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, step_s=0.01)
    async with started(executor, max_num_seqs=1) as model:
        deadline_s = time.monotonic() + 0.1
        calls = [call(text, max_tokens=200, deadline_s=deadline_s) for text in ("running", "waiting")]
        results = await asyncio.gather(*(read(model, one) for one in calls), return_exceptions=True)
    assert all(isinstance(result, DeadlineExceeded) for result in results)


async def test_a_failed_engine_tells_everyone_and_is_not_ready() -> None:
    def fail(step: StepInput) -> None:
        raise OSError("lost")

    async with started(ScriptedExecutor(VOCAB_SIZE, OPTIONS, before_run=fail)) as model:
        assert (await model.info()).is_progressing
        results = await asyncio.gather(*(read(model, call(str(i))) for i in range(4)), return_exceptions=True)
        assert all(isinstance(result, EngineFailed) for result in results)
        assert not (await model.info()).is_progressing
        with pytest.raises(EngineFailed):
            await read(model, call("later"))


async def test_an_engine_whose_thread_meets_a_panic_tells_everyone_and_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Panic(BaseException):
        """As a failure inside a compiled library arrives."""

    def fail() -> None:
        raise Panic("planted")

    async with started() as model:
        monkeypatch.setattr(model.engine, "step", fail)
        async with asyncio.timeout(10):
            results = await asyncio.gather(*(read(model, call(str(i))) for i in range(4)), return_exceptions=True)
        assert all(isinstance(result, EngineFailed) for result in results)
        assert not (await model.info()).is_progressing
        with pytest.raises(EngineFailed):
            await read(model, call("later"))


async def test_a_stuck_step_is_not_progress() -> None:
    blocking = Blocking()
    async with started(blocking.executor) as model:
        now = [time.monotonic()]
        model.engine.clock = lambda: now[0]
        job = asyncio.create_task(read(model, call("hello")))
        await asyncio.sleep(0.05)
        assert (await model.info()).is_progressing
        now[0] += 31
        assert not (await model.info()).is_progressing
        blocking.may_run.set()
        await job
        await settled(model)
        assert (await model.info()).is_progressing


async def test_stop_ends_unfinished_calls_with_an_error() -> None:
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, step_s=0.01)
    async with started(executor, max_num_seqs=1) as model:
        jobs = [asyncio.create_task(read(model, call(str(i), max_tokens=200))) for i in range(3)]
        await asyncio.sleep(0.05)
        await model.stop()
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert all(isinstance(result, EngineFailed) for result in results)
        with pytest.raises(EngineFailed):
            await read(model, call())
        await model.start()
        assert len(tokens_of(await read(model, call(max_tokens=3)))) == 3


async def test_the_event_loop_goes_on_while_the_grammars_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    closing, may_close = threading.Event(), threading.Event()
    model = make_model()
    close = model._grammars.close

    def slow() -> None:
        closing.set()
        assert may_close.wait(10), "the event loop stands still"
        close()

    monkeypatch.setattr(model._grammars, "close", slow)
    await model.start()
    stopping = asyncio.create_task(model.stop())
    while not closing.is_set():
        await asyncio.sleep(0.001)
    may_close.set()
    await stopping


async def test_a_prompt_repeated_by_the_same_principal_only_is_cached() -> None:
    async with started() as model:
        cached = []
        for principal, salt in (("alice", ""), ("alice", ""), ("bob", ""), ("alice", "mine")):
            events = await read(model, call("x" * 41, principal=principal, cache_salt=salt))
            assert isinstance(events[-1], Finish)
            cached.append(events[-1].usage.cached_tokens)
        stats = (await model.info()).stats
    assert cached == [0, 40, 0, 0]
    assert (stats.prefix_hits, stats.prefix_queries) == (40, 164)


async def test_echo_of_the_prompt_with_its_logprobs_and_nothing_more() -> None:
    async with started() as model:
        events = await read(model, call("hello", max_tokens=0, echo=True, prompt_logprobs=1))
    delta = events[0]
    assert isinstance(delta, Delta)
    assert (delta.text, delta.prompt_token_ids, delta.token_ids) == ("hello", tuple(b"hello"), ())
    assert delta.prompt_logprobs is not None
    assert delta.prompt_logprobs[0] is None
    assert [each.text for each in delta.prompt_logprobs[1:] if each is not None] == list("ello")


async def test_choices_share_prompt_logprobs_that_are_computed_once() -> None:
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS)
    forced = []
    run = executor.run

    def counting(step: StepInput) -> StepOutput:
        forced.append(int((step.sampling.forced_token >= 0).sum()))
        return run(step)

    executor.run = counting  # type: ignore[method-assign]
    async with started(executor) as model:
        events = await read(model, call("hello there", n=3, prompt_logprobs=2, echo=True))
    firsts = [event for event in events if isinstance(event, Delta) and event.prompt_token_ids]
    assert sorted(first.index for first in firsts) == [0, 1, 2]
    assert firsts[0].prompt_logprobs is not None
    assert all(first.prompt_logprobs == firsts[0].prompt_logprobs for first in firsts)
    assert len(firsts[0].prompt_logprobs) == len("hello there")
    assert sum(forced) == len("hello there") - 1


async def test_what_branches_share_is_computed_once_though_all_come_at_the_same_moment() -> None:
    counts: list[int] = []
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS, before_run=lambda step: counts.append(len(step.token_ids)))
    prompt = "s" * 110
    branches = tuple(Branch(prompt=prompt + f" branch {i}", suffix=(7,) * (i % 3)) for i in range(20))
    lengths = [len(branch.prompt) + len(branch.suffix) for branch in branches]
    async with started(executor, num_blocks=256) as model:
        events = await read(model, call(prompt, max_tokens=1, branches=branches))
    whole_blocks = 110 // BLOCK_SIZE * BLOCK_SIZE
    assert counts == [110, sum(lengths) - 20 * whole_blocks]
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert finish.usage.prompt_tokens == 110 + sum(lengths) - 20 * 110
    assert finish.usage.output_tokens == 21


async def test_each_branch_answers_as_it_would_alone() -> None:
    texts = ["shared and one", "shared and another", "nothing in common"]
    requested = [(1, 2), (3,), (256, 0, 5)]
    alone = []
    for text, ids in zip(texts, requested, strict=True):
        one = call(text, max_tokens=1, temperature=0.0, logprobs=0, logprob_token_ids=ids)
        deltas = [event for _, event in make_model().answer([one]) if isinstance(event, Delta)]
        alone += [delta.logprobs[0].requested for delta in deltas if delta.logprobs]
    branches = tuple(
        Branch(prompt=text, logprob_token_ids=ids) for text, ids in zip(texts[1:], requested[1:], strict=True)
    )
    together = call(
        texts[0], max_tokens=1, temperature=0.0, logprobs=0, logprob_token_ids=requested[0], branches=branches
    )
    async with started() as model:
        deltas = [event for event in await read(model, together) if isinstance(event, Delta)]
    found = [delta.logprobs[0].requested for delta in sorted(deltas, key=lambda delta: delta.index) if delta.logprobs]
    assert found == alone
    assert list(map(len, alone)) == [2, 1, 3]


async def test_long_prompts_are_encoded_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "INLINE_CHARS", 100)
    async with started() as model:
        threads: list[str] = []
        encode = model.tokenizer.encode

        def watched(text: str, add_special: bool = False) -> list[int]:
            threads.append(threading.current_thread().name)
            return encode(text, add_special)

        model.tokenizer.encode = watched  # type: ignore[method-assign]
        await read(model, call("short"))
        await read(model, call("long " * 40))
    assert threads[0] == threading.current_thread().name
    assert threads[1].startswith("tripos-encode")


async def test_chats_go_through_the_template() -> None:
    async with started() as model:
        events = await read(model, call((Message(role="user", content="hi"),)))  # type: ignore[arg-type]
    assert isinstance(events[-1], Finish)
    assert events[-1].usage.prompt_tokens == len("user: hi\nassistant:")
    ids = await model.encode(Generate(prompt=(Message(role="user", content="hi"),)))
    assert bytes(ids) == b"user: hi\nassistant:"


BAD_CALLS = {
    "max_tokens negative": (call(max_tokens=-1), InvalidRequest, "out_of_range", "max_tokens"),
    "max_tokens beyond the window": (
        call(max_tokens=257), ContextLengthExceeded, "context_length_exceeded", "max_tokens",
    ),
    "max_tokens 2^63": (call(max_tokens=2**63), ContextLengthExceeded, "context_length_exceeded", "max_tokens"),
    "prompt beyond the window": (call("x" * 300), ContextLengthExceeded, "context_length_exceeded", "prompt"),
    "prompt of a megabyte": (call("x" * 2**20), ContextLengthExceeded, "context_length_exceeded", "prompt"),
    "temperature infinite": (call(temperature=float("inf")), InvalidRequest, "out_of_range", "temperature"),
    "temperature not a number": (call(temperature=float("nan")), InvalidRequest, "out_of_range", "temperature"),
    "top_p zero": (call(top_p=0.0), InvalidRequest, "out_of_range", "top_p"),
    "repetition penalty zero": (call(repetition_penalty=0.0), InvalidRequest, "out_of_range", "repetition_penalty"),
    "seed of 65 bits": (call(seed=2**64), InvalidRequest, "out_of_range", "seed"),
    "bias infinite": (call(logit_bias={1: float("inf")}), InvalidRequest, "out_of_range", "logit_bias"),
    "logprobs negative": (call(logprobs=-1), InvalidRequest, "out_of_range", "logprobs"),
    "stop empty": (call(stop=("a", "")), InvalidRequest, "invalid_value", "stop"),
    "prompt of ten million ids": (call((1,) * 10**7), ContextLengthExceeded, "context_length_exceeded", "prompt"),
    "prompt fills the window": (
        call("x" * 256, max_tokens=None), ContextLengthExceeded, "context_length_exceeded", "prompt",
    ),
    "wanted id beyond the vocabulary": (
        call(logprobs=0, logprob_token_ids=(VOCAB_SIZE,)), InvalidRequest, "out_of_range", "logprob_token_ids",
    ),
    "wanted ids without logprobs": (
        call(logprob_token_ids=(1,)), InvalidRequest, "invalid_value", "logprob_token_ids",
    ),
    "branch beyond the window": (
        call(branches=(Branch(prompt="x" * 300),)), ContextLengthExceeded, "context_length_exceeded", "prompt",
    ),
    "branch without text": (call(branches=(Branch(prompt=""),)), InvalidRequest, "missing_field", "prompt"),
    "branch of ids beyond the vocabulary": (
        call(branches=(Branch(prompt=(VOCAB_SIZE,)),)), InvalidRequest, "out_of_range", "prompt",
    ),
    "branch with a suffix beyond the vocabulary": (
        call(branches=(Branch(prompt="x", suffix=(-1,)),)), InvalidRequest, "out_of_range", "prompt",
    ),
    "branches and choices": (call(n=2, branches=(Branch(prompt="x"),)), InvalidRequest, "invalid_value", "n"),
    "no choice": (call(n=0), InvalidRequest, "out_of_range", "n"),
    "bias id negative": (call(logit_bias={-1: 1.0}), InvalidRequest, "out_of_range", "logit_bias"),
    "bias id beyond the vocabulary": (call(logit_bias={VOCAB_SIZE: 1.0}), InvalidRequest, "out_of_range", "logit_bias"),
    "stop id beyond the vocabulary": (
        call(stop_token_ids=(10**9,), min_tokens=3), InvalidRequest, "out_of_range", "stop_token_ids",
    ),
    "prompt id negative": (call((1, -1)), InvalidRequest, "out_of_range", "prompt"),
    "prompt id beyond the vocabulary": (call((1, VOCAB_SIZE)), InvalidRequest, "out_of_range", "prompt"),
    "prompt without ids": (call(()), InvalidRequest, "out_of_range", "prompt"),
    "prompt without text": (call(""), InvalidRequest, "missing_field", "prompt"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_bad_calls_are_refused_by_name_and_the_next_good_one_is_answered(name: str) -> None:
    bad, error, code, param = BAD_CALLS[name]
    async with started() as model:
        with pytest.raises(error) as refusal:
            await read(model, bad)
        assert (refusal.value.code, refusal.value.param) == (code, param)
        assert len(tokens_of(await read(model, call(max_tokens=2)))) == 2


async def test_other_tasks_are_refused() -> None:
    async with started() as model:
        one = Call(id="c", route="tiny", request=Embed(inputs=("a",)))
        with pytest.raises(InvalidRequest, match="cannot embed"):
            await read(model, one)


def test_a_loop_closed_without_stop_leaves_no_work_behind() -> None:
    model = make_model(executor=ScriptedExecutor(VOCAB_SIZE, OPTIONS, step_s=0.005))

    async def leave() -> None:
        await model.start()
        events = model.run(call(max_tokens=240))
        await anext(events)
        model._abort = lambda sequences: None  # type: ignore[method-assign,assignment]

    asyncio.run(leave())
    loop = model._readers.engine_loop
    assert loop is not None
    for _ in range(200):
        if not model.engine.has_work:
            break
        time.sleep(0.01)
    assert model.engine.num_steps < 100
    assert model.engine.pool.num_held == 0
    loop.stop()


def test_offline_answers_come_for_all_calls_and_leave_nothing_behind() -> None:
    model = make_model(num_blocks=32)
    calls = [call("x" * i, max_tokens=i, seed=i) for i in range(1, 20)]
    finishes = {i: event for i, event in model.answer(calls) if isinstance(event, Finish)}
    assert {i: finish.usage.output_tokens for i, finish in finishes.items()} == {i: i + 1 for i in range(19)}
    assert model.engine.pool.num_held == 0


def test_letting_go_of_an_offline_run_frees_everything() -> None:
    model = make_model(executor=ScriptedExecutor(VOCAB_SIZE, OPTIONS, step_s=0.002))
    run = model.answer([call(max_tokens=5), call(max_tokens=200)])
    next(run)
    run.close()  # type: ignore[attr-defined]
    for _ in range(500):
        if not model.engine.has_work:
            break
        time.sleep(0.002)
    assert model.engine.num_steps < 100
    assert model.engine.pool.num_held == 0
    assert not model._callers._mail
