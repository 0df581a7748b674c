"""What the HTTP path costs: ours, LitServe and FastAPI in turn (A B C A B C) on one core; and with a real model, the
server's tokens per second beside the engine's own (A B A B).

The servers answer from a script, so that nothing but the path is measured; each is checked to do the same work before
it is timed. Prints tables and one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.serving import load, script

ROOT = Path(__file__).resolve().parents[1]
SERVERS = ("tripos", "litserve", "fastapi")
START_S = 120.0
PATH = "/v1/chat/completions"
STREAMS, OUTPUT = 64, 128  # of the real model
PROMPTS = (64, 512)  # tokens, uniform


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default="http,engine", help="of http and engine")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-serving", help="with litserve and fastapi")
    parser.add_argument("--servers", default=",".join(SERVERS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], cores: set[int] | None) -> Iterator[subprocess.Popen[str]]:
    """A process group that has said "ready" on its standard output, stopped and continued as the turns want."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
    )
    try:
        yield started
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, number)
        started.wait()


def wait_until_ready(started: subprocess.Popen[str], port: int) -> None:
    """Until the port answers a good request."""
    import time

    end_s = time.monotonic() + START_S
    while True:
        if started.poll() is not None:
            raise SystemExit(f"a server ended with status {started.returncode}")
        try:
            load.check(port, PATH, script.body(stream=False))
            return
        except (OSError, RuntimeError):
            if time.monotonic() > end_s:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def awake(started: subprocess.Popen[str]) -> Iterator[None]:
    """Others sleep, so that they cost the one that is measured nothing."""
    os.killpg(started.pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.killpg(started.pid, signal.SIGSTOP)


# --- the path alone ---------------------------------------------------------------------------------------------


def check_work(name: str, port: int) -> bytes:
    """The same answer from all. Returns how a whole one ends. Raises RuntimeError."""
    (whole,), end = load.check(port, PATH, script.body(stream=False))
    if whole["choices"][0]["message"]["content"] != script.TEXT:
        raise RuntimeError(f"{name} answers something else")
    events, _ = load.check(port, PATH, script.body(stream=True))
    texts = [event["choices"][0]["delta"].get("content") for event in events if event["choices"]]
    if [text for text in texts if text] != script.TOKENS:
        raise RuntimeError(f"{name} does not stream one chunk per token")
    return end


def measure_path(arguments: argparse.Namespace) -> dict[str, Any]:
    """requests/s and chunks/s of each server: the median of the rounds."""
    cores = sorted(os.sched_getaffinity(0))
    mine, theirs = {cores[0]}, {cores[-1]}
    os.sched_setaffinity(0, mine)
    wholes, streams = ([load.encode(PATH, script.body(stream=each))] * arguments.connections for each in (False, True))
    figures: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in arguments.servers.split(","):
            python = sys.executable if name == "tripos" else str(arguments.environment / "bin" / "python")
            port = free_port()
            command = [python, "-m", f"benchmarks.serving.serve_{name}", str(port)]
            started = stack.enter_context(process(command, theirs))
            wait_until_ready(started, port)
            servers[name] = started, port, check_work(name, port)
            os.killpg(started.pid, signal.SIGSTOP)
            figures[name] = {"requests_per_s": [], "chunks_per_s": []}
        for _ in range(arguments.rounds):
            for name, (started, port, end) in servers.items():
                with awake(started):
                    load.press(port, wholes, end, seconds=0.3)
                    done = load.press(port, wholes, end, seconds=arguments.seconds)
                    figures[name]["requests_per_s"].append(done.num_answers / done.seconds)
                    done = load.press(port, streams, load.END_OF_STREAM, seconds=arguments.seconds)
                    figures[name]["chunks_per_s"].append(done.num_answers * len(script.TOKENS) / done.seconds)
    os.sched_setaffinity(0, set(cores))
    return {name: {what: statistics.median(each) for what, each in row.items()} for name, row in figures.items()}


def path_table(found: dict[str, Any]) -> str:
    lines = [f"{'one core':12}{'requests/s':>14}{'ours ×':>8}{'chunks/s':>14}{'ours ×':>8}"]
    ours = found.get("tripos")
    for name, row in found.items():
        line = f"{name:12}"
        for what in ("requests_per_s", "chunks_per_s"):
            ratio = f"{ours[what] / row[what]:.2f}" if ours and name != "tripos" else ""
            line += f"{row[what]:>14,.0f}{ratio:>8}"
        lines.append(line)
    return "\n".join(lines)


# --- with a real model ------------------------------------------------------------------------------------------


def prompts(vocab_size: int, turn: int) -> list[list[int]]:
    """The same for both in one turn, and never the same twice: nothing comes from the prefix cache."""
    import numpy as np

    lengths = np.random.default_rng(1).integers(*PROMPTS, STREAMS, endpoint=True)
    rng = np.random.default_rng(100 + turn)
    return [rng.integers(0, vocab_size, int(n)).tolist() for n in lengths]


def measure_engine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Output tokens per second, prefill included: through the server, and of the engine driven directly."""
    from benchmarks import checkpoint
    from benchmarks.shapes import SHAPES

    vocab_size: int = SHAPES[arguments.shape]["vocab_size"]
    figures: dict[str, list[float]] = {"server": [], "engine": []}
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        checkpoint.write(arguments.shape, Path(directory))
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.serving.real", directory, arguments.weights]
        server = stack.enter_context(process([*command, str(port)], None))
        engine = stack.enter_context(process([*command, "0"], None))
        for each in (server, engine):
            assert each.stdout is not None
            if each.stdout.readline().strip() != "ready":
                raise SystemExit("the model was not loaded")
            os.killpg(each.pid, signal.SIGSTOP)
        for turn in range(arguments.rounds + 1):  # the first wakes threads and memory
            asked = prompts(vocab_size, turn)
            bodies = [
                {"model": "real", "prompt": ids, "max_tokens": OUTPUT, "temperature": 0, "ignore_eos": True,
                 "stream": True, "stream_options": {"include_usage": True}}
                for ids in asked
            ]  # fmt: skip
            with awake(server):
                sent = [load.encode("/v1/completions", body) for body in bodies]
                done = load.press(port, sent, load.END_OF_STREAM)
                through = STREAMS * OUTPUT / done.seconds
            with awake(engine):
                assert engine.stdin is not None
                assert engine.stdout is not None
                engine.stdin.write(json.dumps(asked) + "\n")
                engine.stdin.flush()
                direct = float(engine.stdout.readline())
            if turn:
                figures["server"].append(through)
                figures["engine"].append(direct)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    share = statistics.median(a / b for a, b in zip(figures["server"], figures["engine"], strict=True))
    return {"shape": arguments.shape, "weights": arguments.weights, "streams": STREAMS, **medians, "share": share,
            "turns": figures}  # fmt: skip


def engine_table(found: dict[str, Any]) -> str:
    return (
        f"{found['shape']} {found['weights']}, {found['streams']} streams: "
        f"server {found['server']:,.0f} tokens/s, engine {found['engine']:,.0f}: {found['share']:.1%}"
    )


def main() -> None:
    arguments = parse_arguments()
    result: dict[str, Any] = {}
    if "http" in arguments.part:
        result["http"] = measure_path(arguments)
        if not arguments.json:
            print(path_table(result["http"]), end="\n\n")
    if "engine" in arguments.part:
        result["engine"] = measure_engine(arguments)
        if not arguments.json:
            print(engine_table(result["engine"]), end="\n\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
