"""From a request's constraint to a compiled grammar of one model: compiled in another process first, then cached.

Owns the vocabulary that grammars are compiled over, the compiling process and the cache, which holds errors too.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from tripos.errors import EngineFailed, InvalidRequest, Overloaded
from tripos.grammar.matcher import Encode, Grammar, Vocabulary
from tripos.types import Constraint

if TYPE_CHECKING:
    from tripos.grammar.compile_process import CompileProcess, Tokens

MAX_CACHE_BYTES = 64 << 20
MAX_PENDING = 32  # constraints that wait to be compiled; more are refused
RENEW_TOKENS = 2048  # taken by a grammar's matchers; then it is compiled anew, which frees its lexer states
_ENTRY_BYTES = 16 << 10  # at least, for one entry
_LEARNT_BYTES = 4 << 10  # of lexer states per token taken, for the worst patterns
_REFUSAL_BYTES = 2 << 10


class CompiledConstraint:
    """A grammar, and the schema against which the finished text is checked again."""

    def __init__(self, grammar: Grammar, text: str, schema: Any, num_bytes: int) -> None:
        self.grammar = grammar
        self.text = text  # the source of the grammar
        self.schema = schema  # None: the text need not be JSON
        self.compiled_bytes = num_bytes

    @property
    def num_bytes(self) -> int:
        """Estimated memory: as measured when it was first compiled, and the lexer states since."""
        return self.compiled_bytes + _LEARNT_BYTES * self.grammar.num_tokens

    @property
    def is_worn(self) -> bool:
        return self.grammar.num_tokens > RENEW_TOKENS


class Tokenizer(Protocol):
    """The tokenizer whose tokens a grammar is compiled over."""

    @property
    def all_token_bytes(self) -> tuple[bytes, ...]: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    def encode_inside(self, text: str) -> list[int]: ...


class Grammars:
    """The grammars of one model. Methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # guards the vocabulary and the process
        self._vocabulary: Vocabulary | None = None
        self._process: CompileProcess | None = None
        self._cache = _Cache(MAX_CACHE_BYTES)
        self._executor: ThreadPoolExecutor | None = None
        self._num_pending = 0

    @property
    def cache_bytes(self) -> int:
        return self._cache.num_bytes

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def get(self, constraint: Constraint) -> CompiledConstraint:
        """As `compile`, without blocking the event loop. Raises also Overloaded and EngineFailed."""
        import asyncio

        _check_source(constraint)
        found = self._cache.get(_key(constraint))
        if found is not None and not _is_worn(found):
            return _unless_refused(found, constraint)
        if self._num_pending >= MAX_PENDING:
            raise Overloaded(
                f"{self._num_pending} grammars are waiting to be compiled: retry in 5 s", retry_after_s=5.0
            )
        executor = self._executor
        if executor is None:
            executor = self._executor = ThreadPoolExecutor(1, thread_name_prefix="tripos-grammar")
        job = asyncio.get_running_loop().run_in_executor(executor, self.compile, constraint)
        self._num_pending += 1
        try:
            await asyncio.wait({job})  # cancelling the caller cancels the wait; `close` cancels the job
        finally:
            self._num_pending -= 1
            job.cancel()  # its caller was cancelled
        if job.cancelled():
            raise EngineFailed("the model was stopped", code="draining", retry_after_s=5.0)
        return job.result()

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """The grammar of a constraint. Takes microseconds when it is cached, else up to seconds.

        Raises InvalidRequest: invalid_schema, unsupported_schema, invalid_grammar or grammar_too_complex.
        """
        _check_source(constraint)
        key = _key(constraint)
        with self._lock:
            found = self._cache.get(key)
            if found is None or _is_worn(found):
                found = self._compile(constraint) if found is None else self._renew(found)
                self._cache.put(key, found)
        return _unless_refused(found, constraint)

    def close(self) -> None:
        """End the compiling process; what is cached stays. Idempotent."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.close()

    def _compile(self, constraint: Constraint) -> CompiledConstraint | InvalidRequest:
        if self._vocabulary is None or self._process is None:
            from tripos.grammar.compile_process import CompileProcess

            tokens = _tokens(self._tokenizer, self._vocab_size)
            self._process = CompileProcess(tokens)
            self._vocabulary = Vocabulary(
                tokens.tokens, tokens.special_ids, tokens.eos_ids, _encode_with(self._tokenizer)
            )
        try:
            verdict = self._process.check(constraint)
            assert verdict.admitted is not None
            grammar = self._vocabulary.compile(verdict.admitted.text)
        except InvalidRequest as problem:
            return problem
        schema = None if verdict.admitted.schema is None else json.loads(verdict.admitted.schema)
        size = max(verdict.num_bytes, _ENTRY_BYTES) + 8 * len(verdict.admitted.text)
        return CompiledConstraint(grammar, verdict.admitted.text, schema, size)

    def _renew(self, worn: CompiledConstraint | InvalidRequest) -> CompiledConstraint | InvalidRequest:
        """Compile a grammar anew that was admitted before: it takes what it took then."""
        if isinstance(worn, InvalidRequest) or self._vocabulary is None:
            return worn
        return CompiledConstraint(self._vocabulary.compile(worn.text), worn.text, worn.schema, worn.compiled_bytes)


def _check_source(constraint: Constraint) -> None:
    from tripos.grammar.limits import check_source  # imports the schema reader: 6 ms that most requests do not need

    check_source(constraint)


class _Cache:
    """Compiled grammars and errors, evicted by bytes, least recently used first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[bytes, CompiledConstraint | InvalidRequest] = OrderedDict()
        self._grammars: dict[
            bytes, CompiledConstraint
        ] = {}  # the entries that are no errors; an error has a fixed size
        self._lock = threading.Lock()

    def get(self, key: bytes) -> CompiledConstraint | InvalidRequest | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                self._trim()
            return entry

    def put(self, key: bytes, entry: CompiledConstraint | InvalidRequest) -> None:
        with self._lock:
            self._entries[key] = entry
            self._grammars.pop(key, None)
            if isinstance(entry, CompiledConstraint):
                self._grammars[key] = entry
            self._trim()

    @property
    def num_bytes(self) -> int:
        """Bytes of all entries, after evicting."""
        with self._lock:
            return self._trim()

    def _trim(self) -> int:
        """Evict. Grammars grow while they are used, so they are counted each time: they are few, errors are many."""
        num_refusals = len(self._entries) - len(self._grammars)
        num_bytes = sum(each.num_bytes for each in self._grammars.values()) + num_refusals * _REFUSAL_BYTES
        while num_bytes > self.max_bytes:
            key, oldest = self._entries.popitem(last=False)
            self._grammars.pop(key, None)
            num_bytes -= oldest.num_bytes if isinstance(oldest, CompiledConstraint) else _REFUSAL_BYTES
        return num_bytes


def _is_worn(entry: CompiledConstraint | InvalidRequest) -> bool:
    return isinstance(entry, CompiledConstraint) and entry.is_worn


def _key(constraint: Constraint) -> bytes:
    return hashlib.sha256(f"{constraint.kind}\0{constraint.source}".encode(errors="surrogatepass")).digest()


def _unless_refused(found: CompiledConstraint | InvalidRequest, constraint: Constraint) -> CompiledConstraint:
    if isinstance(found, InvalidRequest):
        raise InvalidRequest(found.message, code=found.code, param=constraint.param)
    return found


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> Tokens:
    from tripos.grammar.compile_process import Tokens

    tokens = list(tokenizer.all_token_bytes[:vocab_size])
    tokens += [b""] * (vocab_size - len(tokens))
    return Tokens(
        tokens=tokens,
        special_ids=[id for id in tokenizer.special_ids if id < vocab_size],
        eos_ids=[id for id in tokenizer.eos_ids if id < vocab_size],
    )


def _encode_with(tokenizer: Tokenizer) -> Encode:
    def encode(data: bytes) -> list[int]:
        try:
            return tokenizer.encode_inside(data.decode())
        except UnicodeDecodeError:  # the bytes end inside a character
            return []

    return encode
