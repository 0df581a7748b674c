"""A route may lower the priority of its calls, and never raises it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tripos.controls.priority import priority
from tripos.pipeline.chain import chain
from tripos.types import Call, Event, Finish, Generate, Priority


@pytest.mark.parametrize("asked", list(Priority))
@pytest.mark.parametrize("most", list(Priority))
async def test_no_call_goes_before_what_the_route_allows(asked: Priority, most: Priority) -> None:
    seen: list[Call] = []

    async def model(call: Call) -> AsyncIterator[Event]:
        seen.append(call)
        yield Finish(reason="stop")

    call = Call(id="c", route="m", request=Generate(prompt="x"), priority=asked)
    assert [event async for event in chain([priority(most)], model)(call)] == [Finish(reason="stop")]
    assert seen[0].priority is (Priority.BATCH if Priority.BATCH in (asked, most) else Priority.ONLINE)
