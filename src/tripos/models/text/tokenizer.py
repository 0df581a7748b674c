"""Text to token ids and back: the only door to the `tokenizers` package.

Owns the guard around its panics and the rule that a caller's text never yields special tokens. Knows nothing of chat
messages (chat.py) or of where files lie.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tripos.errors import ContextLengthExceeded, ModelRefused, RequestFailed, TriposError, reraise_stop
from tripos.models.text.frame import Frame
from tripos.models.text.token_bytes import BytesById, IncrementalDecoder, Spelling, spelling_of
from tripos.models.text.tokenizer_check import (
    MAX_TOKENS,
    Definition,
    Growth,
    growth_of,
    read_definition,
    without_model,
)
from tripos.types import Message

if TYPE_CHECKING:
    import tokenizers

    from tripos.models.text.chat import ChatTemplate

MAX_EXPANDED_BYTES = 64 << 20  # of a text after the tokenizer's own steps; each byte takes about 16 of memory
QUICK_BYTES = 1 << 16  # of such a text: encoded in some milliseconds
_CHARS_AT_ONCE = 1 << 15  # of a batch: encoded in some milliseconds
# Encoded and decoded at load. The long run of one letter exposes regexes that backtrack without end.
_SELF_TEST = ("Hello, world!", "naïve 東京 🙂\n\tx  y", "a" * 64 + "!", " ", "0123456789", "")


@contextmanager
def _guarded(make_error: type[TriposError], what: str) -> Iterator[None]:
    """Inside, every failure of the library but a deliberate stop becomes an error of ours."""
    try:
        yield
    except make_error:
        raise
    except BaseException as problem:
        reraise_stop(problem)
        raise make_error(f"{what}: {str(problem)[:200] or type(problem).__name__}") from problem


class Tokenizer:
    """Encodes, decodes, and knows the bytes of each token. Safe to use from several threads."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        pieces: dict[int, str],
        spelling: Spelling,
        identity: bytes,
        file: str,
        growth: Growth,
    ) -> None:
        """`pieces` are the model's, without the added tokens; `identity` is a SHA-256 of what defines the tokenizer.
        Raises ModelRefused when the self-test fails."""
        self._backend = backend
        self._growth = growth
        self._spelling = spelling
        self._lock = threading.Lock()  # encode_special_tokens is a switch on the shared backend
        self._backend.encode_special_tokens = True
        self.identity = identity
        with _guarded(ModelRefused, file):
            added = backend.get_added_tokens_decoder()
            self._added = {id: token.content for id, token in added.items()}
            self._pieces = pieces | self._added
            self._size = max(self._pieces, default=-1) + 1
            if not 0 < self._size <= MAX_TOKENS:
                raise ModelRefused(f"{file}: {self._size} token ids; expected 1..{MAX_TOKENS}")
            self.bytes_by_id = BytesById(self._pieces, self._added, spelling)
            self._flags = {token.content: token for token in added.values()}
            self.special_ids = frozenset(id for id, token in added.items() if token.special)
            self._unknown_id = _unknown_id(backend)
        self.bos_id: int | None = None
        self.eos_ids: frozenset[int] = frozenset()
        self.template_source: str | None = None
        self.tool_template_source: str | None = None
        self._self_test(file)

    def assign_roles(
        self,
        bos_id: int | None,
        eos_ids: frozenset[int],
        template_source: str | None,
        tool_template_source: str | None = None,
    ) -> None:
        """Set what the model's other files say of its tokens. `tool_template_source`: for chats with tools, where it
        differs. Raises ModelRefused for ids that no token has."""
        for id in (*eos_ids, *([] if bos_id is None else [bos_id])):
            if not 0 <= id < self.vocab_size:
                raise ModelRefused(f"bos or eos token id {id} is outside the tokenizer's 0..{self.vocab_size - 1}")
        self.bos_id = bos_id
        self.eos_ids = eos_ids
        self.template_source = template_source
        self.tool_template_source = tool_template_source

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id; ids between may be unused."""
        return self._size

    @property
    def strips_first_space(self) -> bool:
        """Whether decoding takes away a space that encoding put before the text."""
        return self._spelling.strip_first_space or self._spelling.wordpiece

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Special token text -> id."""
        return {self._added[id]: id for id in sorted(self.special_ids)}

    @cached_property
    def all_token_bytes(self) -> tuple[bytes, ...]:
        """The exact bytes of every id; special tokens as their text, unused ids empty."""
        return tuple(map(self.token_bytes, range(self._size)))

    def token_bytes(self, id: int) -> bytes:
        return self.bytes_by_id[id]

    def token_id(self, text: str) -> int | None:
        """The id of the token with this spelling in the vocabulary."""
        id: int | None = self._backend.token_to_id(text)
        return id

    def to_json(self) -> bytes:
        """A tokenizer.json that defines the same tokenizer, without its roles."""
        return str(self._backend.to_str(pretty=False)).encode()

    def is_quick(self, num_chars: int) -> bool:
        """Whether a text of so many characters may be encoded on the event loop."""
        is_short = self._growth.is_linear and self._growth.bound(num_chars) <= QUICK_BYTES
        return is_short and not self._lock.locked()

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Ids of a caller's text. Special tokens spelled in it are plain text; `add_special` adds the
        model's frame. Raises ContextLengthExceeded for a text that may grow too large to be encoded."""
        self._check_growth(text)
        with _guarded(RequestFailed, "tokenizing failed"):
            ids = self._encode(text)
            if not self._forbidden.isdisjoint(ids):
                first, *others = self._broken(text)
                ids = [*self._encode(first), *(id for part in others for id in self.encode_inside(part))]
            return list(self.frame.around(ids)[0]) if add_special else ids

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """As encode without special tokens, for many texts at once."""
        found: list[list[int]] = []
        for text in texts:
            self._check_growth(text)
        with _guarded(RequestFailed, "tokenizing failed"):
            for group in _groups(texts, _CHARS_AT_ONCE):
                with self._lock:  # briefly: the event loop may wait for it
                    encoded = self._backend.encode_batch_fast(group, add_special_tokens=False)
                found += [list(each.ids) for each in encoded]
        return [
            ids if self._forbidden.isdisjoint(ids) else self.encode(text, False)
            for text, ids in zip(texts, found, strict=True)
        ]

    @cached_property
    def frame(self) -> Frame:
        """The special tokens that the model puts around one text."""
        return self._frame()

    @cached_property
    def pair_frame(self) -> Frame:
        """The special tokens that the model puts around and between two texts."""
        return self._frame("a")

    def encode_inside(self, text: str) -> list[int]:
        """Ids of text that continues other text: no space is put before it, nothing is added."""
        mark = self._encode("\x02")
        ids = self.encode("\x02" + text, add_special=False)
        return ids[len(mark) :] if ids[: len(mark)] == mark else self.encode(text, add_special=False)

    def encode_template(self, text: str) -> list[int]:
        """Ids of text that the model's own template wrote: special tokens in it are recognised, none is added."""
        self._check_growth(text)
        with _guarded(RequestFailed, "tokenizing failed"), self._lock:
            self._backend.encode_special_tokens = False
            try:
                return list(self._backend.encode(text, add_special_tokens=False).ids)
            finally:
                self._backend.encode_special_tokens = True

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        /,  # callers name template_args, and may name one of them "messages" or "self"
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_args: Any,
    ) -> list[int]:
        """Ids of the prompt that the model's template makes of the messages, ready for the assistant's answer.

        Special tokens come from the template alone. Raises InvalidRequest for what the template refuses.
        """
        template = self.tool_template if tools else self.chat_template
        rendered = template.render(messages, tools, add_generation_prompt, template_args, continue_final_message)
        return self._encode_parts(rendered.parts) if rendered.parts else self.encode_template(rendered.text)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """The compiled template. Raises ModelRefused when it cannot be compiled."""
        return self._compile(self.template_source)

    @property
    def template_args(self) -> tuple[str, ...]:
        """Names of the arguments that requests may pass to the templates."""
        return tuple(sorted(self.chat_template.arg_names | self.tool_template.arg_names))

    @cached_property
    def tool_template(self) -> ChatTemplate:
        """The compiled template of chats with tools. Raises ModelRefused when it cannot be compiled."""
        source = self.tool_template_source
        return self.chat_template if source is None else self._compile(source, "chat_template tool_use")

    def _compile(self, source: str | None, file: str = "chat_template") -> ChatTemplate:
        from tripos.models.text.chat import ChatTemplate  # jinja2 takes 150 ms to import

        bos = self._pieces.get(self.bos_id, "") if self.bos_id is not None else ""
        eos = self._pieces.get(min(self.eos_ids), "") if self.eos_ids else ""
        return ChatTemplate(source, self.special_tokens, bos, eos, file)

    def _encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of (text, is a special token) in order: as of the whole text, except that texts which spell special
        tokens do not become them."""
        ids: list[int] = []
        for place, (text, is_special) in enumerate(parts):
            if is_special:
                ids.append(self.special_tokens[text])
                continue
            if place and self._flags[parts[place - 1][0]].rstrip:
                text = text.lstrip()
            if place + 1 < len(parts) and self._flags[parts[place + 1][0]].lstrip:
                text = text.rstrip()
            if text:
                ids += self.encode(text, False) if place == 0 or self._begins_anew else self.encode_inside(text)
        return ids

    @cached_property
    def _begins_anew(self) -> bool:
        """Whether text behind a special token is encoded as at the beginning of a text: some tokenizers prepend a
        space."""
        plain = (
            text for text in self.special_tokens if not (self._flags[text].rstrip or self._flags[text].single_word)
        )
        text = next(plain, None)
        return text is None or self.encode_template(text + "a")[1:] == self._encode("a")

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of a whole sequence; bytes that are no UTF-8 become U+FFFD."""
        decoder = IncrementalDecoder(self, skip_special=skip_special)
        return "".join([*map(decoder.push, ids), decoder.flush()])

    def decoder(
        self, prompt: Sequence[int] = (), shown: Iterable[str] = (), *, keep_space: bool = False
    ) -> IncrementalDecoder:
        """Decodes what follows the prompt, token by token. `shown`: special tokens that are part of the text.
        `keep_space`: the text's bytes are those of its tokens.
        """
        shown_ids = frozenset(self.special_tokens[text] for text in shown if text in self.special_tokens)
        return IncrementalDecoder(self, prompt, shown_ids=shown_ids, keep_space=keep_space)

    def _check_growth(self, text: str) -> None:
        if self._growth.bound(4 * len(text)) <= MAX_EXPANDED_BYTES:
            return
        size = len(text.encode("utf-8", "replace"))
        if self._growth.bound(size) > MAX_EXPANDED_BYTES:
            most = int((MAX_EXPANDED_BYTES - self._growth.prefix) / self._growth.factor)
            raise ContextLengthExceeded(f"a text has {size:,} bytes; the limit of this model's tokenizer is {most:,}")

    def _encode(self, text: str) -> list[int]:
        with self._lock:
            return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _frame(self, second: str | None = None) -> Frame:
        with _guarded(RequestFailed, "tokenizing failed"), self._lock:
            encoded = self._backend.encode("a", second, add_special_tokens=True)
        runs: list[list[int]] = [[]]  # of special tokens: before the first text, behind it, behind the second
        types: list[list[int]] = [[]]  # of those, with the type of the text before them put in front
        last: int | None = None
        for id, type_id, owner in zip(encoded.ids, encoded.type_ids, encoded.sequence_ids, strict=True):
            if owner is None:
                runs[-1].append(id)
                types[-1].append(type_id)
            elif owner != last:
                runs.append([])
                types.append([type_id])
                last = owner
        if len(runs) != (2 if second is None else 3):
            raise RequestFailed("the tokenizer has no token for the letter a")
        return Frame(tuple(map(tuple, runs)), tuple(map(tuple, types)))

    @cached_property
    def _forbidden(self) -> frozenset[int]:
        """Ids that plain text must never yield. The unknown token is allowed: it stands for characters without a
        token."""
        return self.special_ids - {self._unknown_id}

    def _broken(self, text: str) -> list[str]:
        """The text cut behind the first character of each special token's spelling, so that no part holds one."""
        spellings = sorted((s for s in self.special_tokens if len(s) > 1), key=len, reverse=True)
        pattern = "|".join(f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in spellings)
        return re.split(pattern, text) if pattern else [text]

    def _self_test(self, file: str) -> None:
        with _guarded(ModelRefused, f"{file}: the tokenizer fails its self-test"):
            for text in _SELF_TEST:
                ids = self.encode(text, add_special=True)
                if any(id >= self.vocab_size for id in (*ids, *itertools.chain(*self.pair_frame.runs))):
                    raise ModelRefused(f"{file}: the tokenizer gives ids beyond its vocabulary of {self.vocab_size}")
                self.decode(ids)
            for text in self.special_tokens:
                if not self._forbidden.isdisjoint(self.encode(text, add_special=False)):
                    raise ModelRefused(f"{file}: the text {text!r} cannot be distinguished from the special token")


def _groups(texts: Sequence[str], num_chars: int) -> Iterator[list[str]]:
    """Runs of texts with about so many characters together."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= num_chars:
            yield group
            group, size = [], 0
    if group:
        yield group


def tokenizer_from_json(data: bytes, file: str = "tokenizer.json") -> Tokenizer:
    """A Tokenizer from the text of a tokenizer.json. Raises ModelRefused naming the field."""
    definition = read_definition(data, file)
    growth = growth_of(definition, file)
    with _guarded(ModelRefused, file):
        backend = _backend(data, definition)
        backend.no_padding()
        backend.no_truncation()
    spelling = spelling_of(definition.decoder, file)
    return Tokenizer(backend, definition.pieces(), spelling, hashlib.sha256(data).digest(), file, growth)


def _backend(data: bytes, definition: Definition) -> tokenizers.Tokenizer:
    """The library's tokenizer. A BPE is made of its vocabulary and merges, which takes a third of the time that the
    library needs to read them itself; it reads all else."""
    import tokenizers  # 30 ms

    model = definition.model
    merges = model.bpe_merges()
    if merges is None or isinstance(model.vocab, list):
        return tokenizers.Tokenizer.from_str(data.decode())
    backend = tokenizers.Tokenizer.from_str(without_model(data).decode())
    backend.model = tokenizers.models.BPE(model.vocab, merges, **model.bpe_settings())
    for is_special, group in itertools.groupby(definition.added_tokens, lambda token: token.special):
        add = backend.add_special_tokens if is_special else backend.add_tokens
        add([
            tokenizers.AddedToken(
                token.content, single_word=token.single_word, lstrip=token.lstrip, rstrip=token.rstrip,
                normalized=token.normalized, special=token.special,
            )
            for token in group
        ])  # fmt: skip
    return backend


def _unknown_id(backend: tokenizers.Tokenizer) -> int | None:
    unknown = getattr(backend.model, "unk_token", None)
    id: int | None = backend.token_to_id(unknown) if unknown else None
    return id
