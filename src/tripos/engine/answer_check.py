"""A constrained answer, held against its constraint once more when it ends, and where a stop string would end it.

Replays the tokens that were reported, not the state that chose them, and reads JSON with another reader.
"""

from __future__ import annotations

from bisect import bisect_right

from tripos.engine.conformance import text_violation
from tripos.engine.constraints import CompiledConstraint

# Of one answer that found it incomplete; then stop strings count no more. Each replays it on the event loop, which is
# quick: the engine's own matcher has met every state of the lexer before.
MAX_STOP_CHECKS = 16


class AnswerCheck:
    """One choice's tokens and text, as they were decoded."""

    def __init__(self, constraint: CompiledConstraint) -> None:
        self._constraint = constraint
        self._num_stop_checks = 0
        self.begin(0)

    def begin(self, num_chars: int) -> None:
        """The answer begins behind so many characters: what came before was reasoning."""
        self._start = num_chars
        self._tokens: list[int] = []
        self._ends: list[int] = []  # of each token's text, in characters from the beginning of all text
        self._text: list[str] = []

    def push(self, token_id: int, text: str) -> None:
        self._tokens.append(token_id)
        self._text.append(text)
        self._ends.append((self._ends[-1] if self._ends else self._start) + len(text))

    def may_stop(self, num_chars: int) -> bool:
        """Whether the text before a stop string is complete; if not, the stop string is part of the answer.

        JSON is complete only where nothing can follow, and there it ends by itself. Raises GrammarProblem.
        """
        is_inside = num_chars >= self._start and self._num_stop_checks < MAX_STOP_CHECKS
        if self._constraint.schema is not None or not is_inside:
            return False
        num_whole = bisect_right(self._ends, num_chars)
        begin = self._ends[num_whole - 1] if num_whole else self._start
        rest = "".join(self._text)[begin - self._start : num_chars - self._start]
        grammar = self._constraint.grammar
        if grammar.accepts([*self._tokens[:num_whole], *grammar.vocabulary.encode(rest.encode())]):
            return True
        self._num_stop_checks += 1
        return False

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
