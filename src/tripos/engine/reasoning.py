"""Reasoning before an answer: where a sequence stands, how many tokens it took, and what that means for its next token.

A model reasons at the beginning of its output only. While it does, its grammar waits; when its tokens are used up, the
mark that ends reasoning is forced, as a grammar forces text. All of it follows from the sequence's own tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tripos.errors import GrammarProblem
from tripos.grammar.matcher import Matcher
from tripos.models.text.tokenizer import Tokenizer
from tripos.runtime.executor import U32
from tripos.types import Generate, Reasoning

_NUM_LAST_TOKENS = 32  # of a prompt, looked at for a mark
SPACE = " \t\r\n"
_ALL = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Marks:
    """The marks around reasoning in a model's tokens. `start_id`: when one token spells the first."""

    start: bytes
    end: bytes
    start_id: int | None
    end_ids: tuple[int, ...]


def marks_of(reasoning: Reasoning, tokenizer: Tokenizer) -> Marks:
    end_id = tokenizer.token_id(reasoning.end)
    end_ids = tokenizer.encode_inside(reasoning.end) if end_id is None else [end_id]
    return Marks(reasoning.start.encode(), reasoning.end.encode(), tokenizer.token_id(reasoning.start), tuple(end_ids))


class Trace:
    """Follows one sequence: not begun, reasoning, or answering."""

    def __init__(
        self, marks: Marks, tokenizer: Tokenizer, prompt: Sequence[int], *, is_constrained: bool = False
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
        self.is_open = last.endswith(marks.start)
        self.is_over = last.endswith(marks.end)

    def push(self, token_id: int) -> None:
        """Take the next token of the output."""
        if self.is_over:
            return
        self.num_tokens += 1
        self._tail += self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""
        if not self.is_open:
            self._begin(token_id)
        if self.is_open:
            _, end, self.rest = self._tail.partition(self.marks.end)
            self.is_over = bool(end)
            self.is_open = not self.is_over
            self._tail = self._tail[-len(self.marks.end) + 1 :]

    def answer(self) -> None:
        """The answer begins here."""
        self.is_open, self.is_over = False, True

    def _begin(self, token_id: int) -> None:
        text, start = self._tail.lstrip(SPACE.encode()), self.marks.start
        if text.startswith(start) and not (self._is_constrained and token_id != self.marks.start_id):
            self.is_open, self._tail = True, text[len(start) :]
        elif self._is_constrained or not start.startswith(text):
            self.num_tokens = 0
            self.answer()


def trace_of(request: Generate, tokenizer: Tokenizer, prompt: list[int]) -> Trace | None:
    """How one sequence of a request reasons; None where no reasoning was asked for."""
    if request.reasoning is None:
        return None
    is_constrained = request.constraint is not None
    return Trace(marks_of(request.reasoning, tokenizer), tokenizer, prompt, is_constrained=is_constrained)


class AnswerStart:
    """Where a choice's text becomes its answer: behind the reasoning, and behind white space that follows that."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._held = ""  # may be the beginning of a mark
        self._is_awaited = False  # reasoning came, and no more than white space since it ended
        self._is_found = trace is None or trace.is_over

    def push(self, token_id: int, text: str) -> tuple[str, str]:
        """The next token and its text → (what stands before the answer, what belongs to it), as far as it is known."""
        if self._trace is None or self._is_found:
            return "", text
        trace, text, self._held = self._trace, self._held + text, ""
        was_over = trace.is_over
        trace.push(token_id)
        if trace.is_open:
            return text, ""
        if not trace.is_over:
            self._held = text
            return "", ""
        at = 0
        if not was_over and trace.num_tokens:  # of reasoning, which this token ended
            self._is_awaited = True
            rest = trace.rest.decode(errors="ignore")
            at = len(text) - len(rest) if text.endswith(rest) else len(text)
        if self._is_awaited:
            at = len(text) - len(text[at:].lstrip(SPACE))
        self._is_found = at < len(text) or not self._is_awaited
        return text[:at], text[at:]

    def flush(self) -> str:
        """What was held back, when nothing follows it."""
        text, self._held = self._held, ""
        return text


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
        ahead = copy.copy(self.trace)
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
