"""Reasoning is told from the answer, whole and however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.wire.tools.reasoning import REASONING, Marks, ReasoningSplit

THINK, MISTRAL = REASONING["think"], REASONING["mistral"]
CASES: list[tuple[Marks, bool, str, str, str]] = [
    # marks, begun by the prompt, text, reasoning, answer
    (THINK, False, "<think>\nHm.\n\nSo.\n</think>\n\nYes.", "Hm.\n\nSo.", "Yes."),
    (THINK, False, "\n <think>Hm.</think>Yes. ", "Hm.", "Yes. "),
    (THINK, True, "\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    (THINK, True, "Hm. Hm", "Hm. Hm", ""),
    (THINK, True, "Hm.</thin", "Hm.</thin", ""),
    (THINK, False, "Yes.", "", "Yes."),
    (THINK, False, " \nYes. <think>no</think>", "", " \nYes. <think>no</think>"),
    (THINK, False, "<thin", "", "<thin"),
    (THINK, False, "<think></think>Yes.</think>", "", "Yes.</think>"),
    (THINK, False, "", "", ""),
    (MISTRAL, False, "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
]


def split(marks: Marks, is_open: bool, pieces: list[str]) -> tuple[str, str]:
    splitting = ReasoningSplit(marks, is_open)
    parts = [splitting.push(piece) for piece in pieces] + [splitting.flush()]
    return "".join(reasoning for reasoning, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(("marks", "is_open", "text", "reasoning", "answer"), CASES)
def test_any_cut_reads_the_same(marks: Marks, is_open: bool, text: str, reasoning: str, answer: str) -> None:
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
    splitting = ReasoningSplit(THINK, True)
    assert [splitting.push(piece)[0] for piece in ("Hm", ", ", "so ", "</", "b>")] == ["Hm", ",", " so", "", " </b>"]
