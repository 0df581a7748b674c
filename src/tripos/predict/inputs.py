"""Embed and rerank requests to tokens: prompts, special tokens, pairs, truncation, and the checks of a request.

Knows the model's card, its tokenizer and its options; nothing of queues, steps or vectors.
Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tripos.errors import InvalidRequest
from tripos.models.text.frame import NO_FRAME, Frame
from tripos.models.text.tokenizer import Tokenizer
from tripos.predict.batcher import Text
from tripos.predict.outputs import EncoderOptions
from tripos.types import Call, Embed, Generate, ModelCard, Rerank

CHARS_PER_TOKEN = 64  # a longer text is cut or refused without being encoded
QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query", "search_query"), ("document", "passage", "search_document")


class EncoderInputs:
    """Checks the requests of one model and encodes their texts."""

    def __init__(self, card: ModelCard, tokenizer: Tokenizer, options: EncoderOptions) -> None:
        self.card = card
        self.tokenizer = tokenizer
        self.options = options

    def check(self, call: Call) -> Embed | Rerank:
        """Check all that needs no tokens. Raises InvalidRequest."""
        request = call.request
        name, task = self.card.name, self.card.task
        if isinstance(request, Embed) and task == "embed":
            self._check_embed(request)
            return request
        if isinstance(request, Rerank):
            self._check_rerank(request)
            return request
        requested = {Embed: "embed", Generate: "generate text"}.get(type(request), "do that")
        able = "embeds texts and reranks documents" if task == "embed" else "scores and reranks documents"
        raise InvalidRequest(f"{name} {able}, it cannot {requested}: /v1/models lists what is served", param="model")

    def _check_embed(self, request: Embed) -> None:
        if not request.inputs:
            raise InvalidRequest("input is empty: send at least one text", code="out_of_range", param="input")
        width = self.card.dimensions
        if request.dimensions is not None and not 1 <= request.dimensions <= width:
            message = f"dimensions is {request.dimensions}, {self.card.name} has vectors of 1 to {width}"
            raise InvalidRequest(message, code="out_of_range", param="dimensions")
        if request.prompt_name and request.prompt_name not in self.options.prompts:
            known = ", ".join(self.options.prompts) or "none"
            message = f"{self.card.name} has no prompt of that name; it has {known}"
            raise InvalidRequest(message, code="invalid_value", param="prompt_name")
        for i, each in enumerate(request.inputs):
            if len(each) == 0:
                raise InvalidRequest(f"input[{i}] is empty", code="out_of_range", param=f"input[{i}]")
            if isinstance(each, tuple) and max(each) >= self.card.vocab_size:
                message = f"input[{i}]: token id {max(each)} is outside the vocabulary of {self.card.vocab_size}"
                raise InvalidRequest(message, code="out_of_range", param=f"input[{i}]")
        self._check_retained(request.truncate_to, self._frame.num_tokens)

    def _check_rerank(self, request: Rerank) -> None:
        if not request.documents:
            raise InvalidRequest("documents is empty: send at least one", code="out_of_range", param="documents")
        if not request.query:
            raise InvalidRequest("query is empty", code="out_of_range", param="query")
        if request.top_n is not None and request.top_n < 1:
            raise InvalidRequest(f"top_n is {request.top_n}; expected 1 or more", code="out_of_range", param="top_n")
        frame = self._frame if self.card.task == "embed" else self.tokenizer.pair_frame
        self._check_retained(request.truncate_to, frame.num_tokens)

    def _check_retained(self, retained: int | None, num_special: int) -> None:
        longest = self.options.max_length
        if retained and not num_special < retained <= longest:
            message = (
                f"{retained} tokens are to be kept of an input, {num_special} special ones included; at most {longest}"
            )
            raise InvalidRequest(message, code="out_of_range", param="truncate_prompt_tokens")

    def texts(self, request: Embed | Rerank) -> list[Text]:
        if isinstance(request, Embed):
            return self._texts_to_embed(request.inputs, request.prompt_name, request.truncate_to, "input[{}]".format)
        if self.card.task == "embed":
            return self._query_and_documents(request)
        return self._pairs(request)

    def _texts_to_embed(
        self,
        inputs: Sequence[str | tuple[int, ...]],
        prompt_name: str | None,
        truncate_to: int | None,
        where: Callable[[int], str],
    ) -> list[Text]:
        chosen = self.options.default_prompt if prompt_name is None else prompt_name
        prompt = self.options.prompts.get(chosen or "", "")
        strings = [
            self._cased(self._bounded(prompt + each, truncate_to, where(i)))
            for i, each in enumerate(inputs)
            if isinstance(each, str)
        ]
        encoded = iter(self.tokenizer.encode_all(strings))
        frame = self._frame
        texts = []
        for i, each in enumerate(inputs):
            # Token ids of a client include special tokens; only texts get a frame.
            framed = list(each) if isinstance(each, tuple) else frame.around(next(encoded))[0]
            if not framed and not self.options.empty_row:
                message = f"{where(i)} holds no token for {self.card.name}: send text"
                raise InvalidRequest(message, code="invalid_value", param=where(i))
            limit = self._limit(len(framed), truncate_to, where(i))
            if len(framed) > limit:
                retained = limit - len(frame.runs[1])
                framed = framed[:limit] if isinstance(each, tuple) else [*framed[:retained], *frame.runs[1]]
            texts.append(Text(framed))
        return texts

    def _query_and_documents(self, request: Rerank) -> list[Text]:
        def prompt(names: tuple[str, ...]) -> str | None:
            return next((name for name in names if name in self.options.prompts), None)

        retained = request.truncate_to
        query = self._texts_to_embed([request.query], prompt(QUERY_PROMPTS), retained, lambda i: "query")
        documents = self._texts_to_embed(request.documents, prompt(DOCUMENT_PROMPTS), retained, "documents[{}]".format)
        return query + documents

    def _pairs(self, request: Rerank) -> list[Text]:
        retained = request.truncate_to
        prompt = self.options.prompts.get(self.options.default_prompt or "", "")
        strings = [self._bounded(prompt + request.query, retained, "query")]
        strings += [self._bounded(each, retained, f"documents[{i}]") for i, each in enumerate(request.documents)]
        query, *documents = self.tokenizer.encode_all(list(map(self._cased, strings)))
        frame = self.tokenizer.pair_frame
        texts = []
        for i, document in enumerate(documents):
            num_tokens = len(query) + len(document) + frame.num_tokens
            limit = self._limit(num_tokens, retained, f"documents[{i}] with the query") - frame.num_tokens
            first, second = _longest_first(query, document, limit)
            ids, types = frame.around(first, second)
            texts.append(Text(ids, types if self.options.num_token_types > 1 else ()))
        return texts

    def _cased(self, text: str) -> str:
        return text.lower() if self.options.lower_case else text

    def _bounded(self, text: str, truncate_to: int | None, where: str) -> str:
        """The text, cut where it cannot fit. Raises InvalidRequest when it may not be cut."""
        most = CHARS_PER_TOKEN * self.options.max_length
        if truncate_to is None and len(text) > most:
            longest = self.options.max_length
            message = f"{where} has {len(text)} characters, far more than the {longest} tokens of {self.card.name}"
            raise InvalidRequest(message, code="context_length_exceeded", param=where)
        return text[:most]

    def _limit(self, num_tokens: int, truncate_to: int | None, where: str) -> int:
        """How many tokens of an input are kept. Raises InvalidRequest when it is too long and may not be cut."""
        longest = self.options.max_length
        if truncate_to is None and num_tokens > longest:
            message = (
                f"{where} has {num_tokens} tokens, {self.card.name} takes {longest}: send less, or have it cut "
                "(truncate_prompt_tokens or truncate)"
            )
            raise InvalidRequest(message, code="context_length_exceeded", param=where.partition(" ")[0])
        return min(truncate_to or longest, longest)

    @property
    def _frame(self) -> Frame:
        """The special tokens around one text."""
        return self.tokenizer.frame if self.options.has_special_tokens else NO_FRAME


def num_chars(request: Embed | Rerank) -> int:
    """Characters of all texts; token ids count as one each."""
    texts: Sequence[Any] = request.inputs if isinstance(request, Embed) else (request.query, *request.documents)
    return sum(map(len, texts))


def _longest_first(first: list[int], second: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Both texts, cut to `limit` tokens together, the longer one first, as tokenizers' "longest_first" does."""
    if len(first) + len(second) <= limit:
        return first, second
    short = min(len(first), len(second))
    long = max(short, limit - short)
    if short + long > limit:
        short, long = limit // 2, limit - limit // 2
    return (first[:short], second[:long]) if len(first) <= len(second) else (first[:long], second[:short])
