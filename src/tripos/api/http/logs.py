"""The server's log: one line per event on stderr, as text or as JSON, written by a thread of its own.

A reader that stops reading (a full pipe, Ctrl-S in a terminal) stops only that thread: lines wait in a bounded queue,
those that do not fit are dropped and counted, and the count is written when there is space again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from tripos.wire.json import encode

Format = Literal["text", "json"]

MAX_WAITING_BYTES = 1 << 20
CLOSE_S = 1.0  # for the last lines, when the server ends
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CLEAR = b"\r\x1b[K"  # of a terminal's line

log = logging.getLogger(__name__)


class LineWriter:
    """Writes to a descriptor from a thread of its own. Its methods come from any thread and never wait."""

    def __init__(self, descriptor: int, formatter: logging.Formatter) -> None:
        self._descriptor = descriptor
        self._formatter = formatter
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[bytes] = deque()
        self._num_bytes = 0  # that wait, or are being written
        self._num_dropped = 0
        self._status = b""
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="tripos-log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """A whole line, without its end."""
        self._put(line.encode("utf-8", "backslashreplace") + b"\n")

    def show(self, status: str) -> None:
        """Below the last line, on a terminal, until it is shown anew or as nothing."""
        with self._changed:
            before, self._status = self._status, status.encode()
        if before or status:
            self._put(b"")

    def close(self) -> None:
        """Give the last lines a moment."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(CLOSE_S)

    def _put(self, data: bytes) -> None:
        with self._changed:
            if self._num_bytes + len(data) > MAX_WAITING_BYTES:
                self._num_dropped += 1
                return
            self._lines.append(data)
            self._num_bytes += len(data)
            self._changed.notify()

    def _run(self) -> None:
        was_shown = False
        while True:
            with self._changed:
                while not self._lines and not self._is_closed:
                    self._changed.wait()
                data, status = b"".join(self._lines), self._status
                is_last = self._is_closed
                self._lines.clear()
            before, was_shown = (_CLEAR if was_shown else b""), bool(status)
            self._write(before + data + status)
            with self._changed:
                if self._num_dropped:  # they came after what waits now, and before what comes when there is room
                    self._lines.append(self._dropped(self._num_dropped))
                    self._num_dropped = 0
                self._num_bytes = sum(map(len, self._lines))
            if is_last:
                return

    def _dropped(self, number: int) -> bytes:
        text = "line was dropped: nobody" if number == 1 else "lines were dropped: nobody"
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, f"{number} {text} read the log", (), None)
        return self._formatter.format(record).encode() + b"\n"

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody else made it so
                select.select((), (self._descriptor,), ())
            except OSError:  # the reader has closed its end: the lines are lost
                return


class _Lines(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:
            self.handleError(record)


class TextLines(logging.Formatter):
    """time LEVEL message key=value ...; a traceback follows, indented, so that no line of it passes for an event."""

    def format(self, record: logging.LogRecord) -> str:
        pairs = "".join(f" {key}={_value(value)}" for key, value in _fields(record).items())
        line = f"{_time(record.created)} {record.levelname} {_CONTROL.sub(_escaped, record.getMessage())}{pairs}"
        if record.exc_info:
            line += "".join(f"\n  {_CONTROL.sub(_escaped, each)}" for each in self._traceback(record).split("\n"))
        return line

    def _traceback(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonLines(TextLines):
    """{"time", "level", "message", ...} with what else is known of the event."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record.created), "level": record.levelname.lower(), "message": record.getMessage()}
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = self._traceback(record)
        try:
            text = encode(line).decode()
        except (UnicodeEncodeError, ValueError):  # half a surrogate pair, say
            text = json.dumps(line, default=str)
        return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)  # the others, which JSON lets stand


FORMATTERS: Mapping[Format, type[TextLines]] = {"text": TextLines, "json": JsonLines}


@contextmanager
def logging_to_stderr(form: str = "text") -> Iterator[LineWriter]:
    """Inside, loggers, warnings and exceptions of threads go to stderr by a LineWriter."""
    formatter = FORMATTERS[form]()  # type: ignore[index]  # one of the setting's choices
    writer = LineWriter(sys.stderr.fileno(), formatter)
    handler = _Lines(writer)
    handler.setFormatter(formatter)
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    before = root.handlers[:], root.level, uvicorn.level, warnings.showwarning, threading.excepthook
    root.handlers, warnings.showwarning, threading.excepthook = [handler], _log_warning, _log_exception
    root.setLevel(logging.INFO)
    uvicorn.setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        yield writer
    finally:
        root.handlers, warnings.showwarning, threading.excepthook = before[0], before[3], before[4]
        root.setLevel(before[1])
        uvicorn.setLevel(before[2])
        writer.close()


def _log_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    log.warning("%s", message)


def _log_exception(failed: threading.ExceptHookArgs) -> None:
    name = failed.thread.name if failed.thread else "a thread"
    value = failed.exc_value or failed.exc_type()
    log.error("%s failed: this is a bug in Tripos", name, exc_info=(failed.exc_type, value, failed.exc_traceback))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is known of the event; fields that say nothing are left out."""
    found: dict[str, Any] = getattr(record, "fields", {})
    return {key: value for key, value in found.items() if value not in (None, "")}


def _time(created_s: float) -> str:
    """ISO 8601, UTC, milliseconds."""
    whole = int(created_s)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((created_s - whole) * 1000):03d}Z"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
