"""Client libraries complete their usual flows: tools, reasoning, answers of a given form; whole and streamed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.environment import Obliging, run_flow
from tests.clients.obliging import THOUGHT

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "ollama_chat", "anthropic"])
def test_litellm_goes_on_from_its_own_messages(server: Obliging, tmp_path: Path, provider: str) -> None:
    num_before = len(server.conversations)
    found = run_flow("litellm_turns.py", server.url, provider, folder=tmp_path)
    assert sorted(found) == ["streamed", "whole"]
    for first, second, third in found.values():
        assert first["calls"] == [["get_weather", {"city": "Paris"}]]
        assert (second["content"], third["content"]) == ("The tool says: 22 degrees", "You said: Thanks.")
        assert [turn["finish_reason"] for turn in (first, second, third)] == ["tool_calls", "stop", "stop"]
        assert all(turn["reasoning"] == THOUGHT and turn["has_usage"] for turn in (first, second, third))
    last = server.conversations[num_before:][-1]
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>' in last
    assert f"<think>{THOUGHT}</think>" in last


def test_anthropics_tool_runner_falls_back_from_threads_and_runs_its_tools(server: Obliging, tmp_path: Path) -> None:
    found = run_flow("tool_runner.py", server.url, folder=tmp_path)
    expected = {
        "given": [["Paris", 2]],
        "stop_reasons": ["tool_use", "end_turn"],
        "blocks": [["thinking", "tool_use"], ["thinking", "text"]],
        "text": "The tool says: 22 degrees",
    }
    assert found == {"whole": expected, "streamed": expected}


def test_langchains_agents_call_tools_and_keep_to_a_form(server: Obliging, tmp_path: Path) -> None:
    found = run_flow("langchain_agents.py", server.url, folder=tmp_path)
    assert len(found) == 8
    for name, talk in found.items():
        assert talk["kinds"] == ["human", "ai", "tool", "ai", "human", "ai"], name
        _, _, told, answer, _, last = talk["texts"]
        assert (answer, last) == (f"The tool says: {told}", "You said: Thanks."), name
        assert told == "22 degrees in Paris for 2 days", name
        assert talk["form"] == {"city": "Paris", "days": 2}, name


def test_the_ai_sdk_calls_tools_of_zod_and_keeps_to_a_form(server: Obliging, tmp_path: Path) -> None:
    num_before = len(server.conversations)
    found = run_flow("ai_sdk.mjs", server.url, folder=tmp_path)
    assert sorted(found) == ["anthropic", "chat", "compatible", "responses"]
    for name, talk in found.items():
        assert talk["given"] == [["Paris", 2], ["Paris", 2]], name
        assert talk["texts"] == ["The tool says: 22 degrees"] * 2, name
        assert talk["steps"] == [2, 2], name
        assert talk["form"] == {"name": "Paris", "size": 3, "tags": ["a"]}, name
    assert found["compatible"]["reasoning"] == found["anthropic"]["reasoning"] == [THOUGHT, THOUGHT]
    told = [each for each in server.conversations[num_before:] if "<|turn|>tool\n22 degrees" in each]
    # whole and streamed each; OpenAI's own chat protocol has no place for reasoning
    expected = [name != "chat" for name in found for _ in range(2)]
    assert [f"<think>{THOUGHT}</think>" in each for each in told] == expected
