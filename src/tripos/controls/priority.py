"""Lowers the priority of every call of a route whose clients can wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec.structs import replace

from tripos.types import Call, Event, Priority, Run, Stage


def priority(most: Priority) -> Stage:
    """A stage under which no call goes before `most`; a call that asks for less keeps it."""

    def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        return run(replace(call, priority=max(call.priority, most)))

    return stage
