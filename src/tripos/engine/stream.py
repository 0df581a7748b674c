"""Stream: one call's sequences on their way to its reader, from the engine's Outputs to Deltas and a Finish.

Owns what waits to be read and how the call ends. Knows neither the engine nor who reads.
Tested in tests/unit/engine/test_llm.py.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tripos.engine.engine import Output
from tripos.engine.reasoning import EncodedPrompt
from tripos.engine.sequence import Sequence
from tripos.engine.text import ChoiceText
from tripos.errors import AnswerMismatch, GrammarProblem, RequestFailed, TriposError
from tripos.models.text.tokenizer import Tokenizer
from tripos.types import Delta, Event, Finish, Generate, TokenLogprob, Usage

if TYPE_CHECKING:
    import asyncio

    from tripos.grammar.compiler import CompiledConstraint
    from tripos.grammar.verify import AnswerCheck

log = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 32 * 1024  # of one call; then its sequences are held until somebody reads
TOKEN_BYTES = 256  # about, of a token on its way, and of each alternative that is told with it


class Stream:
    """One call's choices between the engine and the reader. A slow reader's Deltas merge: at most one per choice
    waits. When `is_full`, whoever pushes is to stop until it was read.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Generate,
        prompts: list[EncodedPrompt],
        sequences: list[Sequence],
        constraint: CompiledConstraint | None = None,
    ) -> None:
        self.sequences = sequences
        self.has_stops = bool(request.sampling.stop)  # text may end it, of which the engine knows nothing
        echo_text = _prompt_text(tokenizer, request, prompts[0].token_ids) if request.echo else None
        prompt_logprobs: list[TokenLogprob | None] = []
        self._choices = [
            ChoiceText(
                tokenizer,
                sequences[index].sampling,
                index,
                prompt.token_ids,
                echo_text,
                prompt_logprobs,
                request.shown_tokens,
                prompt.trace.copy() if prompt.trace is not None else None,
                _check_of(constraint, request),
            )
            for index, prompt in enumerate(prompts)
        ]
        self._error: TriposError | None = None
        self._news: asyncio.Event | None = None  # of a reader in an event loop
        self._num_unread = 0  # tokens
        self._token_bytes = TOKEN_BYTES * (1 + (request.sampling.logprobs or 0))
        self._is_finished = False

    @property
    def is_over(self) -> bool:
        """Whether every choice's last Delta was read."""
        return all(choice.is_reported for choice in self._choices)

    @property
    def is_complete(self) -> bool:
        """Whether nothing that could be pushed would change it."""
        return self._error is not None or all(choice.finish_reason is not None for choice in self._choices)

    @property
    def is_full(self) -> bool:
        """Whether more waits to be read than may. What stands before the answer counts not: it comes in one piece."""
        return self._num_unread * self._token_bytes > MAX_UNREAD_BYTES

    def push(self, output: Output) -> list[Sequence]:
        """Take a step's output; returns the sequences that need not go on."""
        self._num_unread += len(output.tokens)
        choice = self._choices[output.sequence.index]
        if output.error is not None:
            self.end(output.error)
            return self.sequences
        was_over = choice.finish_reason is not None
        try:
            choice.push(output)
        except GrammarProblem as problem:
            self._end_unchecked(problem)
            return self.sequences
        ends_here = choice.finish_reason is not None and not was_over and not output.is_last
        return [output.sequence] if ends_here else []

    @property
    def is_unchecked(self) -> bool:
        return self._error is None and any(choice.is_unchecked for choice in self._choices)

    def verify(self) -> list[Sequence]:
        """Hold answers that have ended against their constraints; returns the sequences that need not go on.

        Takes as long as their tokens are many: off the event loop. Another thread's `push` has nothing for them.
        """
        for choice in self._choices:
            try:
                violation = choice.verify()
            except GrammarProblem as problem:
                self._end_unchecked(problem)
                break
            if violation is not None:
                log.error("an answer does not match its constraint: its grammar let through what it should not")
                self.end(
                    AnswerMismatch(
                        f"the answer does not match its schema or grammar ({violation}): ask again, with another seed"
                    )
                )
        return self.sequences if self._error is not None else []

    def _end_unchecked(self, problem: GrammarProblem) -> None:
        log.error("an answer could not be held against its grammar once more (%s)", problem.code)
        self.end(RequestFailed(f"the answer could not be held against its grammar once more: {problem.message}"))

    def end(self, error: TriposError) -> None:
        """Nothing more comes; the first error counts."""
        self._error = self._error or error

    def wake(self) -> None:
        if self._news is not None:
            self._news.set()

    async def next_deltas(self) -> list[Delta]:
        """Wait for news, which may be no more than that a full stream was read: of its tokens all are held back.

        Raises the call's error once what came before it is read.
        """
        import asyncio  # 12 ms, which those who read without an event loop do not wait for

        news = self._news = self._news or asyncio.Event()
        while True:
            while self.is_unchecked:
                await asyncio.to_thread(self.verify)
            was_full = self.is_full
            deltas = self._take()
            if deltas or was_full:
                return deltas
            if self._error is not None:
                raise self._error
            news.clear()
            await news.wait()

    def events_now(self) -> list[Event | TriposError]:
        """What there is without waiting, ending with Finish or the error."""
        events: list[Event | TriposError] = list(self._take())
        if not self._is_finished and (self._error is not None or self.is_over):
            self._is_finished = True
            events.append(self._error or self.finish())
        return events

    def finish(self) -> Finish:
        first = self.sequences[0]
        scheduled_s = first.first_scheduled_s if first.first_scheduled_s is not None else first.arrival_s
        tokens_s = [s.first_token_s for s in self.sequences if s.first_token_s is not None]
        usage = Usage(
            prompt_tokens=sum(s.num_prompt_tokens - s.num_shared_tokens for s in self.sequences[1:])
            + first.num_prompt_tokens,
            cached_tokens=first.num_cached_tokens,
            output_tokens=sum(choice.num_tokens for choice in self._choices),
            reasoning_tokens=sum(choice.num_reasoning_tokens for choice in self._choices),
            queue_s=max(0.0, scheduled_s - first.arrival_s),
            prefill_s=sum(s.prefill_s for s in self.sequences),
            decode_s=sum(s.decode_s for s in self.sequences),
            ttft_s=max(0.0, min(tokens_s) - first.arrival_s) if tokens_s else 0.0,
            num_preemptions=sum(s.num_preemptions for s in self.sequences),
        )
        return Finish(reason=self._choices[0].finish_reason or "error", usage=usage)

    def _take(self) -> list[Delta]:
        self._num_unread = 0
        return [delta for choice in self._choices if (delta := choice.take()) is not None]


def _check_of(constraint: CompiledConstraint | None, request: Generate) -> AnswerCheck | None:
    if constraint is None:
        return None
    from tripos.grammar.verify import AnswerCheck  # with what reads schemas, which most answers do without

    return AnswerCheck(constraint, has_stops=bool(request.sampling.stop))


def _prompt_text(tokenizer: Tokenizer, request: Generate, prompt: list[int]) -> str:
    return request.prompt if isinstance(request.prompt, str) else tokenizer.decode(prompt)
