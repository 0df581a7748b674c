"""Reasoning is bounded, counted and kept out of grammars, with the same tokens alone, in a batch and with guesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.unit.engine.tiny import BLOCK_SIZE, call
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.reasoning import Trace, mark_tokens
from tripos.engine.scheduler import SchedulerOptions
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer, mix
from tripos.types import Call, Constraint, Delta, Finish, ModelCard, ReasoningMarks

MARKERS = ("<think>", "</think>")
THINK, END_THINK = 257, 258
EOS = 256
DIGITS = Constraint(kind="regex", source="[0-9]{4}")


def model(
    says: Sequence[int] | None = None, *, special: bool = True, jump_ahead: bool = True, max_draft_tokens: int = 8
) -> LanguageModel:
    """Says given tokens behind the prompt's last ":", or random bytes that repeat a lot."""
    tokenizer = byte_tokenizer(MARKERS if special else ())
    vocab_size = tokenizer.vocab_size

    def next_token(tokens: list[int], seed: int, counter: int) -> int:
        start = len(tokens) - tokens[::-1].index(ord(":"))
        if says is not None:
            return says[len(tokens) - start] if len(tokens) - start < len(says) else EOS
        return 97 + mix(mix(sum(tokens[-2:]), seed), 0) % 3

    executor = ScriptedExecutor(vocab_size, ExecutorOptions(block_size=BLOCK_SIZE), next_token=next_token)
    executor.reserve(256)
    options = EngineOptions(
        256, BLOCK_SIZE, 512, SchedulerOptions(max_draft_tokens=max_draft_tokens), jump_ahead=jump_ahead
    )
    card = ModelCard(name="tiny", task="generate", digest="d" * 64, max_model_len=512, vocab_size=vocab_size)
    return LanguageModel(card, tokenizer, Engine(executor, options))


def reasoning_call(prompt: str | tuple[int, ...] = "x:", max_tokens: int | None = None, **fields: Any) -> Call:
    marks = ReasoningMarks(start="<think>", end="</think>", max_tokens=max_tokens)
    return call(prompt, reasoning_marks=marks, **{"max_tokens": 40, "ignore_eos": False, **fields})


def answers(model: LanguageModel, *calls: Call) -> list[tuple[str, tuple[int, ...], Finish]]:
    """Text with its reasoning and marks, tokens and ending of each."""
    deltas: dict[int, list[Delta]] = {i: [] for i in range(len(calls))}
    finishes: dict[int, Finish] = {}
    for i, event in model.answer(list(calls)):
        if isinstance(event, Delta):
            deltas[i].append(event)
        elif isinstance(event, Finish):
            finishes[i] = event
        else:
            raise AssertionError(event)
    model.engine.pool.check_integrity()
    ordered = {i: sorted(each, key=lambda delta: delta.index) for i, each in deltas.items()}
    return [
        (spelled(model, tokens), tokens, finishes[i])
        for i, tokens in ((i, tuple(t for d in ordered[i] for t in d.token_ids)) for i in range(len(calls)))
    ]


def spelled(model: LanguageModel, tokens: Sequence[int]) -> str:
    """Marks as their texts, and no text for what ends."""
    return model.tokenizer.decode([token for token in tokens if token != EOS], skip_special=False)


def apart(text: str, is_open: bool = False) -> tuple[str, str]:
    """A text's reasoning and answer."""
    if not is_open and not text.lstrip().startswith("<think>"):
        return "", text
    reasoning, _, answer = (text if is_open else text.lstrip().removeprefix("<think>")).partition("</think>")
    return reasoning.strip(), answer.lstrip()


def ids(text: str) -> list[int]:
    """Bytes, the markers as their tokens."""
    result: list[int] = []
    while text:
        marker = next((i for i, each in enumerate(MARKERS) if text.startswith(each)), None)
        result += [257 + marker] if marker is not None else text[0].encode()
        text = text[len(MARKERS[marker]) if marker is not None else 1 :]
    return result


def test_reasoning_within_its_budget_is_counted_and_left_alone() -> None:
    ((text, tokens, finish),) = answers(model(ids("<think>abc</think>ok")), reasoning_call(max_tokens=20))
    assert text == "<think>abc</think>ok"
    assert tokens == (*ids(text), EOS)
    assert finish.usage.reasoning_tokens == 5
    assert finish.reason == "stop"


@pytest.mark.parametrize("jump_ahead", [True, False])
@pytest.mark.parametrize("logprobs", [None, 0])
def test_used_up_reasoning_ends_and_the_answer_follows(jump_ahead: bool, logprobs: int | None) -> None:
    says = ids("<think>abcdefgh")
    ((text, _, finish),) = answers(
        model(says, jump_ahead=jump_ahead), reasoning_call(max_tokens=4, logprobs=logprobs, **{"min_tokens": 0})
    )
    assert text == "<think>abc</think>" + "efgh"  # the script goes on by position
    assert finish.usage.reasoning_tokens == 5
    assert finish.usage.output_tokens == len(ids(text)) + 1


def test_a_mark_of_several_tokens_is_forced_too() -> None:
    says = list(b"<think>" + b"a" * 60)
    ((text, _, finish),) = answers(model(says, special=False), reasoning_call(max_tokens=10))
    assert text.startswith("<think>aaa</think>a")
    assert finish.usage.reasoning_tokens == 18


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_reasoning_that_the_prompt_began_is_bounded(max_tokens: int) -> None:
    prompt = tuple(ids("x:<think>"))
    tiny = model(ids("?abcdefgh"))
    ((text, _, finish),) = answers(tiny, reasoning_call(prompt, max_tokens=max_tokens))
    if max_tokens:
        assert text.startswith("abc</think>")
        assert finish.usage.reasoning_tokens == 4
    else:
        assert "</think>" not in text
        assert (finish.usage.reasoning_tokens, finish.usage.prompt_tokens) == (0, len(prompt) + 1)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize(
    ("prompt", "says", "expected"),
    [
        ("x:", "<think>\nabc \n</think>\n\nok", ("abc", "ok")),
        ("x:<think>\n", "ab\nc</think>ok", ("ab\nc", "ok")),
        ("x:<think>\n\n</think>\n\n", "abc", ("", "abc")),
        ("<think>x:", "abc", ("", "abc")),
    ],
)
def test_reasoning_and_text_come_apart(special: bool, prompt: str, says: str, expected: tuple[str, str]) -> None:
    tokens = ids if special else lambda text: list(text.encode())
    script = [*_skipped(prompt, tokens), *tokens(says), EOS]
    deltas = _deltas(model(script, special=special), reasoning_call(tuple(tokens(prompt))))
    assert "".join(delta.reasoning for delta in deltas) == expected[0]
    assert "".join(delta.text for delta in deltas) == expected[1]
    assert tuple(token for delta in deltas for token in delta.token_ids) == (*tokens(says), EOS)


@pytest.mark.parametrize(
    ("prompt", "says", "expected"),
    [
        ("x:<think>", "?abc</think>zzzzzzz", "abc</think>"),
        ("x:", "<think>abc</think>zzzzzzz", "<think>abc</think>"),
        ("x:", "!!!!!!!", ""),
        ("x:<think></think>", "??!!!!!!!", ""),
    ],
)
def test_a_grammar_waits_for_the_end_of_reasoning(prompt: str, says: str, expected: str) -> None:
    ((text, _, finish),) = answers(model(ids(says)), reasoning_call(tuple(ids(prompt)), constraint=DIGITS))
    assert text.startswith(expected)
    answer = text.removeprefix(expected)
    assert answer.isdigit()
    assert len(answer) == 4
    assert finish.reason == "stop"


def test_nothing_ends_while_a_grammar_waits() -> None:
    says = ids("<think>a") + [EOS] * 30
    ((text, _, _),) = answers(model(says), reasoning_call(constraint=DIGITS, max_tokens=5))
    reasoning, _, answer = text.partition("</think>")
    assert reasoning.startswith("<think>a")
    assert answer.isdigit()
    assert len(answer) == 4


def test_same_tokens_alone_in_a_batch_and_with_guesses() -> None:
    calls = [
        reasoning_call(
            tuple(ids(f"{i}:<think>")), max_tokens=5 + i, seed=i, id=str(i), n=1 + i % 2, constraint=constraint
        )
        for i, constraint in enumerate((None, DIGITS, None, DIGITS, None))
    ]
    alone = [answers(model(), each)[0][:2] for each in calls]
    for kwargs in ({}, {"jump_ahead": False}, {"max_draft_tokens": 0}):
        assert [each[:2] for each in answers(model(**kwargs), *calls)] == alone  # type: ignore[arg-type]
    assert all("</think>" in text for text, _ in alone)


def test_a_trace_tells_marks_however_tokens_cut_them() -> None:
    tokenizer = byte_tokenizer()
    marks = mark_tokens(ReasoningMarks(start="<think>", end="</think>"), tokenizer)
    for text, is_open, is_over, num_tokens in (
        ("\n<think>", True, False, 8),
        ("<thin", False, False, 5),
        ("<thing", False, True, 0),
        ("<think>a</think", True, False, 15),
        ("<think>a</think>b", False, True, 16),
        ("b<think>", False, True, 0),
    ):
        trace = Trace(marks, tokenizer, [])
        for token in text.encode():
            trace.push(token)
        assert (trace.is_open, trace.is_over, trace.num_tokens) == (is_open, is_over, num_tokens)


# stop strings


STOPPED = [
    # prompt, says, stop strings, text, the stop that was found
    ("x:", "<think>a\nb</think>\n\nOne\nTwo", ("\n",), "<think>a\nb</think>\n\nOne", "\n"),
    ("x:", "\n<think>\na\n</think>\nOne\nTwo", ("\n",), "\n<think>\na\n</think>\nOne", "\n"),
    ("x:<think>\n", "a\n\n</think>\n\nOne.\n\nTwo", ("\n\n",), "a\n\n</think>\n\nOne.", "\n\n"),
    ("x:<think>", "END</think>xENDy", ("END",), "END</think>x", "END"),
    ("x:<think>", "a</think>ENDy", ("END", "</think>", "think"), "a</think>", "END"),
    ("x:", "<think>aE</think>NDy", ("END",), "<think>aE</think>NDy", None),
    ("x:", "One\nTwo", ("\n",), "One", "\n"),
    ("x:", "\nOne", ("\n",), "", "\n"),  # there was no reasoning: its white space is the answer's
    ("x:<think></think>\n\n", "One\nTwo", ("\n",), "One", "\n"),
    ("x:", "<thi\n", ("hi", "\n"), "<t", "hi"),
    ("x:", "\n", ("\n",), "", "\n"),
    ("x:", "<thi", ("x",), "<thi", None),
    ("x:<think>", "a\nb\nc", ("\n",), "a\nb\nc", None),
]


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("prompt", "says", "stops", "expected", "stop"), STOPPED)
def test_stop_strings_are_looked_for_in_the_answer_alone(
    special: bool, n: int, prompt: str, says: str, stops: tuple[str, ...], expected: str, stop: str | None
) -> None:
    def tokens(text: str) -> list[int]:
        return ids(text) if special else list(text.encode())

    tiny = model([*_skipped(prompt, tokens), *tokens(says), EOS], special=special)
    deltas = _deltas(tiny, reasoning_call(tuple(tokens(prompt)), stop=stops, n=n, max_tokens=60))
    for index in range(n):
        mine = [delta for delta in deltas if delta.index == index]
        reasoning, text = apart(expected, prompt.rstrip().endswith("<think>"))
        assert "".join(delta.reasoning for delta in mine) == reasoning
        assert "".join(delta.text for delta in mine) == text
        assert mine[-1].finish_reason == "stop"
        assert mine[-1].stop == stop


def test_a_stop_string_is_kept_where_that_is_asked_and_waits_for_min_tokens() -> None:
    says = [*ids("<think>a\n</think>\nOne\nTwo\n"), EOS]
    for fields, expected in (
        ({"include_stop": True}, "<think>a\n</think>\nOne\n"),
        ({"min_tokens": 9}, "<think>a\n</think>\nOne\nTwo"),
        ({"min_tokens": 2}, "<think>a\n</think>\nOne"),
    ):
        deltas = _deltas(model(says), reasoning_call(stop=("\n",), **fields))
        assert "".join(delta.text for delta in deltas) == apart(expected)[1]
        assert deltas[-1].stop == "\n"


def _skipped(prompt: str, tokens: Callable[[str], list[int]]) -> list[int]:
    """What the script has where the prompt goes on behind its colon."""
    return [0] * len(tokens(prompt.partition(":")[2]))


def _deltas(model: LanguageModel, asked: Call) -> list[Delta]:
    return [event for _, event in model.answer([asked]) if isinstance(event, Delta)]
