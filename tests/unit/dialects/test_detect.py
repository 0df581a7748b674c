"""The template says how a model calls tools and reasons: pieces of templates as the families have them."""

from __future__ import annotations

import pytest

from tripos.config import settings
from tripos.dialects.families import DIALECTS, describe, detect

WITH_TOOLS = "{% if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
CASES: list[tuple[str | None, str, bool, str, str]] = [
    # template, tool dialect, tells of tools, reasoning, switch
    (None, "json", False, "", ""),
    ("{% for message in messages %}{{ message.content }}{% endfor %}", "json", False, "", ""),
    (WITH_TOOLS + '{{ "<tool_call>\\n{\\"name\\": ..." }}', "hermes", True, "", ""),
    (
        WITH_TOOLS + '{{ "<tool_call>" }}{% if enable_thinking is defined and enable_thinking is false %}'
        "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
        "hermes", True, "think", "enable_thinking",
    ),
    (WITH_TOOLS + '{{ "<tool_call><function=f><parameter=a>" }}', "json", False, "", ""),
    (WITH_TOOLS + """{{ 'Respond as {"name": function name, "parameters": dictionary}' }}""", "llama3", True, "", ""),
    (WITH_TOOLS + "{{ '<|python_tag|>' }}{{ '\"parameters\": ' }}", "llama3", True, "", ""),
    (WITH_TOOLS + '{{ "[TOOL_CALLS] [" }}', "mistral_list", True, "", ""),
    (WITH_TOOLS + '{{ "[TOOL_CALLS]" + name + "[ARGS]" }}{{ "[THINK][/THINK]" }}', "mistral", True, "mistral", ""),
    (
        "{{ '<｜tool▁calls▁begin｜>' + tool['type'] + '```json' }}{{ content.split('</think>')[-1] }}{{ '<think>' }}",
        "deepseek_r1", False, "think", "",
    ),
    (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{{ '<｜tool▁calls▁begin｜>' }}{{ '</think>' }}",
        "deepseek_v31", False, "think", "thinking",
    ),
    ("{{ 'I was thinking of tools </think>' }}", "json", False, "think", ""),
]  # fmt: skip


@pytest.mark.parametrize(("template", "dialect", "has_prompt", "reasoning", "switch"), CASES)
def test_template_tells(template: str | None, dialect: str, has_prompt: bool, reasoning: str, switch: str) -> None:
    found = describe(template, {})
    assert (found["tool_dialect"], found["has_tool_prompt"]) == (dialect, has_prompt)
    assert (found["reasoning_dialect"], found["reasoning_switch"]) == (reasoning, switch)


def test_a_template_for_tools_says_how_tools_are_called() -> None:
    plain = "{{ messages[0].content }}{{ '<think></think>' }}"
    found = describe(plain, {}, tool_template=WITH_TOOLS + '{{ "<tool_call>" }}')
    assert (found["tool_dialect"], found["has_tool_prompt"], found["reasoning_dialect"]) == ("hermes", True, "think")
    assert describe(plain, {})["tool_dialect"] == "json"


def test_marks_that_are_special_tokens_are_known_by_id() -> None:
    found = describe(WITH_TOOLS + '{{ "[TOOL_CALLS] [" }}', {"[TOOL_CALLS]": 5, "</s>": 2})
    assert found["marker_ids"] == {"[TOOL_CALLS]": 5}


def test_a_mixed_template_goes_to_the_first_dialect_of_the_list() -> None:
    assert detect(WITH_TOOLS + '{{ "<tool_call>" }}{{ "[TOOL_CALLS]" }}').name == "hermes"


def test_the_setting_knows_every_dialect_and_overrules_the_template() -> None:
    assert settings()["tool_dialect"]["choices"] == ("auto", *DIALECTS)
    assert describe(WITH_TOOLS + '{{ "<tool_call>" }}', {}, "llama3")["tool_dialect"] == "llama3"
    assert describe(WITH_TOOLS + '{{ "<tool_call>" }}', {}, "auto")["tool_dialect"] == "hermes"
