"""Models that say a given text, and tools for them to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tripos.dialects.reasoning import REASONING
from tripos.engine.reasoning import ReasoningText, Trace, mark_tokens
from tripos.testing import ScriptedModel, byte_tokenizer
from tripos.types import Delta, Event, Finish, FinishReason, Generate, ModelCard, TokenLogprob, Usage

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
ARGUMENTS = '{"city": "Paris", "days": 2}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def speaking(
    *texts: str, reason: FinishReason = "stop", size: int = 3, in_reasoning: bool = False, **card: Any
) -> ScriptedModel:
    """Each text is a choice, which comes `size` characters at a time with their logprobs; Hermes calls, <think>."""
    fields = {
        "tool_dialect": "hermes",
        "has_tool_prompt": "tool_dialect" not in card,
        "reasoning_dialect": "think",
        **card,
    }
    reasons = bool(fields["reasoning_dialect"])
    events: list[Event] = []
    for index, text in enumerate(texts):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        *parts, (reasoning, rest) = (
            apart(pieces, in_reasoning) if reasons else [*(("", each) for each in pieces), ("", "")]
        )
        for piece, (thought, answer) in zip(pieces, parts, strict=True):
            logprob = TokenLogprob(1, piece, piece.encode(), -0.5)
            events.append(Delta(index=index, text=answer, reasoning=thought, token_ids=(1,), logprobs=(logprob,)))
        events.append(Delta(index=index, text=rest, reasoning=reasoning, finish_reason=reason))
    usage = Usage(prompt_tokens=9, output_tokens=len(events), reasoning_tokens=5)
    events.append(Finish(reason=reason, usage=usage))
    made = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=2048, vocab_size=256, **fields)
    return ScriptedModel(events, card=made)


def apart(pieces: Sequence[str], in_reasoning: bool) -> list[tuple[str, str]]:
    """(reasoning, text) that the engine tells of each piece, and of the end; each byte is a token."""
    tokenizer = byte_tokenizer()
    marks = mark_tokens(REASONING["think"], tokenizer)
    text = ReasoningText(Trace(marks, tokenizer, list(b"<think>") if in_reasoning else []))
    parts = []
    for piece in pieces:
        found = [_push(text, char) for char in piece]
        parts.append(("".join(each[0] for each in found), "".join(each[1] for each in found)))
    _, reasoning, rest = (0, "", "") if text.is_answer else text.flush("")
    return [*parts, (reasoning, rest)]


def _push(text: ReasoningText, char: str) -> tuple[str, str]:
    if text.is_answer:
        return "", char
    *first, last = char.encode()
    for byte in first:
        text.push(byte, "")
    return text.push(last, char)[1:]


def request_of(model: ScriptedModel) -> Generate:
    """The request that reached the model last."""
    request = model.calls[-1].request
    assert isinstance(request, Generate)
    return request
