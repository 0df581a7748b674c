"""The one road of every door: decoded request → request for its model → calls → events, or what they come to.

A door decodes what its client sent, takes this road, and encodes. Who asks, under which id and since when are plain
arguments: nothing here knows a protocol or a connection. Tested in tests/api/test_openai_client.py,
tests/api/test_embeddings.py and tests/api/test_disconnects.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from tripos.dialects import lowering
from tripos.service import Service
from tripos.types import Call, Event, Finish, ModelCard, Priority, Request, Result, Usage
from tripos.wire.fields import refuse_unknown
from tripos.wire.generation import GenerationRequest, for_model
from tripos.wire.ignored import Ignored

Batch = Sequence[tuple[int, Event]]  # (index of the call, event), everything since the last batch


class Decoded(Protocol):
    """What the decoded bodies of every protocol say about their calls."""

    @property
    def model(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def timeout_s(self) -> float | None: ...


class Collected(NamedTuple):
    """The result of one call of a model that answers at once, and what it took."""

    result: Result
    usage: Usage


def adapt(service: Service, request: GenerationRequest, card: ModelCard) -> GenerationRequest:
    """`request` as the model of `card` takes it, with the ignored fields counted.

    Raises InvalidRequest, also for an unknown field on a strict route.
    """
    adapted = for_model(request, card)
    unenforced = [
        Ignored(path, "schema") for each in adapted.requests if each.tools for path in lowering.unenforced(each)
    ]
    if unenforced:
        adapted = replace(adapted, ignored=(*adapted.ignored, *unenforced))
    if adapted.ignored:
        count_ignored(service, card.name, adapted.ignored)
    return adapted


def count_ignored(service: Service, model: str, ignored: Sequence[Ignored]) -> None:
    """Counts the fields of a request that have no effect. Raises InvalidRequest (unknown_field) on a strict route."""
    if service.is_strict(model):
        refuse_unknown(ignored)
    for group, num in Counter(each.group for each in set(ignored)).items():
        service.metrics.ignored.labels(model_name=model, group=group).value += num


def make_calls(
    decoded: Decoded, requests: Sequence[Request], *, request_id: str, principal: str = "", arrival_s: float
) -> list[Call]:
    """One call per request, in their order. `arrival_s`: of time.monotonic, the begin of the client's timeout."""
    deadline_s = None if decoded.timeout_s is None else arrival_s + decoded.timeout_s
    return [
        Call(
            id=request_id if len(requests) == 1 else f"{request_id}-{i}",
            route=decoded.model,
            request=request,
            principal=principal,
            priority=decoded.priority,
            arrival_s=arrival_s,
            deadline_s=deadline_s,
        )
        for i, request in enumerate(requests)
    ]


async def run(service: Service, calls: Sequence[Call]) -> AsyncGenerator[Batch, None]:
    """The events of the calls, in batches as they come. Closing the generator cancels every call."""
    if len(calls) == 1:
        events = service.run(calls[0])
        try:
            async for event in events:
                yield ((0, event),)
        finally:
            await events.aclose()
    else:
        async with aclosing(_run_together(service, calls)) as batches:
            async for batch in batches:
                yield batch


async def collect(
    service: Service, calls: Sequence[Call], add_usage: Callable[[Usage], None] | None = None
) -> list[Collected]:
    """The result and the usage of each call, in their order; for models that answer at once. `add_usage` is told of
    each call that ends, also when another one fails later.
    """
    results: list[Result] = [Result()] * len(calls)
    usages = [Usage()] * len(calls)
    async with aclosing(run(service, calls)) as batches:
        async for batch in batches:
            for i, event in batch:
                if isinstance(event, Result):
                    results[i] = event
                elif isinstance(event, Finish):
                    usages[i] = event.usage
                    if add_usage is not None:
                        add_usage(event.usage)
    return [Collected(result, usage) for result, usage in zip(results, usages, strict=True)]


async def _run_together(service: Service, calls: Sequence[Call]) -> AsyncGenerator[Batch, None]:
    """Several calls at once. A call whose last event was not taken waits, and merges what it makes meanwhile.

    When one call fails the others are cancelled and its error is raised, after the events that came before it.
    """
    waiting: list[tuple[int, Event]] = []
    errors: list[BaseException] = []
    untaken: set[int] = set()  # calls
    has_news, has_space = asyncio.Event(), asyncio.Event()
    num_open = len(calls)

    async def pump(call_idx: int, call: Call) -> None:
        nonlocal num_open
        try:
            async with aclosing(service.run(call)) as events:
                async for event in events:
                    while call_idx in untaken:
                        has_space.clear()
                        await has_space.wait()
                    untaken.add(call_idx)
                    waiting.append((call_idx, event))
                    has_news.set()
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            num_open -= 1
            has_news.set()

    tasks = [asyncio.create_task(pump(i, call)) for i, call in enumerate(calls)]
    try:
        while True:
            if waiting:
                batch = waiting[:]
                waiting.clear()
                untaken.clear()
                has_space.set()
                yield batch
            elif errors:
                raise errors[0]
            elif not num_open:
                return
            else:
                has_news.clear()
                await has_news.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
