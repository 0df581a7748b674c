"""Reasoning before an answer: where a sequence stands, how many tokens it took, and what that means for its next token
and its text.

A model reasons at the beginning of its output only. While it does, its grammar waits; when its tokens are used up, the
mark that ends reasoning is forced, as a grammar forces text. All of it follows from the sequence's own tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tripos.errors import GrammarProblem
from tripos.grammar.matcher import Grammar, Matcher
from tripos.models.text.tokenizer import Tokenizer
from tripos.runtime.executor import U32
from tripos.types import Generate, ReasoningMarks

_NUM_LAST_TOKENS = 32  # of a prompt, looked at for a mark
SPACE = " \t\r\n"
_ALL = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class MarkTokens:
    """The marks around reasoning in a model's tokens. `start_id`: when one token spells the first."""

    start: str
    end: str
    start_bytes: bytes
    end_bytes: bytes
    start_id: int | None
    end_ids: tuple[int, ...]


def mark_tokens(marks: ReasoningMarks, tokenizer: Tokenizer) -> MarkTokens:
    end_id = tokenizer.token_id(marks.end)
    end_ids = tokenizer.encode_inside(marks.end) if end_id is None else [end_id]
    return MarkTokens(
        marks.start,
        marks.end,
        marks.start.encode(),
        marks.end.encode(),
        tokenizer.token_id(marks.start),
        tuple(end_ids),
    )


class Trace:
    """Follows one sequence: not begun, reasoning, or answering."""

    def __init__(
        self, marks: MarkTokens, tokenizer: Tokenizer, prompt: Sequence[int], *, is_constrained: bool = False
    ) -> None:
        """The prompt may have begun the reasoning, or ended it. `is_constrained`: only the token that spells the first
        mark begins it, for a text might be the answer's."""
        self.marks = marks
        self._is_constrained = is_constrained
        self.num_tokens = 0  # of reasoning, marks included
        self._token_bytes = tokenizer.all_token_bytes
        self._tail = b""  # what may be the beginning of a mark
        self.rest = b""  # behind the mark that ended reasoning, of the token that completed it
        last = tokenizer.decode(prompt[-_NUM_LAST_TOKENS:], skip_special=False).encode().rstrip(SPACE.encode())
        self.is_open = last.endswith(marks.start_bytes)
        self.is_over = last.endswith(marks.end_bytes)

    def copy(self) -> Trace:
        """A trace of the same place, which goes on by itself."""
        return copy.copy(self)

    def push(self, token_id: int) -> None:
        """Take the next token of the output."""
        if self.is_over:
            return
        self.num_tokens += 1
        self._tail += self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""
        if not self.is_open:
            self._begin(token_id)
        if self.is_open:
            _, end, self.rest = self._tail.partition(self.marks.end_bytes)
            self.is_over = bool(end)
            self.is_open = not self.is_over
            self._tail = self._tail[-len(self.marks.end_bytes) + 1 :]

    def answer(self) -> None:
        """The answer begins here."""
        self.is_open, self.is_over = False, True

    def _begin(self, token_id: int) -> None:
        text, start = self._tail.lstrip(SPACE.encode()), self.marks.start_bytes
        if text.startswith(start) and not (self._is_constrained and token_id != self.marks.start_id):
            self.is_open, self._tail = True, text[len(start) :]
        elif self._is_constrained or not start.startswith(text):
            self.num_tokens = 0
            self.answer()


class EncodedPrompt(NamedTuple):
    """A prompt's token ids, and where its reasoning stands behind them (None: the request names no marks)."""

    token_ids: list[int]
    trace: Trace | None


class ReasoningStart:
    """Tells where a model's sequences stand before their first token. Owns the tokens of marks, looked up once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._marks: dict[tuple[str, str], MarkTokens] = {}

    def of_prompt(self, request: Generate, token_ids: list[int]) -> EncodedPrompt:
        """A prompt; reasoning that it begins is ended here if it may have no tokens."""
        marks = request.reasoning_marks
        if marks is None:
            return EncodedPrompt(token_ids, None)
        trace = self._trace(marks, token_ids, is_constrained=request.constraint is not None)
        if trace.is_open and marks.max_tokens == 0:
            token_ids = [*token_ids, *trace.marks.end_ids]
            trace.answer()
        return EncodedPrompt(token_ids, trace)

    def of_branch(self, request: Generate, prompt: EncodedPrompt, suffix: Sequence[int]) -> EncodedPrompt:
        """A branch's prompt with its suffix."""
        if not suffix:
            return prompt
        token_ids, marks = [*prompt.token_ids, *suffix], request.reasoning_marks
        if marks is None:
            return EncodedPrompt(token_ids, None)
        return EncodedPrompt(token_ids, self._trace(marks, token_ids, is_constrained=request.constraint is not None))

    def _trace(self, marks: ReasoningMarks, token_ids: Sequence[int], *, is_constrained: bool) -> Trace:
        key = (marks.start, marks.end)
        tokens = self._marks.get(key)
        if tokens is None:
            tokens = self._marks[key] = mark_tokens(marks, self._tokenizer)
        return Trace(tokens, self._tokenizer, token_ids, is_constrained=is_constrained)


class ReasoningText:
    """Parts one choice's text into reasoning and answer. The marks around the reasoning, and white space around it and
    before the answer, belong to neither.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.is_answer = trace.is_over  # all text from here on is the answer
        self._held = ""  # may be the beginning of a mark, or the white space behind the reasoning
        self._is_fresh = True  # no reasoning text came yet
        self._is_awaited = False  # the reasoning ended, and no more than white space followed

    def push(self, token_id: int, text: str) -> tuple[int, str, str]:
        """The next token and its text → (characters of the text so far that now stand before the answer, their
        reasoning, the answer's text). Text whose place is not known yet comes with a later token.
        """
        trace, was_open = self.trace, self.trace.is_open
        trace.push(token_id)
        if trace.is_open:
            return self._reason(text, was_open)
        if not trace.is_over:
            self._held += text
            return 0, "", ""
        if self._is_awaited:
            return self._answer("", text, 0)
        if not trace.num_tokens:  # there was no reasoning, and white space at the beginning is the answer's
            self.is_answer = True
            text, self._held = self._held + text, ""
            return 0, "", text
        return self._end(text, was_open)

    def flush(self, text: str) -> tuple[int, str, str]:
        """As `push`, with the last text, which no token follows."""
        if self.trace.is_open:
            num_before, reasoning, _ = self._reason(text, was_open=True)
            return num_before, reasoning + self._held.rstrip(SPACE), ""
        if self._is_awaited:
            return self._answer("", text, 0)
        return 0, "", self._held + text

    def _reason(self, text: str, was_open: bool) -> tuple[int, str, str]:
        num_before = len(text)
        if not was_open:
            text = self._held + text
            num_before = len(text)
            text, self._held = text.lstrip(SPACE).removeprefix(self.trace.marks.start), ""
        text = self._held + text
        certain = text[: len(text) - _num_begun(text, self.trace.marks.end)].rstrip(SPACE)
        self._held = text[len(certain) :]
        return num_before, self._fresh(certain), ""

    def _end(self, text: str, was_open: bool) -> tuple[int, str, str]:
        """The token completes the mark behind the reasoning."""
        rest = self.trace.rest.decode(errors="ignore")
        at = len(text) - len(rest) if text.endswith(rest) else len(text)
        before, behind = text[:at], text[at:]
        num_before, before, self._held = len(before) + (0 if was_open else len(self._held)), self._held + before, ""
        if not was_open:
            before = before.lstrip(SPACE).removeprefix(self.trace.marks.start)
        reasoning = self._fresh(before.removesuffix(self.trace.marks.end).rstrip(SPACE))
        return self._answer(reasoning, behind, num_before)

    def _answer(self, reasoning: str, text: str, num_before: int) -> tuple[int, str, str]:
        """Text behind the reasoning."""
        answer = text.lstrip(SPACE)
        self.is_answer, self._is_awaited = bool(answer), not answer
        return num_before + len(text) - len(answer), reasoning, answer

    def _fresh(self, reasoning: str) -> str:
        """Reasoning without the white space before it."""
        if self._is_fresh:
            reasoning = reasoning.lstrip(SPACE)
            self._is_fresh = not reasoning
        return reasoning


def _num_begun(text: str, mark: str) -> int:
    """Characters at the end of `text` that may be the beginning of `mark`."""
    at = text.find(mark[0], max(0, len(text) - len(mark) + 1))
    while at >= 0 and not mark.startswith(text[at:]):
        at = text.find(mark[0], at + 1)
    return len(text) - at if at >= 0 else 0


class ReasoningMatcher:
    """A Matcher that lets a model reason first, for at most `max_tokens` tokens, and then follows `inner`, if any.

    With an `inner` the trace is constrained, and none of `eos_ids` may end the sequence while it reasons: there would
    be no answer.
    """

    def __init__(
        self,
        trace: Trace,
        max_tokens: int | None,
        vocab_size: int,
        inner: Matcher | None = None,
        eos_ids: Sequence[int] = (),
    ) -> None:
        self.trace = trace
        self.num_words = -(-vocab_size // 32)
        self._max_tokens = max_tokens
        self._inner = inner
        self._banned = tuple(eos_ids) if inner is not None else ()
        self._num_ended = 0  # tokens of the end mark that are out, once it is forced

    @property
    def problem(self) -> GrammarProblem | None:
        return self._inner.problem if self._inner is not None else None

    @property
    def is_complete(self) -> bool:
        return self._inner is not None and self.trace.is_over and self._inner.is_complete

    @property
    def is_accepting(self) -> bool:
        """As Matcher.is_accepting."""
        return self._inner is None or (not self.trace.is_open and self._inner.is_accepting)

    @property
    def _is_due(self) -> bool:
        """Whether the end mark must come now."""
        used_up = self._max_tokens is not None and self.trace.num_tokens >= self._max_tokens
        return self.trace.is_open and (used_up or self._num_ended > 0)

    def fill(self, masks: U32, drafts: Sequence[int] = ()) -> None:
        """As Matcher.fill."""
        if self._inner is not None and not self.trace.is_open:
            self._inner.fill(masks, drafts)
            if not self.trace.is_over and self.trace.marks.start_id is not None:
                _allow(masks[0], self.trace.marks.start_id)
            return
        if self._is_due:
            masks.fill(0)
            _allow(masks[0], self.trace.marks.end_ids[self._num_ended])
            return
        masks.fill(_ALL)
        if self.trace.is_open:
            for id in self._banned:
                masks[:, id // 32] &= ~(np.uint32(1) << np.uint32(id % 32))

    def accept(self, token: int) -> bool:
        """As Matcher.accept."""
        trace = self.trace
        is_due, was_open = self._is_due, trace.is_open
        trace.push(token)
        if self._inner is not None and trace.is_over and not was_open:
            return self._inner.accept(token)
        if is_due:
            self._num_ended += 1
            if self._num_ended == len(trace.marks.end_ids):
                trace.answer()
        return True

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """As Matcher.num_allowed; guesses end where reasoning does."""
        if self.trace.is_over:
            return len(tokens) if self._inner is None else self._inner.num_allowed(tokens)
        if self._is_due or not self.trace.is_open:
            return 0
        ahead = self.trace.copy()
        most = len(tokens) if self._max_tokens is None else self._max_tokens - self.trace.num_tokens - 1
        for place, token in enumerate(tokens[: max(0, most)]):
            ahead.push(token)
            if not ahead.is_open or token in self._banned:
                return place
        return max(0, min(len(tokens), most))

    def forced(self) -> Iterator[int]:
        """As Matcher.forced."""
        while self._is_due:
            token = self.trace.marks.end_ids[self._num_ended]
            self.accept(token)
            yield token
        if self._inner is not None and self.trace.is_over:
            yield from self._inner.forced()


def _allow(mask: U32, id: int) -> None:
    mask[id // 32] |= np.uint32(1) << np.uint32(id % 32)


def matcher_of(
    request: Generate, grammar: Grammar | None, trace: Trace | None, vocab_size: int, eos_ids: Collection[int]
) -> Matcher | ReasoningMatcher | None:
    """What follows the output tokens of one sequence, if anything must. `trace`: at the end of its prompt."""
    inner = grammar.start() if grammar is not None else None
    max_tokens = request.reasoning_marks.max_tokens if request.reasoning_marks is not None else None
    if trace is None or trace.is_over or (inner is None and max_tokens is None):
        return inner
    return ReasoningMatcher(trace.copy(), max_tokens, vocab_size, inner, tuple(eos_ids))
