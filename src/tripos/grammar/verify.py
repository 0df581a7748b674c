"""Checks a constrained answer against its constraint again when it ends, and where a stop string would end it.

Replays the tokens that were reported, not the state that chose them, and reads JSON with another reader.
"""

from __future__ import annotations

from bisect import bisect_right

from tripos.grammar.compiler import CompiledConstraint
from tripos.grammar.matcher import Matcher
from tripos.schema.conformance import text_violation

MAX_LAG = 256  # tokens between the end of the answer and what is followed; no stop string has more
MAX_ROLLED_BACK = 4096  # tokens, in one answer; only stop strings made for it need more, and then they count no more


class AnswerCheck:
    """One choice's tokens and text, as they were decoded."""

    def __init__(self, constraint: CompiledConstraint, *, has_stops: bool = False) -> None:
        self._constraint = constraint
        self._is_followed = has_stops and constraint.schema is None
        self._num_rolled_back = 0
        self.begin(0)

    def begin(self, num_chars: int) -> None:
        """The answer begins behind so many characters: what came before was reasoning."""
        self._start = num_chars
        self._tokens: list[int] = []
        self._ends: list[int] = []  # of each token's text, in characters from the beginning of all text
        self._text: list[str] = []
        self._matcher: Matcher | None = None
        self._num_followed = 0  # tokens that the matcher has taken

    def push(self, token_id: int, text: str) -> None:
        self._tokens.append(token_id)
        self._text.append(text)
        self._ends.append((self._ends[-1] if self._ends else self._start) + len(text))
        if self._is_followed and len(self._tokens) - MAX_LAG > self._num_followed:
            self._follow(len(self._tokens) - MAX_LAG)

    def may_stop(self, num_chars: int) -> bool:
        """Whether the text before a stop string is complete; if not, the stop string is part of the answer.

        JSON is complete only where nothing can follow, and there it ends by itself. On the event loop: what a token
        costs does not grow with the answer, for a matcher follows at a distance. Raises GrammarProblem.
        """
        if not self._is_followed or num_chars < self._start or self._num_rolled_back > MAX_ROLLED_BACK:
            return False
        num_whole = bisect_right(self._ends, num_chars)
        begin = self._ends[num_whole - 1] if num_whole else self._start
        rest = self._text[num_whole][: num_chars - begin] if num_whole < len(self._text) else ""
        matcher = self._follow(num_whole)
        may_end = matcher.may_end_behind(self._constraint.grammar.vocabulary.encode(rest.encode()))
        if matcher.problem is not None:
            raise matcher.problem
        return may_end and self._is_followed

    def _follow(self, num_tokens: int) -> Matcher:
        """The matcher behind so many tokens of the answer, forwards or backwards. Raises GrammarProblem."""
        matcher = self._matcher
        if matcher is None:
            matcher = self._matcher = self._constraint.grammar.start()
        if num_tokens < self._num_followed:
            matcher.rollback(self._num_followed - num_tokens)
            self._num_rolled_back += self._num_followed - num_tokens
        tokens = self._tokens[self._num_followed : num_tokens]
        if matcher.num_allowed(tokens) == len(tokens):
            for token in tokens:
                matcher.accept(token)
        else:
            self._is_followed = False  # a token that ended it and is none of the grammar's: nothing follows
        self._num_followed = num_tokens
        if matcher.problem is not None:
            raise matcher.problem
        return matcher

    def violation(self, stop_token: int | None) -> str | None:
        """What is wrong with the finished answer. `stop_token` ended it and may or may not belong to its grammar.

        Takes long for a long one. Raises GrammarProblem when it cannot be told.
        """
        if self._constraint.schema is not None:
            found = text_violation(self._constraint.schema, "".join(self._text))
            if found is not None:
                return found
        accepts = self._constraint.grammar.accepts
        if accepts(self._tokens) or (stop_token is not None and accepts([*self._tokens, stop_token])):
            return None
        return "it is not a whole text of the grammar"
