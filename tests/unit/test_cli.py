"""The command line: exit statuses of the error contract, one line on stderr, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tripos


def run(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tripos.cli", *arguments],
        cwd="/",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One line on stderr that holds the words, and the status."""
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("tripos: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not [word for word in words if word not in done.stderr], done.stderr


def test_version() -> None:
    assert run("--version").stdout == f"tripos {tripos.__version__}\n"


def test_help_names_every_command() -> None:
    assert all(name in run("--help").stdout for name in ("serve", "generate", "chat", "doctor"))


def test_unknown_flag_is_a_usage_error() -> None:
    refused(run("serve", "--thread", "1"), 2, "--thread")


def test_missing_value_is_a_usage_error() -> None:
    refused(run("serve", "--port"), 2, "--port")


def test_repeated_flag_is_a_usage_error() -> None:
    refused(run("serve", "--port", "1", "--port", "2"), 2, "--port", "2 times")


def test_wrong_value_is_a_usage_error() -> None:
    refused(run("serve", "--port", "80a"), 2, "--port", "80a")


def test_unknown_variable_with_our_prefix_is_a_configuration_error() -> None:
    refused(run("serve", TRIPOS_PROT="1"), 2, "TRIPOS_PROT", "TRIPOS_PORT")


def test_public_address_without_key_is_refused() -> None:
    refused(run("serve", "--host", "0.0.0.0"), 2, "--api-key-file")


def test_argument_that_is_not_utf8_is_refused() -> None:
    refused(run("generate", "demo:assistant", b"\xff\xfe"), 2, "PROMPT", "UTF-8")


def test_long_argument_gives_a_short_error() -> None:
    done = run("serve", "--port", "9" * 100_000)
    refused(done, 2, "--port")
    assert len(done.stderr) < 300


def test_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    refused(run("generate", str(tmp_path), "hello"), 4)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_starting_ends_without_a_traceback(signal_number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tripos.cli", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True)
    time.sleep(0.4)  # somewhere between imports and ready: any moment must do
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors


def test_reader_that_left_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tripos.cli", "--help"], cwd="/", stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert not done.stderr


def test_quantize_writes_a_directory_that_answers_the_same(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    model, packed = str(shared_data("lm/stories260K/derived-hf")), str(tmp_path / "stories-int8")
    done = run("quantize", model, "--weights", "int8", "-o", packed)
    assert (done.returncode, done.stdout) == (0, f"wrote {packed}\n"), done.stderr
    arguments = ("Once upon", "--temperature", "0", "--max-tokens", "16")
    assert run("generate", packed, *arguments).stdout == run("generate", model, *arguments, "--weights", "int8").stdout
    refused(run("quantize", model, "--weights", "int8", "-o", packed), 2, packed, "choose another one")
    refused(run("generate", packed, "hi", "--weights", "int4"), 2, "packed as int8")


def test_quantize_needs_somewhere_to_write() -> None:
    refused(run("quantize", "demo:assistant", "--weights", "int8"), 2, "--output")
