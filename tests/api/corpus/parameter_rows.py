"""Section 3.4: parameter ranges (P). test_bad_input walks the bounds of every field of every route."""

from __future__ import annotations

from typing import Any

from tests.api.corpus.row import MIB, Ask, chat, completion, row
from tests.api.running import ENCODER, VOCAB_SIZE, WINDOW

RANGE, TYPE, VALUE = "400 out_of_range", "400 invalid_type", "400 invalid_value"
MANY, CONTEXT, MISSING = "400 too_many_items", "400 context_length_exceeded", "400 missing_field"
ABSENT = "404 model_not_found"
BODY_FIRST = "the limit of values in a body (J05) comes first; the row before it has as many as a body may have"


def embeddings(**fields: Any) -> Ask:
    return Ask("/v1/embeddings", {"model": ENCODER, "input": "x", **fields})


def rerank(**fields: Any) -> Ask:
    return Ask("/v1/rerank", {"model": ENCODER, "query": "x", "documents": ["a", "b"], **fields})


def each(
    id: str,
    field: str,
    values: list[Any],
    outcome: str,
    *,
    ask: Any = completion,
    param: str | None = "",
    deviates: str = "",
) -> list[Any]:
    where = field if param == "" else param
    return [
        row(id, f"{field} {str(value)[:24]}", ask(**{field: value}), outcome, param=where, deviates=deviates)
        for value in values
    ]


ROWS: list[Any] = [
    row("P01", "no model", chat(model=...), MISSING, param="model"),
    row("P01", "model of 1 MB", chat(model="m" * MIB), RANGE, param="model"),
    *each("P01", "model", ["../x", "a\0b", "unknown", "tiny ", "TINY", "tiny/../tiny"], ABSENT, ask=chat),
    *each("P02", "n", [0, -1, 9, 2**31], RANGE),
    *each("P02", "n", [1.5, True, "2"], TYPE),
    row("P03", "best_of below n", completion(best_of=1, n=2), VALUE),
    row("P03", "best_of huge", completion(best_of=2**40), RANGE),
    row("P03", "best_of with a stream", completion(best_of=2, stream=True), VALUE),
    *each("P04", "max_tokens", [0, -1, 2**63], RANGE),
    *each("P04", "max_tokens", [WINDOW + 1], CONTEXT),
    *each("P05", "temperature", [-0.1, 1e308, 2.0001], RANGE),
    *each("P05 S", "temperature", [-0.0, 2], "200", param=None),
    *each("P06", "top_p", [0, 1.0000001, -1], RANGE),
    *each("P07", "top_k", [-2, 2**31], RANGE),
    *each("P07 S", "top_k", [VOCAB_SIZE + 1], "200", param=None),
    *each("P08", "min_p", [-0.1, 1.1], RANGE),
    *each("P08", "presence_penalty", [-2.1, 2.1], RANGE),
    *each("P08", "frequency_penalty", [-2.1, 2.1], RANGE),
    *each("P08", "repetition_penalty", [0, -1], RANGE),
    *each("P09", "seed", [-2, 2**64], RANGE),
    *each("P09", "seed", [-1], "200", param=None),
    *each("P10", "logit_bias", [{"-1": 1}, {str(VOCAB_SIZE): 1}, {"1000000000": 1}, {"abc": 1}], RANGE, param=None),
    *each("P10", "logit_bias", [{"1": 1e9}], RANGE, param=None),
    *each("P10", "logit_bias", [{str(i): 1 for i in range(90_000)}], MANY),
    row("P10", "100,000 entries", completion(logit_bias={str(i): 1 for i in range(100_000)}), "400 invalid_json", deviates=BODY_FIRST),
    row("P11", "stop_token_ids outside", completion(stop_token_ids=[VOCAB_SIZE], min_tokens=1), RANGE),
    *each("P12", "stop", ["", ["x", None], "\u0301\u0302", "x" * MIB], VALUE, param=None),
    *each("P12", "stop", [["x"] * 17], MANY),
    row("P13", "top_logprobs 21", chat(logprobs=True, top_logprobs=21), RANGE, param="top_logprobs"),
    row("P13", "top_logprobs without logprobs", chat(top_logprobs=1), VALUE, param="top_logprobs"),
    *each("P14", "prompt", [[], [-1], [VOCAB_SIZE], [2**40]], RANGE, param=None),
    *each("P14", "prompt", [[[[1]]]], TYPE, param=None, deviates="a list where a number belongs is of the wrong type"),
    row("P14", "10 million ids", Ask("/v1/completions", b'{"model":"tiny","prompt":[' + b"1," * 3_900_000 + b"1]}"), "400 invalid_json", deviates=BODY_FIRST),
    row("P14", "90,000 ids", completion(prompt=[1] * 90_000), CONTEXT, deviates="a prompt may be as long as the context, whatever it is written in"),
    *each("P15", "prompt", [""], MISSING),
    *each("P15 S", "prompt", ["\0\x01\x02"], "200", param=None),
    row("P16 S", "echo, no token, logprobs", completion(echo=True, max_tokens=0, logprobs=1), "200"),
    row("P17", "stream_options without stream", completion(stream_options={"include_usage": True}), VALUE, param="stream_options"),
    row("P17", "stream_options with an unknown key", completion(stream=True, stream_options={"x": 1}), "200", deviates="accepted, and named in a header (decision 38)"),
    *each("P18", "priority", [-1, 2**63], RANGE),
    *each("P18", "user", ["u" * MIB], "200", param=None),
    *each("P19", "timeout", [-1, 0, 1e12], RANGE),
    row("P19", "timeout NaN", Ask("/v1/completions", b'{"model":"tiny","prompt":"x","timeout":NaN}'), "400 invalid_json"),
    *each("P20", "cache_salt", [""], "200", param=None),
    *each("P20", "cache_salt", ["s" * MIB], RANGE),
    *each("P20 S", "cache_salt", ["someone else's"], "200", param=None),
    row("P21", "a client's id twice at once", Ask("/v1/completions", completion().body, headers={"x-request-id": "twice"}), "409 conflict", feature="request ids that are unique"),
    row("P22", "an idempotency key with another body", Ask("/v1/completions", completion().body, headers={"idempotency-key": "k"}), "409 idempotency_mismatch", feature="idempotency keys"),
    row("P23", "two names for one limit", chat(max_tokens=1, max_completion_tokens=2), VALUE),
    row("P23", "both ways to open the turn", chat(add_generation_prompt=True, chat_template_kwargs={"add_generation_prompt": False}), VALUE),
    row("P23", "raw and system", Ask("/api/generate", {"model": "tiny", "prompt": "x", "raw": True, "system": "x", "stream": False}), VALUE),
    row("P23", "prompt and messages", Ask("/tokenize", {"model": "tiny", "prompt": "x", "messages": [{"role": "user", "content": "x"}]}), VALUE),
    row("P24", "no input", embeddings(input=[]), RANGE, feature="embeddings"),
    row("P24", "empty input", embeddings(input=[""]), RANGE, feature="embeddings"),
    row("P24", "90,000 inputs", embeddings(input=["x"] * 90_000), MANY, feature="embeddings"),
    *(row("P24", f"dimensions {value}", embeddings(dimensions=value), RANGE, feature="embeddings") for value in (0, -1, 2**40)),
    row("P24", "unknown encoding", embeddings(encoding_format="hex"), VALUE, feature="embeddings"),
    row("P25", "no document", rerank(documents=[]), RANGE, feature="rerank"),
    row("P25", "90,000 documents", rerank(documents=["x"] * 90_000), MANY, feature="rerank"),
    row("P25", "top_n -1", rerank(top_n=-1), RANGE, feature="rerank"),
    row("P25", "a document of 10 MB", rerank(documents=["x" * 10 * MIB]), "413 request_too_large", feature="rerank"),
]  # fmt: skip
