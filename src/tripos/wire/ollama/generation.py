"""POST /api/chat and /api/generate: body → GenerationRequest, events → lines.

An answer streams unless the client turns that off, as Ollama does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tripos.errors import InvalidRequest
from tripos.types import Event, Generate, Message, Sampling, TokenLogprob, ToolCall
from tripos.wire.constraint import read_ollama_format
from tripos.wire.fields import Field, Found, read_json, table
from tripos.wire.generation import (
    MAX_MESSAGES,
    RECOMMENDED,
    GenerationRequest,
    SingleAnswer,
    read_stop,
)
from tripos.wire.ollama.fields import KEEP_ALIVE, NAMES, OPTIONS, check_name
from tripos.wire.ollama.functions import encode_calls, read_messages, read_reasoning, read_tools
from tripos.wire.tools import MAX_TOOLS

_SHARED = (
    *NAMES,
    Field("stream", "boolean", "Send the answer as lines. Default true."),
    Field("options", "object", "See below.", max_items=64),
    Field("logprobs", "boolean", "Report the log-probability of each token."),
    Field("top_logprobs", "integer", "Likeliest alternatives per token; needs logprobs.", low=0, high=20, nothing=(0,)),
    Field("format", "any", '"json", or a JSON schema that the answer follows.'),
    Field("think", "any", "true, false, or low, medium or high: how much to reason. Default: as the model does."),
    KEEP_ALIVE,
    Field("truncate", "boolean", "A conversation that does not fit is refused.", use="ignored", nothing=(True, False)),
    Field("shift", "boolean", "A full window ends the answer.", use="ignored", nothing=(True, False)),
)
CHAT = table(
    Field("messages", "array", "The conversation. None: the model is loaded, which it is.", max_items=MAX_MESSAGES),
    *_SHARED,
    Field("tools", "array", "Functions that the model may call.", max_items=MAX_TOOLS),
)
GENERATE = table(
    Field("prompt", "string", "What to answer. None: the model is loaded, which it is."),
    Field("system", "string", "Goes before the prompt.", nothing=("",)),
    Field("raw", "boolean", "Continue the prompt as it is, without the model's template."),
    *_SHARED,
    Field("template", "string", "templates come with the model", use="refused"),
    Field("suffix", "string", "the models fill no gaps", use="refused"),
    Field("images", "array", "this server reads text only", use="refused"),
    Field("context", "array", "send the conversation to /api/chat", use="refused"),
    Field("width", "integer", "this server makes no images", use="refused"),
    Field("height", "integer", "this server makes no images", use="refused"),
    Field("steps", "integer", "this server makes no images", use="refused"),
)


def decode_chat(body: bytes) -> GenerationRequest:
    """No request when there are no messages. Raises InvalidRequest."""
    found = read_json(body, CHAT)
    return _request(found, read_messages(found.get("messages", ())))


def decode_generate(body: bytes) -> GenerationRequest:
    """No request when there is no prompt. Raises InvalidRequest."""
    found = read_json(body, GENERATE)
    prompt, system = found.get("prompt", ""), found.get("system")
    if found.get("raw"):
        if system is not None:
            raise InvalidRequest("raw and system exclude each other", code="invalid_value", param="system")
        return _request(found, prompt)
    before = () if system is None else (Message(role="system", content=system),)
    return _request(found, (*before, Message(role="user", content=prompt)) if prompt else ())


def _request(found: Found, prompt: str | tuple[Message, ...]) -> GenerationRequest:
    if "top_logprobs" in found and not found.get("logprobs"):
        message = "top_logprobs needs logprobs: true"
        raise InvalidRequest(message, code="invalid_value", param="top_logprobs")
    options = found.inner("options", OPTIONS)
    if options.get("repeat_last_n") == 0:
        options.update(repeat_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    num_predict = options.get("num_predict", -1)
    if num_predict == 0:
        message = "options.num_predict is 0: leave prompt or messages out to load a model"
        raise InvalidRequest(message, code="out_of_range", param="options.num_predict")
    tools, tool_choice = read_tools(found)
    request = Generate(
        prompt=prompt,
        tools=tools,
        tool_choice=tool_choice,
        reasoning=read_reasoning(found.get("think")),
        max_tokens=num_predict if num_predict > 0 else None,
        constraint=read_ollama_format(found.get("format", "")),
        sampling=_read_sampling(options, found.get("top_logprobs", 0) if found.get("logprobs") else None),
    )
    given = {"repetition_penalty" if name == "repeat_penalty" else name for name in options}
    return GenerationRequest(
        model=check_name(found),
        requests=(request,) if prompt else (),
        given=RECOMMENDED & given,
        stream=found.get("stream", True),
        min_context=options.get("num_ctx", 0),
        ignored=tuple(found.ignored),
    )


def _read_sampling(options: dict[str, Any], logprobs: int | None) -> Sampling:
    return Sampling(
        temperature=float(options.get("temperature", 1.0)),
        top_k=options.get("top_k", 0),
        top_p=float(options.get("top_p", 1.0)),
        min_p=float(options.get("min_p", 0.0)),
        repetition_penalty=float(options.get("repeat_penalty", 1.0)),
        presence_penalty=float(options.get("presence_penalty", 0.0)),
        frequency_penalty=float(options.get("frequency_penalty", 0.0)),
        seed=options.get("seed"),
        stop=read_stop(options.get("stop", ()), "options.stop"),
        logprobs=logprobs,
    )


class LineAnswer(SingleAnswer):
    """One object, or lines of text and a last one with the timings."""

    def __init__(self, body: GenerationRequest, model: str, created_at: str) -> None:
        super().__init__()
        self._body = body
        self._identity = {"model": model, "created_at": created_at}

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        deltas = self.collect(events)
        if not self._body.stream:
            return []
        text = "".join(delta.text for delta in deltas)
        reasoning = "".join(delta.reasoning for delta in deltas)
        calls = tuple(call for delta in deltas for call in delta.tool_calls)
        logprobs = self._logprobs()
        if not (reasoning or text or calls or logprobs):
            return []
        return [{**self._identity, **self._content(text, reasoning, calls), "done": False, **logprobs}]

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        return [{**self._identity, **self._content("", "", ()), **self._ending(elapsed_s)}]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        content = self._content(self.output.text, self.output.reasoning, self.output.tool_calls)
        return {**self._identity, **content, **self._ending(elapsed_s), **self._logprobs()}

    def _content(self, text: str, reasoning: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        raise NotImplementedError

    def _logprobs(self) -> dict[str, Any]:
        new = self.output.take_logprobs()
        return {"logprobs": [_encode_logprob(token) for token in new]} if new else {}

    def _ending(self, elapsed_s: float) -> dict[str, Any]:
        """Wall times in nanoseconds: waiting counts to the total only."""
        if not self._body.requests:
            return {"done": True, "done_reason": "load"}
        usage, reason = self.usage, self.output.finish_reason
        return {
            "done": True,
            "done_reason": "stop" if reason == "tool_calls" else reason,  # Ollama has no reason for calls
            "total_duration": _ns(elapsed_s),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(usage.ttft_s - usage.queue_s),
            "eval_count": usage.output_tokens,
            "eval_duration": _ns(elapsed_s - usage.ttft_s),
        }


class ChatLines(LineAnswer):
    """The answer to /api/chat."""

    def _content(self, text: str, reasoning: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        shown = {"thinking": reasoning} if reasoning else {}
        tool_calls = {"tool_calls": encode_calls(calls)} if calls else {}
        return {"message": {"role": "assistant", "content": text, **shown, **tool_calls}}


class GenerateLines(LineAnswer):
    """The answer to /api/generate."""

    def _content(self, text: str, reasoning: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
        return {"response": text, **({"thinking": reasoning} if reasoning else {})}


def _ns(seconds: float) -> int:
    return max(1, round(seconds * 1e9))  # clients divide by it


def _encode_logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**_encode_one(token), "top_logprobs": [_encode_one(each) for each in token.top]}


def _encode_one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": max(token.logprob, -9999.0), "bytes": list(token.data)}
