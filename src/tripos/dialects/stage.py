"""The innermost stage of a route: requests in the dialect of the model below it, and its Deltas with parts apart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from tripos.dialects.lowering import lower
from tripos.dialects.output import CallOutput
from tripos.types import Call, Event, Generate, ModelCard, Run, Stage, Tokenize


def stage(card: ModelCard) -> Stage:
    """A stage for a language model with this card. Events pass it untouched, unless tools may be called or reasoning is
    hidden. Raises InvalidRequest for a request that the dialect cannot express, AnswerMismatch for an answer that
    breaks the schema of what it calls.
    """

    def lowering(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        request = call.request
        if isinstance(request, Tokenize):
            return run(replace(call, request=replace(request, generate=lower(request.generate, card).request)))
        if not isinstance(request, Generate):
            return run(call)
        lowered = lower(request, card)
        if lowered.request is not request:
            call = replace(call, request=lowered.request)
        return run(call) if lowered.format is None else _parsed(run(call), CallOutput(lowered.format, request.n))

    return lowering


async def _parsed(events: AsyncGenerator[Event, None], output: CallOutput) -> AsyncGenerator[Event, None]:
    async with aclosing(events):
        async for event in events:
            for parsed in output.parse(event):
                yield parsed
