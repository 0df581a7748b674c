"""The library as people call it: one prompt or many, dicts, fields of Sampling; and from many threads at once."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.models.test_encoder_golden import GOLDEN
from tripos import LLM, Embedder
from tripos.errors import EngineFailed, EnvironmentProblem, InvalidRequest
from tripos.types import Constraint, Message, Sampling

TEXTS = ["where is my card", "lost", "my bank account", "pin", "a card that was lost at the bank"]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("demo:assistant", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder(GOLDEN / "bert-mean", weights="fp32", threads=1) as opened:
        yield opened


# -- what is given --------------------------------------------------------------------------------------------------
def test_one_prompt_is_a_list_of_one(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Hello")
    (one,) = llm.generate(["Hello"], max_tokens=6, temperature=0)
    for same in ("Hello", ids, tuple(ids), np.array(ids), iter(["Hello"])):
        (answer,) = llm.generate(same, max_tokens=6, temperature=0)
        assert answer.token_ids == one.token_ids
    assert len(llm.generate("Hello", max_tokens=2, n=3)) == 3
    assert llm.generate([]) == []
    assert llm.score("Hello there") == llm.score(["Hello there"])
    assert llm.score(ids) == llm.score([ids])


def test_conversations_are_dicts_or_messages_one_or_many(llm: LLM) -> None:
    dicts = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    messages = [Message(role="system", content="Be brief."), Message(role="user", content="Hello")]
    (one,) = llm.chat(dicts, max_tokens=6, temperature=0)
    for same in (messages, [dicts], [messages]):
        assert llm.chat(same, max_tokens=6, temperature=0)[0].token_ids == one.token_ids
        assert llm.generate(same, max_tokens=6, temperature=0)[0].token_ids == one.token_ids
    assert len(llm.chat([dicts, messages, dicts], max_tokens=2, n=2)) == 6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("Hello", "list of messages"),
        ([["Hello"]], "list of messages"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "me", "content": "Hello"}], r"messages\[0\].role"),
        ([Message(role="user", content="a"), {"role": "user", "content": "b"}], "not both"),
    ],
)
def test_what_is_no_conversation_is_named(llm: LLM, wrong: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        llm.chat(wrong)


@pytest.mark.parametrize("wrong", [3, [None], [3.5], {"prompt": "Hello"}, b"Hello", [b"Hello"], [["a", "b"]]])
def test_what_is_no_prompt_is_named(llm: LLM, wrong: Any) -> None:
    with pytest.raises(InvalidRequest):
        llm.generate(wrong)


def test_fields_of_sampling_are_arguments(llm: LLM) -> None:
    sampling = Sampling(temperature=0.9, seed=5, stop=("e",), logprobs=1)
    (expected,) = llm.generate("Hello", max_tokens=12, sampling=sampling)
    for given in (
        {"temperature": 0.9, "seed": 5, "stop": "e", "logprobs": 1},
        {"sampling": Sampling(seed=5, temperature=0.1, logprobs=1), "temperature": 0.9, "stop": ["e"]},
    ):
        (answer,) = llm.generate("Hello", max_tokens=12, **given)  # type: ignore[arg-type]
        assert (answer.text, answer.logprobs) == (expected.text, expected.logprobs)
    assert llm.generate("Hello", sampling, max_tokens=12)[0].text == expected.text
    assert llm.chat([{"role": "user", "content": "Hello"}], max_tokens=3, seed=5)[0].token_ids


def test_what_sampling_does_not_have_is_a_type_error_that_says_what_it_has(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"temprature is no argument.*did you mean temperature"):
        llm.generate("Hello", temprature=0)
    with pytest.raises(TypeError, match="Sampling has temperature, top_k"):
        llm.chat([{"role": "user", "content": "Hello"}], beam=4)
    with pytest.raises(TypeError, match=r"wrong type.*temperature"):
        llm.generate("Hello", temperature="hot")
    with pytest.raises(InvalidRequest, match="temperature = -1"):
        llm.generate("Hello", temperature=-1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"sampling": {"temperature": 0}}, "sampling"), ({"constraint": {"json": {}}}, "constraint"),
     ({"max_tokens": 1.5}, "max_tokens"), ({"max_tokens": "4"}, "max_tokens"), ({"n": True}, "n")],
)  # fmt: skip
def test_an_argument_of_the_wrong_type_is_named(llm: LLM, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be "):
        llm.generate("Hello", **arguments)


def test_what_an_encoder_cannot_take_is_named(embedder: Embedder) -> None:
    wrong: Any = 1.5
    with pytest.raises(TypeError, match="dimensions must be "):
        embedder.embed("card", dimensions=wrong)
    with pytest.raises(TypeError, match=r"documents\[1\] must be str, not float"):
        embedder.rerank("card", ["pin", wrong])
    with pytest.raises(TypeError, match="query must be str"):
        embedder.rerank(wrong, ["pin"])


def test_text_that_is_no_unicode_is_a_wrong_input(llm: LLM, embedder: Embedder) -> None:
    for call in (llm.generate, llm.score, embedder.embed, lambda text: embedder.rerank(text, ["pin"])):
        with pytest.raises(InvalidRequest, match="surrogate pair at character 4") as caught:
            call("card\udcff")
        assert caught.value.code == "invalid_encoding"


def test_one_text_is_embedded_as_a_list_of_one(embedder: Embedder) -> None:
    (vector,) = embedder.embed(["my card"])
    framed = embedder.tokenizer.frame.around(embedder.tokenizer.encode_all(["my card"])[0])[0]
    for same in ("my card", framed, np.array(framed)):
        np.testing.assert_array_equal(embedder.embed(same), vector[None])
    assert embedder.rerank("card", "my card") == embedder.rerank("card", ["my card"])
    with pytest.raises(InvalidRequest, match="expected text or token ids"):
        embedder.embed([None])  # type: ignore[list-item]


# -- from many threads ----------------------------------------------------------------------------------------------
Job = Callable[[], Any]


def llm_jobs(llm: LLM) -> list[Job]:
    """Calls of every kind, whose answers never change."""
    chat = [{"role": "user", "content": "Where is my card?"}]
    words = Constraint(kind="regex", source="(yes|no) [a-z]{3}")
    return [
        lambda: llm.generate("Hello", max_tokens=9, temperature=0, logprobs=2),
        lambda: llm.generate(["One", "Two", "Three"], max_tokens=7, temperature=0.8, seed=3, n=2),
        lambda: llm.generate("Where", max_tokens=20, temperature=0.9, seed=4, stop=["e", "the"], logprobs=0),
        lambda: llm.generate("Is it?", max_tokens=12, temperature=0.7, seed=5, constraint=words),
        lambda: llm.chat(chat, max_tokens=8, temperature=0),
        lambda: llm.score(["The card is here", "No"]),
    ]


def embedder_jobs(embedder: Embedder) -> list[Job]:
    return [
        lambda: embedder.embed("my card").tolist(),
        lambda: embedder.embed(TEXTS).tolist(),
        lambda: embedder.rerank("lost card", TEXTS, top_n=2),
    ]


def told(answer: Any) -> Any:
    """Without the seconds, which differ."""
    if isinstance(answer, list) and answer and hasattr(answer[0], "token_ids"):
        return [(each.text, each.token_ids, each.finish_reason, each.logprobs, each.error) for each in answer]
    return answer


def test_answers_of_many_threads_are_bit_equal_to_those_of_one(llm: LLM, embedder: Embedder) -> None:
    jobs = llm_jobs(llm) + embedder_jobs(embedder)
    alone = [told(job()) for job in jobs]
    num_steps, num_calls = llm._model.engine.num_steps, 16 * 12

    def call(number: int) -> bool:
        place = random.Random(number).randrange(len(jobs))
        return bool(told(jobs[place]()) == alone[place])

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(call, range(num_calls)))
    pool = llm._model.engine.pool
    assert pool.num_held == 0
    pool.check_integrity()
    assert llm._model.engine.num_steps - num_steps < num_calls * 4, "callers do not share steps"


async def test_tasks_of_an_event_loop_call_through_threads(llm: LLM, embedder: Embedder) -> None:
    (alone,) = llm.generate("Hello", max_tokens=8, temperature=0)
    vector = embedder.embed("my card")
    several = await asyncio.gather(
        *(asyncio.to_thread(llm.generate, "Hello", max_tokens=8, temperature=0) for _ in range(8)),
        *(asyncio.to_thread(embedder.embed, "my card") for _ in range(8)),
    )
    assert all(answer[0].token_ids == alone.token_ids for answer in several[:8])  # type: ignore[union-attr]
    assert all(np.array_equal(answer, vector) for answer in several[8:])
    assert (
        llm.generate("Hello", max_tokens=8, temperature=0)[0].token_ids == alone.token_ids
    )  # in the loop's own thread


def test_one_caller_with_many_prompts_does_not_keep_others_waiting() -> None:
    with LLM("demo:assistant", threads=1, max_sequences=2) as llm, ThreadPoolExecutor(1) as thread:
        many = thread.submit(llm.generate, ["Hello"] * 200, max_tokens=8, temperature=0)
        while not llm._model.engine.has_work:
            time.sleep(0.001)
        llm.generate("Hello", max_tokens=8, temperature=0)
        assert not many.done()
        assert len(many.result()) == 200


# -- the end --------------------------------------------------------------------------------------------------------
def test_closing_tells_whoever_waits_and_whoever_comes() -> None:
    llm = LLM("demo:assistant", threads=1)
    embedder = Embedder(GOLDEN / "bert-mean", weights="fp32", threads=1)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(llm.generate, ["Hello"] * 50, max_tokens=200, ignore_eos=True) for _ in range(2)]
        waiting += [threads.submit(embedder.embed, TEXTS * 2000) for _ in range(2)]
        while not (llm._model.engine.has_work and embedder._model._batcher.num_waiting):
            time.sleep(0.001)
        llm.close()
        embedder.close()
        for each in waiting:
            with pytest.raises(EngineFailed, match="closed"):
                each.result()
    for call in (lambda: llm.generate("Hello"), lambda: llm.score("Hello you"), lambda: embedder.embed("card")):
        with pytest.raises(EngineFailed, match="closed: open it again"):
            call()
    llm.close()
    embedder.close()


def threads_of_models() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name in ("tripos-engine", "tripos-batcher")]


def test_a_model_that_nobody_knows_any_more_leaves_no_thread() -> None:
    before = len(threads_of_models())
    llm, embedder = LLM("demo:assistant", threads=1), Embedder(GOLDEN / "bert-mean", weights="fp32", threads=1)
    llm.generate("Hello", max_tokens=2)
    embedder.embed("card")
    assert len(threads_of_models()) == before + 2
    del llm, embedder
    gc.collect()
    for _ in range(500):
        if len(threads_of_models()) == before:
            return
        time.sleep(0.01)
    raise AssertionError(f"left: {threads_of_models()}")


def test_a_fork_is_told_that_its_threads_are_elsewhere(llm: LLM, embedder: Embedder) -> None:
    llm.generate("Hello", max_tokens=2)
    embedder.embed("card")
    child = os.fork()
    if child == 0:
        told = 0
        try:
            for call in (lambda: llm.generate("Hello"), lambda: embedder.embed("card")):
                try:
                    call()
                except EnvironmentProblem as problem:
                    told += "fork" in problem.message
            llm.close()
            embedder.close()
        finally:
            os._exit(told)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise AssertionError("the fork hangs")
    assert os.waitstatus_to_exitcode(status) == 2
    assert llm.generate("Hello", max_tokens=2)[0].token_ids


def test_an_interrupt_ends_the_calls_of_its_thread_alone(llm: LLM, embedder: Embedder) -> None:
    jobs = llm_jobs(llm) + embedder_jobs(embedder)
    alone = [told(job()) for job in jobs]
    num_interrupts, wrong = 0, []
    is_over, is_due = threading.Event(), threading.Event()
    chance = random.Random(1)

    def others() -> None:
        while not is_over.is_set():
            for job, expected in zip(jobs, alone, strict=True):
                if told(job()) != expected:
                    wrong.append(expected)

    def send() -> None:
        while not is_over.wait(chance.uniform(1e-4, 0.02)):
            os.kill(os.getpid(), signal.SIGUSR1)

    def interrupt(*_: object) -> None:
        """What Ctrl-C does, once for each time that it is due."""
        if is_due.is_set():
            is_due.clear()
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    threads = [threading.Thread(target=each) for each in (others, send)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            try:
                is_due.set()
                while is_due.is_set():
                    jobs[num_interrupts % len(jobs)]()
            except KeyboardInterrupt:
                num_interrupts += 1
    finally:
        is_due.clear()
        is_over.set()
        for thread in threads:
            thread.join(60)
        signal.signal(signal.SIGUSR1, before)
    assert not any(thread.is_alive() for thread in threads), "the others wait for ever"
    assert num_interrupts > 30  # Python keeps those from us that come in a destructor
    assert not wrong
    assert [told(job()) for job in jobs] == alone
    for _ in range(500):
        if not llm._model.engine.has_work:
            break
        time.sleep(0.01)
    assert llm._model.engine.pool.num_held == 0
    llm._model.engine.pool.check_integrity()
    assert embedder._model._batcher._waiting_tokens == 0
