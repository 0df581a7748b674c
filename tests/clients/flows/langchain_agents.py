"""LangChain: an agent that calls a tool, asked twice, and an answer of a given form; over each of its three clients.

langchain_agents.py URL
"""

import json
import os
import sys

os.environ |= {"LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

WISH = 'Please call get_weather {"city": "Paris", "days": 2}'
FORM = 'Please say {"city": "Paris", "days": 2} or call Forecast {"city": "Paris", "days": 2}'
url = sys.argv[1]
openai = {"model": "obliging", "base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
anthropic = {"model": "obliging", "base_url": url, "api_key": "none", "max_retries": 0, "max_tokens": 4000}
MODELS = {
    "openai": ChatOpenAI(**openai),
    "openai, streamed": ChatOpenAI(**openai, streaming=True),
    "openai, responses": ChatOpenAI(**openai, use_responses_api=True),
    "ollama": ChatOllama(model="obliging", base_url=url),
    "ollama, reasoning": ChatOllama(model="obliging", base_url=url, reasoning=True),
    "anthropic": ChatAnthropic(**anthropic),
    "anthropic, streamed": ChatAnthropic(**anthropic, streaming=True),
    "anthropic, thinking": ChatAnthropic(**anthropic, thinking={"type": "enabled", "budget_tokens": 1024}),
}


@tool
def get_weather(city: str, days: int = 1) -> str:
    """Weather of a city."""
    return f"22 degrees in {city} for {days} days"


class Forecast(BaseModel):
    """What is asked for."""

    city: str
    days: int


def talk(model) -> dict:
    agent = create_agent(model, [get_weather], system_prompt="Be brief.")
    first = agent.invoke({"messages": [{"role": "user", "content": WISH}]})["messages"]
    second = agent.invoke({"messages": [*first, {"role": "user", "content": "Thanks."}]})["messages"]
    form = model.with_structured_output(Forecast).invoke(FORM)
    return {"kinds": [each.type for each in second], "texts": [each.text for each in second], "form": form.model_dump()}


print(json.dumps({name: talk(model) for name, model in MODELS.items()}))
