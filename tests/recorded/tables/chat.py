"""POST /v1/chat/completions: sampling, lengths, stops, logprobs, choices, streams."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, post

PATH = "/v1/chat/completions"
USER: list[Any] = [{"role": "user", "content": "What can you do?"}]
LONG: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello,"}, {"type": "text", "text": "you."}]},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "And now?", "name": "Ann"},
]
DEMO: dict[str, Any] = {"model": "assistant", "messages": USER, "temperature": 0, "max_tokens": 12}
TALK: dict[str, Any] = {"model": "talker", "messages": USER, "max_tokens": 24}

VARIANTS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "to the end": {"max_tokens": 64},
    "one token": {"max_tokens": 1},
    "the newer name of the limit": {"max_tokens": None, "max_completion_tokens": 5},
    "a seed": {"temperature": 0.9, "seed": 7},
    "top_p, top_k and min_p": {"temperature": 1.2, "seed": 3, "top_p": 0.9, "top_k": 20, "min_p": 0.01},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    "a bias": {"logit_bias": {"40": 100}, "max_tokens": 3},
    "two choices": {"temperature": 0.9, "seed": 7, "n": 2, "best_of": 2},
    "logprobs": {"logprobs": True, "top_logprobs": 2, "max_tokens": 4},
    "logprobs of two choices": {"temperature": 0.9, "seed": 1, "n": 2, "logprobs": True, "max_tokens": 3},
    "no end": {"ignore_eos": True, "min_tokens": 14, "max_tokens": 14},
    "a conversation": {"messages": LONG},
    "no new turn": {"add_generation_prompt": False, "max_tokens": 4},
    "a begun answer": {
        "messages": [*USER, {"role": "assistant", "content": "I can"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
}
STOPS: dict[str, dict[str, Any]] = {
    "a stop string": {"stop": "friend"},
    "stop strings": {"stop": ["nowhere", " there"]},
    "a stop string that stays": {"stop": ["there"], "include_stop_str_in_output": True},
    "a stop token": {"stop_token_ids": [44]},
    "a stop after some tokens": {"stop": "e", "min_tokens": 3},
    "characters of several tokens": {"max_tokens": 60},
    "cut within a character": {"max_tokens": 24},
    "no tokens beyond the window": {"max_tokens": None},
}
STREAMS: dict[str, dict[str, Any]] = {
    "usage at the end": {"stream_options": {"include_usage": True}},
    "usage all along": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "no usage": {"stream_options": {"include_usage": False}},
    "empty options": {"stream_options": {}},
}
ERRORS: dict[str, dict[str, Any]] = {
    "no messages": {"messages": []},
    "messages of another type": {"messages": "x"},
    "an unknown role": {"messages": [{"role": "root", "content": "x"}]},
    "no content": {"messages": [{"role": "user"}]},
    "an image": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    "a temperature beyond the range": {"temperature": 3},
    "a temperature that is text": {"temperature": "hot"},
    "too many choices": {"n": 9},
    "best_of that is not n": {"n": 1, "best_of": 2},
    "top_logprobs without logprobs": {"top_logprobs": 2},
    "too many stops": {"stop": [str(i) for i in range(17)]},
    "an empty stop": {"stop": ""},
    "a bias for no token": {"logit_bias": {"x": 1}},
    "a bias beyond the vocabulary": {"logit_bias": {"99999999": 1}},
    "too long an answer": {"max_tokens": 100000},
    "both names of the limit": {"max_tokens": 4, "max_completion_tokens": 5},
    "an unknown model": {"model": "nobody"},
    "an embedder": {"model": "embedder"},
    "a model that is not loaded": {"model": "later"},
    "no model": {"model": None},
    "functions": {"functions": [{"name": "f"}]},
    "audio": {"audio": {"voice": "x"}},
    "a modality": {"modalities": ["audio"]},
    "a template": {"chat_template": "x"},
    "template arguments that are reserved": {"chat_template_kwargs": {"messages": "x"}},
    "a begun answer of the user": {"continue_final_message": True},
    "a service tier that is no text": {"service_tier": 5},
    "a tool result without a call": {"messages": [*USER, {"role": "tool", "content": "1", "tool_call_id": "c1"}]},
    "a timeout that is too small": {"timeout": 0},
    "a seed below zero": {"seed": -2},
}

REQUESTS: list[Request] = [
    *(each for name, fields in VARIANTS.items() for each in both(name, PATH, {**DEMO, **fields})),
    *(each for name, fields in STOPS.items() for each in both(name, PATH, {**TALK, **fields})),
    *(post(f"stream with {name}", PATH, {**TALK, "stream": True, **fields}) for name, fields in STREAMS.items()),
    *(post(f"refused: {name}", PATH, {**TALK, **fields}) for name, fields in ERRORS.items()),
    post("refused in a stream: an unknown model", PATH, {**TALK, "model": "nobody", "stream": True}),
    post("refused: stream options without a stream", PATH, {**TALK, "stream_options": {"include_usage": True}}),
    post("batch work", PATH, {**TALK, "priority": 1, "service_tier": "flex", "cache_salt": "s", "timeout": 30}),
    post("a route for batch work", PATH, {**TALK, "model": "nightly"}),
    post("refused by a route's limits: choices", PATH, {**TALK, "model": "limited", "n": 2}),
    post("refused by a route's limits: messages", PATH, {**TALK, "model": "limited", "messages": LONG}),
    post("refused by a route's limits: stops", PATH, {**TALK, "model": "limited", "stop": ["a", "b"]}),
    post(
        "refused by a route's limits: text",
        PATH,
        {**TALK, "model": "limited", "messages": [{**USER[0], "content": "x" * 41}]},
    ),
    post(
        "refused by a route's limits: logprobs", PATH, {**TALK, "model": "limited", "logprobs": True, "top_logprobs": 3}
    ),
    post("within a route's limits", PATH, {**TALK, "model": "limited", "stop": "there"}),
    post("a request id of the client's", PATH, TALK, headers={"x-request-id": "client-id.1"}),
    post("a request id that is none", PATH, TALK, headers={"x-request-id": "a b"}),
]
