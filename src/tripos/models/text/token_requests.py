"""Answers requests about a tokenizer: Tokenize, Detokenize and LabelTokens, beside the calls that run the model.

Owns the bound on the text that waits for the tokenizer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from tripos.errors import InvalidRequest, Overloaded
from tripos.models.text.tokenizer import Tokenizer
from tripos.types import Detokenize, Generate, LabelTokens, Message, Request, Result, Tokenize

MAX_ENCODING_CHARS = 32 * 2**20  # characters and token ids of requests that wait; one alone is always let in

Encode = Callable[[Generate], Awaitable[list[int]]]


class WaitingText:
    """Bounds the text of one model that waits for its tokenizer, where no scheduler counts it."""

    def __init__(self) -> None:
        self.num_chars = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count `size` characters or token ids while they wait. Raises Overloaded."""
        if self.num_chars and self.num_chars + size > MAX_ENCODING_CHARS:
            waiting = f"{self.num_chars} characters wait for the tokenizer, at most {MAX_ENCODING_CHARS} may"
            raise Overloaded(f"{waiting}: retry in a second", retry_after_s=1.0)
        self.num_chars += size
        try:
            yield
        finally:
            self.num_chars -= size


class TokenRequests:
    """Of one model. `encode` gives the token ids of a Generate's prompt as running it would compute them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, encode: Encode, waiting: WaitingText) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._encode = encode
        self._waiting = waiting
        self._spellings = Spellings(tokenizer)

    async def answer(self, request: Request) -> Result:
        """Raises InvalidRequest (also for what is no request about tokens), Overloaded."""
        import asyncio  # 12 ms, which callers without an event loop do not wait for

        if isinstance(request, Tokenize):
            return await self._tokenize(request)
        if isinstance(request, Detokenize):
            return await self._detokenize(request)
        if isinstance(request, LabelTokens):
            return Result(label_tokens=tuple(await asyncio.to_thread(self._spellings.paths, request.labels)))
        raise InvalidRequest(f"the model cannot answer {type(request).__name__} requests", param="model")

    async def _tokenize(self, request: Tokenize) -> Result:
        import asyncio

        prompt = request.generate.prompt
        with self._waiting.hold(_num_chars(prompt)):
            if isinstance(prompt, str):
                ids = await asyncio.to_thread(self._tokenizer.encode, prompt, request.add_special)
            else:
                ids = await self._encode(request.generate)
        texts = (self._tokenizer.token_bytes(id).decode(errors="replace") for id in ids if request.has_texts)
        return Result(token_ids=(tuple(ids),), texts=tuple(texts))

    async def _detokenize(self, request: Detokenize) -> Result:
        import asyncio

        ids = request.token_ids
        if ids and max(ids) >= self._vocab_size:
            message = f"token id {max(ids)} is outside the vocabulary of {self._vocab_size}"
            raise InvalidRequest(message, code="out_of_range", param="tokens")
        with self._waiting.hold(len(ids)):
            return Result(texts=(await asyncio.to_thread(self._tokenizer.decode, ids, False),))


class Spellings:
    """How a tokenizer writes labels. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._by_text: dict[bytes, list[int]] = {}

    def paths(self, labels: Sequence[tuple[str, ...]]) -> list[tuple[int, tuple[int, ...]]]:
        """(index of the label, token ids) for each way to write it; a label is given as texts that mean the same.

        Single tokens, with or without a space in front, where every label has one; else what encoding gives.
        """
        by_text = self._single_tokens()
        single = [
            [id for text in texts for form in (text, " " + text) for id in by_text.get(form.encode(), ())]
            for texts in labels
        ]
        if all(single):
            return [(i, (id,)) for i, ids in enumerate(single) for id in ids]
        encoded = [{tuple(self._tokenizer.encode(text, False)) for text in texts} for texts in labels]
        return [(i, path) for i, paths in enumerate(encoded) for path in sorted(paths)]

    def _single_tokens(self) -> dict[bytes, list[int]]:
        """Short text -> the tokens that are it."""
        if not self._by_text:
            found: dict[bytes, list[int]] = {}
            special = self._tokenizer.special_ids
            for id, data in enumerate(self._tokenizer.all_token_bytes):
                if 0 < len(data) <= 4 and id not in special:
                    found.setdefault(data, []).append(id)
            self._by_text = found
        return self._by_text


def _num_chars(prompt: str | tuple[int | Message, ...]) -> int:
    """Characters of text, and token ids."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(each.content or "") if isinstance(each, Message) else 1 for each in prompt)
