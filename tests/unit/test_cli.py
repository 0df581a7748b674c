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
from tripos.errors import ConfigError, ModelRefused
from tripos.models.files.packed import Packing, write_packed
from tripos.models.files.safetensors import open_checkpoint
from tripos.models.files.source import open_source


def run(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tripos", *arguments],
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["cannot be read"]),  # C01: there is none
        ("", ["not UTF-8"]),  # C01: see below
        ("[server]\nprot = 1\n", [":2:", "did you mean port?"]),
        ("[server]\nport = '80a'\n", [":2:", "whole number"]),
        ("[models.a]\nsource = 'demo:assistant'\nthreads = -1\n", [":3:", "threads"]),
        ("a: &x [*x]\n", [":1:"]),
    ],
)
@pytest.mark.parametrize("command", [("serve",), ("config", "show"), ("config", "check"), ("models", "list")])
def test_bad_service_file_ends_every_command_that_reads_it(
    tmp_path: Path, text: str | None, words: list[str], command: tuple[str, ...]
) -> None:
    file = tmp_path / "tripos.toml"
    if text is not None:
        file.write_bytes(text.encode() or b"\xff\xfe\x00")
    group, *rest = command
    arguments = (group, "--config", str(file), *rest) if group == "models" else (*command, "--config", str(file))
    refused(run(*arguments), 2, str(file), *words)


def test_service_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    refused(run("config", "show", "--config", str(tmp_path)), 2, "cannot be read")  # a directory
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    refused(run("config", "show", "--config", str(loop)), 2, "cannot be read")


def test_a_bad_key_file_ends_the_start_before_any_model_is_loaded(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    for text, status, words in (("", 2, "no key"), ("short\n", 2, "line 1"), (f"{'k' * 32} root\n", 2, "scopes")):
        keys.write_text(text)
        keys.chmod(0o600)
        done = run("serve", str(tmp_path / "no-such-model"), "--api-key-file", str(keys))
        refused(done, status, words)
    refused(run("serve", "--api-key-file", str(tmp_path / "absent")), 3, "cannot be read")


def test_settings_are_shown_without_a_home_and_with_proxies_set() -> None:
    done = run("config", "show", HOME="", http_proxy="http://127.0.0.1:9", LC_ALL="xx", TZ="Nowhere/Else")
    assert done.returncode == 0, done.stderr
    assert "server.port" in done.stdout
    refused(run("models", "--url", "http://127.0.0.1:9", "list", http_proxy="http://127.0.0.1:1"), 3, "127.0.0.1:9")


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_while_starting_ends_without_a_traceback(signal_number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tripos", "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True)
    time.sleep(0.4)  # somewhere between imports and ready: any moment must do
    process.send_signal(signal_number)
    if signal_number is signal.SIGHUP:  # once it serves, this only makes it read its configuration again
        time.sleep(0.4)
        process.terminate()
    try:
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "Traceback" not in errors


def test_reader_that_left_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tripos", "--help"], cwd="/", stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert done.returncode == 1
    assert not done.stderr


def test_quantize_writes_a_directory_that_answers_the_same(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    model, packed = str(shared_data("lm/stories260K/derived-hf")), str(tmp_path / "stories-int8")
    done = run("quantize", model, "--weights", "int8", "-o", packed)
    assert (done.returncode, done.stdout) == (0, f"wrote {packed}: weights of 0.4 MiB, 1.0 MiB before\n"), done.stderr
    arguments = ("Once upon", "--temperature", "0", "--max-tokens", "16")
    assert run("generate", packed, *arguments).stdout == run("generate", model, *arguments, "--weights", "int8").stdout
    refused(run("quantize", model, "--weights", "int8", "-o", packed), 2, packed, "choose another one")
    refused(run("generate", packed, "hi", "--weights", "int4"), 2, "packed as int8")


def test_quantize_needs_somewhere_to_write() -> None:
    refused(run("quantize", "demo:assistant", "--weights", "int8"), 2, "--output")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "m"), "tripos chat MODEL"),
        (("pull", "m"), "hf:ORG/NAME"),
        (("list",), "tripos models list"),
        (("ps",), "tripos models list"),
        (("show", "m"), "tripos doctor MODEL"),
        (("rm", "m"), "delete the model's directory"),
        (("srve",), "did you mean serve?"),
        (("zzz",), "there are chat, config"),
        (("serve", "--served-model-name", "m"), "give --name"),
        (("serve", "-c", "4096"), "give --max-model-len"),
        (("serve", "-ngl", "99"), "runs on the processor"),
        (("serve", "-np=4"), "there is no flag -np here: give --max-sequences"),
        (("serve", "-hf", "o/m"), "there is no flag -hf here: name the hub's model as the argument: tripos serve hf:"),
        (("serve", "-md", "m"), "no flag -md here: leave it out: no second model drafts"),
        (("serve", "-to=9"), "no flag -to here: give --max-call-s"),
        (("serve", "-fa"), "no flag -fa here: leave it out: there is one attention"),
        (("serve", "-c4096"), "no flag -c here: give --max-model-len"),
        (("chat", "m", "-cnv"), "no flag -cnv here: tripos chat MODEL talks"),
        (("generate", "m", "-xyz"), "no flag -xyz: --help"),
        (("generate", "m", "-f", "p.txt"), "no flag -f here: pipe the file"),
        (("serve", "--load-format", "x"), "leave it out: the model's files say how they are read"),
        (("serve", "--max-log-len", "9"), "leave it out: prompts are never logged"),
        (("serve", "--jinja"), "leave it out: the model's own template"),
        (("serve", "--download-dir", "/d"), "set the environment variable HF_HOME"),
        (("serve", "--revision", "v1"), "write hf:ORG/NAME@REVISION"),
        (("serve", "--log-disable"), "give --access-log off"),
        (("serve", "--seed", "1"), "leave it out: requests to a server carry seed"),
        (("serve", "-v"), "no flag -v here: tripos version prints the version"),
        (("run-batch",), "there is no command 'run-batch' here: there are no batch jobs"),
        (("serve", "--dtype", "bfloat16"), "give --weights"),
        (("serve", "--gpu-memory-utilization", "0.9"), "give --memory"),
        (("serve", "--gpu-memory-utilization=0.9"), "give --memory"),
        (("generate", "m", "p", "--max-new-tokens", "3"), "give --max-tokens"),
        (("generate", "m", "-n", "3"), "give --max-tokens"),
        (("serve", "--prot", "1"), "did you mean --port?"),
    ],
)
def test_words_of_other_servers_are_answered_with_ours(arguments: tuple[str, ...], words: str) -> None:
    refused(run(*arguments), 2, words)


@pytest.mark.parametrize(
    "flag", ["--tls-minimum", "--chat-template", "--root-path", "--enable-metrics", "--threads-http"]
)
def test_no_flag_is_guessed_where_none_is_near(flag: str) -> None:
    done = run("serve", flag, "x")
    refused(done, 2, flag)
    assert "did you mean" not in done.stderr


def test_every_answer_to_a_habit_names_commands_and_flags_that_there_are() -> None:
    import re

    import click

    from tripos.cli import habits
    from tripos.cli import tripos as root

    context = click.Context(root)
    flags, commands = {"--version"}, set()

    def walk(command: click.Command, name: str) -> None:
        flags.update(each for parameter in command.params for each in parameter.opts)
        if isinstance(command, click.Group):
            for each in command.list_commands(context):
                walk(command.get_command(context, each) or command, f"{name}{each} ")
        else:
            commands.add(name.strip())
            answers(command)

    def answers(command: click.Command) -> None:
        """No answer sends to a flag that the command at hand does not have."""
        own = {each for parameter in command.params for each in parameter.opts}
        for flag in set(habits.FLAGS) - own:
            said = habits.answer_flag(flag, own).replace(flag, "", 1).partition("tripos ")[0]
            assert set(re.findall(r"(?<!\w)--[a-z-]+", said)) <= {*own, "--help"}, (command.name, flag, said)

    walk(root, "")
    for said in (*habits.COMMANDS.values(), *habits.FLAGS.values()):
        assert set(re.findall(r"(?<!\w)--[a-z-]+", said)) <= flags, said
        for named in re.findall(r"tripos ((?:[a-z]+ ?)+)", said):
            words = named.split()
            assert any(" ".join(words[:n]) in commands for n in (1, 2)), said


def test_help_and_version_are_commands_too() -> None:
    assert run("version").stdout == f"tripos {tripos.__version__}\n"
    assert run("help").stdout == run("--help").stdout
    assert run("help", "models", "load").stdout.startswith("Usage: tripos models load")
    refused(run("help", "nothing"), 2, "nothing")


def test_a_check_speaks_of_one_model_and_names_the_key_file_that_all_may_read(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key-that-is-long-enough\n")
    keys.chmod(0o644)
    done = run("config", "check", "--api-key-file", str(keys))
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"tripos: the API key file {keys} can be read by every user of this machine: chmod 600 it\n"
    assert done.stdout.endswith("settings: 1 model, 0 routes: as it should be\n")


@pytest.mark.parametrize("here", [".", "./", ""])
def test_the_directory_where_somebody_is_has_its_name(
    here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match=f"^{tmp_path.name}: holds no config.json"):
        open_source(here)
    with pytest.raises(ModelRefused, match=f"^{tmp_path.name}: holds neither"):
        open_checkpoint(Path(here))
    (tmp_path / "inner").mkdir()
    with pytest.raises(ModelRefused, match=f"^{tmp_path.name}: holds no config.json"):
        open_source("inner/..")


def test_the_directory_where_somebody_is_cannot_be_written_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="where you are"):
        write_packed(Path("."), Packing("int8", "", (), {}, (), {}), lambda done: None)


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_model_that_writes_no_text_is_told_by_its_name(command: str) -> None:
    model = str(Path(__file__).parents[1] / "models" / "golden_encoders" / "bert-mean")
    refused(run(command, model, *["Hello"] * (command == "generate")), 2, "bert-mean is there to embed", "tripos serve")


def test_the_tables_about_an_encoder_tell_one_size_and_nothing_of_generation() -> None:
    done = run(
        "doctor", str(Path(__file__).parents[1] / "models" / "golden_encoders" / "bert-mean"), "--weights", "int8"
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line]
    told = [(name, text.strip()) for name, text in rows]
    names = {name for name, _ in told}
    assert not names & {"cache", "tool calls", "reasoning", "weights and activations"}
    assert {"processor", "AMX", "reads", "multiplies"} <= names
    (above, below) = (text for name, text in told if name == "weights")
    kind, size = above.removesuffix(" packed").split(", ")
    assert below.startswith(f"{size} packed as {kind}, ")


def test_a_model_of_tables_alone_has_nothing_packed() -> None:
    model = str(Path(__file__).parents[1] / "models" / "golden_encoders" / "static-mean")
    done = run("doctor", model)
    assert done.returncode == 0, done.stderr
    assert "packed" not in done.stdout
    refused(run("doctor", model, "--memory", "1KiB"), 4, "for weights (fp32)")


def test_a_key_file_that_is_missing_is_named() -> None:
    refused(run("serve", "--api-key-file", "/no/such/keys"), 3, "/no/such/keys", "No such file")
    refused(run("models", "--api-key-file", "/no/such/keys", "list"), 3, "/no/such/keys", "No such file")
