"""Every bad input gets its status and code, and the next good request is answered as before.

Row ids (J01, P02 ...) are those of the project's corpus of bad inputs; S = suspicious but valid, must be served.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import HELLO, NUM_BLOCKS, VOCAB_SIZE, WINDOW, Running, TinyModel, error_code
from tripos.wire.fields import EMPTY, Field

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 1}
CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
DROP = object()
OK = (200, "")


def refused(code: str) -> tuple[int, str]:
    return (404 if code.endswith("not_found") else 413 if code == "request_too_large" else 400, code)


def changed(base: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {name: value for name, value in {**base, **fields}.items() if value is not DROP}


def message(**fields: Any) -> dict[str, Any]:
    return changed(CHAT, messages=[changed({"role": "user", "content": "x"}, **fields)])


def schema_format(schema: Any) -> dict[str, Any]:
    return changed(CHAT, response_format={"type": "json_schema", "json_schema": changed({"name": "x"}, schema=schema)})


def nested_schema(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def structured(**fields: Any) -> dict[str, Any]:
    return changed(CHAT, structured_outputs=fields)


def raw(field: str, text: str) -> bytes:
    """A completion with a field of any text."""
    return json.dumps({**TEXT, field: 0}).replace(f'"{field}": 0', f'"{field}": {text}').encode()


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "not { json"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"role": "tool", "content": "1", "tool_call_id": "c1"}


TOOL_F: dict[str, Any] = {"name": "f"}
HOSTILE_TEXT = '"\\{{ 7*7 }}{% for %}' * 3000  # 60 KiB
BAD_CHOICES: list[Any] = [
    "maybe",
    5,
    {"type": "function", "function": {"name": "absent"}},
    {"type": "function"},
    {"type": "custom", "custom": {"name": "f"}},
    {"type": "allowed_tools", "allowed_tools": {"mode": "none", "tools": []}},
    {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {"name": "absent"}}]}},
]
TOOL_ROWS: list[tuple[str, list[dict[str, Any]], str]] = [
    ("M07", [{"name": f"f{i}"} for i in range(129)], "too_many_items"),
    ("M07", [TOOL_F, TOOL_F], "invalid_value"),
    *(
        ("M07", [{"name": name}], "invalid_value")
        for name in ("", "a" * 65, "a b", "__import__", "a.b", "\u0430", None, 5)
    ),
    *(
        ("M08", [{**TOOL_F, "parameters": parameters}], "invalid_schema")
        for parameters in (
            True,
            [],
            "x",
            {"type": "x"},
            {"type": "array"},
            {"type": ["object", 5]},
            {"properties": []},
            {"properties": {"a": 5}},
            {"properties": {"a": {"type": "x"}}},
            {"properties": {"a": {"enum": []}}},
            {"anyOf": {}},
            {"required": "a"},
            {"required": [1]},
        )
    ),
    ("M10", [{**TOOL_F, "description": "x" * (64 * 1024 + 1)}], "out_of_range"),
    ("M07", [{**TOOL_F, "other": 1}], ""),
]
USE: dict[str, Any] = {
    "role": "assistant",
    "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}],
}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "1"}
OLLAMA_CALL = {"function": {"name": "f", "arguments": {"a": 1}}}
OLLAMA_ASSISTANT = {"role": "assistant", "tool_calls": [OLLAMA_CALL]}


def tools(*functions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return changed(CHAT, tools=[{"type": "function", "function": each} for each in functions], **fields)


def every_post_rows(post: Post) -> list[tuple[str, str, Any, str]]:
    """What every route refuses alike."""
    good = body_of(post)
    text = json.dumps(good)
    rows: list[tuple[str, Any, str]] = [
        ("J01", b"", "invalid_json"),
        ("J01", b"null", "invalid_type"),
        ("J01", b"[]", "invalid_type"),
        ("J01", b'"x"', "invalid_type"),
        ("J01", b"1", "invalid_type"),
        ("J03", text.encode() + b"{}", "invalid_json"),
        ("J04", text[:-1].encode() + b',"a":' + b"[" * 1500 + b"]" * 1500 + b"}", "invalid_json"),
        ("J06", text[:-1].encode() + b',"model":"tiny"}', "invalid_json"),
        ("J07", text[:-1].encode() + b',"stream":NaN}', "invalid_json"),
        ("J08", text[:-1].encode() + b',"stream":' + b"7" * 5000 + b"}", "invalid_json"),
        ("J10", text.replace("tiny", "\\ud800").encode(), "invalid_encoding"),
        ("J11", text.replace("tiny", "\xff").encode("latin-1"), "invalid_encoding"),
        ("J11", text.encode("utf-16"), "invalid_encoding"),
        ("J12", text[:-1].encode() + b",}", "invalid_json"),
        ("J13", {**good, "k" * MIB: 1}, ""),
        ("J13", {**good, **{f"k{i}": 1 for i in range(10_000)}}, ""),
        ("J14", {**good, "__proto__": 1}, ""),
        ("J14", {**good, "__class__": 1}, ""),
        ("J14", {**good, "constructor": 1}, ""),
        ("J16", b" " * (8 * MIB + 1), "request_too_large"),
        ("J17", text[:-1].encode() + b',"mod\\u0065l":"tiny"}', "invalid_json"),
        ("P01", changed(good, model=DROP), "missing_field"),
        ("P01", changed(good, model=None), "missing_field"),
        ("P01", changed(good, model=""), "missing_field"),
        ("P01", changed(good, model="m" * MIB), "out_of_range"),
        ("P01", changed(good, model="../x"), "model_not_found"),
        ("P01", changed(good, model=["tiny"]), "invalid_type"),
        ("U12", changed(good, model="t\u0456ny"), "model_not_found"),
        ("S", good, ""),
    ]
    return [(id, post.path, body, code) for id, body, code in rows]


COMPLETION_ROWS: list[tuple[str, Any, str]] = [
    ("J07", raw("temperature", "1e400"), "invalid_json"),
    ("J09", raw("seed", "7" * 25), "out_of_range"),
    ("J09", raw("max_tokens", "7" * 25), "out_of_range"),
    ("J10", raw("prompt", '"\\ud800"'), "invalid_encoding"),
    ("J10", raw("stop", '"\\ud800"'), "invalid_encoding"),
    ("J18", b" " * (8 * MIB), "invalid_json"),
    ("P01", changed(TEXT, model="a\0b"), "model_not_found"),
    ("P02", changed(TEXT, n=0), "out_of_range"),
    ("P02", changed(TEXT, n=-1), "out_of_range"),
    ("P02", changed(TEXT, n=9), "out_of_range"),
    ("P02", changed(TEXT, n=2**31), "out_of_range"),
    ("P02", changed(TEXT, n=1.5), "invalid_type"),
    ("P02", changed(TEXT, n=True), "invalid_type"),
    ("P02", changed(TEXT, n="2"), "invalid_type"),
    ("P03", changed(TEXT, best_of=1, n=2), "invalid_value"),
    ("P03", changed(TEXT, best_of=2**40), "out_of_range"),
    ("P03", changed(TEXT, best_of=2, stream=True), "invalid_value"),
    ("P04", changed(TEXT, max_tokens=0), "out_of_range"),
    ("P04", changed(TEXT, max_tokens=-1), "out_of_range"),
    ("P04", changed(TEXT, max_tokens=2**63), "out_of_range"),
    ("P04", changed(TEXT, max_tokens=WINDOW + 1), "context_length_exceeded"),
    ("P05", changed(TEXT, temperature=-0.1), "out_of_range"),
    ("P05", changed(TEXT, temperature=1e308), "out_of_range"),
    ("P05", changed(TEXT, temperature=2.0001), "out_of_range"),
    ("P05 S", changed(TEXT, temperature=-0.0), ""),
    ("P06", changed(TEXT, top_p=0), "out_of_range"),
    ("P06", changed(TEXT, top_p=1.0000001), "out_of_range"),
    ("P06", changed(TEXT, top_p=-1), "out_of_range"),
    ("P07", changed(TEXT, top_k=-2), "out_of_range"),
    ("P07", changed(TEXT, top_k=2**31), "out_of_range"),
    ("P07 S", changed(TEXT, top_k=VOCAB_SIZE + 1), ""),
    ("P08", changed(TEXT, min_p=1.5), "out_of_range"),
    ("P08", changed(TEXT, presence_penalty=3), "out_of_range"),
    ("P08", changed(TEXT, frequency_penalty=-3), "out_of_range"),
    ("P08", changed(TEXT, repetition_penalty=0), "out_of_range"),
    ("P09", changed(TEXT, seed=-2), "out_of_range"),
    ("P09", changed(TEXT, seed=2**64 - 1), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"-1": 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={str(VOCAB_SIZE): 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"1000000000": 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"abc": 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"1" * 5000: 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"\u0661": 1}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"1": 1e9}), "out_of_range"),
    ("P10", changed(TEXT, logit_bias={"1": "x"}), "invalid_type"),
    ("P10", changed(TEXT, logit_bias={"1": 1, "01": 1}), "invalid_value"),
    ("P10", changed(TEXT, logit_bias={str(i): 1 for i in range(90_000)}), "too_many_items"),
    ("P11", changed(TEXT, stop_token_ids=[VOCAB_SIZE], min_tokens=1), "out_of_range"),
    ("P11", changed(TEXT, stop_token_ids=[-1]), "out_of_range"),
    ("P11", changed(TEXT, stop_token_ids=[True]), "invalid_type"),
    ("P11", changed(TEXT, stop_token_ids=list(range(129))), "too_many_items"),
    ("P12", changed(TEXT, stop=""), "invalid_value"),
    ("P12", changed(TEXT, stop=["x"] * 17), "too_many_items"),
    ("P12", changed(TEXT, stop="x" * MIB), "invalid_value"),
    ("P12", changed(TEXT, stop=["x", None]), "invalid_value"),
    ("P12", changed(TEXT, stop="\u0301\u0302"), "invalid_value"),
    ("P12", changed(TEXT, stop=1), "invalid_type"),
    ("P12 S", changed(TEXT, stop=["x" * 256] * 16), ""),
    ("P13", changed(TEXT, logprobs=21), "out_of_range"),
    ("P13", changed(TEXT, logprobs=True), "invalid_type"),
    ("P14", changed(TEXT, prompt=[]), "out_of_range"),
    ("P14", changed(TEXT, prompt=[[]]), "out_of_range"),
    ("P14", changed(TEXT, prompt=[-1]), "out_of_range"),
    ("P14", changed(TEXT, prompt=[VOCAB_SIZE]), "out_of_range"),
    ("P14", changed(TEXT, prompt=[2**31]), "out_of_range"),
    ("P14", changed(TEXT, prompt=[1, "x"]), "invalid_type"),
    ("P14", changed(TEXT, prompt=["x", 1]), "invalid_type"),
    ("P14", changed(TEXT, prompt=[[[1]]]), "invalid_type"),
    ("P14", changed(TEXT, prompt=[1] * 90_000), "context_length_exceeded"),
    ("P14", b'{"model":"tiny","prompt":[' + b"1," * 3_000_000 + b"1]}", "invalid_json"),
    ("P14", changed(TEXT, prompt=["x"] * 65), "too_many_items"),
    ("P14", changed(TEXT, prompt={}), "invalid_type"),
    ("P15", changed(TEXT, prompt=DROP), "missing_field"),
    ("P15", changed(TEXT, prompt=""), "missing_field"),  # a model without BOS has nothing to continue
    ("P15 S", changed(TEXT, prompt="\0\x01\x02"), ""),
    ("P16 S", changed(TEXT, echo=True, max_tokens=0, logprobs=1), ""),
    ("P17", changed(TEXT, stream_options={"include_usage": True}), "invalid_value"),
    ("P17", changed(TEXT, stream=True, stream_options={"unknown": True}), ""),
    ("P17", changed(TEXT, stream=True, stream_options=True), "invalid_type"),
    ("P18", changed(TEXT, priority=2**63 - 1), "out_of_range"),
    ("P18", changed(TEXT, priority=-1), "out_of_range"),
    ("P18", changed(TEXT, user="u" * MIB), ""),
    ("P19", changed(TEXT, timeout=-1), "out_of_range"),
    ("P19", raw("timeout", "NaN"), "invalid_json"),
    ("P19", changed(TEXT, timeout=1e12), "out_of_range"),
    ("P20", changed(TEXT, cache_salt=""), ""),
    ("P20", changed(TEXT, cache_salt="s" * MIB), "out_of_range"),
    ("P20 S", changed(TEXT, cache_salt="someone else's"), ""),
    ("P23", changed(TEXT, max_tokens=3, suffix="x"), "invalid_value"),
    ("C7", changed(TEXT, prompt="x" * 4 * MIB), "context_length_exceeded"),
    ("U01", changed(TEXT, prompt="a" * MIB), "context_length_exceeded"),
    ("U02", changed(TEXT, prompt="a" + "\u0301" * 100_000), "context_length_exceeded"),
    ("U04 S", changed(TEXT, prompt="\0\ufffe\ue000\U000e0041"), ""),
    ("U05 S", changed(TEXT, prompt="\u202e\u2066abc"), ""),
    ("U06 S", changed(TEXT, prompt="</s>"), ""),
    ("U07 S", changed(TEXT, stop="e\u0301"), ""),
    ("U10 S", changed(TEXT, prompt="x" * (WINDOW - 1)), ""),
    ("U10", changed(TEXT, prompt="x" * WINDOW), "context_length_exceeded"),
    ("U10", changed(TEXT, prompt="x" * (WINDOW + 1)), "context_length_exceeded"),
    ("U11", changed(TEXT, prompt="\U0001f600" * WINDOW), "context_length_exceeded"),
]

CHAT_ROWS: list[tuple[str, Any, str]] = [
    ("P13", changed(CHAT, logprobs=True, top_logprobs=21), "out_of_range"),
    ("P13", changed(CHAT, top_logprobs=2), "invalid_value"),
    ("P04", changed(CHAT, max_tokens=0), "out_of_range"),
    ("P23", changed(CHAT, max_tokens=1, max_completion_tokens=2), "invalid_value"),
    ("M01", changed(CHAT, messages=DROP), "missing_field"),
    ("M01", changed(CHAT, messages=[]), "missing_field"),
    ("M01", changed(CHAT, messages=None), "missing_field"),
    ("M01", changed(CHAT, messages="hi"), "invalid_type"),
    ("M01", changed(CHAT, messages=[1]), "invalid_type"),
    ("M01", changed(CHAT, messages=[{}] * 40_000), "too_many_items"),
    ("M02", message(role=DROP), "invalid_value"),
    ("M02", message(role="root"), "invalid_value"),
    ("M02", message(role="r" * MIB), "invalid_value"),
    ("M02", message(role=None), "invalid_value"),
    ("M02", message(role=["user"]), "invalid_value"),
    ("M03", message(content=None), "invalid_type"),
    ("M03", message(content=[]), "invalid_type"),
    ("M03", message(content=[["x"]]), "invalid_type"),
    ("M03", message(content=5), "invalid_type"),
    ("M04", message(content=[{"type": "video", "text": "x"}]), "invalid_value"),
    ("M04", message(content=[{"type": "text", "text": "x", "image_url": {}}]), "invalid_value"),
    ("M04", message(content=[{"type": "text"}]), "missing_field"),
    ("M04", message(content=[{"type": "text", "text": 5}]), "invalid_type"),
    ("M04 S", message(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), ""),
    ("M05", changed(CHAT, messages=[{"role": "tool", "content": "1"}]), "invalid_value"),
    ("M05", changed(CHAT, messages=[TOOL]), "invalid_value"),
    ("M05", changed(CHAT, messages=[ASSISTANT, TOOL, TOOL]), "invalid_value"),
    ("M06 S", changed(CHAT, messages=[*HELLO, ASSISTANT, TOOL]), ""),
    ("M06", changed(CHAT, messages=[{**ASSISTANT, "tool_calls": [{"id": "x"}]}]), "missing_field"),
    ("M06", message(tool_calls=[CALL]), "invalid_value"),
    ("M07 S", changed(CHAT, tools=[]), ""),
    ("M09", changed(CHAT, tool_choice="required"), "invalid_value"),
    *((id, tools(*each), code) for id, each, code in TOOL_ROWS),
    *(("M09", tools(TOOL_F, tool_choice=choice), "invalid_value") for choice in BAD_CHOICES),
    ("M10 S", changed(tools({**TOOL_F, "description": HOSTILE_TEXT}), tool_choice="none"), ""),
    ("reasoning", changed(CHAT, reasoning_effort="huge"), "invalid_value"),
    ("reasoning", changed(CHAT, thinking_token_budget=-1), "out_of_range"),
    ("reasoning S", changed(CHAT, reasoning_effort="max", thinking_token_budget=0, include_reasoning=False), ""),
    ("M12 S", message(content="{{ 7*7 }} {% for %}"), ""),
    ("M13", changed(CHAT, chat_template="x"), "invalid_value"),
    ("M13", changed(CHAT, chat_template_kwargs={"tokenize": True}), "invalid_template_args"),
    ("M13", changed(CHAT, chat_template_kwargs={"a b": True}), "invalid_template_args"),
    ("M13", changed(CHAT, chat_template_kwargs={"a": {"b": 1}}), "invalid_template_args"),
    ("M13", changed(CHAT, chat_template_kwargs={"a": "x" * 1000}), "invalid_template_args"),
    ("M15", changed(CHAT, response_format={}), "missing_field"),
    ("M15", changed(CHAT, response_format={"type": "xml"}), "invalid_value"),
    ("M15", changed(CHAT, response_format={"type": "json_schema"}), "missing_field"),
    ("M15", schema_format(DROP), "missing_field"),
    *(("G01", schema_format(schema), "invalid_schema") for schema in ("", False, [], 0)),
    ("G01", changed(CHAT, structured_outputs={"json_object": False}), "invalid_schema"),
    ("G02", structured(json=json.dumps(nested_schema(65))), "grammar_too_complex"),
    ("G02", schema_format(nested_schema(300)), "invalid_json"),  # the body itself is too deep
    ("G03", schema_format({"$ref": "http://127.0.0.1:9/"}), "unsupported_schema"),
    ("G03 S", schema_format({"type": "object", "properties": {"a": {"$ref": "#"}}}), ""),
    ("G05", schema_format({"enum": list(range(90_000))}), "grammar_too_complex"),
    ("G05", schema_format({"enum": []}), "invalid_schema"),
    ("G06", schema_format({"properties": {f"p{i}": {} for i in range(20_000)}}), "grammar_too_complex"),
    ("G07", schema_format({"type": "number", "minimum": 5, "maximum": 1}), "invalid_schema"),
    ("G08", schema_format({"type": "string", "minLength": 10**9}), "grammar_too_complex"),
    ("G09", schema_format({"type": "string", "pattern": "((("}), "invalid_schema"),
    ("G09", schema_format({"type": "string", "pattern": "(?<=a)b"}), "unsupported_schema"),
    ("G10", structured(regex="(" * 20_000 + ")" * 20_000), "grammar_too_complex"),
    ("G12 S", structured(regex="(a|a)*(a|a)*b"), ""),
    ("G13", structured(regex="|".join(f"word{i}" for i in range(120_000))), "grammar_too_complex"),
    ("G14", schema_format({"type": "string", "format": "shoe-size"}), "unsupported_schema"),
    ("G14", schema_format({"shoeSize": 43}), "unsupported_schema"),
    ("G15", structured(grammar=""), "invalid_grammar"),
    ("G15", structured(grammar="start: other"), "invalid_grammar"),
    ("G15", structured(grammar="root ::= other"), "invalid_grammar"),
    ("G15", structured(grammar="root ::= " + "(" * 60_000), "grammar_too_complex"),
    ("G16", structured(grammar="start: start"), "invalid_grammar"),
    ("G17", changed(structured(regex="[a-z]{4}"), min_tokens=2), "invalid_value"),
    ("G18 S", structured(regex="[a-z]{2}"), ""),
    ("G18", structured(regex="[a-z"), "invalid_grammar"),
    ("G20 S", schema_format({"type": "object", "properties": {'q"\n\x00': {"type": "null"}}}), ""),
    ("G", structured(regex="a", choice=["b"]), "invalid_value"),
    ("G", structured(), "invalid_value"),
    ("G", structured(choice=[]), "invalid_value"),
    ("G", changed(structured(regex="a"), response_format={"type": "json_object"}), "invalid_value"),
    ("M16", message(name="a\nb"), "invalid_value"),
    ("M16", message(name="\x00"), "invalid_value"),
    ("M17", changed(CHAT, messages=[{"role": "user", "content": "x"}] * 2048), "context_length_exceeded"),
]

LONG = "a" * (4 * MIB + 1)
OTHER_ROWS: list[tuple[str, str, Any, str]] = [
    ("U01", "/v1/responses/input_tokens", {"model": "tiny", "input": LONG}, "context_length_exceeded"),
    (
        "U01",
        "/v1/messages/count_tokens",
        {"model": "tiny", "messages": [{"role": "user", "content": LONG}]},
        "context_length_exceeded",
    ),
    ("tokens", "/tokenize", {"model": "tiny"}, "missing_field"),
    ("tokens", "/tokenize", {"model": "tiny", "prompt": "x", "messages": HELLO}, "invalid_value"),
    ("tokens", "/tokenize", {"model": "tiny", "prompt": 5}, "invalid_type"),
    ("tokens", "/tokenize", {"model": "absent", "prompt": "x"}, "model_not_found"),
    ("tokens S", "/tokenize", {"model": "tiny", "prompt": ""}, ""),
    ("tokens S", "/tokenize", {"model": "tiny", "prompt": "a" * MIB}, ""),
    ("tokens", "/detokenize", {"model": "tiny"}, "missing_field"),
    ("tokens", "/detokenize", {"model": "tiny", "tokens": [VOCAB_SIZE]}, "out_of_range"),
    ("tokens", "/detokenize", {"model": "tiny", "tokens": [-1]}, "out_of_range"),
    ("tokens", "/detokenize", {"model": "tiny", "tokens": ["x"]}, "invalid_type"),
    ("tokens S", "/detokenize", {"model": "tiny", "tokens": []}, ""),
]

MESSAGES: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
MESSAGE_ROWS: list[tuple[str, Any, str]] = [
    ("P04", changed(MESSAGES, max_tokens=DROP), "missing_field"),
    ("P04", changed(MESSAGES, max_tokens=0), "out_of_range"),
    ("P04", changed(MESSAGES, max_tokens=WINDOW + 1), "context_length_exceeded"),
    ("P05", changed(MESSAGES, temperature=1.5), "out_of_range"),
    ("P12", changed(MESSAGES, stop_sequences=[""]), "invalid_value"),
    ("P12", changed(MESSAGES, stop_sequences=["x"] * 17), "too_many_items"),
    ("P18", changed(MESSAGES, metadata={"user_id": "u" * MIB}), ""),
    ("P18", changed(MESSAGES, metadata={"other": "x"}), ""),
    ("M01", changed(MESSAGES, messages=[]), "missing_field"),
    ("M01", changed(MESSAGES, messages=[1]), "invalid_type"),
    ("M02", changed(MESSAGES, messages=[{"role": "root", "content": "x"}]), "invalid_value"),
    ("M02", changed(MESSAGES, messages=[{"role": "tool", "content": "x"}]), "invalid_value"),
    ("M02", changed(MESSAGES, messages=[{"content": "x"}]), "missing_field"),
    ("M03", changed(MESSAGES, messages=[{"role": "user", "content": None}]), "missing_field"),
    ("M03", changed(MESSAGES, messages=[{"role": "user", "content": []}]), "invalid_type"),
    ("M03", changed(MESSAGES, messages=[{"role": "user", "content": [["x"]]}]), "invalid_type"),
    ("M04", changed(MESSAGES, messages=[{"role": "user", "content": [IMAGE]}]), "invalid_value"),
    ("M04", changed(MESSAGES, messages=[{"role": "user", "content": [{"type": "text"}]}]), "missing_field"),
    ("M07 S", changed(MESSAGES, tools=[]), ""),
    ("M07", changed(MESSAGES, tools=[{"name": "f"}]), "missing_field"),
    ("M07", changed(MESSAGES, tools=[{"type": "bash_20250124", "name": "a b"}]), "invalid_value"),
    ("M07", changed(MESSAGES, tools=[{"name": "a b", "input_schema": {}}]), "invalid_value"),
    ("M08", changed(MESSAGES, tools=[{"name": "f", "input_schema": True}]), "invalid_schema"),
    ("M08", changed(MESSAGES, tools=[{"name": "f", "input_schema": {"type": "x"}}]), "invalid_schema"),
    ("M09", changed(MESSAGES, tool_choice={"type": "any"}), "invalid_value"),
    ("M09", changed(MESSAGES, tool_choice={"type": "tool", "name": "absent"}), "invalid_value"),
    ("M09", changed(MESSAGES, tool_choice={"type": "tool"}), "invalid_value"),
    ("M09", changed(MESSAGES, tool_choice={"type": "auto", "name": "f"}), "invalid_value"),
    ("M05", changed(MESSAGES, messages=[{"role": "user", "content": [RESULT]}]), "invalid_value"),
    ("M05", changed(MESSAGES, messages=[*HELLO, USE, {"role": "user", "content": [RESULT, RESULT]}]), "invalid_value"),
    ("M05 S", changed(MESSAGES, messages=[*HELLO, USE, {"role": "user", "content": [RESULT]}]), ""),
    ("M06", changed(MESSAGES, messages=[{"role": "user", "content": USE["content"]}]), "invalid_value"),
    ("M12 S", changed(MESSAGES, system="{{ 7*7 }} {% for %}"), ""),
    ("M14", changed(MESSAGES, messages=[*HELLO, {"role": "assistant", "content": "x"}]), "invalid_value"),
    ("think", changed(MESSAGES, thinking={"type": "enabled", "budget_tokens": 1024}), "out_of_range"),
    ("think", changed(MESSAGES, thinking={"type": "enabled", "budget_tokens": 0}), "out_of_range"),
    ("think", changed(MESSAGES, thinking={"type": "enabled"}), "missing_field"),
    ("think", changed(MESSAGES, thinking={"type": "hard"}), "invalid_value"),
    ("think S", changed(MESSAGES, max_tokens=3, thinking={"type": "enabled", "budget_tokens": 2}), ""),
    ("think S", changed(MESSAGES, thinking={"type": "disabled"}), ""),
    ("U01", changed(MESSAGES, messages=[{"role": "user", "content": "a" * MIB}]), "context_length_exceeded"),
]
OLLAMA: dict[str, Any] = {"model": "tiny", "messages": HELLO, "stream": False, "options": {"num_predict": 1}}
OLLAMA_ROWS: list[tuple[str, Any, str]] = [
    ("P04", changed(OLLAMA, options={"num_predict": 0}), "out_of_range"),
    ("P04", changed(OLLAMA, options={"num_predict": WINDOW + 1}), "context_length_exceeded"),
    ("P04 S", changed(OLLAMA, options={"num_ctx": WINDOW, "num_predict": 1}), ""),
    ("P04", changed(OLLAMA, options={"num_ctx": WINDOW + 1, "num_predict": 1}), ""),
    ("P12", changed(OLLAMA, options={"stop": ["x", None]}), "invalid_value"),
    ("P12", changed(OLLAMA, options={"stop": ["x"] * 17}), "too_many_items"),
    ("P13", changed(OLLAMA, top_logprobs=2), "invalid_value"),
    ("J14", changed(OLLAMA, options={"__class__": 1}), ""),
    ("M01 S", changed(OLLAMA, messages=[]), ""),
    ("M01", changed(OLLAMA, messages=[1]), "invalid_type"),
    ("M02", changed(OLLAMA, messages=[{"role": "root", "content": "x"}]), "invalid_value"),
    ("M02", changed(OLLAMA, messages=[{"role": "tool", "content": "x"}]), "invalid_value"),
    ("M03", changed(OLLAMA, messages=[{"role": "user", "content": ["x"]}]), "invalid_type"),
    ("M04", changed(OLLAMA, messages=[{"role": "user", "content": "x", "images": ["AA=="]}]), "too_many_items"),
    ("M07", changed(OLLAMA, tools=[{"type": "function"}]), "missing_field"),
    ("M07", changed(OLLAMA, tools=[{"function": {"name": "a b"}}]), "invalid_value"),
    ("M08", changed(OLLAMA, tools=[{"function": {"name": "f", "parameters": []}}]), "invalid_schema"),
    ("M06", changed(OLLAMA, messages=[{"role": "user", "tool_calls": [OLLAMA_CALL]}]), "invalid_value"),
    (
        "M06",
        changed(OLLAMA, messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]),
        "missing_field",
    ),
    ("M05", changed(OLLAMA, messages=[*HELLO, OLLAMA_ASSISTANT, {"role": "tool", "tool_name": "g"}]), "invalid_value"),
    ("M05 S", changed(OLLAMA, messages=[*HELLO, OLLAMA_ASSISTANT, {"role": "tool", "tool_name": "f"}]), ""),
    ("think", changed(OLLAMA, think="hard"), "invalid_value"),
    ("M07 S", changed(OLLAMA, tools=[]), ""),
    ("M15", changed(OLLAMA, format="xml"), "invalid_schema"),
    ("M15", changed(OLLAMA, format={"uniqueItems": True}), "unsupported_schema"),
    ("M15 S", changed(OLLAMA, format="json"), ""),
    ("M15 S", changed(OLLAMA, format={"type": "object"}), ""),
    ("think", changed(OLLAMA, think=True), "invalid_value"),
    ("think", changed(OLLAMA, think="high"), "invalid_value"),
    ("keep S", changed(OLLAMA, keep_alive="5m"), ""),
    ("U01", changed(OLLAMA, messages=[{"role": "user", "content": "a" * MIB}]), "context_length_exceeded"),
]
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
GENERATE_ROWS: list[tuple[str, Any, str]] = [
    ("P15 S", changed(GENERATE, prompt=""), ""),
    ("P23", changed(GENERATE, raw=True, system="x"), "invalid_value"),
    ("P23", changed(GENERATE, template="{{ .Prompt }}"), "invalid_value"),
    ("U10", changed(GENERATE, raw=True, prompt="x" * WINDOW), "context_length_exceeded"),
]
RESPONSE: dict[str, Any] = {"model": "tiny", "input": "x", "max_output_tokens": 1}


def item(**fields: Any) -> dict[str, Any]:
    return changed(RESPONSE, input=[changed({"role": "user", "content": "x"}, **fields)])


RESPONSE_ROWS: list[tuple[str, Any, str]] = [
    ("P04", changed(RESPONSE, max_output_tokens=0), "out_of_range"),
    ("P04", changed(RESPONSE, max_output_tokens=WINDOW + 1), "context_length_exceeded"),
    ("P13", changed(RESPONSE, top_logprobs=2), "invalid_value"),
    ("P13", changed(RESPONSE, include=[5]), "invalid_type"),
    ("P14", changed(RESPONSE, input=[]), "missing_field"),
    ("P14", changed(RESPONSE, input=5), "invalid_type"),
    ("P14", changed(RESPONSE, input=[1]), "invalid_type"),
    ("P14", changed(RESPONSE, input=[{}] * 30_000), "too_many_items"),
    ("P18", changed(RESPONSE, metadata={"a": "x" * 513}), "out_of_range"),
    ("P18", changed(RESPONSE, metadata={"a" * 65: "x"}), "out_of_range"),
    ("P18", changed(RESPONSE, metadata={"a": 1}), "invalid_type"),
    ("P18", changed(RESPONSE, metadata={str(i): "x" for i in range(17)}), "too_many_items"),
    ("M02", item(role="tool"), "invalid_value"),
    ("M02", item(role=DROP), "missing_field"),
    ("M03", item(content=None), "missing_field"),
    ("M03", item(content=[]), "invalid_type"),
    ("M03", item(content=[["x"]]), "invalid_type"),
    ("M04", item(content=[{"type": "input_image", "image_url": "x"}]), "invalid_value"),
    ("M04", item(content=[{"type": "input_text"}]), "missing_field"),
    (
        "M04",
        changed(RESPONSE, input=[{"type": "function_call_output", "call_id": "1", "output": "x"}]),
        "invalid_value",
    ),
    ("M07", changed(RESPONSE, tools=[{"type": "web_search"}]), "invalid_value"),
    ("M07", changed(RESPONSE, tools=[{"type": "function", "name": ""}]), "invalid_value"),
    (
        "M08",
        changed(RESPONSE, tools=[{"type": "function", "name": "f", "parameters": {"type": "x"}}]),
        "invalid_schema",
    ),
    ("M09", changed(RESPONSE, tool_choice={"type": "function", "name": "absent"}), "invalid_value"),
    ("M09", changed(RESPONSE, tool_choice={"type": "web_search_preview"}), "invalid_value"),
    ("reasoning", changed(RESPONSE, reasoning={"effort": "huge"}), "invalid_value"),
    ("reasoning", changed(RESPONSE, reasoning={"other": 1}), ""),
    ("M07 S", changed(RESPONSE, tools=[], tool_choice="none"), ""),
    ("M09", changed(RESPONSE, tool_choice="required"), "invalid_value"),
    ("M15", changed(RESPONSE, text={"format": {"type": "json_schema", "name": "x"}}), "missing_field"),
    (
        "M15",
        changed(RESPONSE, text={"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}),
        "unsupported_schema",
    ),
    ("M15 S", changed(RESPONSE, text={"format": {"type": "json_object"}}), ""),
    ("M15 S", changed(RESPONSE, text={"format": {"type": "text"}}), ""),
    ("store", changed(RESPONSE, previous_response_id="resp_0"), "not_found"),
    ("store", changed(RESPONSE, previous_response_id=""), "not_found"),
    ("store", changed(RESPONSE, truncation="auto"), ""),
    ("store", changed(RESPONSE, background=True), "invalid_value"),
    ("U01", changed(RESPONSE, input="a" * MIB), "context_length_exceeded"),
]

ROWS = [
    *((id, "/v1/responses", body, code) for id, body, code in RESPONSE_ROWS),
    *((id, "/api/chat", body, code) for id, body, code in OLLAMA_ROWS),
    *((id, "/api/generate", body, code) for id, body, code in GENERATE_ROWS),
    *(row for post in POSTS for row in every_post_rows(post)),
    *((id, "/v1/messages", body, code) for id, body, code in MESSAGE_ROWS),
    *((id, "/v1/completions", body, code) for id, body, code in COMPLETION_ROWS),
    *((id, "/v1/chat/completions", body, code) for id, body, code in CHAT_ROWS),
    *OTHER_ROWS,
]


@pytest.mark.parametrize(
    ("id", "path", "body", "code"), ROWS, ids=[f"{i}-{row[0]}-{row[3]}" for i, row in enumerate(ROWS)]
)
async def test_bad_input_gets_its_code_and_harms_nobody(
    server: Running, tiny: TinyModel, id: str, path: str, body: Any, code: str
) -> None:
    baseline = await server.canary()
    response = await server.post(path, body)
    found = response.status_code, error_code(response) if response.status_code != 200 else ""
    assert found == (refused(code) if code else OK)
    assert response.headers["x-request-id"]
    if code:
        assert len(response.text) < 600
        assert not any(mark in response.text for mark in ("Traceback", "0x7f", "/src/", "object at"))
    assert (await server.http.get("/readyz")).status_code == 200
    assert await server.canary() == baseline
    assert tiny.num_held == 0
    assert tiny.engine.pool.num_available == NUM_BLOCKS
    tiny.engine.pool.check_integrity()


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
async def test_a_body_truncated_anywhere_is_invalid_json(server: Running, post: Post) -> None:
    body = json.dumps(body_of(post)).encode()
    for length in range(len(body)):
        response = await server.post(post.path, body[:length])
        assert (response.status_code, error_code(response)) == (400, "invalid_json"), body[:length]


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
@pytest.mark.parametrize("kind", ["text/plain", "application/json; charset=utf-7", ""])
async def test_a_body_of_another_type_is_not_read(server: Running, post: Post, kind: str) -> None:
    """Below /api an untyped one is, unless a web page sent it."""
    page = {"origin": "http://example.org"} if post.path.startswith("/api/") else {}
    response = await server.post(post.path, body_of(post), content_type=kind, **page)
    assert (response.status_code, error_code(response)) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (changed(CHAT, guided_json={"type": "object"}), "guided_json"),
        (message(content=[{"type": "x"}]), "messages[0].content[0].type"),
        (changed(CHAT, logit_bias={"5": 101}), "logit_bias.5[0]"),
        (changed(CHAT, stop=["a", ""]), "stop[1]"),
        (changed(CHAT, stream=True, stream_options={"include_usage": 1}), "stream_options.include_usage"),
    ],
)
async def test_error_names_the_path_of_the_field(server: Running, body: Any, param: str) -> None:
    assert (await server.post("/v1/chat/completions", body)).json()["error"]["param"] == param


WRONG: dict[str, list[Any]] = {
    "boolean": [0, "true", [], {}],
    "integer": [True, 1.5, "5", [], {}],
    "number": [True, "5", [], {}],
    "string": [5, True, [], {}],
    "array": [5, "x", {}],
    "object": [5, "x", []],
}
FIELDS = [(post, "", field) for post in POSTS for field in post.table.values()]
FIELDS += [(post, within, field) for post in POSTS for within, table in post.nested for field in table.values()]


def str_of(value: Any) -> str:
    return getattr(value, "path", "") or getattr(value, "name", "") or str(value)


@pytest.mark.parametrize(("post", "within", "field"), FIELDS, ids=str_of)
async def test_every_field_keeps_its_bounds(server: Running, post: Post, within: str, field: Field) -> None:
    if field.use in ("met", "ignored"):
        assert (await server.post(post.path, with_field(post, within, field.name, {"any": 1}))).status_code == 200
        return
    bodies = [with_field(post, within, field.name, value) for value in WRONG.get(field.kind, [])]
    for bound, step in ((field.low, -1), (field.high, 1)):
        if bound is not None:
            beyond = bound + step
            if not field.says_nothing(beyond):
                bodies.append(with_field(post, within, field.name, beyond))
    if field.kind in ("integer", "number"):
        bodies += [with_field(post, within, field.name, value) for value in (2**63, -(2**63), 1e308, -1e308)]
        bodies += [with_field(post, within, field.name, "HUGE").replace(b'"HUGE"', b"1" + b"0" * 400)]
    if field.max_bytes:
        bodies.append(with_field(post, within, field.name, "x" * (field.max_bytes + 1)))
    if field.max_items and field.kind == "array":
        bodies.append(with_field(post, within, field.name, [1] * (field.max_items + 1)))
    if field.choices:
        bodies.append(with_field(post, within, field.name, "not a choice"))
    if field.use == "refused":
        bodies = [with_field(post, within, field.name, {"any": 1})]
    silent = field.nothing if field.use == "honoured" else [each for each in EMPTY if field.says_nothing(each)]
    for body in bodies:
        response = await server.post(post.path, body)
        assert response.status_code == 400, (body, response.text)
        assert error_code(response) in (
            "invalid_type", "out_of_range", "too_many_items", "invalid_value", "invalid_json"
        ), body  # fmt: skip
    for nothing in (None, *silent):
        absent = await server.post(post.path, with_field(post, within, field.name, nothing))
        assert absent.status_code == (400 if field.required or field.name in post.needed else 200), absent.text


def with_field(post: Post, within: str, name: str, value: Any) -> bytes:
    """A good body but for one field, at the top or in the object `within`."""
    body = body_of(post)
    body |= {within: {**body.get(within, {}), name: value}} if within else {name: value}
    return json.dumps(body).encode()
