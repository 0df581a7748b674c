"""Tokens → text: incremental detokenizing, and stop strings that may straddle tokens.

Owns what is held back: characters that are not complete, and a tail that may still become a stop string.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tripos.engine.engine import Output, TokenOutput
from tripos.engine.reasoning import ReasoningText, Trace
from tripos.models.text.tokenizer import Tokenizer
from tripos.types import Delta, FinishReason, Sampling, TokenLogprob

if TYPE_CHECKING:
    from tripos.grammar.verify import AnswerCheck


class _Stop:
    """One stop string and how much of it the text seen so far ends with (Knuth, Morris & Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallbacks = [0]
        for char in text[1:]:
            self._fallbacks.append(self._advance(char, self._fallbacks[-1]))

    def push(self, char: str) -> bool:
        """Returns whether the stop string is complete; then it must not be pushed again."""
        self.num_matched = self._advance(char, self.num_matched)
        return self.num_matched == len(self.text)

    def fall_back(self) -> None:
        """The string was complete and does not count: go on with what may begin another."""
        self.num_matched = self._fallbacks[-1]

    def _advance(self, char: str, num_matched: int) -> int:
        while num_matched and self.text[num_matched] != char:
            num_matched = self._fallbacks[num_matched - 1]
        return num_matched + (self.text[num_matched] == char)


class StopMatcher:
    """Passes text through until one of `stops` is complete; holds back what may be the beginning of one.

    Time is linear in the text, whatever the stop strings.
    """

    def __init__(self, stops: Sequence[str], may_stop: Callable[[str], bool] | None = None) -> None:
        """`may_stop` is asked with the text before a stop string since the last `push`; if not, it is plain text."""
        self._stops = [_Stop(stop) for stop in stops]
        self._may_stop = may_stop or (lambda text: True)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Returns the text that is certain; once `matched` is set, all text before the stop string is out."""
        if not self._stops:
            return text
        num_held = len(self._held)
        text = self._held + text
        for end in range(num_held + 1, len(text) + 1):
            complete = [stop for stop in self._stops if stop.push(text[end - 1])]
            if complete:
                longest = max(complete, key=lambda stop: len(stop.text)).text
                before = text[: end - len(longest)]
                if self._may_stop(before):
                    self.matched = longest
                    self._held = ""
                    return before
                for stop in complete:
                    stop.fall_back()
        certain = len(text) - max(stop.num_matched for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """The text held back, when nothing follows it."""
        text, self._held = self._held, ""
        return text


class ChoiceText:
    """Collects one choice's Outputs and gives them back as Deltas, merged since the last `take`.

    A token leaves together with its text; tokens whose text is held back or cut off by a stop string stay.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sampling: Sampling,
        index: int,
        prompt: Sequence[int],
        echo_text: str | None = None,
        prompt_logprobs: list[TokenLogprob | None] | None = None,
        shown: Sequence[str] = (),
        trace: Trace | None = None,
        check: AnswerCheck | None = None,
    ) -> None:
        """`prompt_logprobs` is one list for all choices of a prompt; the first choice fills it before others begin.
        `shown`: special tokens that are part of the text. `trace` follows the reasoning, where there may be some.
        """
        if trace is not None:
            shown = (*shown, trace.marks.start, trace.marks.end)
        self._tokenizer = tokenizer
        self._sampling = sampling
        self._index = index
        self._decoder = tokenizer.decoder(prompt, shown, keep_space=check is not None)
        self._trace = trace
        self._reasoning_text = ReasoningText(trace) if trace is not None and not trace.is_over else None
        self._check = check
        self._matcher = StopMatcher(sampling.stop, None if check is None else self._may_stop)
        self._wants_logprobs = sampling.logprobs is not None
        self._tokens: deque[tuple[int, int, TokenOutput]] = deque()  # where its text begins and ends, token
        self._num_decoded = 0  # characters
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._num_released = 0  # characters of the output, of which the text and the reasoning are parts
        self._prompt_logprobs = prompt_logprobs if prompt_logprobs is not None else []
        self._prompt = tuple(prompt)
        self._echo_text = echo_text
        self._is_first = True
        self.is_reported = False
        self.num_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.stop: str | int | None = None
        self._stop_token: int | None = None
        self.is_unchecked = False  # ended by itself: its end is not told before `verify` found it right

    def push(self, output: Output) -> None:
        """Take a step's tokens. Afterwards `finish_reason` may be set by a stop string: then abort the sequence."""
        for prompt_token in output.prompt_logprobs:
            self._prompt_logprobs.append(self._logprob(prompt_token))
        for token in output.tokens:
            if self.finish_reason is None:
                self._push_token(token, is_stop=output.stop_token is not None and token is output.tokens[-1])
        if self.finish_reason is None and output.finish_reason is not None:
            self.finish_reason = output.finish_reason
            self._stop_token = output.stop_token
            if output.stop_token in self._sampling.stop_token_ids:  # what ends every answer is nobody's stop
                self.stop = output.stop_token
            self._release(self._matcher.push(self._part_last(self._decoder.flush())))
            if self._matcher.matched is None:
                self._release(self._matcher.flush())
            else:
                self._match()
            ends_itself = self.finish_reason == "stop" and not isinstance(self.stop, str)
            self.is_unchecked = self._check is not None and ends_itself

    def verify(self) -> str | None:
        """Why the finished answer does not match its constraint. Takes long; from any thread, when no more is pushed.

        Raises GrammarProblem when it cannot be told.
        """
        if self._check is not None and self.is_unchecked:
            violation = self._check.violation(self._stop_token)
            self.is_unchecked = violation is not None
            return violation
        return None

    @property
    def num_reasoning_tokens(self) -> int:
        return self._trace.num_tokens if self._trace is not None else 0

    def fail(self) -> None:
        """End the choice: another part of its request failed."""
        if self.finish_reason is None:
            self.finish_reason = "error"

    def take(self) -> Delta | None:
        """Everything new as one Delta, or None."""
        is_last = self.finish_reason is not None and not self.is_reported and not self.is_unchecked
        offsets, tokens = self._take_tokens()
        if not (tokens or self._text or self._reasoning or is_last):
            return None
        text, self._text = "".join(self._text), []
        reasoning, self._reasoning = "".join(self._reasoning), []
        if self._is_first and self._echo_text is not None:
            text = self._echo_text + text
        wants_logprobs = self._wants_logprobs
        is_first, self._is_first = self._is_first, False
        echoes = is_first and self._echo_text is not None
        self.is_reported = self.is_reported or is_last
        return Delta(
            index=self._index,
            text=text,
            reasoning=reasoning,
            token_ids=tuple(token.token_id for token in tokens),
            logprobs=tuple(self._logprob(token) for token in tokens) if wants_logprobs else None,
            text_offsets=tuple(offsets) if wants_logprobs else (),
            num_prompt_tokens=len(self._prompt) if is_first else 0,
            prompt_token_ids=self._prompt if echoes else (),
            prompt_logprobs=(None, *self._prompt_logprobs) if is_first and self._prompt_logprobs else None,
            prompt_offsets=self._prompt_offsets() if echoes and wants_logprobs else (),
            prompt_start=self._tokenizer.decode(self._prompt[:1]) if echoes and wants_logprobs else "",
            finish_reason=self.finish_reason if is_last else None,
            stop=self.stop if is_last else None,
        )

    def _push_token(self, token: TokenOutput, *, is_stop: bool) -> None:
        self.num_tokens += 1
        begin = self._num_decoded
        if is_stop and not self._sampling.include_stop:
            self._tokens.append((begin, begin, token))  # without its text
            if self._trace is not None:
                self._trace.push(token.token_id)
            return
        is_inside = self._wants_logprobs and self._decoder.is_inside
        text = self._decoder.push(token.token_id)
        self._num_decoded += len(text)
        if is_inside and text.startswith("\ufffd"):  # what came before is no character, and the token begins behind it
            begin += 1
        was_reasoning = self._is_reasoning
        answer = text if self._reasoning_text is None else self._part(token.token_id, text)
        if self._check is not None and (was_reasoning or self._is_reasoning):
            self._check.begin(self._num_decoded)
        elif self._check is not None:
            self._check.push(token.token_id, text)
        self._tokens.append((begin, self._num_decoded, token))
        if self.num_tokens <= self._sampling.min_tokens:  # stop strings count from then on
            self._release(answer)
            return
        self._release(self._matcher.push(answer))
        if self._matcher.matched is not None:
            self._match()

    def _part(self, token_id: int, text: str) -> str:
        """Take the reasoning out of a token's text; returns what belongs to the answer."""
        if self._reasoning_text is None:
            return text
        num_before, reasoning, answer = self._reasoning_text.push(token_id, text)
        if self._reasoning_text.is_answer:
            self._reasoning_text = None
        return self._put_apart(num_before, reasoning, answer)

    def _part_last(self, text: str) -> str:
        """As `_part`, for the text that no token follows."""
        return text if self._reasoning_text is None else self._put_apart(*self._reasoning_text.flush(text))

    def _put_apart(self, num_before: int, reasoning: str, answer: str) -> str:
        self._num_released += num_before
        if reasoning:
            self._reasoning.append(reasoning)
        return answer

    @property
    def _is_reasoning(self) -> bool:
        return self._trace is not None and self._trace.is_open

    def _may_stop(self, before: str) -> bool:
        return self._check is None or self._check.may_stop(self._num_released + len(before))

    def _match(self) -> None:
        stop = self._matcher.matched or ""
        self.finish_reason, self.stop = "stop", stop
        if self._sampling.include_stop:
            self._release(stop)
        while self._tokens and self._is_cut_off():
            self._tokens.pop()
        self._tokens = deque((begin, min(end, self._num_released), token) for begin, end, token in self._tokens)

    def _is_cut_off(self) -> bool:
        """Whether the last token has text and none of it is released."""
        begin, end, _ = self._tokens[-1]
        return begin >= self._num_released and end > self._num_released

    def _release(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._num_released += len(text)

    def _take_tokens(self) -> tuple[list[int], list[TokenOutput]]:
        """What may leave, and where in the choice's text each begins."""
        offsets, tokens = [], []
        is_over = self.finish_reason is not None
        num_before = len(self._echo_text or "")
        while self._tokens and (is_over or self._tokens[0][1] <= self._num_released):
            begin, _, token = self._tokens.popleft()
            offsets.append(num_before + begin)
            tokens.append(token)
        return offsets, tokens

    def _prompt_offsets(self) -> tuple[int, ...]:
        """Where in the echoed text each of the prompt's tokens begins."""
        decoder, at, offsets = self._tokenizer.decoder(), 0, []
        for token_id in self._prompt:
            offsets.append(min(at, len(self._echo_text or "")))
            at += len(decoder.push(token_id))
        return tuple(offsets)

    def _logprob(self, token: TokenOutput) -> TokenLogprob:
        top = tuple(self._describe(*each) for each in token.top)
        return self._describe(token.token_id, token.logprob, top, token.requested)

    def _describe(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = (), requested: tuple[float, ...] = ()
    ) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id, data.decode(errors="replace"), data, logprob, top, requested)
