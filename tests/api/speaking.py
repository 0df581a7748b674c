"""Models that say a given text, and tools for them to call."""

from __future__ import annotations

from typing import Any

from tripos.testing import ScriptedModel
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
    events: list[Event] = []
    for index, text in enumerate(texts):
        for at in range(0, len(text), size):
            piece = text[at : at + size]
            logprob = TokenLogprob(1, piece, piece.encode(), -0.5)
            delta = Delta(
                index=index, text=piece, token_ids=(1,), logprobs=(logprob,), in_reasoning=in_reasoning and not at
            )
            events.append(delta)
        events.append(Delta(index=index, finish_reason=reason))
    usage = Usage(prompt_tokens=9, output_tokens=len(events), reasoning_tokens=5)
    events.append(Finish(reason=reason, usage=usage))
    fields = {
        "tool_dialect": "hermes",
        "has_tool_prompt": "tool_dialect" not in card,
        "reasoning_dialect": "think",
        **card,
    }
    made = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=2048, vocab_size=256, **fields)
    return ScriptedModel(events, card=made)


def request_of(model: ScriptedModel) -> Generate:
    """The request that reached the model last."""
    request = model.calls[-1].request
    assert isinstance(request, Generate)
    return request
