"""What is told while a model is loaded: real files and kernels."""

from __future__ import annotations

import importlib.resources
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest

from tripos.build.language import load_model
from tripos.config import ModelOptions


def test_packing_tells_how_far_it_is() -> None:
    told: list[tuple[str, float]] = []
    load_model(ModelOptions(threads=1, memory=256 << 20), lambda phase, done: told.append((phase, done))).close()
    shares = [done for phase, done in told if phase == "pack"]
    assert shares == sorted(shares)
    assert (shares[0], len(set(shares)) > 5) == (0.0, True)
    assert 0.99 < shares[-1] <= 1.0


def test_the_bar_in_a_terminal_moves_and_is_glued_to_nothing() -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tripos", "serve", "--port", "0"], cwd="/", stderr=theirs)
    os.close(theirs)
    said, end_s = b"", time.monotonic() + 60
    try:
        while b"listening on " not in said:
            assert time.monotonic() < end_s, said
            if select.select((terminal,), (), (), 1)[0]:
                said += os.read(terminal, 1 << 16)
    finally:
        process.terminate()
        status = process.wait(30)
        os.close(terminal)
    assert status == 0
    lines = said.decode().split("\r\n")[:-1]
    shown = [line.split("\r\x1b[K") for line in lines]
    assert all(re.match(r"\d{4}-\d\d-\d\dT", parts[-1]) for parts in shown), lines  # a bar is gone before a line comes
    bars = [part for parts in shown for part in parts[:-1] if part]
    assert all(re.fullmatch(r"\w+ +\[#*\.*\] +\d+%", bar) for bar in bars)
    assert len({bar for bar in bars if bar.startswith("pack")}) > 1


@pytest.mark.parametrize("command", [("generate", "Hello"), ("chat",), ("quantize", "--output", "packed")])
def test_an_interrupt_while_weights_are_packed_ends_a_command(command: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = command
    arguments = [name, slow_to_pack(tmp_path / "model"), *rest, "--weights", "int4", "--threads", "1"]
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tripos", *arguments],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said, is_struck = b"", False
    try:
        while True:
            said += os.read(terminal, 1 << 16)
            if re.search(rb"pack +\[#+", said) and not is_struck:
                is_struck = True
                process.send_signal(signal.SIGINT)
    except OSError:  # its end of the terminal is closed
        status = process.wait(30)
    finally:
        process.kill()
        os.close(terminal)
    assert (status, is_struck) == (130, True), said
    assert b"Traceback" not in said
    assert b"Exception" not in said
    assert not re.search(rb"pack .*100%", said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def slow_to_pack(folder: Path) -> str:
    """A language model of 128 million weights, all 0: a file of holes."""
    demo = Path(str(importlib.resources.files("tripos"))) / "demo" / "assistant"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((demo / name).read_bytes())
    config = json.loads((demo / "config.json").read_text())
    width, inner, num_layers = 1024, 4096, 8
    config |= {
        "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": num_layers, "num_attention_heads": 16,
        "num_key_value_heads": 16, "head_dim": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, list[int]] = {"embed_tokens": [config["vocab_size"], width], "norm": [width]}
    for i in range(num_layers):
        here = f"layers.{i}"
        shapes |= {f"{here}.self_attn.{part}_proj": [width, width] for part in "qkvo"}
        shapes |= {f"{here}.mlp.{part}_proj": [inner, width] for part in ("gate", "up")}
        shapes |= {f"{here}.{part}_layernorm": [width] for part in ("input", "post_attention")}
        shapes[f"{here}.mlp.down_proj"] = [width, inner]
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        header[f"model.{name}.weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return str(folder)


def log_until_ready(folder: Path, *arguments: str) -> list[str]:
    """The lines of `tripos serve` from its start to its end, for which it is asked once it listens."""
    log = folder / "log"
    command = [sys.executable, "-m", "tripos", "serve", "--port", "0", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stderr=stderr)
    try:
        end_s = time.monotonic() + 60
        while "listening on " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    return log.read_text().splitlines()


def test_the_log_names_each_model_and_then_the_address(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    stories = str(shared_data("lm/stories260K/derived-hf"))
    lines = [line.partition(" INFO ")[2] for line in log_until_ready(tmp_path, "demo:assistant", stories)]
    loaded = [line for line in lines if " was loaded: " in line]
    times = r"pack \d+\.\d\d s, cache \d+\.\d\d s, digest \d+\.\d\d s"
    assert [re.fullmatch(rf"(\S+) was loaded: {times}", line)[1] for line in loaded] == ["demo:assistant", "derived-hf"]  # type: ignore[index]
    assert sum(bool(re.fullmatch(r"files were opened: open \d+\.\d\d s", line)) for line in lines) == 1
    assert re.fullmatch(r"listening on http\S+ \(ready in \d+\.\d\d s\)", lines[-2])
    assert lines[-1] == "stopped"


def test_a_log_for_programs_has_the_memory_of_a_model_as_fields(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_until_ready(tmp_path, "--log-format", "json")]
    (table,) = [line for line in lines if line["message"] == "memory of a model"]
    assert table["model"] == "demo:assistant"
    assert {"weights", "cache", "sequences", "all_at_their_longest", "limit"} <= set(table)
    assert not [line for line in lines if "  " in line["message"] or "" in line.values()]
