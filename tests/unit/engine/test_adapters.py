"""Adapters of a LanguageModel: slots, draining, reload in place, and what a prefix may be shared with."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import numpy as np
import pytest

from tests.unit.engine.test_llm import Blocking, settled
from tests.unit.engine.tiny import BLOCK_SIZE, CARD, VOCAB_SIZE, call, make_engine
from tripos.engine.adapter_slots import SPARE_SLOTS, Adapters
from tripos.engine.block_pool import PrefixIdentity
from tripos.engine.llm import LanguageModel
from tripos.errors import EngineFailed, InvalidRequest, ModelRefused, NotFound, Overloaded
from tripos.models.files.lora import ReadAdapter
from tripos.pipeline.chain import result_of
from tripos.plan.ir import Adapter, LowRank, WeightTensor
from tripos.repository.adapter import Adapter as RouteAdapter
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import AdapterInfo, Call, Delta, EngineStats, Event, Finish, LoadAdapter, UnloadAdapter

MAX_ADAPTERS = 3
OPTIONS = ExecutorOptions(block_size=BLOCK_SIZE)


def read_scripted(path: str) -> ReadAdapter:
    """The path is the adapter: its number decides what is drawn. "bad" is refused."""
    if path == "bad":
        raise ModelRefused("adapter_config.json: r is 0")
    empty = WeightTensor("t", "f32", (1, 1), np.zeros((1, 1), np.float32))
    return ReadAdapter("digest of " + path, 1, 2, {"w": LowRank(empty, empty, float(path))})


def make(executor: ScriptedExecutor | None = None, num_blocks: int = 64) -> tuple[LanguageModel, ScriptedExecutor]:
    executor = executor or ScriptedExecutor(VOCAB_SIZE, OPTIONS)
    engine = make_engine(num_blocks, executor)
    return LanguageModel(
        CARD, byte_tokenizer(), engine, adapters=Adapters(executor, MAX_ADAPTERS, read_scripted)
    ), executor


@asynccontextmanager
async def started(executor: ScriptedExecutor | None = None, num_blocks: int = 64) -> AsyncIterator[LanguageModel]:
    """A running model that must end with nothing held and every slot free or loaded."""
    model, executor = make(executor, num_blocks)
    await model.start()
    try:
        yield model
        await settled(model)
    finally:
        await model.stop()
    model.engine.pool.check_integrity()
    assert model.engine.pool.num_held == 0
    assert not model._readers.streams
    adapters = model.adapters
    assert adapters is not None
    adapters._reap()
    assert adapters._draining == []
    assert len(adapters._free) + len(adapters.loaded) == MAX_ADAPTERS + SPARE_SLOTS
    assert set(executor.adapters) == {each.slot for each in adapters.loaded}


class Adapted:
    """A model that is asked for one of its adapters, as the adapter's route asks it."""

    def __init__(self, model: LanguageModel, info: AdapterInfo) -> None:
        self._model, self._info = model, info

    def run(self, one: Call) -> AsyncGenerator[Event, None]:
        return RouteAdapter.of(self._model.card, self._info).stage(one, self._model.run)


async def load(model: LanguageModel, name: str, path: str, *, in_place: bool = False) -> Adapted:
    request = LoadAdapter(name=name, path=path, in_place=in_place)
    info = (await result_of(model.run(Call(id="l", route="", request=request)))).adapter
    assert info is not None
    return Adapted(model, info)


async def unload(model: LanguageModel, name: str) -> None:
    await result_of(model.run(Call(id="u", route="", request=UnloadAdapter(name=name))))


async def stats_of(model: LanguageModel) -> EngineStats:
    stats = (await model.info()).stats
    assert stats is not None
    return stats


async def text_of(model: LanguageModel | Adapted, one: Call) -> str:
    return "".join([event.text async for event in model.run(one) if isinstance(event, Delta)])


async def cached_tokens(model: LanguageModel | Adapted, one: Call) -> int:
    (finish,) = [event async for event in model.run(one) if isinstance(event, Finish)]
    return finish.usage.cached_tokens


async def test_each_adapter_is_a_model_of_its_own() -> None:
    async with started() as model:
        first, second = await load(model, "first", "1"), await load(model, "second", "2")
        texts = await asyncio.gather(*(text_of(each, call()) for each in (model, first, second, first)))
        assert texts[1] == texts[3]
        assert len(set(texts)) == 3
        assert await text_of(model, call()) == texts[0]
        assert [each.name for each in (await model.info()).adapters] == ["first", "second"]


async def test_prefixes_are_shared_within_an_adapter_only() -> None:
    prompt = "x" * 40
    async with started() as model:
        first, second = await load(model, "first", "1"), await load(model, "second", "2")
        assert await cached_tokens(model, call(prompt)) == 0
        assert await cached_tokens(first, call(prompt)) == 0
        assert await cached_tokens(second, call(prompt)) == 0
        for each in (model, first, second):
            assert await cached_tokens(each, call(prompt)) > 30
        # another adapter under the same name, and then the first again
        second = await load(model, "second", "3", in_place=True)
        assert await cached_tokens(second, call(prompt)) == 0
        second = await load(model, "second", "2", in_place=True)
        assert await cached_tokens(second, call(prompt)) > 30


def test_no_adapter_is_mistaken_for_a_salt_or_a_principal() -> None:
    fields = ("model_digest", "adapter", "principal", "cache_salt")
    identities = {PrefixIdentity(**{field: "x"}).encode() for field in fields}
    assert len(identities) == len(fields)


async def test_an_unloaded_adapter_answers_who_came_before() -> None:
    blocking = Blocking()
    async with started(blocking.executor) as model:
        adapter = await load(model, "a", "1")
        async with aclosing(adapter.run(call(max_tokens=6))) as events:
            first = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            unloading = asyncio.ensure_future(unload(model, "a"))
            await asyncio.sleep(0.05)
            assert not unloading.done()
            blocking.may_run.set()
            texts = [await first, *[event async for event in events]]
        assert isinstance(texts[-1], Finish)
        await unloading
        assert blocking.executor.adapters == {}
        with pytest.raises(NotFound, match="not loaded"):
            await text_of(adapter, call())
        with pytest.raises(NotFound, match="no adapter is named 'a'"):
            await unload(model, "a")


async def test_a_reload_in_place_changes_new_calls_only() -> None:
    async with started() as model:
        old = await load(model, "a", "1")
        other = await load(model, "b", "2")
        want_old, want_new = await text_of(old, call(max_tokens=40)), await text_of(other, call(max_tokens=40))
        running = asyncio.ensure_future(text_of(old, call(max_tokens=40)))
        await asyncio.sleep(0)
        new = await load(model, "a", "2", in_place=True)
        assert await text_of(new, call(max_tokens=40)) == want_new
        assert await running == want_old


async def test_adapters_of_the_start_are_on_the_card() -> None:
    executor = ScriptedExecutor(VOCAB_SIZE, OPTIONS)
    adapters = Adapters(executor, MAX_ADAPTERS, read_scripted)
    first = adapters.load("a", "1").info
    model = LanguageModel(CARD, byte_tokenizer(), make_engine(64, executor), adapters=adapters)
    assert (model.card.max_adapters, model.card.adapters) == (MAX_ADAPTERS, (first,))
    assert (first.name, first.digest, first.key) == ("a", "digest of 1", "a,digest of 1")
    await unload(model, "a")
    assert (await model.info()).adapters == ()


async def test_cancelled_calls_free_their_slot() -> None:
    async with started() as model:
        adapter = await load(model, "a", "1")
        for _ in range(5):
            async with aclosing(adapter.run(call(max_tokens=200))) as events:
                await anext(events)
        async with asyncio.timeout(5):
            await unload(model, "a")


async def test_names_slots_and_what_goes_wrong() -> None:
    async with started() as model:
        adapters = model.adapters
        assert adapters is not None
        for name in ("", "a,b", "a b", "-x", "x" * 129, "ä", "a\n"):
            with pytest.raises(InvalidRequest, match="name has 1 to 128 characters"):
                await load(model, name, "1")
        with pytest.raises(ModelRefused, match="r is 0"):
            await load(model, "a", "bad")
        for i in range(MAX_ADAPTERS):
            await load(model, f"a{i}", str(i))
        with pytest.raises(InvalidRequest, match="3 adapters are loaded, at most 3 may be"):
            await load(model, "more", "1")
        with pytest.raises(InvalidRequest, match="unload it first, or set load_inplace"):
            await load(model, "a1", "1")
        with pytest.raises(ModelRefused):
            await load(model, "a1", "bad", in_place=True)
        assert [each.info.digest for each in adapters.loaded] == ["digest of 0", "digest of 1", "digest of 2"]
        await load(model, "a1", "7", in_place=True)
        await unload(model, "a0")
        await load(model, "more", "1")


async def test_slots_that_are_still_in_use_are_waited_for() -> None:
    blocking = Blocking()
    async with started(blocking.executor) as model:
        adapter = await load(model, "a", "1")
        running = [asyncio.ensure_future(text_of(adapter, call()))]
        await asyncio.sleep(0.02)
        for i in range(SPARE_SLOTS + MAX_ADAPTERS - 1):
            adapter = await load(model, "a", str(2 + i), in_place=True)
            running.append(asyncio.ensure_future(text_of(adapter, call())))
            await asyncio.sleep(0.02)
        with pytest.raises(Overloaded, match="still answer requests"):
            await load(model, "a", "9", in_place=True)
        blocking.may_run.set()
        assert len(set(await asyncio.gather(*running))) == len(running)
        await load(model, "a", "9", in_place=True)


async def test_unloading_does_not_wait_for_an_adapter_that_is_being_packed() -> None:
    packing, may_pack = threading.Event(), threading.Event()

    class Slow(ScriptedExecutor):
        def load_adapter(self, slot: int, adapter: Adapter) -> None:
            if adapter and packing_is_slow:
                packing.set()
                assert may_pack.wait(10), "the event loop stands still"
            super().load_adapter(slot, adapter)

    packing_is_slow = False
    executor = Slow(VOCAB_SIZE, OPTIONS)
    async with started(executor) as model:
        old = await load(model, "old", "1")
        packing_is_slow = True
        loading = asyncio.create_task(load(model, "new", "2"))
        while not packing.is_set():
            await asyncio.sleep(0.001)
        assert await text_of(old, call())  # its end looks for slots to free, as does unloading
        unloading = asyncio.create_task(unload(model, "old"))
        await asyncio.sleep(0.03)
        assert not unloading.done()
        may_pack.set()
        await asyncio.gather(loading, unloading)
        assert len(executor.adapters) == 1


async def test_what_comes_free_while_an_adapter_is_packed_is_freed_when_it_is() -> None:
    """Though nobody asks again."""

    class Retiring(ScriptedExecutor):
        def load_adapter(self, slot: int, adapter: Adapter) -> None:
            super().load_adapter(slot, adapter)
            if adapter and adapters.loaded:
                adapters.unload("old")

    executor = Retiring(VOCAB_SIZE, OPTIONS)
    adapters = Adapters(executor, MAX_ADAPTERS, read_scripted)
    adapters.load("old", "1")
    adapters.load("new", "2")
    assert [each.slot for each in adapters.loaded] == list(executor.adapters)
    assert len(adapters._free) == MAX_ADAPTERS + SPARE_SLOTS - 1


def test_a_key_means_its_adapter_while_that_is_there_and_then_the_one_of_its_name() -> None:
    adapters = Adapters(ScriptedExecutor(VOCAB_SIZE, OPTIONS), MAX_ADAPTERS, read_scripted)
    old = adapters.load("a", "1")
    held = adapters.enter(old.info.key)
    new = adapters.load("a", "2", in_place=True)
    assert adapters.find(old.info.key) is held is old
    assert adapters.find("a") is new
    adapters.leave(held)
    assert adapters.find(old.info.key) is new
    adapters.unload("a")
    with pytest.raises(NotFound):
        adapters.find(old.info.key)


def test_an_adapter_that_is_read_while_the_model_goes_is_told() -> None:
    adapters = Adapters(ScriptedExecutor(VOCAB_SIZE, OPTIONS), MAX_ADAPTERS, read_scripted)
    adapters.close()
    with pytest.raises(EngineFailed, match="was unloaded"):
        adapters.load("a", "1")


async def test_without_adapters_none_are_taken() -> None:
    model = LanguageModel(CARD, byte_tokenizer(), make_engine())
    with pytest.raises(InvalidRequest, match="takes no adapters: start the server with --max-adapters"):
        await load(model, "a", "1")
    assert model.card.max_adapters == 0


async def test_stats_name_who_runs_and_who_waits() -> None:
    blocking = Blocking()
    async with started(blocking.executor, num_blocks=8) as model:
        first, second = await load(model, "first", "1"), await load(model, "second", "2")
        running = [asyncio.ensure_future(text_of(first, call("x" * 20)))]
        await asyncio.sleep(0.05)
        running.append(asyncio.ensure_future(text_of(second, call("y" * 20))))
        await asyncio.sleep(0.05)
        stats = await stats_of(model)
        assert (stats.max_adapters, stats.running_adapters, stats.waiting_adapters) == (3, ("first",), ("second",))
        blocking.may_run.set()
        await asyncio.gather(*running)
        del running
        assert (await stats_of(model)).running_adapters == ()


async def test_adapters_come_and_go_under_load() -> None:
    """No request that was let in fails or gets another adapter's words, whatever is loaded and unloaded meanwhile."""
    chance = random.Random(7)
    model, _ = make()
    solo: dict[tuple[int, int], str] = {}
    for number in range(6):
        adapter = model.adapters.load("solo", str(number), in_place=True)  # type: ignore[union-attr]
        assert adapter.name == "solo"
        for max_tokens in (4, 30):
            found = list(model.answer([_for("solo", max_tokens)]))
            solo[number, max_tokens] = "".join(e.text for _, e in found if isinstance(e, Delta))
    async with started(num_blocks=48) as model:
        served: dict[str, Adapted] = {}
        numbers: dict[str, set[int]] = {name: set() for name in "abc"}  # that a name may mean now
        num_answered = 0

        async def ask() -> None:
            nonlocal num_answered
            while num_answered < 300:
                if not served:
                    await asyncio.sleep(0.001)
                    continue
                name, adapter = chance.choice(list(served.items()))
                max_tokens = chance.choice((4, 30))
                one, may_mean = call("the same prompt", max_tokens=max_tokens), set(numbers[name])
                if chance.random() < 0.2:
                    async with aclosing(adapter.run(one)) as events:
                        await anext(events)
                    continue
                assert await text_of(adapter, one) in {solo[number, max_tokens] for number in may_mean}
                num_answered += 1

        async def change() -> int:
            num_changes = 0
            while num_answered < 300:
                name, number = chance.choice("abc"), chance.randrange(6)
                with contextlib.suppress(Overloaded):  # every slot in use
                    if name in served and chance.random() < 0.5:
                        del served[name]
                        await unload(model, name)
                    else:
                        numbers[name].add(number)
                        served[name] = await load(model, name, str(number), in_place=True)
                        numbers[name] = {number}
                    num_changes += 1
                await asyncio.sleep(chance.random() * 0.01)
            return num_changes

        async with asyncio.timeout(60):
            changing = asyncio.ensure_future(change())
            await asyncio.gather(*(ask() for _ in range(12)))
            assert await changing > 20


def _for(adapter: str, max_tokens: int) -> Call:
    return call("the same prompt", max_tokens=max_tokens, adapter=adapter)
