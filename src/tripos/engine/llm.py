"""LanguageModel: the Model at the end of a generate route. Calls in, Deltas and a Finish out.

Owns the model's life, the encoding of prompts, and the checks that need the model (context length, vocabulary). Who
reads which stream is in readers.py. Knows nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
from msgspec.structs import replace

from tripos.engine.adapter_slots import Adapters
from tripos.engine.admission import Ticket
from tripos.engine.block_pool import PrefixIdentity
from tripos.engine.callers import Callers
from tripos.engine.check import check_request, check_text_length, check_token_ids, is_token_ids, max_tokens_of
from tripos.engine.engine import Engine
from tripos.engine.readers import Readers
from tripos.engine.reasoning import EncodedPrompt, ReasoningStart, matcher_of
from tripos.engine.rules import TokenRules
from tripos.engine.sequence import Sequence, Status, choice_seed
from tripos.engine.stream import Stream
from tripos.errors import EngineFailed, InvalidRequest, RequestFailed, TriposError
from tripos.grammar.compiler import CompiledConstraint, Grammars
from tripos.models.text.side_thread import SideThread
from tripos.models.text.token_requests import TokenRequests, WaitingText
from tripos.models.text.tokenizer import Tokenizer
from tripos.runtime.executor import I32
from tripos.runtime.machine import Birthplace
from tripos.types import (
    Call,
    EngineStats,
    Event,
    Finish,
    Generate,
    LoadAdapter,
    Message,
    ModelCard,
    ModelInfo,
    Prompt,
    Result,
    Sampling,
    UnloadAdapter,
    Unmetered,
)

log = logging.getLogger(__name__)

INLINE_CHARS = 4096  # longer prompts are encoded off the event loop, and all chats

EncodeChat = Callable[[tuple[Message, ...], tuple[dict[str, Any], ...], dict[str, Any]], list[int]]
"""(messages, tools, template_args) → token ids."""


class LanguageModel:
    """Implements types.Model over an Engine that is loaded and has its cache reserved."""

    def __init__(
        self,
        card: ModelCard,
        tokenizer: Tokenizer,
        engine: Engine,
        encode_chat: EncodeChat | None = None,
        adapters: Adapters | None = None,
        rules: TokenRules | None = None,
    ) -> None:
        """`encode_chat` replaces the tokenizer's own template; without `adapters` none can be loaded; `rules` are the
        checkpoint's defaults."""
        self.card = replace(
            card,
            has_tokenizer=True,
            has_chat_template=tokenizer.template_source is not None,
            max_adapters=adapters.max_adapters if adapters is not None else 0,
            adapters=tuple(each.info for each in adapters.loaded) if adapters is not None else (),
        )
        self.tokenizer = tokenizer
        self.engine = engine
        self.adapters = adapters
        self._rules = rules or TokenRules()
        self._token_requests = TokenRequests(tokenizer, card.vocab_size, self.encode, WaitingText())
        self._encode_chat = encode_chat or _encode_with(tokenizer)
        self._grammars = Grammars(tokenizer, card.vocab_size)
        self._reasoning_start = ReasoningStart(tokenizer)
        self._eos_ids = frozenset(id for id in tokenizer.eos_ids if id < card.vocab_size)
        self._readers = Readers(engine)
        self._encoders: SideThread | None = None
        self._birthplace = Birthplace()
        self._callers = Callers(engine)

    @property
    def max_num_tokens(self) -> int:
        """Most tokens of a prompt and its output together."""
        return self.engine.options.max_num_tokens

    async def start(self) -> None:
        if self._readers.engine_loop is not None:
            return
        import asyncio  # 12 ms, which callers without an event loop do not wait for

        self._encoders = SideThread()
        self._encoders.submit(self._warm_up)
        self.engine.scheduler.admission.open()
        self._readers.start(asyncio.get_running_loop())

    def _warm_up(self) -> None:
        """Import and compile what renders chats, which takes 0.2 s, before the first one. A template may refuse this
        chat."""
        with contextlib.suppress(InvalidRequest):
            self._encode_chat((Message(role="user", content="Hello"),), (), {})

    async def stop(self) -> None:
        """End now: unfinished calls get EngineFailed. Idempotent."""
        engine_loop = self._readers.detach()
        if engine_loop is None:
            return
        self.engine.scheduler.admission.close()
        encoders, self._encoders = self._encoders, None
        if encoders is not None:
            closing = SideThread(most_s=None)  # `encoders` may be busy without end
            await closing.run(engine_loop.stop)
            await closing.run(self._grammars.close)  # waits for the compiling process to start and end
            await closing.stop()
            await encoders.stop()

    def close(self) -> None:
        """Free weights and cache, once stopped. Threads that wait in `answer` get EngineFailed. Idempotent."""
        if self._readers.engine_loop is not None:
            raise RequestFailed("the model is started: await stop() first")
        if not self._birthplace.is_here:
            return
        self._callers.close()
        if self.adapters is not None:
            self.adapters.close()
        self._grammars.close()
        self.engine.executor.close()

    async def info(self) -> ModelInfo:
        """`is_progressing`: started, not failed, and the last step not too long ago. Counts of the engine; its
        adapters."""
        engine_loop = self._readers.engine_loop
        return ModelInfo(
            is_progressing=engine_loop is not None and engine_loop.is_progressing(),
            stats=self._stats(),
            adapters=tuple(each.info for each in self.adapters.loaded) if self.adapters is not None else (),
        )

    def _stats(self) -> EngineStats:
        stats = self.engine.stats()
        if self.adapters is None:
            return stats
        return replace(
            stats,
            max_adapters=self.adapters.max_adapters,
            running_adapters=self.adapters.using(Status.RUNNING),
            waiting_adapters=self.adapters.using(Status.WAITING, Status.PREEMPTED),
        )

    async def _answer_unmetered(self, request: Unmetered) -> Result:
        """Raises InvalidRequest, Overloaded, and as Adapters.load and Adapters.unload."""
        if isinstance(request, LoadAdapter):
            import asyncio

            load = self._require_adapters().load
            loaded = await asyncio.to_thread(load, request.name, request.path, in_place=request.in_place)
            return Result(adapter=loaded.info)
        if isinstance(request, UnloadAdapter):
            adapters = self._require_adapters()
            unloaded = adapters.unload(request.name)
            await adapters.drained(unloaded)
            return Result(adapter=unloaded.info)
        return await self._token_requests.answer(request)

    def _require_adapters(self) -> Adapters:
        if self.adapters is None:
            raise InvalidRequest(f"{self.card.name} takes no adapters: start the server with --max-adapters")
        return self.adapters

    async def encode(self, request: Generate) -> list[int]:
        """Token ids of a request's prompt, as `run` would compute them. Raises InvalidRequest."""
        return (await self._encode(request))[0].token_ids

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Answer one call; an adapter that it names stays until the call has ended.

        Raises InvalidRequest, NotFound (the adapter), Overloaded, DeadlineExceeded, RequestFailed, EngineFailed.
        """
        if isinstance(call.request, Unmetered):
            yield await self._answer_unmetered(call.request)
            yield Finish(reason="stop")
            return
        request = self._check(call)
        readers = self._readers
        engine_loop = readers.engine_loop
        if engine_loop is None:
            raise EngineFailed("the model is not started", retry_after_s=1.0)
        adapter = self._require_adapters().enter(request.adapter) if request.adapter else None
        ticket: Ticket | None = None
        stream: Stream | None = None
        try:
            ticket = self.engine.scheduler.admission.enter()
            if adapter is not None:
                request = replace(request, adapter=adapter.info.key)
            constraint = await self._grammars.get(request.constraint) if request.constraint is not None else None
            stream = self._open(call, request, await self._encode(request), constraint, ticket)
            readers.add(stream, engine_loop)
            while not stream.is_over:
                deltas = await stream.next_deltas()
                readers.resume(stream)
                for delta in deltas:
                    yield delta
            yield stream.finish()
        finally:
            if ticket is not None:
                ticket.release()
            if stream is not None:
                readers.remove(stream)
            if adapter is not None:
                self._require_adapters().leave(adapter)

    def answer(self, calls: list[Call]) -> Iterator[tuple[int, Event | TriposError]]:
        """Answer many calls without an event loop: (index of the call, event or its error), each call as it is over.

        For offline use, from any number of threads at once: their calls share steps. Raises InvalidRequest for the
        first call that is wrong, before any work; EngineFailed when closed; EnvironmentProblem in a fork.
        """
        yield from self._callers.answer([self._open_now(call) for call in calls])

    def stream(self, call: Call) -> Generator[Event, None, None]:
        """Answer one call as `answer` does, but each event as it comes. Closing the generator ends the work. Raises the
        call's error.
        """
        yield from self._callers.stream(self._open_now(call))

    async def stream_async(self, call: Call) -> AsyncGenerator[Event, None]:
        """As `stream`, in an event loop that goes on meanwhile."""
        import asyncio

        stream = await asyncio.to_thread(self._open_now, call)
        async with contextlib.aclosing(self._callers.stream_async(stream)) as events:
            async for event in events:
                yield event

    def _open_now(self, call: Call) -> Stream:
        """A call's stream, made without an event loop. Raises as `answer`."""
        if self._readers.engine_loop is not None:
            raise RequestFailed("the model is started: use run()")
        self._birthplace.check()
        request = self._check(call)
        constraint = self._grammars.compile(request.constraint) if request.constraint is not None else None
        return self._open(call, request, self._encode_now(request), constraint, None)

    def _check(self, call: Call) -> Generate:
        """Check all that needs no tokens of the prompt."""
        request = call.request
        if not isinstance(request, Generate):
            kind = type(request).__name__.lower()
            raise InvalidRequest(f"{self.card.name} is a language model and cannot {kind}: send a generate request")
        check_request(request, self.card.vocab_size, self.max_num_tokens)
        if isinstance(request.prompt, str) and len(request.prompt) > self.max_num_tokens:
            check_text_length(request.prompt, self.max_num_tokens, self._longest_token)
        return request

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.all_token_bytes))

    async def _encode(self, request: Generate) -> list[EncodedPrompt]:
        prompt = request.prompt
        is_quick = is_token_ids(prompt) or (
            isinstance(prompt, str) and len(prompt) <= INLINE_CHARS and self.tokenizer.is_quick(len(prompt))
        )
        if self._encoders is None or (is_quick and not request.branches):
            return self._encode_now(request)
        return await self._encoders.run(lambda: self._encode_now(request))

    def _encode_now(self, request: Generate) -> list[EncodedPrompt]:
        """The prompt and each branch; a prompt that comes again is encoded once."""
        encoded: dict[Prompt, EncodedPrompt] = {}
        for prompt in (request.prompt, *(branch.prompt for branch in request.branches)):
            if prompt not in encoded:
                encoded[prompt] = self._reasoning_start.of_prompt(request, self._encode_prompt(prompt, request))
        branches = [
            self._reasoning_start.of_branch(request, encoded[branch.prompt], branch.suffix)
            for branch in request.branches
        ]
        return [encoded[request.prompt], *branches]

    def _encode_prompt(self, prompt: Prompt, request: Generate) -> list[int]:
        """Special tokens in a caller's text are plain text; only the template makes them."""
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, add_special=True)
        elif is_token_ids(prompt):
            ids = list(prompt)
        else:
            ids = self._encode_chat(cast("tuple[Message, ...]", prompt), request.template_tools, request.template_args)
        if not ids:
            raise InvalidRequest("the prompt is empty: send at least one token", code="missing_field", param="prompt")
        return ids

    def _open(
        self,
        call: Call,
        request: Generate,
        encoded: list[EncodedPrompt],
        constraint: CompiledConstraint | None,
        ticket: Ticket | None,
    ) -> Stream:
        """The stream of a call, with a sequence for each choice; choices share the prefix of their prompts."""
        encoded = encoded * request.n
        prompts = [each.token_ids for each in encoded]
        for prompt in prompts:
            check_token_ids("prompt", prompt, self.card.vocab_size)
            self.engine.scheduler.blocks.check_fits(len(prompt), self._max_tokens(request, len(prompt)))
        arrays = [np.array(prompt, np.int32) for prompt in prompts]
        shared = [_num_shared(arrays[0], each) for each in arrays[1:]]
        if ticket is not None:
            ticket.set_tokens(sum(map(len, arrays)) - sum(shared))
        seed = request.sampling.seed if request.sampling.seed is not None else secrets.randbits(64)
        adapter = self._require_adapters().find(request.adapter) if request.adapter else None
        identity = PrefixIdentity(
            self.card.digest, adapter.info.digest if adapter else "", call.principal, request.cache_salt
        ).encode()
        arrival_s = call.arrival_s or self.engine.clock()
        grammar = constraint.grammar if constraint is not None else None
        matchers = [matcher_of(request, grammar, each.trace, self.card.vocab_size, self._eos_ids) for each in encoded]
        sequences = [
            Sequence(
                prompt=tokens,
                max_tokens=self._max_tokens(request, len(tokens)),
                sampling=self._sampling(request, index, len(tokens)),
                seed=choice_seed(seed, index),
                eos_ids=self._eos_ids,
                identity=identity,
                priority=call.priority,
                deadline_s=call.deadline_s,
                arrival_s=arrival_s,
                prompt_logprobs=request.prompt_logprobs if index == 0 else None,  # choices share a prompt
                index=index,
                matcher=matchers[index],
                rules=None if matchers[index] is not None or self._rules.is_silent else self._rules,
                adapter_slot=adapter.slot if adapter else -1,
            )
            for index, tokens in enumerate(arrays)
        ]
        for sequence, num_shared in zip(sequences, (max(shared, default=0), *shared), strict=True):
            sequence.num_shared_tokens = num_shared
        sequences[0].siblings = sequences[1:]
        sequences[0].ticket = ticket
        stream = Stream(self.tokenizer, request, encoded, sequences, constraint)
        if adapter is not None:  # last: a failure before it leaves no adapter in use
            self._require_adapters().attach(adapter, sequences)
        return stream

    def _max_tokens(self, request: Generate, num_prompt_tokens: int) -> int:
        usual = self._rules.max_tokens(num_prompt_tokens)
        return max_tokens_of(request, num_prompt_tokens, self.max_num_tokens, usual)

    def _sampling(self, request: Generate, index: int, num_prompt_tokens: int) -> Sampling:
        """Of one choice. The checkpoint's min_tokens holds where the request sets none and has no constraint."""
        sampling = _sampling_of(request, index)
        min_tokens = 0 if request.constraint is not None else self._rules.min_tokens(num_prompt_tokens)
        if sampling.min_tokens or sampling.ignore_eos or not min_tokens:
            return sampling
        return replace(sampling, min_tokens=min_tokens)


def _num_shared(one: I32, other: I32) -> int:
    """How many tokens two prompts have in common from their beginning."""
    length = min(len(one), len(other))
    differs = np.flatnonzero(one[:length] != other[:length])
    return int(differs[0]) if len(differs) else length


def _sampling_of(request: Generate, index: int) -> Sampling:
    if index == 0 or not request.branches:
        return request.sampling
    return replace(request.sampling, logprob_token_ids=request.branches[index - 1].logprob_token_ids)


def _encode_with(tokenizer: Tokenizer) -> EncodeChat:
    return lambda messages, tools, template_args: tokenizer.encode_chat(messages, tools, **template_args)
