"""From what a request asks for to a compiled grammar of this model: tried in another process first, kept in memory.

Owns the vocabulary that grammars are compiled over, the compiling process and the cache, refusals included.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tripos.engine.compile_process import CompileProcess, Tokens
from tripos.engine.gate import check_source
from tripos.engine.grammar import Encode, Grammar, Vocabulary
from tripos.errors import InvalidRequest, Overloaded
from tripos.models.tokenizer import Tokenizer
from tripos.types import Constraint

MAX_CACHE_BYTES = 64 << 20
MAX_PENDING = 32  # constraints that wait to be compiled; then further ones are refused
_ENTRY_BYTES = 16 << 10  # at least, for one entry


class CompiledConstraint:
    """A grammar, and the schema that the finished text is held against once more."""

    def __init__(self, grammar: Grammar, schema: Any, num_bytes: int) -> None:
        self.grammar = grammar
        self.schema = schema  # None: the text need not be JSON
        self.num_bytes = num_bytes


class Grammars:
    """The grammars of one model. Methods may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()  # of the vocabulary and process
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
        """What `compile` gives, without blocking the event loop. Raises as compile, and Overloaded."""
        check_source(constraint)
        found = self._cache.get(_key(constraint))
        if found is not None:
            return _unless_refused(found, constraint)
        if self._num_pending >= MAX_PENDING:
            raise Overloaded(f"{self._num_pending} grammars wait to be compiled: retry in 5 s", retry_after_s=5.0)
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="tripos-grammar")
        self._num_pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, self.compile, constraint)
        finally:
            self._num_pending -= 1

    def compile(self, constraint: Constraint) -> CompiledConstraint:
        """Takes microseconds for what is known, else up to seconds.

        Raises InvalidRequest: invalid_schema, unsupported_schema, invalid_grammar or grammar_too_complex.
        """
        check_source(constraint)
        key = _key(constraint)
        with self._lock:
            found = self._cache.get(key)
            if found is None:
                found = self._compile(constraint)
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
        return CompiledConstraint(grammar, schema, size)


class _Cache:
    """Least recently used out first, by bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._entries: OrderedDict[bytes, CompiledConstraint | InvalidRequest] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> CompiledConstraint | InvalidRequest | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: CompiledConstraint | InvalidRequest) -> None:
        with self._lock:
            self._entries[key] = entry
            self.num_bytes += _size(entry)
            while self.num_bytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self.num_bytes -= _size(oldest)


def _size(entry: CompiledConstraint | InvalidRequest) -> int:
    return entry.num_bytes if isinstance(entry, CompiledConstraint) else 2048


def _key(constraint: Constraint) -> bytes:
    return hashlib.sha256(f"{constraint.kind}\0{constraint.source}".encode(errors="surrogatepass")).digest()


def _unless_refused(found: CompiledConstraint | InvalidRequest, constraint: Constraint) -> CompiledConstraint:
    if isinstance(found, InvalidRequest):
        raise InvalidRequest(found.message, code=found.code, param=constraint.param)
    return found


def _tokens(tokenizer: Tokenizer, vocab_size: int) -> Tokens:
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
        except UnicodeDecodeError:  # half a character: no text that a tokenizer takes
            return []

    return encode
