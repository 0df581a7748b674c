"""A conversation in the terminal: an input is a question or a command; old turns are dropped when it is too long.

Owns the turns and which of them the model still gets. Does not know where the model is.
Tested in tests/e2e/test_chat.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from tripos.cli.session import Session
from tripos.cli.terminal import Printer, note, speed_line
from tripos.errors import TriposError

QUOTES = '"""'  # around a question of several lines
HELP = f"""\
/help           this page
/clear          forget the conversation, keep the system message
/system TEXT    set the system message; without TEXT: show it
/stats          tell after each answer how fast it went, or no more
/bye            end; so do /exit, /quit and Ctrl-D
{QUOTES}             begin a question of several lines, and end it. A pasted text keeps its lines as they are
Ctrl-C          stop the answer; what was said stays in the conversation. Drop a question of several lines"""
OLLAMA = {
    "/set": "/system TEXT sets the system message, /stats tells the speed; all else are flags of tripos chat (--help)",
    "/show": "/system shows the system message; tripos doctor MODEL tells what is to know about a model",
    "/load": "/bye ends, and tripos chat MODEL talks with another model",
    "/save": "a conversation is not kept",
}


@dataclass
class Turn:
    """A question and its answer. `num_tokens`: of both in the conversation."""

    question: str
    answer: str
    num_tokens: int


@dataclass(frozen=True)
class Entry:
    """One input. `is_quoted`: it is a question, whatever it begins with."""

    text: str
    is_quoted: bool = False


class Conversation:
    """`body`: the fields of every request besides its messages."""

    def __init__(self, session: Session, body: dict[str, Any], system: str = "", *, has_stats: bool = False) -> None:
        self._session = session
        self._body = body
        self._system = system
        self._has_stats = has_stats
        self._turns: list[Turn] = []
        self._num_tokens = 0  # of the conversation after the last answer

    def hold(self) -> None:
        """Read and answer until /bye or the end of the input."""
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            length = self._session.context_length
            context = f", a context of {length:,} tokens" if length else ""
            note(f"{self._session.name}{context}. /help says what you can type, /bye ends.")
        while True:
            try:
                entry = read_entry(is_terminal)
                if entry is None or (entry.text.strip() and not self._take(entry)):
                    return
            except KeyboardInterrupt:  # before or after an answer
                if not is_terminal:
                    raise
                click.echo()  # ends the line of the ^C that the terminal shows
                note("Stopped.")

    def _take(self, entry: Entry) -> bool:
        """Handle one entry. False: end the conversation."""
        if entry.is_quoted or not entry.text.startswith("/"):
            self._answer(entry.text)
            return True
        name, _, rest = entry.text.strip().partition(" ")
        if name in ("/bye", "/exit", "/quit"):
            return False
        if name in ("/help", "/?"):
            click.echo(HELP)
        elif name == "/clear":
            self._turns, self._num_tokens = [], 0
            note("The conversation is forgotten.")
        elif name == "/system":
            self._system = rest.strip() or self._system
            note(f"The system message is: {self._system}" if self._system else "There is no system message.")
        elif name == "/stats":
            self._has_stats = not self._has_stats
            note(f"Speed is told after each answer: {'yes' if self._has_stats else 'no'}.")
        elif name in OLLAMA:
            note(f"{name} is a command of Ollama. Here {OLLAMA[name]}.")
        else:
            note(f"{name[:40]} is no command: /help lists them. A question may begin with a slash between {QUOTES}.")
        return True

    def _answer(self, question: str) -> None:
        num_hidden, printer = self._num_excess_turns(), Printer()

        def hear(chunk: dict[str, Any]) -> None:
            nonlocal num_hidden
            self._forget(num_hidden)  # only now: a refused question drops no turns
            num_hidden = 0
            printer.hear(chunk)

        while True:
            body = {**self._body, "messages": self._messages(question, num_hidden)}
            try:
                self._session.ask("chat/completions", body, hear)
            except KeyboardInterrupt:
                printer.end()
                note("Stopped.")
            except TriposError as error:
                if error.code == "context_length_exceeded" and num_hidden < len(self._turns) and not printer.text:
                    num_hidden += 1
                    continue
                printer.end()
                note(f"{error.message}")
                return
            else:
                printer.end()
            break
        self._remember(question, printer)

    def _remember(self, question: str, printer: Printer) -> None:
        usage = printer.last.get("usage") or {}
        total = usage.get("total_tokens", 0)
        if printer.text:
            self._turns.append(Turn(question, printer.text, max(0, total - self._num_tokens)))
        self._num_tokens = total or self._num_tokens
        if printer.finish_reason == "length":
            is_full = self._session.context_length and total >= self._session.context_length
            note("The answer ends here: " + ("the context is full." if is_full else "--max-tokens is reached."))
        if self._has_stats and usage:
            note(speed_line(printer.last))

    def _messages(self, question: str, num_hidden: int) -> list[dict[str, str]]:
        """The conversation without its oldest turns."""
        messages = [{"role": "system", "content": self._system}] if self._system else []
        for turn in self._turns[num_hidden:]:
            messages.append({"role": "user", "content": turn.question})
            messages.append({"role": "assistant", "content": turn.answer})
        return [*messages, {"role": "user", "content": question}]

    def _num_excess_turns(self) -> int:
        """How many of the oldest turns to drop so that a quarter of the context is free."""
        excess, num = self._num_tokens - self._session.context_length * 3 // 4, 0
        if not self._session.context_length:
            return 0
        while excess > 0 and num < len(self._turns):
            excess -= self._turns[num].num_tokens
            num += 1
        return num

    def _forget(self, num_turns: int) -> None:
        if num_turns == 0:
            return
        self._num_tokens -= sum(turn.num_tokens for turn in self._turns[:num_turns])
        del self._turns[:num_turns]
        count = "the oldest question" if num_turns == 1 else f"the oldest {num_turns} questions"
        note(f"The context is full: the model no longer sees {count}.")


def read_entry(is_terminal: bool) -> Entry | None:
    """One line, or the lines between two marks; None: the input has ended."""
    line = _read_line(">>> " if is_terminal else "", is_terminal)
    if line is None:
        return None
    if not line.lstrip().startswith(QUOTES):
        return Entry(line)
    text = line.lstrip()[len(QUOTES) :]
    try:
        while QUOTES not in text:
            more = _read_line("... " if is_terminal else "", is_terminal=False)
            if more is None:
                click.echo(nl=is_terminal)
                break
            text += "\n" + more
    except KeyboardInterrupt:
        if not is_terminal:
            raise
        click.echo()
        note("The question is dropped.")
        return Entry("")
    return Entry(text.partition(QUOTES)[0].strip("\n"), is_quoted=True)


def _read_line(prompt: str, is_terminal: bool) -> str | None:
    if is_terminal:
        _edit_lines()
    while True:
        try:
            line = input(prompt)
            line.encode()  # in some locales invalid UTF-8 arrives as lone surrogates
            return line
        except EOFError:
            if is_terminal:
                click.echo()
            return None
        except UnicodeError:
            note("That line is not valid UTF-8.")
        except KeyboardInterrupt:
            if not is_terminal:
                raise
            click.echo()
            note("/bye or Ctrl-D ends.")


def _edit_lines() -> None:
    """Enable line editing of input() where Python has it; a pasted text arrives whole."""
    try:
        import readline
    except ImportError:
        return
    readline.parse_and_bind("set enable-bracketed-paste on")
