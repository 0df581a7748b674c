"""Completion: one choice of one prompt, made of the events of its call. Tested in tests/e2e/test_library.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from tripos.errors import TriposError
from tripos.types import Delta, Event, FinishReason, TokenLogprob, ToolCall, Usage


@dataclass(frozen=True)
class Completion:
    """One choice of one prompt. When `error` is set the choice ended early; the others are not affected."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    usage: Usage = field(default_factory=Usage)  # of the whole prompt's call
    error: TriposError | None = None
    reasoning: str = ""  # of a chat, apart from the text
    tool_calls: tuple[ToolCall, ...] = ()  # of a chat with tools, apart from the text


class Collector:
    """The events of one call, joined per choice."""

    def __init__(self, n: int) -> None:
        self._deltas: list[list[Delta]] = [[] for _ in range(n)]
        self._usage = Usage()
        self._error: TriposError | None = None

    def take(self, event: Event | TriposError) -> None:
        if isinstance(event, Delta):
            self._deltas[event.index].append(event)
        elif isinstance(event, TriposError):
            self._error = event
        else:
            self._usage = getattr(event, "usage", self._usage)

    def completions(self) -> list[Completion]:
        return [self._completion(deltas) for deltas in self._deltas]

    def _completion(self, deltas: list[Delta]) -> Completion:
        has_logprobs = any(delta.logprobs is not None for delta in deltas)
        return Completion(
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            finish_reason=deltas[-1].finish_reason if deltas else None,
            logprobs=tuple(each for delta in deltas for each in delta.logprobs or ()) if has_logprobs else None,
            prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None),
            reasoning="".join(delta.reasoning for delta in deltas),
            tool_calls=tuple(call for delta in deltas for call in delta.tool_calls),
            usage=self._usage,
            error=self._error,
        )
