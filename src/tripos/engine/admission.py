"""Bounded admission: how many requests and tokens may wait. Refuses before any costly work.

Owns two counters behind a lock, since callers ask from several threads; never looks at a prompt.
"""

from __future__ import annotations

import math
import threading

from tripos.errors import Overloaded

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
WATCH_S = 10.0  # time constant of the measured rate


class Ticket:
    """One admitted request and its prompt tokens. `release` is idempotent."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_tokens = 0
        self.num_requests = 1

    def set_tokens(self, num_tokens: int) -> None:
        """Set how many prompt tokens the request has, once they are counted. Raises Overloaded (and releases)."""
        self._admission.resize(self, num_tokens)

    def release(self) -> None:
        self._admission.release(self)


class Admission:
    """Counts requests and tokens that wait. A request is always admitted when no other waits, whatever its length: the
    context length bounds that."""

    def __init__(self, max_waiting: int, max_waiting_tokens: int, max_wait_s: float = 30.0) -> None:
        self.max_waiting = max_waiting
        self.max_waiting_tokens = max_waiting_tokens
        self.max_wait_s = max_wait_s
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.tokens_per_s = 0.0  # prompt tokens served while others waited; 0: not known
        self._watched_s = self._watched_tokens = 0.0
        self._is_draining = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """Refuse every request from now on (drain)."""
        with self._lock:
            self._is_draining = True

    def open(self) -> None:
        with self._lock:
            self._is_draining = False

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def enter(self) -> Ticket:
        """Admit one request. Raises Overloaded with `retry_after_s`."""
        with self._lock:
            if self._is_draining:
                raise Overloaded(
                    "the model is draining and takes no new requests: ask another replica",
                    code="draining",
                    retry_after_s=MAX_RETRY_S,
                )
            if self.num_waiting >= self.max_waiting:
                raise self._refusal(f"{self.num_waiting} requests are waiting, the limit is {self.max_waiting}")
            if self.num_waiting_tokens >= self.max_waiting_tokens:
                raise self._refusal(
                    f"{self.num_waiting_tokens} prompt tokens are waiting, the limit is {self.max_waiting_tokens}"
                )
            if self._wait_s() > self.max_wait_s:
                raise self._refusal(
                    f"{self.num_waiting_tokens} prompt tokens are waiting, about {self._wait_s():.0f} s of work; the "
                    f"limit is {self.max_wait_s:.0f} s"
                )
            self.num_waiting += 1
            return Ticket(self)

    def observe(self, num_prompt_tokens: int, seconds: float) -> None:
        """Note that a step computed so many prompt tokens while requests waited. The rate holds once WATCH_S / 2 were
        measured."""
        fading = math.exp(-seconds / WATCH_S)
        self._watched_tokens = self._watched_tokens * fading + num_prompt_tokens
        self._watched_s = self._watched_s * fading + seconds
        if self._watched_s > WATCH_S / 2:
            self.tokens_per_s = max(self._watched_tokens / self._watched_s, 1.0)

    def relax(self) -> None:
        """Note that no request waits: without a queue the rate means nothing and is measured anew."""
        self.tokens_per_s = self._watched_s = self._watched_tokens = 0.0

    def resize(self, ticket: Ticket, num_tokens: int) -> None:
        with self._lock:
            total = self.num_waiting_tokens - ticket.num_tokens + num_tokens
            if total > self.max_waiting_tokens and self.num_waiting > 1:
                self._release(ticket)
                raise self._refusal(
                    f"with {num_tokens} more prompt tokens {total} would wait, the limit is {self.max_waiting_tokens}"
                )
            self.num_waiting_tokens = total
            ticket.num_tokens = num_tokens

    def release(self, ticket: Ticket) -> None:
        with self._lock:
            self._release(ticket)

    def _release(self, ticket: Ticket) -> None:
        self.num_waiting -= ticket.num_requests
        self.num_waiting_tokens -= ticket.num_tokens
        ticket.num_requests = ticket.num_tokens = 0

    def _wait_s(self) -> float:
        """Seconds until all that waits now is served; 0 while the rate is not known."""
        return self.num_waiting_tokens / self.tokens_per_s if self.tokens_per_s > 0 else 0.0

    def _refusal(self, cause: str) -> Overloaded:
        retry_after_s = min(max(self._wait_s(), MIN_RETRY_S), MAX_RETRY_S)
        return Overloaded(f"{cause}: retry in {retry_after_s:.0f} s", retry_after_s=retry_after_s)
