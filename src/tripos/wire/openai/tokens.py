"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Message
from tripos.wire import foreign
from tripos.wire.fields import Field, read_json, table
from tripos.wire.generation import MAX_MESSAGES, MODEL, check_model, read_token_ids
from tripos.wire.ignored import Ignored
from tripos.wire.openai.chat import read_messages, read_template_args

TOKENIZE = table(
    MODEL,
    Field("prompt", "string", "The text. Give this or messages."),
    Field("messages", "array", "A conversation, through the model's template.", max_items=MAX_MESSAGES),
    Field("add_special_tokens", "boolean", "With prompt: begin as a completion does. Default true."),
    Field("add_generation_prompt", "boolean", "With messages: open the assistant's turn. Default true."),
    Field("continue_final_message", "boolean", "With messages: go on with the last, an assistant's."),
    Field("chat_template_kwargs", "object", "With messages: scalars for the template.", max_items=16),
    Field("return_token_strs", "boolean", "Also the text of each token."),
    *foreign.TOKENIZE,
)
DETOKENIZE = table(MODEL, Field("tokens", "array", "Token ids.", required=True))


class Tokenize(msgspec.Struct, frozen=True, kw_only=True):
    """Text or messages to be counted."""

    model: str
    prompt: str | tuple[Message, ...]
    add_special: bool
    template_args: dict[str, Any]
    wants_texts: bool
    ignored: tuple[Ignored, ...]  # what the client sent and is not heeded


class Detokenize(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids to be put into text."""

    model: str
    tokens: tuple[int, ...]
    ignored: tuple[Ignored, ...]


def decode_tokenize(body: bytes) -> Tokenize:
    """Raises InvalidRequest."""
    found = read_json(body, TOKENIZE)
    if ("prompt" in found) == ("messages" in found):
        message = "give prompt or messages, one of them"
        code = "invalid_value" if "prompt" in found else "missing_field"
        raise InvalidRequest(message, code=code, param="prompt")
    return Tokenize(
        model=check_model(found),
        prompt=found["prompt"] if "prompt" in found else read_messages(found["messages"]),
        add_special=found.get("add_special_tokens", True),
        template_args=read_template_args(found),
        wants_texts=found.get("return_token_strs", False),
        ignored=tuple(found.ignored),
    )


def encode_tokens(tokens: Sequence[int], max_model_len: int, texts: Sequence[str] | None = None) -> dict[str, Any]:
    """`texts`: of the tokens, where they were asked for."""
    return {
        "tokens": list(tokens),
        "count": len(tokens),
        "max_model_len": max_model_len,
        "token_strs": None if texts is None else list(texts),
    }


def decode_detokenize(body: bytes) -> Detokenize:
    """Raises InvalidRequest."""
    found = read_json(body, DETOKENIZE)
    tokens = read_token_ids(found["tokens"], "tokens")
    return Detokenize(model=check_model(found), tokens=tokens, ignored=tuple(found.ignored))
