"""tripos chat and generate as people use them: in a terminal, through pipes, and with a server that runs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.recorded import models

TRIPOS = (sys.executable, "-m", "tripos")
GREETING = "Hello! How can I help you?"


def run(*arguments: str, text: str | bytes = "") -> subprocess.CompletedProcess[bytes]:
    given = text if isinstance(text, bytes) else text.encode()
    return subprocess.run([*TRIPOS, *arguments], cwd="/", input=given, capture_output=True, timeout=60)


class Terminal:
    """A command that believes to be in a terminal: what it prints, and what is typed."""

    def __init__(self, *arguments: str) -> None:
        self._fd, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [*TRIPOS, *arguments], cwd="/", stdin=child, stdout=child, stderr=child, env=environment,
            start_new_session=True, preexec_fn=_own_terminal,
        )  # fmt: skip
        os.close(child)
        self._unread = ""

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """What was printed until then."""
        end_s = time.monotonic() + seconds
        while text not in self._unread:
            assert time.monotonic() < end_s, self._unread
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    self._unread += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._fd, 65536).decode())
                except OSError:
                    assert text in self._unread, self._unread
        seen, _, self._unread = self._unread.partition(text)
        return seen

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def close(self) -> int:
        try:
            return self.process.wait(timeout=30)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._fd)


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def slow_server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that says a word each 50 ms for as long as it is heard, and the bodies that it was sent."""
    bodies: list[dict[str, Any]] = []

    class Words(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say(json.dumps({"data": [{"id": "slow", "task": "generate", "max_model_len": 1000}]}).encode())

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for i in range(400):
                chunk = {"choices": [{"index": 0, "delta": {"content": f"word{i} "}}]}
                try:
                    self.wfile.write(b"data: %b\n\n" % json.dumps(chunk).encode())
                except OSError:
                    return
                time.sleep(0.05)

        def _say(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Words)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()


def test_a_blank_line_or_a_paste_with_one_does_not_end_the_conversation() -> None:
    terminal = Terminal("chat", "demo:assistant", "--temperature", "0")
    terminal.wait_for("/help says")
    terminal.wait_for(">>>")
    terminal.type("\n")
    terminal.wait_for(">>>")
    terminal.type("\x1b[200~Hello\n\nyou\x1b[201~\n")
    terminal.wait_for("help you?")
    terminal.wait_for(">>>")
    terminal.type('"""Hello\n')
    terminal.wait_for("...")
    terminal.type('\nthere"""\n')
    terminal.wait_for("help you?")
    terminal.wait_for(">>>")
    terminal.type("/bye\n")
    assert terminal.close() == 0


def test_a_question_between_marks_may_begin_with_a_slash() -> None:
    done = run("chat", "--temperature", "0", text='"""/bye"""\n"""\n/etc/hosts\n"""\n/bye\nHello\n')
    assert done.returncode == 0
    assert b"no command" not in done.stderr
    assert len(done.stdout.splitlines()) >= 2  # both were answered, and what stands behind /bye was not


def test_commands_of_the_conversation() -> None:
    terminal = Terminal("chat", "--temperature", "0")
    terminal.wait_for(">>>")
    for typed, told in (
        ("/help", "forget the conversation"),
        ("/stats", "yes"),
        ("Hello", "tokens/s"),
        ("/system Be short.", "Be short."),
        ("/clear", "forgotten"),
        ("/set system Be short.", "/system TEXT sets"),
        ("/show info", "tripos doctor"),
        ("/etc/hosts is a file", "no command"),
    ):
        terminal.type(f"{typed}\n")
        terminal.wait_for(told)
        terminal.wait_for(">>>")
    terminal.type("\x04")  # Ctrl-D
    assert terminal.close() == 0


def test_an_interrupt_stops_the_answer_and_not_the_conversation(
    slow_server: tuple[str, list[dict[str, Any]]],
) -> None:
    url, bodies = slow_server
    terminal = Terminal("chat", "--url", url)
    terminal.wait_for(">>>")
    terminal.type("Tell me a lot\n")
    terminal.wait_for("word3")
    terminal.type("\x03")
    terminal.wait_for("Stopped")
    terminal.wait_for(">>>")
    terminal.type("\x03")  # at the prompt: says how to end, and goes on
    terminal.wait_for("/bye or Ctrl-D ends")
    terminal.wait_for(">>>")
    terminal.type("And then?\n")
    terminal.wait_for("word3")
    terminal.type("\x03")
    terminal.wait_for(">>>")
    terminal.type("/bye\n")
    assert terminal.close() == 0
    assert [message["role"] for message in bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert bodies[1]["messages"][1]["content"].startswith("word0 word1 word2 word3")


def test_an_interrupt_of_a_model_in_this_process_leaves_it_usable() -> None:
    terminal = Terminal("chat", "--temperature", "0")
    terminal.wait_for(">>>")
    for _ in range(3):
        terminal.type("Hello\n")
        terminal.process.send_signal(signal.SIGINT)  # whenever it comes
        terminal.wait_for(">>>")
    terminal.type("Hello\n")
    terminal.wait_for("help you?")
    terminal.wait_for(">>>")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_a_full_window_forgets_the_oldest_questions() -> None:
    questions = "Hello!\n" * 12
    done = run("chat", "--temperature", "0", "--max-model-len", "64", text=questions)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().count(GREETING) == 12
    assert b"no longer sees" in done.stderr


def test_a_question_longer_than_the_window_is_refused_and_the_conversation_stays() -> None:
    questions = "Hello!\n" + "word " * 100 + "\nHello!\n"
    done = run("chat", "--temperature", "0", "--max-model-len", "64", "--stats", text=questions)
    assert done.returncode == 0
    assert done.stdout.decode().count(GREETING) == 2
    told = done.stderr.decode().splitlines()
    sizes = [int(found[1]) for line in told if (found := re.match(r"prompt (\d+) tokens", line))]
    assert sizes[1] > 2 * sizes[0]  # the first question and its answer stand before the last
    assert "context is full" not in done.stderr.decode()
    assert "the context length is 64: shorten the prompt\n" in done.stderr.decode()  # max_tokens was nobody's fault


def test_generate_asks_a_chat_model_through_its_template() -> None:
    done = run("generate", "demo:assistant", "Hello", "--temperature", "0", "--stats")
    assert done.stdout.decode() == GREETING + "\n"
    assert re.search(rb"prompt 5 tokens, first token after .* s; answer 9 tokens at .* tokens/s", done.stderr)
    raw = run("generate", "demo:assistant", "Hello", "--temperature", "0", "--raw", "--max-tokens", "3")
    assert raw.stdout.decode() == "HelloHelloHello\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((), "Hello"), (("-",), "Hello\n"), (("Hello", "-"), ""), ((), "H\u00e9llo".encode())],
)
def test_generate_reads_standard_input(arguments: tuple[str, ...], text: str | bytes) -> None:
    done = run("generate", "demo:assistant", *arguments, "--temperature", "0", text=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == GREETING + "\n"


def test_generate_refuses_what_is_no_text() -> None:
    done = run("generate", "demo:assistant", text=b"\xff\xfe")
    assert (done.returncode, b"standard input is not valid UTF-8" in done.stderr) == (2, True)
    assert run("generate", "demo:assistant", "-", "-").returncode == 2


def test_chat_with_a_server_says_what_it_serves() -> None:
    with serving() as url:
        done = run("chat", "--url", url, "--temperature", "0", text="Hello\nHello\n")
        assert done.stdout.decode().count(GREETING) == 2, done.stderr
        done = run("chat", "nothing", "--url", url)
        assert done.returncode == 1
        assert b"it serves: demo:assistant" in done.stderr
        assert run("chat", "--url", url, "--threads", "1").returncode == 2
    encoder = str(Path(__file__).parents[1] / "models" / "golden_encoders" / "bert-mean")
    with serving(encoder) as other:
        done = run("chat", "--url", other)
        assert done.stderr.decode() == f"tripos: {other} serves no language model; it serves: bert-mean (embed)\n"
    assert run("chat", "--url", url).returncode == 3


@contextmanager
def serving(*models: str) -> Iterator[str]:
    process = subprocess.Popen([*TRIPOS, "serve", *models, "--port", "0"], cwd="/", stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"listening on (http\S+)", line):
                yield found[1]
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_reasoning_is_shown_to_people_only(tmp_path: Path) -> None:
    from tripos.cli.terminal import Printer

    printer = Printer()
    for said in ({"reasoning_content": "plan"}, {"content": "Hi"}, {"content": " there"}):
        printer.hear({"choices": [{"delta": said}]})
    assert printer.text == "Hi there"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--stop", b"\xff"),
        ("--regex", b"\xff"),
        ("--json-schema", b'{"const": "\xff"}'),
        ("--json-schema", b'{"const": "\\ud800"}'),
        ("--json-schema", b'{"const": NaN}'),
        ("--json-schema", b"[" * 20_000),
        ("--json-schema", b'{"const": 1, "const": 2}'),
    ],
)
def test_an_option_that_is_no_text_or_no_json_is_named(arguments: tuple[str, bytes]) -> None:
    command = [*TRIPOS, "generate", "demo:assistant", "Hello", *arguments]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(f"tripos: {arguments[0]}".encode())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["generate demo:assistant", "chat"])
def test_a_standard_stream_that_the_shell_closed_is_empty(command: str, closed: str) -> None:
    given = f'"{sys.executable}" -m tripos {command} {closed}'
    done = subprocess.run(["sh", "-c", given], cwd="/", input=b"Hello\n", capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    if closed == "2>&-":
        assert done.stdout.decode().strip() == GREETING


def test_a_question_that_is_no_text_is_told_so_in_every_locale() -> None:
    given = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        [*TRIPOS, "chat"], cwd="/", input=b"\xff\nHello\n", env=given, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert b"not valid UTF-8" in done.stderr
    assert done.stdout.decode().strip() == GREETING


@pytest.mark.parametrize(
    "rest",
    ["[::1", "a b", "a..b", "a" * 300, "\udcff", "", "a:port", "127.0.0.1:1/\udcff"],
)
def test_what_is_no_address_is_told_so(rest: str) -> None:
    url = os.fsencode(f"http://{rest}")
    done = subprocess.run([*TRIPOS, "chat", "--url", url], cwd="/", capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"is not an address such as http://127.0.0.1:8000" in done.stderr


def test_an_interrupt_drops_a_question_of_several_lines() -> None:
    terminal = Terminal("chat")
    terminal.wait_for(">>> ")
    terminal.type('"""Hello\n')
    terminal.wait_for("... ")
    terminal.type("\x03")
    terminal.wait_for("The question is dropped.")
    terminal.wait_for(">>> ")
    terminal.type("/bye\n")
    assert terminal.close() == 0


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"{}", b'{"data": null}', b'{"data": [5]}', b'{"data": [{}]}', b'{"data": [{"id": 5}]}', b"null",
     b'{"data": "\\ud800"}', b"[" * 100_000],
)  # fmt: skip
def test_a_server_of_another_kind_is_told_so(answer: bytes) -> None:
    with answering(answer, b"") as url:
        done = run("chat", "--url", url)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert f"what answers at {url} is no Tripos server".encode() in done.stderr


@pytest.mark.parametrize(
    "event",
    [b"[]", b"5", b'{"choices": null}', b'{"choices": [5]}', b'{"choices": [{"delta": null}]}',
     b'{"choices": [{"delta": {"content": 5}}]}', b'{"choices": [], "usage": 5}',
     b'{"choices": [], "usage": {"total_tokens": null}}', b'{"choices": [{"delta": {"content": "\\ud800"}}]}'],
)  # fmt: skip
def test_an_answer_of_another_kind_ends_the_question_alone(event: bytes) -> None:
    listed = b'{"data": [{"id": "x", "task": "generate"}]}'
    with answering(listed, b"data: " + event + b"\n\ndata: [DONE]\n\n") as url:
        done = run("chat", "--stats", "--url", url, text="Hello\nHello\n")
    assert done.returncode == 0
    assert done.stderr.count(f"what answers at {url} is no Tripos server".encode()) == 2


@contextmanager
def answering(listed: bytes, events: bytes) -> Iterator[str]:
    """A server that says these bytes: to GET, and to POST."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(listed)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._say(events)

        def _say(self, data: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


def test_generate_writes_a_call_of_a_tool_as_a_line_of_json(tmp_path: Path) -> None:
    model = models.write_scripted(tmp_path, "thinking-caller")
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]))
    done = run("generate", str(model), "Weather?", "--temperature", "0", "--tools", str(tools))
    text, call = done.stdout.decode().split("\n", 1)
    assert (done.returncode, text) == (0, "A moment."), done.stderr
    assert json.loads(call) == {"name": "get_weather", "arguments": models.ARGUMENTS}
    named = run("generate", str(model), "Weather?", "--tools", str(tools), "--tool-choice", "nobody")
    assert (named.returncode, b"nobody" in named.stderr) == (1, True)
    tools.write_text("{}")
    wrong = run("generate", str(model), "Weather?", "--tools", str(tools))
    assert (wrong.returncode, b"JSON list of tools" in wrong.stderr) == (2, True)
