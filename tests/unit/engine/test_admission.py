"""Bounded waiting."""

from __future__ import annotations

import pytest

from tripos.engine.admission import Admission
from tripos.errors import Overloaded


def test_requests_beyond_the_limit_are_refused_with_a_time_to_retry() -> None:
    admission = Admission(max_waiting=2, max_waiting_tokens=100)
    tickets = [admission.enter() for _ in range(2)]
    with pytest.raises(Overloaded, match="2 requests are waiting, the limit is 2") as refusal:
        admission.enter()
    assert refusal.value.retry_after_s == 1.0
    tickets[0].release()
    tickets[0].release()
    assert admission.num_waiting == 1
    admission.enter()


def test_tokens_beyond_the_limit_are_refused_and_leave_no_trace() -> None:
    admission = Admission(max_waiting=9, max_waiting_tokens=100)
    first = admission.enter()
    first.set_tokens(60)
    second = admission.enter()
    with pytest.raises(Overloaded, match="with 50 more prompt tokens 110 would wait"):
        second.set_tokens(50)
    assert (admission.num_waiting, admission.num_waiting_tokens) == (1, 60)
    second.release()
    first.release()
    assert (admission.num_waiting, admission.num_waiting_tokens) == (0, 0)


def test_one_long_request_alone_is_let_in_and_the_next_waits_outside() -> None:
    admission = Admission(max_waiting=9, max_waiting_tokens=100)
    admission.enter().set_tokens(500)
    with pytest.raises(Overloaded, match="500 prompt tokens are waiting"):
        admission.enter()


@pytest.mark.parametrize(("rate", "retry_s"), [(10.0, 50.0), (1e6, 1.0), (0.1, 60.0)])
def test_the_time_to_retry_follows_the_measured_rate(rate: float, retry_s: float) -> None:
    admission = Admission(max_waiting=1, max_waiting_tokens=1000)
    admission.tokens_per_s = rate
    admission.enter().set_tokens(500)
    with pytest.raises(Overloaded) as refusal:
        admission.enter()
    assert refusal.value.retry_after_s == retry_s


def test_a_wait_that_would_be_too_long_is_refused_at_once() -> None:
    admission = Admission(max_waiting=99, max_waiting_tokens=100_000, max_wait_s=30.0)
    admission.enter().set_tokens(4000)
    for _ in range(300):
        admission.observe(10, 0.1)
    with pytest.raises(
        Overloaded, match="4000 prompt tokens are waiting, about 40 s of work; the limit is 30 s"
    ) as refusal:
        admission.enter()
    assert refusal.value.retry_after_s == pytest.approx(40.0, rel=0.02)
    admission.relax()
    admission.enter()


def test_no_wait_is_predicted_from_a_queue_that_was_seen_too_shortly() -> None:
    admission = Admission(max_waiting=99, max_waiting_tokens=100_000)
    admission.enter().set_tokens(90_000)
    for _ in range(20):
        admission.observe(10, 0.1)
    admission.enter()


def test_a_draining_model_says_so() -> None:
    admission = Admission(max_waiting=1, max_waiting_tokens=1000)
    admission.close()
    with pytest.raises(Overloaded) as refusal:
        admission.enter()
    assert refusal.value.code == "draining"
    admission.open()
    admission.enter()
