"""LLM: answers of a language model in this process, whole or as streams. Tested in tests/e2e/test_library.py and
tests/e2e/test_streams.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tripos.build.language import load_model
from tripos.engine.llm import LanguageModel
from tripos.errors import AnswerMismatch, ConfigError, EngineFailed, InvalidRequest, TriposError
from tripos.library.completion import Collector, Completion
from tripos.library.opened import OpenedModel, options_of
from tripos.library.prompts import (
    Conversation,
    Prompt,
    Text,
    check_type,
    frozen,
    is_conversation,
    listed,
    sampling_with,
    tools_of,
    typed,
)
from tripos.types import Call, Constraint, Delta, Event, Finish, Generate, Message, ReasoningOptions, Sampling, Tool

if TYPE_CHECKING:
    from tripos.dialects.output import CallOutput

Streamed = Delta | Finish
"""A stream is Deltas and, at its end, one Finish with the usage."""


class LLM(OpenedModel[LanguageModel]):
    """A language model in this process: no server, no event loop, every step as full as its callers make it.

    >>> with LLM("path/to/model") as llm:                                     # doctest: +SKIP
    ...     print(llm.generate("Once upon a time", max_tokens=32, temperature=0)[0].text)
    """

    def __init__(
        self, model: str | Path, *, adapters: Mapping[str, str | Path] | None = None, **options: object
    ) -> None:
        """`options` are the fields of config.ModelOptions (threads, weights, kv_cache, max_sequences ...); `adapters`
        are directories of LoRA adapters, by the names that generate takes.

        Raises ModelRefused, InvalidRequest (an adapter's name), ConfigError, EnvironmentProblem.
        """
        named = tuple((name, str(path)) for name, path in (adapters or {}).items())
        self._model = load_model(options_of("LLM", source=str(model), adapters=named, **options))

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling: Sampling | None = None,
        *,
        max_tokens: int | None = 128,
        n: int = 1,
        constraint: Constraint | None = None,
        adapter: str | Sequence[str] = "",
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        reasoning: ReasoningOptions | None = None,
        **fields: Any,
    ) -> list[Completion]:
        """Continue a prompt, or each of several: text, token ids or chat messages. len(prompts) * n Completions,
        choices of a prompt side by side; of one prompt, n.

        `fields` are those of Sampling (temperature, top_p, seed, stop, logprobs ...), instead of `sampling`'s, which
        defaults to what the model's makers recommend. `constraint` is what each text must match. `adapter` names one of
        the adapters for all prompts, or one for each ("": the model as it is). `tools` may be called in conversations:
        types.Tool, or dicts as OpenAI's clients send them; `tool_choice` is none, auto, required, or a tool's name.
        `reasoning` bounds the reasoning of a model that does reason.

        Raises InvalidRequest before any work when a prompt or a tool is wrong, NotFound when an adapter's name is,
        TypeError for a field that Sampling has not, EngineFailed when the model is closed meanwhile.
        """
        options = (constraint, adapter, tools, tool_choice, parallel_tool_calls, reasoning)
        return self._answer(self._requests(listed(prompts), sampling, fields, max_tokens, n, *options))

    def chat(
        self,
        messages: Conversation | Iterable[Conversation],
        sampling: Sampling | None = None,
        *,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Answer a conversation, or each of several, through the model's chat template: a Completion each, with
        reasoning, text and tool calls apart.

        Messages are dicts as OpenAI's clients send them, or types.Message. `options` and errors are generate's.
        """
        several = listed(messages)
        for each in several:
            if not is_conversation(each):
                raise InvalidRequest(
                    f"messages must be a list of messages, or a list of such lists; got {typed(each)}: "
                    'write [{"role": "user", "content": "..."}], or call generate',
                    param="messages",
                )
        return self.generate(several, sampling, max_tokens=max_tokens, **options)

    def stream(
        self, prompt: Prompt, sampling: Sampling | None = None, *, max_tokens: int | None = None, **options: Any
    ) -> Generator[Streamed, None, None]:
        """The answer to one prompt or conversation as it comes: Deltas (reasoning, text and tool calls apart), then a
        Finish. Closing the generator ends the work. `options` and errors are generate's; there is one choice.
        """
        call, output = self._stream_call(prompt, sampling, max_tokens, **options)
        return _parsed(self._model.stream(call), output)

    def stream_async(
        self, prompt: Prompt, sampling: Sampling | None = None, *, max_tokens: int | None = None, **options: Any
    ) -> AsyncGenerator[Streamed, None]:
        """As `stream`, without blocking the event loop: `async for delta in llm.stream_async(prompt)`."""
        call, output = self._stream_call(prompt, sampling, max_tokens, **options)
        return _parsed_async(self._model.stream_async(call), output)

    def score(self, prompts: Text | Iterable[Text]) -> list[list[float]]:
        """Natural-log probability of each token after the first, of a prompt or of each of several: a list each."""
        requests = [Generate(prompt=frozen(prompt), max_tokens=0, prompt_logprobs=0) for prompt in listed(prompts)]
        scores = []
        for completion in self._answer(requests):
            if completion.error is not None:
                raise completion.error
            scores.append([each.logprob for each in completion.prompt_logprobs or () if each is not None])
        return scores

    def _requests(
        self,
        prompts: list[Any],
        sampling: Sampling | None,
        fields: dict[str, Any],
        max_tokens: int | None,
        n: int = 1,
        constraint: Constraint | None = None,
        adapter: str | Sequence[str] = "",
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        tool_choice: str | Mapping[str, Any] = "auto",
        parallel_tool_calls: bool = True,
        reasoning: ReasoningOptions | None = None,
    ) -> list[Generate]:
        """One per prompt. Raises as `generate`."""
        check_type("sampling", sampling, Sampling | None)
        check_type("constraint", constraint, Constraint | None)
        check_type("max_tokens", max_tokens, int | None)
        check_type("n", n, int)
        check_type("reasoning", reasoning, ReasoningOptions | None)
        names = [adapter] * len(prompts) if isinstance(adapter, str) else list(adapter)
        if len(names) != len(prompts):
            raise ConfigError(f"{len(names)} adapters for {len(prompts)} prompts: give one name, or one for each")
        request = Generate(
            prompt="",
            max_tokens=max_tokens,
            n=n,
            sampling=sampling_with(sampling or self.card.sampling, fields),
            constraint=constraint,
            reasoning=reasoning or ReasoningOptions(),
        )
        if tools := tuple(tools):
            if not all(map(is_conversation, prompts)):
                message = "tools are called in conversations: give messages, or call chat"
                raise InvalidRequest(message, param="tools")
            read, choice = tools_of(tools, tool_choice, parallel_tool_calls)
            request = msgspec.structs.replace(request, tools=read, tool_choice=choice)
        return [
            msgspec.structs.replace(request, prompt=frozen(prompt), adapter=name)
            for prompt, name in zip(prompts, names, strict=True)
        ]

    def _call(self, request: Generate, index: int) -> tuple[Call, CallOutput | None]:
        """The call as the model takes it, and what reads its output; None: it is right as it comes."""
        output = None
        if request.prompt and isinstance(request.prompt[0], Message):
            from tripos.dialects.lowering import lower  # with all dialects, which other prompts do without

            lowered = lower(request, self.card)
            request, output = lowered.request, lowered.output()
        return Call(id=f"library-{index}", route=self.card.name, request=request), output

    def _stream_call(
        self, prompt: Prompt, sampling: Sampling | None, max_tokens: int | None, **options: Any
    ) -> tuple[Call, CallOutput | None]:
        if "n" in options:
            raise TypeError("a stream has one choice: n is no argument of it")
        own = {name: options.pop(name) for name in _OPTIONS if name in options}
        (request,) = self._requests([prompt], sampling, options, max_tokens, **own)
        return self._call(request, 0)

    def _answer(self, requests: list[Generate]) -> list[Completion]:
        collected = [Collector(request.n) for request in requests]
        made = [self._call(request, i) for i, request in enumerate(requests)]
        for i, event in self._model.answer([call for call, _ in made]):
            if isinstance(event, EngineFailed) and event.code == "draining":  # closed: nothing more comes
                raise event
            for parsed in _parse(event, made[i][1]):
                collected[i].take(parsed)
        return [completion for each in collected for completion in each.completions()]


# Of generate's arguments, those that are neither fields of Sampling nor given to a stream by name.
_OPTIONS = ("constraint", "adapter", "tools", "tool_choice", "parallel_tool_calls", "reasoning")


def _parse(event: Event | TriposError, output: CallOutput | None) -> Sequence[Event | TriposError]:
    """The event with text and tool calls apart; an answer that breaks the schema of what it calls is an error."""
    if output is None or isinstance(event, TriposError):
        return (event,)
    try:
        return output.parse(event)
    except AnswerMismatch as problem:
        return (problem,)


def _parsed(events: Generator[Event, None, None], output: CallOutput | None) -> Generator[Streamed, None, None]:
    with closing(events):
        for event in events:
            yield from (event,) if output is None else output.parse(event)  # type: ignore[misc]  # never a Result


async def _parsed_async(
    events: AsyncGenerator[Event, None], output: CallOutput | None
) -> AsyncGenerator[Streamed, None]:
    async with aclosing(events):
        async for event in events:
            for parsed in (event,) if output is None else output.parse(event):
                yield parsed  # type: ignore[misc]  # as above
