"""What one rendering of a template may use: steps, characters and CPU seconds, counted per thread.

Owns the rule that a small template cannot make a huge value: what would be big is measured before it is made.
Knows nothing of jinja2 (sandbox.py).
Tested in tests/unit/models/text/test_chat.py.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

MAX_OUTPUT_CHARS = 1 << 20
MAX_WORK_CHARS = 64 << 20  # all strings made on the way
MAX_STEPS = 500_000  # loop turns, calls, operators, filters
MAX_CPU_S = 0.25
MAX_ITEMS = 10_000  # in one range or repeated list
MAX_INT_BITS = 256
WIDE_FORMAT = re.compile(r"\d{4,}|\*")  # a width or precision that makes a huge text


class BudgetExceeded(Exception):
    """A template used up its budget; the message says which part of it."""


class Budget:
    """What one rendering may use. CPU time of this thread, so that a busy machine does not matter."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_chars = 0
        self._deadline_s = time.thread_time() + MAX_CPU_S

    def spend(self, num_chars: int = 0) -> None:
        self.num_steps += 1
        self.num_chars += num_chars
        if self.num_steps > MAX_STEPS:
            raise BudgetExceeded(f"more than {MAX_STEPS} steps")
        if self.num_chars > MAX_WORK_CHARS:
            raise BudgetExceeded(f"more than {MAX_WORK_CHARS} characters made on the way")
        if (num_chars > 4096 or self.num_steps % 64 == 0) and time.thread_time() > self._deadline_s:
            raise BudgetExceeded(f"more than {MAX_CPU_S} s")

    def check_size(self, num_chars: int) -> None:
        """Pay for a string of this size before it is made."""
        if num_chars > MAX_OUTPUT_CHARS:
            raise BudgetExceeded(f"a string of more than {MAX_OUTPUT_CHARS} characters")
        self.spend(num_chars)


_local = threading.local()


def current_budget() -> Budget:
    """The budget of the rendering that runs in this thread."""
    budget: Budget = _local.budget
    return budget


def begin_budget() -> None:
    """Give this thread a new budget."""
    _local.budget = Budget()


def strings_in(value: Any) -> Iterator[str]:
    """Every string in a value of dicts and lists, keys included."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            stack += item


def measure(value: Any) -> None:
    """Pay for all that a value holds, as if shared parts were copies: a small list may stand for a huge one."""
    if isinstance(value, str):
        current_budget().spend(len(value))
    elif isinstance(value, list | tuple | dict):
        budget = current_budget()
        stack: list[Any] = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                budget.num_chars += len(item)
            elif isinstance(item, dict):
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                stack += item
            budget.spend()


def as_text(value: Any) -> str:
    """str(value), measured before a list or dict is written out."""
    if not isinstance(value, str):
        measure(value)
    return str(value)


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result would be huge, before it is computed."""
    current_budget().spend()
    if operator == "*":
        for items, times in ((left, right), (right, left)):
            if isinstance(items, str | list | tuple) and isinstance(times, int):
                _check_repeat(items, times)
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        current_budget().check_size(len(left) + len(right))
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right)
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_INT_BITS:
            raise BudgetExceeded(f"an integer of more than {MAX_INT_BITS} bits")


def _check_repeat(items: str | list[Any] | tuple[Any, ...], times: int) -> None:
    size = len(items) * max(times, 0)
    if not isinstance(items, str) and size > MAX_ITEMS:
        raise BudgetExceeded(f"a list of more than {MAX_ITEMS}")
    current_budget().check_size(size)


def _check_percent(template: str, values: Any) -> None:
    if WIDE_FORMAT.search(template):
        raise BudgetExceeded("a format with a width or precision above 999")
    measure(values)
    current_budget().check_size(len(template) + template.count("%") * (1000 + sum(map(len, strings_in(values)))))


def join_bounded(parts: Iterator[str]) -> str:
    """The parts as one text. Raises BudgetExceeded before it is too long."""
    budget, retained, size = current_budget(), [], 0
    for part in parts:
        size += len(part)
        if size > MAX_OUTPUT_CHARS:
            raise BudgetExceeded(f"a text of more than {MAX_OUTPUT_CHARS} characters")
        budget.spend()
        retained.append(part)
    budget.spend(size)
    return "".join(retained)
