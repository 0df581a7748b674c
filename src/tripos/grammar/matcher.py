"""Grammars over a model's vocabulary: the only door to the `llguidance` package.

Owns the guard around its panics, the limits of every parser, and the matcher that follows one sequence. Knows nothing
of requests, processes or caches; the compiling process imports this module, so it does not import numpy.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from tripos.errors import GrammarProblem, reraise_stop

if TYPE_CHECKING:
    import llguidance
    import numpy as np
    import numpy.typing as npt

    U32 = npt.NDArray[np.uint32]

# What one grammar may cost. Fuel is spent at about 50,000 (start) and 14,000 (step) units per millisecond, items at
# 20,000; a lexer state takes 1 to 2 kB and stays. All of BFCL's and the test suite's schemas need a tenth of this.
LIMITS: dict[str, Any] = {
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 8_192,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
# Forced tokens found in one step; the rest follows in the next. All of the forced text is tokenized again for each of
# its tokens, at 1 to 2 us per token, while the rest of the batch waits.
MAX_FORCED_LOOKS = 1024
# JSON on one line, as json.dumps writes it: with one spacing, all but the values is forced.
_JSON_OPTIONS = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
}

_REPLAYED_AT_ONCE = 64  # tokens; other threads may run in between
_PARSER_FAILS = "the grammar cannot be used: the parser fails on it"

log = logging.getLogger(__name__)

Encode = Callable[[bytes], list[int]]
T = TypeVar("T")


@lru_cache(maxsize=1)
def _library() -> Any:
    """llguidance, imported when the first grammar comes: most processes have none, and it takes 7 ms."""
    import llguidance

    return llguidance


@contextmanager
def _guarded() -> Iterator[None]:
    """Inside, every failure of the library but a deliberate stop becomes a GrammarProblem."""
    try:
        yield
    except BaseException as failure:
        raise _as_problem(failure) from None


def _as_problem(failure: BaseException) -> GrammarProblem:
    """The failure as an error of ours. Raises it again where it is a deliberate stop."""
    if isinstance(failure, GrammarProblem):
        return failure
    reraise_stop(failure)
    log.error("the grammar's parser failed: %s", type(failure).__name__)  # whose text may quote grammar or answer
    return GrammarProblem(_PARSER_FAILS)


class Vocabulary:
    """A model's tokens as the parser needs them: a trie of their bytes, and which of them are special or end."""

    def __init__(
        self, tokens: Sequence[bytes], special_ids: Sequence[int], eos_ids: Sequence[int], encode: Encode | None = None
    ) -> None:
        """`tokens` are the exact bytes of every id of the model, unused ones empty. `encode` gives the ids that the
        tokenizer makes of bytes; without it the longest tokens are taken."""
        self.size = len(tokens)
        self.num_words = -(-self.size // 32)  # of a mask: uint32, bit set = allowed
        self.eos_ids = tuple(sorted(eos_ids))
        self.digest = _digest(tokens, special_ids, self.eos_ids)
        self._tokens = _Tokens(tokens, special_ids, self.eos_ids, encode)
        source: Any = self._tokens  # not llguidance's class, which would call a tokenizer object to encode
        with _guarded():
            self._backend = _library().LLTokenizer(source, eos_token=list(self.eos_ids) or None)

    def encode(self, data: bytes) -> list[int]:
        """The tokens of some bytes inside a text."""
        return self._tokens(data)

    def compile(self, text: str) -> Grammar:
        """The grammar that `json_grammar`, `regex_grammar` or `lark_grammar` wrote. Raises GrammarProblem."""
        with _guarded():
            library = _library()
            matcher = library.LLMatcher(self._backend, text, log_level=0, limits=library.LLParserLimits(**LIMITS))
            if matcher.is_error():
                raise _problem(matcher)
        return Grammar(self, matcher, hashlib.sha256(text.encode()).digest())


class _Tokens:
    """A vocabulary with the attributes that LLTokenizer reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, tokens: Sequence[bytes], special_ids: Sequence[int], eos_ids: Sequence[int], encode: Encode | None
    ) -> None:
        self.tokens = list(tokens)
        self.special_token_ids = sorted({*special_ids, *eos_ids})
        self.eos_token_id = eos_ids[0] if eos_ids else 0
        special = set(self.special_token_ids)
        self._by_bytes = {data: id for id, data in reversed(list(enumerate(tokens))) if data and id not in special}
        self._longest = max(map(len, self._by_bytes), default=1)
        self._encode = encode

    def __call__(self, text: str | bytes) -> list[int]:
        data = text.encode() if isinstance(text, str) else bytes(text)
        if self._encode is not None:
            try:
                ids = self._encode(data)
            except Exception as problem:  # must not reach the parser, which would panic
                log.error("forced text could not be tokenized (%s): a bug in Tripos", type(problem).__name__)
                ids = []
            if b"".join(self.tokens[id] for id in ids if id < len(self.tokens)) == data:
                return ids
        return self._longest_tokens(data)

    def _longest_tokens(self, data: bytes) -> list[int]:
        """The longest tokens of some bytes. Bytes that no token has are left out."""
        ids, at = [], 0
        while at < len(data):
            for end in range(min(len(data), at + self._longest), at, -1):
                id = self._by_bytes.get(data[at:end])
                if id is not None:
                    ids.append(id)
                    at = end
                    break
            else:
                at += 1
        return ids


class Grammar:
    """A compiled grammar. `start` gives the matcher of one sequence.

    Matchers share the states of the lexer, which grow up to a limit and live as long as the grammar.
    """

    def __init__(self, vocabulary: Vocabulary, matcher: llguidance.LLMatcher, digest: bytes) -> None:
        self.vocabulary = vocabulary
        self.digest = digest  # SHA-256 of the text it was compiled from
        self.num_tokens = 0  # taken by its matchers; bounds the number of lexer states
        self._matcher = matcher

    def start(self) -> Matcher:
        with _guarded():
            return Matcher(self._matcher.deep_copy(), self)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether these tokens, from the first, are a whole text of the grammar."""
        self.num_tokens += len(tokens)
        with _guarded():
            matcher = self._matcher.deep_copy()
            for at in range(0, len(tokens), _REPLAYED_AT_ONCE):
                if not matcher.consume_tokens(list(tokens[at : at + _REPLAYED_AT_ONCE])):
                    return False
            return matcher.is_accepting()

    def try_first(self) -> None:
        """Compute the first mask. Raises GrammarProblem when that costs too much, or no token is allowed."""
        with _guarded():
            matcher = self._matcher.deep_copy()
            is_empty = not any(matcher.compute_bitmask())
            if matcher.is_error():
                raise _problem(matcher)
            if is_empty:
                raise GrammarProblem("the grammar cannot be used: no text of this model's tokens matches it")


class Matcher:
    """Follows one sequence, token by token. Used by one thread at a time. After a failure `problem` says why.

    Calls for every token go to the parser without a context manager, which would cost as much as a mask.
    """

    def __init__(self, matcher: llguidance.LLMatcher, grammar: Grammar) -> None:
        self._matcher = matcher
        self._grammar = grammar
        self.num_words = grammar.vocabulary.num_words
        self._num_bytes = 4 * self.num_words
        self._masks: U32 | None = None  # the array written last, and its address
        self._address = 0
        self.problem: GrammarProblem | None = None
        self.is_complete = matcher.is_stopped()  # only the end can follow

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here."""
        return self._ask(self._matcher.is_accepting, False)

    def fill(self, masks: U32, drafts: Sequence[int] = ()) -> None:
        """Write which tokens may come next into masks[0], and after each of `drafts` into the row that follows.

        masks: [1 + len(drafts), num_words], C-contiguous. Drafts must be `num_allowed`. After a failure every token is
        allowed, and whatever is drawn there must not be used.
        """
        if self.problem is None:
            if masks is not self._masks:  # while the batch stays, the rows are the same in every step
                self._masks, self._address = masks, masks.ctypes.data
            try:
                self._fill(drafts)
                return
            except BaseException as failure:
                self.problem = _as_problem(failure)
        masks.fill(0xFFFFFFFF)

    def _fill(self, drafts: Sequence[int]) -> None:
        matcher = self._matcher
        for place, draft in enumerate(drafts):
            matcher.unsafe_compute_mask_ptr(self._address + place * self._num_bytes, self._num_bytes)
            if matcher.is_error() or not matcher.consume_token(draft):
                raise _problem(matcher)
        matcher.unsafe_compute_mask_ptr(self._address + len(drafts) * self._num_bytes, self._num_bytes)
        if not matcher.is_error() and drafts:
            matcher.rollback(len(drafts))
        if matcher.is_error():
            raise _problem(matcher)

    def accept(self, token: int) -> bool:
        """Take a token that was drawn; False when the grammar does not allow it (see `problem`)."""
        if self.problem is not None:
            return False
        self._grammar.num_tokens += 1
        try:
            if self._matcher.consume_token(token):
                self.is_complete = self._matcher.is_stopped()
                return True
            self.problem = _problem(self._matcher)
        except BaseException as failure:
            self.problem = _as_problem(failure)
        return False

    def rollback(self, num_tokens: int) -> None:
        """Take back the tokens accepted last."""
        self._ask(lambda: self._matcher.rollback(num_tokens), False)
        self.is_complete = self._ask(self._matcher.is_stopped, False)

    def may_end_behind(self, tokens: Sequence[int]) -> bool:
        """Whether the text may end after these further tokens. They are not taken."""
        if self.num_allowed(tokens) < len(tokens):
            return False
        for token in tokens:
            self.accept(token)
        may_end = self.is_accepting
        if tokens:
            self.rollback(len(tokens))
        return may_end

    def num_allowed(self, tokens: Sequence[int]) -> int:
        """How many of `tokens`, in order, the grammar allows next; 0 after a failure."""
        return self._ask(lambda: self._matcher.validate_tokens(list(tokens)), 0)

    def forced(self) -> Iterator[int]:
        """The tokens that the grammar forces, each accepted before the next is found.

        They are the single tokens that the masks would allow, so the text is the same as without jumping ahead.
        """
        num_looks = 0
        while num_looks < MAX_FORCED_LOOKS:
            nothing: list[int] = []
            tokens = self._ask(self._matcher.compute_ff_tokens, nothing)
            if not tokens or not self.accept(tokens[0]):
                return
            num_looks += len(tokens)
            yield tokens[0]

    def _ask(self, ask: Callable[[], T], otherwise: T) -> T:
        """The parser's answer, or `otherwise` after a failure, which `problem` holds."""
        if self.problem is not None:
            return otherwise
        try:
            return ask()
        except BaseException as failure:
            self.problem = _as_problem(failure)
            return otherwise


def json_grammar(schema: str) -> str:
    """A grammar of the JSON texts that a schema (as JSON text) describes."""
    with _guarded():
        return str(_library().LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_OPTIONS))


def regex_grammar(pattern: str) -> str:
    """A grammar of the texts that match a pattern from beginning to end."""
    with _guarded():
        return str(_library().LLMatcher.grammar_from_regex(pattern))


def lark_grammar(source: str) -> str:
    with _guarded():
        return str(_library().LLMatcher.grammar_from_lark(source))


def _problem(matcher: llguidance.LLMatcher) -> GrammarProblem:
    message = matcher.get_error() or matcher.stop_reason()
    if "panic" in message.partition(":")[0]:  # the rest of the message names files of the library
        log.error("the grammar's parser failed: it panicked")
        return GrammarProblem(_PARSER_FAILS)
    if message.startswith("NoExtension"):
        return GrammarProblem("the grammar cannot be used: no token of this model can go on")
    is_limit = (
        matcher.stop_reason() in ("ParserTooComplex", "LexerTooComplex")
        or "limit" in message
        or "too many states" in message
    )
    if is_limit:
        return GrammarProblem(f"the grammar is too complex: {_first_line(message)}", code="grammar_too_complex")
    return GrammarProblem(f"the grammar cannot be used: {_first_line(message)}")


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line.removeprefix("error: ") for line in lines[1:] if line.startswith("error: ")]
    return " ".join([*lines[:1], *causes[:1]])[:300] or "no cause given"


def _digest(tokens: Sequence[bytes], special_ids: Sequence[int], eos_ids: Sequence[int]) -> bytes:
    hasher = hashlib.sha256(repr((sorted(special_ids), eos_ids)).encode())
    for token in tokens:
        hasher.update(len(token).to_bytes(4, "little") + token)
    return hasher.digest()
