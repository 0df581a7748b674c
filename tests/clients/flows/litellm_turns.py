"""LiteLLM: a tool called, its result told, and one more question, with the whole history each time; whole and streamed.

litellm_turns.py URL PROVIDER
"""

import json
import os
import sys

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}  # or it asks the network

import litellm

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WISH = 'Please call get_weather {"city": "Paris"}'
url, provider = sys.argv[1:]
litellm.telemetry = False
litellm.suppress_debug_info = True
settings = {
    "model": f"{provider}/obliging",
    "api_base": url if provider in ("anthropic", "ollama_chat") else f"{url}/v1",
    "api_key": "none",
    "num_retries": 0,
    "max_tokens": 4000,
    "tools": [TOOL],
}
if provider == "anthropic":
    settings |= {"thinking": {"type": "enabled", "budget_tokens": 1024}, "allowed_openai_params": ["thinking"]}
else:
    settings |= {"reasoning_effort": "low"}


def talk(stream: bool) -> list[dict]:
    """What the assistant said, turn by turn. Its messages go back as LiteLLM made them."""
    first = [{"type": "text", "text": WISH, "cache_control": {"type": "ephemeral"}}]
    messages: list = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": first}]
    said = []
    for _ in range(3):
        answer = litellm.completion(**settings, messages=messages, stream=stream)
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=messages)
        message = answer.choices[0].message
        calls = message.tool_calls or []
        said.append({
            "content": message.content,
            "reasoning": getattr(message, "reasoning_content", None),
            "calls": [[call.function.name, json.loads(call.function.arguments)] for call in calls],
            "finish_reason": answer.choices[0].finish_reason,
            "has_usage": answer.usage.completion_tokens > 0,
        })  # fmt: skip
        messages.append(message.model_dump())
        messages += [{"role": "tool", "tool_call_id": call.id, "content": "22 degrees"} for call in calls]
        if not calls:
            messages.append({"role": "user", "content": "Thanks."})
    return said


print(json.dumps({"whole": talk(False), "streamed": talk(True)}))
