"""POST /tokenize and /detokenize: requests about the model's own tokenizer."""

from __future__ import annotations

import time

from tripos import answers
from tripos.api.generate import find_card, name_ignored, report_ignored
from tripos.api.http.exchange import Exchange
from tripos.errors import InvalidRequest
from tripos.pipeline.chain import result_of
from tripos.service import Service
from tripos.types import Call, Detokenize, Generate, ModelCard, Request, Result, Tokenize
from tripos.wire.generation import GenerationRequest, unread_args
from tripos.wire.openai.tokens import decode_detokenize, decode_tokenize, encode_tokens


async def tokenize(exchange: Exchange, service: Service) -> None:
    decoded = decode_tokenize(await exchange.read_body())
    card = find_card(exchange, service, decoded.model)
    report_ignored(exchange, service, (*decoded.ignored, *unread_args(decoded.template_args, card)))
    generate = Generate(prompt=decoded.prompt, template_args=decoded.template_args)
    request = Tokenize(generate=generate, add_special=decoded.add_special, has_texts=decoded.wants_texts)
    result = await _ask(exchange, service, card, request)
    texts = result.texts if decoded.wants_texts else None
    exchange.answer_json(encode_tokens(result.token_ids[0], card.max_model_len, texts))


async def detokenize(exchange: Exchange, service: Service) -> None:
    decoded = decode_detokenize(await exchange.read_body())
    card = find_card(exchange, service, decoded.model)
    report_ignored(exchange, service, decoded.ignored)
    result = await _ask(exchange, service, card, Detokenize(token_ids=decoded.tokens))
    exchange.answer_json({"prompt": result.texts[0]})


async def count(exchange: Exchange, service: Service, decoded: GenerationRequest) -> int:
    """How many tokens the prompt of a request has. Raises InvalidRequest as running it would, Overloaded."""
    card = find_card(exchange, service, decoded.model)
    decoded = answers.adapt(service, decoded, card)
    if decoded.ignored:
        name_ignored(exchange, decoded.ignored)
    result = await _ask(exchange, service, card, Tokenize(generate=decoded.requests[0]))
    return len(result.token_ids[0])


async def _ask(exchange: Exchange, service: Service, card: ModelCard, request: Request) -> Result:
    """Raises InvalidRequest for a model without tokens."""
    if not card.has_tokenizer:
        raise InvalidRequest("this model has no tokenizer", code="invalid_value", param="model")
    call = Call(
        id=exchange.request_id, route=card.name, request=request, principal=exchange.principal,
        arrival_s=time.monotonic(),
    )  # fmt: skip
    return await result_of(service.run(call))
