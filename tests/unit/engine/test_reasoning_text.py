"""Reasoning is told from the answer, whole and however tokens cut the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.dialects.reasoning import REASONING
from tripos.engine.reasoning import ReasoningText, Trace, mark_tokens
from tripos.models.text.tokenizer import Tokenizer
from tripos.types import ReasoningMarks

THINK, MISTRAL = REASONING["think"], REASONING["mistral"]
CASES: list[tuple[ReasoningMarks, bool, str, str, str]] = [
    # marks, begun by the prompt, text, reasoning, answer
    (THINK, False, "<think>\nHm.\n\nSo.\n</think>\n\nYes.", "Hm.\n\nSo.", "Yes."),
    (THINK, False, "\n <think>Hm.</think>Yes. ", "Hm.", "Yes. "),
    (THINK, True, "\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    (THINK, True, "Hm. Hm", "Hm. Hm", ""),
    (THINK, True, "Hm.</thin", "Hm.</thin", ""),
    (THINK, True, "Hm.</thin </", "Hm.</thin </", ""),
    (THINK, False, "Yes.", "", "Yes."),
    (THINK, False, " \nYes. <think>no</think>", "", " \nYes. <think>no</think>"),
    (THINK, False, "<thin", "", "<thin"),
    (THINK, False, "<think></think>Yes.</think>", "", "Yes.</think>"),
    (THINK, False, "", "", ""),
    (MISTRAL, False, "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
]


class _Pieces(Tokenizer):
    """Each token is a piece of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.all_token_bytes = tuple(piece.encode() for piece in pieces)  # type: ignore[misc]

    def decode(self, ids: object, skip_special: bool = True) -> str:
        return "<think>" if ids else ""

    def token_id(self, text: str) -> int | None:
        return None

    def encode_inside(self, text: str) -> list[int]:
        return []


def split_all(marks: ReasoningMarks, is_open: bool, pieces: list[str]) -> list[tuple[int, str, str]]:
    """What each piece gives, and the end."""
    tokenizer = _Pieces(pieces)
    text = ReasoningText(Trace(mark_tokens(marks, tokenizer), tokenizer, [0] if is_open else []))
    found = [(0, "", piece) if text.is_answer else text.push(i, piece) for i, piece in enumerate(pieces)]
    return [*found, (0, "", "") if text.is_answer else text.flush("")]


def split(marks: ReasoningMarks, is_open: bool, pieces: list[str]) -> tuple[str, str]:
    parts = split_all(marks, is_open, pieces)
    reasoning, answer = "".join(each[1] for each in parts), "".join(each[2] for each in parts)
    assert sum(each[0] for each in parts) + len(answer) == sum(map(len, pieces))  # every character has its place
    return reasoning, answer


@pytest.mark.parametrize(("marks", "is_open", "text", "reasoning", "answer"), CASES)
def test_any_cut_reads_the_same(marks: ReasoningMarks, is_open: bool, text: str, reasoning: str, answer: str) -> None:
    assert split(marks, is_open, [text]) == (reasoning, answer)
    assert split(marks, is_open, list(text)) == (reasoning, answer)
    for at in range(len(text)):
        assert split(marks, is_open, [text[:at], text[at:]]) == (reasoning, answer)


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "think", "\n", " ", "a", "</", ">"]), max_size=10),
    st.booleans(),
    st.lists(st.integers(1, 6), max_size=20),
)
def test_any_text_in_any_pieces_reads_as_the_whole_does(words: list[str], is_open: bool, sizes: list[int]) -> None:
    text, pieces, at = "".join(words), [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    assert split(THINK, is_open, [*pieces, text[at:]]) == split(THINK, is_open, [text])


def test_reasoning_streams_and_only_white_space_and_marks_wait() -> None:
    parts = split_all(THINK, True, ["Hm", ", ", "so ", "</", "b>"])
    assert [reasoning for _, reasoning, _ in parts] == ["Hm", ",", " so", "", " </b>", ""]


def test_white_space_in_the_token_that_ends_reasoning_is_not_the_answers() -> None:
    """A vocabulary may hold the end of a mark and a line break as one token."""
    assert split_all(THINK, True, ["x</think", ">\n", "\n", "y\n", "\n"]) == [
        (8, "x", ""), (2, "", ""), (1, "", ""), (0, "", "y\n"), (0, "", "\n"), (0, "", "")
    ]  # fmt: skip
    assert split_all(THINK, True, ["x</think", ">\nz\n"])[:2] == [(8, "x", ""), (2, "", "z\n")]
