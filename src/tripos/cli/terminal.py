"""Output in a terminal: progress of loading, tables, and answers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click


class Startup:
    """Progress of loading, in a line that `show` replaces, and the time of each part. None: not shown."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self._show = show
        self._shown = ""
        self.began_s = self.phase_s = time.perf_counter()
        self.phase = ""
        self.phases: list[tuple[str, float]] = []

    def __call__(self, phase: str, done: float) -> None:
        """Note how much of the named part is done, 0 to 1."""
        if phase != self.phase:
            self._close()
            self.phase = phase
        filled = round(30 * min(done, 1.0))
        self._display(f"{phase:<12} [{'#' * filled}{'.' * (30 - filled)}] {min(done, 1.0):4.0%}")

    def _display(self, text: str) -> None:
        if self._show is not None and text != self._shown:
            self._show(text)
            self._shown = text

    def _close(self) -> None:
        now_s = time.perf_counter()
        if self.phase not in ("", "ready"):
            self.phases.append((self.phase, now_s - self.phase_s))
        self.phase_s = now_s

    def lap(self) -> str:
        """The time of each part since the last lap."""
        self._close()
        self.phase = ""
        times = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in self.phases)
        self.phases.clear()
        return times

    def finish(self) -> str:
        """End the line; returns the time of the whole load."""
        self.lap()
        self._display("")
        return f"{time.perf_counter() - self.began_s:.2f} s"


def show_status(text: str) -> None:
    """Replace the terminal's last line."""
    click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def table_lines(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    cells = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def table_fields(rows: Iterable[Sequence[str]]) -> dict[str, str | list[str]]:
    """A model's table for programs: its name, then a field per row; what stands in it several times is a list."""
    (_, name), *rest = rows
    fields: dict[str, str | list[str]] = {"model": name}
    for title, value in rest:
        key = title.replace(" ", "_")
        before = fields.get(key, [])
        fields[key] = [*([before] if isinstance(before, str) else before), value] if before else value
    return fields


def echo_table(rows: Iterable[Sequence[str]]) -> None:
    for line in table_lines(rows):
        click.echo(line)


class Printer:
    """Prints the chunks of a streamed answer as they come, reasoning apart from it, and keeps what was said."""

    def __init__(self) -> None:
        self.text = ""
        self.finish_reason: str | None = None
        self.last: dict[str, Any] = {}  # the chunk that holds the usage
        self._is_reasoning = False
        self._is_styled = sys.stdout.isatty()

    def hear(self, chunk: dict[str, Any]) -> None:
        if chunk.get("usage"):
            self.last = chunk
        for choice in chunk.get("choices", ()):
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta", choice)
            self._reason(delta.get("reasoning_content") or "")
            self._say(delta.get("content") or delta.get("text") or "")
            for call in delta.get("tool_calls") or ():
                self._call(call)

    def _reason(self, text: str) -> None:
        """Shown faintly to people; what reads our output gets the answer alone."""
        if text and self._is_styled:
            self._is_reasoning = True
            click.echo(click.style(text, dim=True), nl=False)

    def _say(self, text: str) -> None:
        if text and self._is_reasoning:
            self._is_reasoning = False
            click.echo("\n")
        if text:
            self.text += text
            click.echo(text, nl=False)

    def _call(self, call: dict[str, Any]) -> None:
        """A whole call of a tool, as a line of JSON."""
        self._say("\n" * bool(self.text and not self.text.endswith("\n")))
        self._say(json.dumps(call["function"], ensure_ascii=False) + "\n")

    def end(self) -> None:
        """The line after the answer."""
        click.echo()


def speed_line(last: dict[str, Any]) -> str:
    """Of a stream's last chunk: tokens, tokens/s and seconds."""
    usage, metrics = last["usage"], last.get("metrics") or {}
    num_in, num_out = usage["prompt_tokens"], usage["completion_tokens"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    words = f"prompt {num_in} tokens" + (f" ({cached} cached)" if cached else "")
    if metrics:
        ttft_s, generation_s = metrics["time_to_first_token_ms"] / 1e3, metrics["generation_time_ms"] / 1e3
        words += f", first token after {ttft_s:.2f} s"
        rate = f" at {(num_out - 1) / generation_s:,.1f} tokens/s" if num_out > 1 and generation_s > 0 else ""
        return f"{words}; answer {num_out} tokens{rate}"
    return f"{words}; answer {num_out} tokens"


def note(text: str) -> None:
    """A line of ours between a model's, on standard error."""
    click.echo(click.style(text, dim=True) if sys.stderr.isatty() else text, err=True)
