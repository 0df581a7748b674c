"""Anthropic's SDK runs tools by itself: whole and streamed.

tool_runner.py URL
"""

import json
import sys

import anthropic
from anthropic import beta_tool

WISH = 'Please call get_weather {"city": "Paris", "days": 2}'
given = []


@beta_tool
def get_weather(city: str, days: int = 1) -> str:
    """Weather of a city.

    Args:
        city: Its name.
        days: How many.
    """
    given.append([city, days])
    return "22 degrees"


def run(stream: bool) -> dict:
    given.clear()
    client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
    runner = client.beta.messages.tool_runner(
        model="obliging",
        max_tokens=4000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[get_weather],
        messages=[{"role": "user", "content": WISH}],
        stream=stream,
    )
    messages = [each.get_final_message() if stream else each for each in runner]
    return {
        "given": list(given),
        "stop_reasons": [message.stop_reason for message in messages],
        "blocks": [[block.type for block in message.content] for message in messages],
        "text": messages[-1].content[-1].text,
    }


print(json.dumps({"whole": run(False), "streamed": run(True)}))
