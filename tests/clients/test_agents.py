"""Coding agents do a whole tool loop by themselves: the model calls, they run, the model hears what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import FLOWS, Obliging, find_module, find_program, run
from tests.clients.obliging import NAME

pytestmark = pytest.mark.timeout(600)

COMMAND = "echo $((6 * 7)) > answer.txt && cat answer.txt"


def claude_code(server: Obliging, folder: Path, prompt: str, *options: str) -> dict[str, Any]:
    program = find_module("@anthropic-ai/claude-code/cli-wrapper.cjs")
    command = [find_program("node"), program, "-p", prompt, "--output-format", "json", "--model", NAME, *options]
    environment = {
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": NAME,
        "CLAUDE_CODE_MAX_RETRIES": "0",
    }
    result: dict[str, Any] = json.loads(run(command, folder, environment).splitlines()[-1])
    return result


def test_claude_code_runs_a_command_and_goes_on(server: Obliging, tmp_path: Path) -> None:
    call = json.dumps({"command": COMMAND, "description": "Writes the answer."})
    result = claude_code(server, tmp_path, f"Please call Bash {call}", "--allowedTools", "Bash")
    assert (result["result"], result["is_error"], result["num_turns"]) == ("The tool says: 42", False, 2)
    assert (tmp_path / "answer.txt").read_text() == "42\n"
    again = claude_code(server, tmp_path, "And then?", "--resume", result["session_id"])
    assert again["result"].startswith("You said: ")
    assert again["is_error"] is False
    assert "And then?" in server.conversations[-1]
    assert "The tool says: 42" in server.conversations[-1]


def test_claude_code_reads_a_file(server: Obliging, tmp_path: Path) -> None:
    """By a tool whose schema has the bounds of a double's integers."""
    path = tmp_path / "note.txt"
    path.write_text("forty-one\n")
    read = json.dumps({"file_path": str(path), "limit": 10})
    result = claude_code(server, tmp_path, f"Please call Read {read}", "--allowedTools", "Read")
    assert "forty-one" in result["result"]


def codex(server: Obliging, folder: Path, prompt: str, *options: str) -> list[dict[str, Any]]:
    """Its events."""
    program = find_module("@openai/codex/bin/codex.js")
    home = folder / "codex"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f"""
        model = "{NAME}"
        model_provider = "tripos"
        [model_providers.tripos]
        name = "Tripos"
        base_url = "{server.url}/v1"
        wire_api = "responses"
        request_max_retries = 0
        stream_max_retries = 0
        [analytics]
        enabled = false
        [mcp_servers.ledger]
        command = "{find_program("python")}"
        args = ["{FLOWS / "mcp_server.py"}"]
        """
    )
    command = [find_program("node"), program, "exec", *options, "--json", "--skip-git-repo-check"]
    command += ["--dangerously-bypass-approvals-and-sandbox", prompt]
    lines = run(command, folder, {"CODEX_HOME": str(home)}).splitlines()
    return [json.loads(line) for line in lines]


def said(events: list[dict[str, Any]]) -> list[str]:
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


def test_codex_runs_a_command_and_goes_on(server: Obliging, tmp_path: Path) -> None:
    events = codex(server, tmp_path, f"Please call exec_command {json.dumps({'cmd': COMMAND})}")
    (ran,) = [event["item"] for event in events if event.get("item", {}).get("type") == "command_execution"][-1:]
    assert (ran["aggregated_output"], ran["exit_code"]) == ("42\n", 0)
    (answer,) = said(events)
    assert answer.startswith("The tool says: ")
    assert answer.endswith("42")
    assert events[-1]["type"] == "turn.completed"
    assert (tmp_path / "answer.txt").read_text() == "42\n"
    again = codex(server, tmp_path, "And then?", "resume", "--last")
    assert said(again) == ["You said: And then?"]
    assert "The tool says: " in server.conversations[-1]


def test_codex_calls_a_tool_of_a_namespace(server: Obliging, tmp_path: Path) -> None:
    """The tools of an MCP server come in a namespace of their own."""
    events = codex(server, tmp_path, f"Please call mcp__ledger__look_up {json.dumps({'name': 'Ann'})}")
    (answer,) = said(events)
    assert "Ann owes 42" in answer
    assert "mcp__ledger__look_up" in server.conversations[-1]
