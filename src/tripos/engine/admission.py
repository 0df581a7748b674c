"""Bounded admission: how many requests and tokens may wait. Refuses before any costly work.

Owns two counters behind a lock, since doors ask from their own threads; never looks at a prompt.
"""

from __future__ import annotations

import math
import threading

from tripos.errors import Overloaded

MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0
WATCH_S = 10.0  # over which the rate is taken


class Ticket:
    """A place in the waiting room. `release` is idempotent."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.num_tokens = 0
        self.num_requests = 1

    def set_tokens(self, num_tokens: int) -> None:
        """Say how many prompt tokens wait, now that they are counted. Raises Overloaded (and releases)."""
        self._admission.resize(self, num_tokens)

    def release(self) -> None:
        self._admission.release(self)


class Admission:
    """Counts what waits. One request alone is always let in, whatever its length; the context bounds that."""

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
        """Refuse everyone from now on (drain)."""
        with self._lock:
            self._is_draining = True

    def open(self) -> None:
        with self._lock:
            self._is_draining = False

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def enter(self) -> Ticket:
        """Take a place, or raise Overloaded with `retry_after_s`."""
        with self._lock:
            if self._is_draining:
                raise Overloaded(
                    "the model is draining and takes no new requests: ask another replica",
                    code="draining",
                    retry_after_s=MAX_RETRY_S,
                )
            if self.num_waiting >= self.max_waiting:
                raise self._refusal(f"{self.num_waiting} requests are waiting, at most {self.max_waiting} may")
            if self.num_waiting_tokens >= self.max_waiting_tokens:
                raise self._refusal(
                    f"{self.num_waiting_tokens} tokens are waiting, at most {self.max_waiting_tokens} may"
                )
            if self._wait_s() > self.max_wait_s:
                raise self._refusal(
                    f"{self.num_waiting_tokens} tokens wait, about {self._wait_s():.0f} s of work; "
                    f"at most {self.max_wait_s:.0f} s may"
                )
            self.num_waiting += 1
            return Ticket(self)

    def observe(self, num_prompt_tokens: int, seconds: float) -> None:
        """A step computed so many prompt tokens while requests waited. The rate counts once it is watched for long."""
        fading = math.exp(-seconds / WATCH_S)
        self._watched_tokens = self._watched_tokens * fading + num_prompt_tokens
        self._watched_s = self._watched_s * fading + seconds
        if self._watched_s > WATCH_S / 2:
            self.tokens_per_s = max(self._watched_tokens / self._watched_s, 1.0)

    def relax(self) -> None:
        """Nobody waits: what comes next says nothing about the rate of a queue."""
        self.tokens_per_s = self._watched_s = self._watched_tokens = 0.0

    def resize(self, ticket: Ticket, num_tokens: int) -> None:
        with self._lock:
            total = self.num_waiting_tokens - ticket.num_tokens + num_tokens
            if total > self.max_waiting_tokens and self.num_waiting > 1:
                self._release(ticket)
                raise self._refusal(
                    f"{num_tokens} prompt tokens would make {total} waiting, at most {self.max_waiting_tokens} may"
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
        """Until what waits now is served; 0 while the rate is not known."""
        return self.num_waiting_tokens / self.tokens_per_s if self.tokens_per_s > 0 else 0.0

    def _refusal(self, cause: str) -> Overloaded:
        retry_after_s = min(max(self._wait_s(), MIN_RETRY_S), MAX_RETRY_S)
        return Overloaded(f"{cause}: retry in {retry_after_s:.0f} s", retry_after_s=retry_after_s)
