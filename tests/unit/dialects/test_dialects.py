"""Every dialect reads its calls, whole and however the text is cut; what is no call stays text; calls never are broken.

One table of cases for each dialect: the text of a model → what a reader of the answer sees.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tripos.dialects.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from tripos.dialects.dialect import Dialect
from tripos.dialects.families import DIALECTS
from tripos.dialects.generic import GENERIC
from tripos.dialects.hermes import HERMES
from tripos.dialects.llama import LLAMA
from tripos.dialects.mistral import MISTRAL, MISTRAL_LIST
from tripos.dialects.parser import CallParser, Part, ToolText

NAMES = ("f", "get_weather")
F = ToolText("f", '{"a": 1}')
EMPTY = ToolText("f", "{}")
PARIS = ToolText("get_weather", '{"city": "Paris \\" } ] 🙂", "days": [1, {"n": null}]}')


def text(whole: str) -> tuple[str, list[Part]]:
    """A text that holds no call."""
    return whole, [whole]


HERMES_CASES: list[tuple[str, list[Part]]] = [
    ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', [F]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n<tool_call>\n{"name": "f"}</tool_call>', [F, EMPTY]),
    ('Let me see.\n\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>\n', ["Let me see.", F]),
    (f'<tool_call>{{"arguments": {PARIS.arguments}, "name": "get_weather"}}</tool_call>', [PARIS]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}', [F]),  # ends where the call does
    ('<tool_call>{"name": "f", "arguments": {"a": 1', ['<tool_call>{"name": "f", "arguments": {"a": 1']),  # cut off
    text('<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    text('<tool_call>{"name": "absent", "arguments": {}}'),
    text("a <tool_cal b"),
    text("<tool_call> is how calls begin."),
    ('<tool_call><tool_call>{"name": "f"}</tool_call>', ["<tool_call>", EMPTY]),
    ('<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call> done', [F, "done"]),
    text('<tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>'),
    ("", []),
    text(" \n"),
]  # fmt: skip
LLAMA_CASES: list[tuple[str, list[Part]]] = [
    ('{"name": "f", "parameters": {"a": 1}}', [F]),
    ('\n {"name": "f", "parameters": {"a": 1}}\n', [F]),
    ('<|python_tag|>{"name": "f", "parameters": {"a": 1}}', [F]),
    ('{"type": "function", "name": "f", "parameters": {"a": 1}}', [F]),
    ('{"name": "f", "parameters": {"a": 1}}; {"name": "f", "parameters": {}}', [F, EMPTY]),
    (f'{{"name": "get_weather", "parameters": {PARIS.arguments}}}', [PARIS]),
    text('{"answer": 42}'),
    text('{"name": "Ann", "age": 3}'),
    text('It is {"name": "f", "parameters": {}}'),
    text('{"name": "f", "parameters": {"a"'),
    text("{"),
    text("<|python_tag|>print(1)"),
]
MISTRAL_CASES: list[tuple[str, list[Part]]] = [
    ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]', [F]),
    ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {}}]', [F, EMPTY]),
    ('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', [F]),
    ('[TOOL_CALLS]f[ARGS]{"a": 1}', [F]),
    ('[TOOL_CALLS]f{"a": 1}', [F]),
    ('[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}[TOOL_CALLS]f[ARGS]{}', [F, EMPTY]),
    (f"Well: [TOOL_CALLS]get_weather[ARGS]{PARIS.arguments}", ["Well:", PARIS]),
    text('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name"'),
    ("[TOOL_CALLS]" + "n" * 100, ["[TOOL_CALLS]" + "n" * 100]),
    text("[TOOL_CALLS][]"),
    text("[TOOL"),
]  # fmt: skip
_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
DEEPSEEK_CASES: list[tuple[str, list[Part]]] = [
    (f'{_BEGIN}{_CALL}function{_SEP}f\n```json\n{{"a": 1}}\n```{_CALL_END}{_END}', [F]),
    (
        f'{_BEGIN}{_CALL}function{_SEP}f\n```json\n{{"a": 1}}\n```{_CALL_END}\n'
        f"{_CALL}function{_SEP}f\n```json\n{{}}\n```{_CALL_END}{_END}",
        [F, EMPTY],
    ),
    (f'{_BEGIN}{_CALL}f{_SEP}{{"a": 1}}{_CALL_END}{_CALL}f{_SEP}{{}}{_CALL_END}{_END}', [F, EMPTY]),
    (f"Hm.{_CALL}get_weather{_SEP}{PARIS.arguments}{_CALL_END}", ["Hm.", PARIS]),
    (f"{_BEGIN}{_CALL}function{_SEP}f\n```json\n{{", [f"{_BEGIN}{_CALL}function{_SEP}f\n```json\n{{"]),
    (f"{_BEGIN} nothing", [f"{_BEGIN} nothing"]),
]
GENERIC_CASES: list[tuple[str, list[Part]]] = [
    ('{"name": "f", "arguments": {"a": 1}}', [F]),
    ('[{"name": "f", "arguments": {"a": 1}}, {"name": "f"}]', [F, EMPTY]),
    text("[1, 2]"),
    text('{"name": "f", "arguments": {"a": 1}'),
    text("Hello."),
]
CASES = [
    *((HERMES, *case) for case in HERMES_CASES),
    *((LLAMA, *case) for case in LLAMA_CASES),
    *((dialect, *case) for dialect in (MISTRAL, MISTRAL_LIST) for case in MISTRAL_CASES),
    *((dialect, *case) for dialect in (DEEPSEEK_R1, DEEPSEEK_V31) for case in DEEPSEEK_CASES),
    *((GENERIC, *case) for case in GENERIC_CASES),
]
IDS = [f"{dialect.name}-{i}" for i, (dialect, _, _) in enumerate(CASES)]


def parse(dialect: Dialect, pieces: list[str]) -> list[Part]:
    parser = CallParser(dialect, NAMES)
    return joined([part for piece in pieces for part in parser.push(piece)] + parser.flush())


def joined(parts: list[Part]) -> list[Part]:
    """Neighbouring texts as one."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        else:
            result.append(part)
    return result


@pytest.mark.parametrize(("dialect", "text", "expected"), CASES, ids=IDS)
def test_whole_text_is_read(dialect: Dialect, text: str, expected: list[Part]) -> None:
    assert parse(dialect, [text]) == expected


@pytest.mark.parametrize(("dialect", "text", "expected"), CASES, ids=IDS)
def test_any_cut_reads_the_same(dialect: Dialect, text: str, expected: list[Part]) -> None:
    assert parse(dialect, list(text)) == expected
    for at in range(1, len(text)):
        assert parse(dialect, [text[:at], text[at:]]) == expected


PIECES = [
    "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", _BEGIN, _CALL, _SEP,
    _CALL_END, _END, "```json", "\n", " ", "f", "text",
    '{"name": "f", ', '"arguments": ', '"parameters": ', '{"a": 1}', "{", "}", "[",
    "]", ";", ",", '"', "\\", "<tool", "[TOOL", "1e5", "tru", "null",
]  # fmt: skip


@given(
    st.sampled_from(list(DIALECTS.values())),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.integers(1, 8), max_size=40),
)
@example(HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [])
def test_any_text_in_any_pieces_reads_as_the_whole_does(dialect: Dialect, text: str, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    whole = parse(dialect, [text])
    assert parse(dialect, [*pieces, text[at:]]) == whole
    for part in whole:
        if isinstance(part, ToolText):
            assert part.name in NAMES
            assert isinstance(json.loads(part.arguments), dict)
        else:
            assert part


@given(st.sampled_from(CASES), st.integers(0, 200))
def test_a_text_cut_off_anywhere_has_no_broken_call(case: tuple[Dialect, str, list[Part]], length: int) -> None:
    dialect, text, expected = case
    calls = [part for part in parse(dialect, [text[:length]]) if isinstance(part, ToolText)]
    assert calls == [part for part in expected if isinstance(part, ToolText)][: len(calls)]


@pytest.mark.parametrize(
    ("dialect", "held", "then", "released"),
    [
        (HERMES, "Hi <tool", "bar", "<toolbar"),
        (HERMES, "<tool_call> {", "x", "<tool_call> {x"),
        (LLAMA, '{"na', 'tion"', '{"nation"'),
        (MISTRAL, "[", "1]", "[1]"),
    ],
)
def test_text_is_held_back_only_while_it_may_be_a_call(dialect: Dialect, held: str, then: str, released: str) -> None:
    parser = CallParser(dialect, NAMES)
    before = "".join(map(str, parser.push(held)))
    assert released not in before
    assert "".join(map(str, parser.push(then))).strip() == released


def test_plain_text_passes_at_once() -> None:
    parser = CallParser(HERMES, NAMES)
    assert [parser.push(word) for word in ("Hello", " wor", "ld", " <", "b")] == [
        ["Hello"], [" wor"], ["ld"], [], [" <b"]
    ]  # fmt: skip


HOSTILE: list[tuple[Dialect, str]] = [
    (HERMES, "<tool_call>"),
    (HERMES, "<tool_call>{"),
    (HERMES, '<tool_call>{"name": '),
    (HERMES, '<tool_call>{"name":"f","arguments":{}}'),
    (MISTRAL, "[TOOL_CALLS]"),
    (MISTRAL, "[TOOL_CALLS]["),
    (DEEPSEEK_R1, _CALL),
    (LLAMA, '{"name": "f", "parameters": ['),
    (GENERIC, "["),
]


@pytest.mark.parametrize(("dialect", "text"), HOSTILE, ids=[f"{d.name}-{i}" for i, (d, _) in enumerate(HOSTILE)])
def test_hostile_text_takes_linear_work(dialect: Dialect, text: str) -> None:
    """Work is counted in lines of Python, which no busy machine changes."""
    few, many = (count_lines(dialect, text * size) for size in (200, 1600))
    assert many <= 12 * few


def count_lines(dialect: Dialect, text: str) -> int:
    import sys

    num_lines = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal num_lines
        num_lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        parse(dialect, [text[at : at + 7] for at in range(0, len(text), 7)])
    finally:
        sys.settrace(None)
    return num_lines


def test_ten_thousand_open_tags_are_text() -> None:
    text = "<tool_call>" * 10_000
    assert parse(HERMES, [text]) == [text]
