"""Stop strings and Deltas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.tiny import EOS
from tripos.engine.engine import Output, TokenOutput
from tripos.engine.sequence import Sequence
from tripos.engine.text import ChoiceText, StopMatcher
from tripos.testing import byte_tokenizer
from tripos.types import Sampling, TokenLogprob

TOKENIZER = byte_tokenizer()
SEQUENCE = Sequence(np.array([1], np.int32), 8)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Reads one more character at a time and cuts at the first complete stop string."""
    for end in range(len(text) + 1):
        found = [(text[:end].find(stop), stop) for stop in stops if stop in text[:end]]
        if found:
            at, stop = min(found)
            return text[:at], stop
    return text, None


@settings(deadline=None)
@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_cut_at_the_same_place_however_the_text_arrives(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out = ""
    for char in text:
        out += matcher.push(char)
        assert not any(stop in out for stop in stops), "a stop string leaked"
        if matcher.matched is not None:
            break
    else:
        out += matcher.flush()
    assert (out, matcher.matched) == expected(text, stops)


def test_only_a_possible_beginning_is_held_back() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("gg EN") == "Egg "
    assert matcher.push("D") == ""
    assert matcher.matched == "END"


def choice(**sampling: object) -> ChoiceText:
    return ChoiceText(TOKENIZER, Sampling(**sampling), 0, [65])  # type: ignore[arg-type]


def push(choice_text: ChoiceText, data: bytes, **ending: object) -> None:
    choice_text.push(Output(SEQUENCE, [TokenOutput(byte, -1.0) for byte in data], [], **ending))  # type: ignore[arg-type]


def test_tokens_leave_with_their_text() -> None:
    text = choice(stop=("END",), logprobs=0)
    push(text, b"aE")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.token_ids) == ("a", (97,))
    assert text.take() is None
    push(text, b"x")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.token_ids) == ("Ex", (69, 120))
    assert delta.logprobs is not None
    assert delta.logprobs[0] == TokenLogprob(69, "E", b"E", -1.0)


@pytest.mark.parametrize(("include", "shown"), [(False, "ab"), (True, "abEND")])
def test_a_stop_string_ends_the_choice_and_its_tokens_are_cut(include: bool, shown: str) -> None:
    text = choice(stop=("END",), include_stop=include)
    for byte in b"abENDtoo late":
        push(text, bytes((byte,)))
    delta = text.take()
    assert delta is not None
    assert (delta.text, bytes(delta.token_ids).decode()) == (shown, shown)
    assert (delta.finish_reason, delta.stop) == ("stop", "END")
    assert text.num_tokens == 5
    assert text.take() is None


def test_held_text_comes_out_when_the_choice_ends_otherwise() -> None:
    text = choice(stop=("END",))
    push(text, b"aEN", finish_reason="length")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.token_ids, delta.finish_reason) == ("aEN", (97, 69, 78), "length")


@pytest.mark.parametrize("include", [False, True])
def test_the_token_that_ends_is_among_the_tokens_and_has_no_text(include: bool) -> None:
    text = choice(include_stop=include, logprobs=0)
    tokens = [TokenOutput(97, -1.0), TokenOutput(EOS, -2.0)]
    text.push(Output(SEQUENCE, tokens, [], finish_reason="stop", stop_token=EOS))
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.token_ids, delta.text_offsets) == ("a", (97, EOS), (0, 1))
    assert delta.logprobs is not None
    assert [each.logprob for each in delta.logprobs] == [-1.0, -2.0]
    assert text.num_tokens == 2


@pytest.mark.parametrize(("stop_ids", "stop"), [((), None), ((EOS,), EOS)])
def test_only_a_token_that_was_asked_for_is_told_as_the_stop(stop_ids: tuple[int, ...], stop: int | None) -> None:
    text = choice(stop_token_ids=stop_ids)
    text.push(Output(SEQUENCE, [TokenOutput(EOS)], [], finish_reason="stop", stop_token=EOS))
    delta = text.take()
    assert delta is not None
    assert (delta.finish_reason, delta.stop) == ("stop", stop)


def test_offsets_count_characters_however_many_tokens_one_has() -> None:
    said = "a😀é b".encode()  # a token for each byte
    text = choice(logprobs=0)
    push(text, said, finish_reason="length")
    delta = text.take()
    assert delta is not None
    assert delta.text == "a😀é b"
    assert delta.text_offsets == (0, 1, 1, 1, 1, 2, 2, 3, 4)


def test_offsets_go_on_behind_what_is_no_character() -> None:
    text = choice(logprobs=0)
    push(text, b"\xf0\x9fab\xffc", finish_reason="length")
    delta = text.take()
    assert delta is not None
    assert delta.text == "\ufffdab\ufffdc"
    assert delta.text_offsets == (0, 0, 1, 2, 3, 4)


def test_offsets_stay_right_when_a_stop_string_cuts_the_text_between_them() -> None:
    text = choice(logprobs=0, stop=("ND",))
    push(text, b"abEND")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.text_offsets) == ("abE", (0, 1, 2))


def test_offsets_count_from_the_beginning_of_an_echo() -> None:
    prompt = "é!".encode()
    text = ChoiceText(TOKENIZER, Sampling(logprobs=0), 0, list(prompt), echo_text="é!")
    push(text, b"c")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.prompt_offsets, delta.text_offsets) == ("é!c", (0, 0, 1), (2,))
    push(text, b"d")
    delta = text.take()
    assert delta is not None
    assert delta.text_offsets == (3,)


def test_half_a_character_is_never_shown() -> None:
    text = choice()
    data = "né".encode()
    push(text, data[:2])
    delta = text.take()
    assert delta is not None
    assert delta.text == "n"
    push(text, data[2:], finish_reason="length")
    delta = text.take()
    assert delta is not None
    assert delta.text == "é"


def test_stop_strings_do_not_count_before_min_tokens() -> None:
    text = choice(stop=("b",), min_tokens=3)
    push(text, b"abab")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.finish_reason) == ("aba", "stop")


def test_unread_deltas_merge_into_one() -> None:
    text = choice()
    for _ in range(100):
        push(text, b"x")
    push(text, b"y", finish_reason="length")
    delta = text.take()
    assert delta is not None
    assert delta.text == "x" * 100 + "y"
    assert text.take() is None


def test_echo_puts_the_prompt_first_and_once() -> None:
    text = ChoiceText(TOKENIZER, Sampling(), 0, [65, 66], echo_text="AB")
    push(text, b"c")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.prompt_token_ids) == ("ABc", (65, 66))
    push(text, b"d")
    delta = text.take()
    assert delta is not None
    assert (delta.text, delta.prompt_token_ids) == ("d", ())
