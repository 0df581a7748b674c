"""POST /tokenize and /detokenize: the model's own tokenizer, off the event loop."""

from __future__ import annotations

import asyncio

from tripos.api.calls import find_card
from tripos.api.http.exchange import Exchange
from tripos.api.ignored import report
from tripos.controls.limits import LimitsOptions, check
from tripos.dialects import lowering
from tripos.errors import InvalidRequest
from tripos.service import Service, Tokenizing
from tripos.types import Generate
from tripos.wire.generation import GenerationRequest, for_model, unread_args
from tripos.wire.ignored import Ignored
from tripos.wire.openai.tokens import decode_detokenize, decode_tokenize, encode_tokens


async def tokenize(exchange: Exchange, service: Service) -> None:
    body = await exchange.read_body()
    asked = decode_tokenize(body)
    card = find_card(exchange, service, asked.model)
    report(exchange, service, (*asked.ignored, *unread_args(asked.template_args, card)))
    model = find_tokenizing(service, asked.model)
    request = Generate(prompt=asked.prompt, template_args=asked.template_args)
    check(request, LimitsOptions())
    with service.encoding(len(body)):
        if isinstance(asked.prompt, str):
            tokens = await asyncio.to_thread(model.tokenizer.encode, asked.prompt, asked.add_special)
        else:
            tokens = await model.encode(request)

    def text(token: int) -> str:
        return model.tokenizer.token_bytes(token).decode(errors="replace")

    exchange.answer_json(encode_tokens(tokens, card.max_model_len, text if asked.wants_texts else None))


async def detokenize(exchange: Exchange, service: Service) -> None:
    body = await exchange.read_body()
    asked = decode_detokenize(body)
    tokens = asked.tokens
    card = find_card(exchange, service, asked.model)
    report(exchange, service, asked.ignored)
    model = find_tokenizing(service, asked.model)
    if tokens and max(tokens) >= card.vocab_size:
        message = f"token id {max(tokens)} is outside the vocabulary of {card.vocab_size}"
        raise InvalidRequest(message, code="out_of_range", param="tokens")
    with service.encoding(len(body)):
        text = await asyncio.to_thread(model.tokenizer.decode, tokens, False)
    exchange.answer_json({"prompt": text})


async def count(exchange: Exchange, service: Service, asked: GenerationRequest, num_bytes: int) -> int:
    """How many tokens the prompt of a request with a body of `num_bytes` has. Raises InvalidRequest as running it
    would, Overloaded."""
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    unenforced = [Ignored(path, "schema") for path in lowering.unenforced(asked.requests[0])]
    report(exchange, service, (*asked.ignored, *unenforced))
    request = lowering.lower(asked.requests[0], card).request
    check(request, LimitsOptions())
    model = find_tokenizing(service, asked.model)
    with service.encoding(num_bytes):
        return len(await model.encode(request))


def find_tokenizing(service: Service, name: str) -> Tokenizing:
    """Raises InvalidRequest for a model without tokens."""
    model = service.model(name)
    if not isinstance(model, Tokenizing):
        raise InvalidRequest("this model has no tokenizer", code="invalid_value", param="model")
    return model
