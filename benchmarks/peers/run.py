"""Ours and each peer in turn (A B A B) on the same work in one run: the ratio table, its losses, and one JSON line.

Every peer is one process beside one of ours; a round gives the same prompts first to the one, then to the other.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import checkpoint, limits
from benchmarks.limits import Limits
from benchmarks.peers import engines, report
from benchmarks.peers.engines import Engine
from benchmarks.peers.figures import WARM_UP, Loaded, Measured, first_token
from benchmarks.peers.process import ROOT, Driver, Failed, Places, prepare
from benchmarks.peers.report import Table
from benchmarks.peers.work import COLD, work

ROWS = "decode,pp512,pp2048,batch16,batch64,cold"
OURS = "int8,int4"
PREPARE_S = 3600.0  # a compiler may be at work
NOMINAL = {32: "fp32", 16: "bf16", 8: "int8", 4: "int4"}  # weights of the limit, by bits


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--workloads", default=ROWS, help=f"of {ROWS}; any pp<tokens> and batch<requests>")
    parser.add_argument("--only", default="", help="peers, by the beginning of their name: llama,openvino-int8")
    parser.add_argument("--ours", default=OURS, help="our types of weights, weights:kv-cache where not ours")
    parser.add_argument(
        "--baseline",
        type=lambda text: Path(text).resolve(),
        help="checkout of another build of ours, with its .venv: a peer",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--row-limit", type=float, default=900, help="seconds of a row, then no further round")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds of one answer, then it has failed")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--list", action="store_true", help="name the peers")
    return parser.parse_args()


class Comparison:
    """One run: places, turns, and what was measured so far."""

    def __init__(self, arguments: argparse.Namespace, table: Table) -> None:
        from benchmarks.shapes import SHAPES

        self.arguments, self.table = arguments, table
        self.rows = arguments.workloads.split(",")
        self.vocab_size: int = SHAPES[arguments.shape]["vocab_size"]
        models = arguments.environments / "models" / arguments.shape
        self.places = Places(arguments.environments, models, arguments.threads, arguments.baseline)
        self._turns = itertools.count(1)  # no prompt comes twice: ours has a prefix cache
        self._limits = measurable_limits(arguments)

    def make_checkpoint(self) -> None:
        self.places.logs.mkdir(parents=True, exist_ok=True)
        directory, done = self.places.models / "checkpoint", self.places.models / "checkpoint.done"
        if not done.exists():
            directory.mkdir(exist_ok=True)
            checkpoint.write(self.arguments.shape, directory)
            done.touch()

    def pack(self, ours: Engine) -> None:
        """Ours (of either build) anew in each run, for kernels change and their layouts with them. Raises Failed."""
        (self.places.models / f"{ours.model}.done").unlink(missing_ok=True)
        shutil.rmtree(self.places.models / ours.model, ignore_errors=True)
        prepare(ours, self.places, PREPARE_S)

    def compare(self, ours: Engine, peer: Engine) -> None:
        """All rows of one peer; what fails is noted and ends that peer, not the run."""
        try:
            prepare(peer, self.places, PREPARE_S)
        except Failed as problem:
            self.fail(peer, "", problem)
            return
        rows = [row for row in self.rows if peer.measures(row)]
        warm = [row for row in rows if row != "cold"]
        if warm:
            self._compare_warm(ours, peer, warm)
        if "cold" in rows:
            self._compare_cold(ours, peer)

    def _compare_warm(self, ours: Engine, peer: Engine, rows: list[str]) -> None:
        """A row that fails is noted, and the rows after it are tried with new processes."""
        left = list(rows)
        while left:
            doing, row = peer, ""
            try:
                with self._start(peer, [WARM_UP, *left]) as driver:
                    theirs = self._load(peer, driver)
                    doing = ours
                    with self._start(ours, [WARM_UP, *left]) as our_driver:
                        our = self._load(ours, our_driver)
                        while left:
                            row = left.pop(0)
                            if not row.startswith("batch"):  # long rows would take too long; their median drops it
                                doing = ours
                                our.warm_up(row, next(self._turns))
                                doing = peer
                                theirs.warm_up(row, next(self._turns))
                            for turn in self._rounds(peer, row):
                                doing = ours
                                figure = our.measure(row, turn)
                                doing = peer
                                self.table.add_pair(ours, peer, row, figure, theirs.measure(row, turn))
            except Failed as problem:
                self.fail(doing, row, problem)
                if not row:
                    return

    def _compare_cold(self, ours: Engine, peer: Engine) -> None:
        doing = ours
        try:
            for turn in self._rounds(peer, "cold"):
                doing = ours
                figure = self._first_token(ours, turn)
                doing = peer
                self.table.add_pair(ours, peer, "cold", figure, self._first_token(peer, turn))
        except Failed as problem:
            self.fail(doing, "cold", problem)

    def _rounds(self, peer: Engine, row: str) -> Iterator[int]:
        """Turns of a row; a row that takes long gets fewer."""
        began = datetime.datetime.now()
        for count in range(self.arguments.rounds):
            if count and (datetime.datetime.now() - began).total_seconds() > self.arguments.row_limit:
                return
            print(f"{peer.name} {row} {count + 1}/{self.arguments.rounds}", file=sys.stderr, flush=True)
            yield next(self._turns)

    def _start(self, engine: Engine, rows: list[str]) -> Driver:
        setup = engine.setup(self.places.models, self.arguments.threads, self.vocab_size, rows)
        return Driver(engine, setup, self.places)

    def _load(self, engine: Engine, driver: Driver) -> Loaded:
        loaded = Loaded(driver, self._limits.get(engine.bits), next(self._turns), self.arguments.timeout)
        self.table.versions[engine.name] = loaded.version
        return loaded

    def _first_token(self, engine: Engine, turn: int) -> Measured:
        return first_token(lambda: self._start(engine, [COLD]), turn, self.arguments.timeout)

    def fail(self, engine: Engine, row: str, problem: Exception) -> None:
        print(f"{engine.name} {row}: {problem}", file=sys.stderr, flush=True)
        self.table.fail(engine, row, str(problem))


def baseline(ours: Engine) -> Engine:
    """The same of the other build."""
    return engines.ours(ours.weights, ours.kv_cache, engines.BASELINE)


def beside(ours: list[Engine], peer: Engine) -> Engine:
    """Of ours, the one with the most bits that are not more than the peer's; with no such, the one with the fewest."""
    fitting = [engine for engine in ours if engine.bits <= peer.bits]
    return max(fitting, key=lambda engine: engine.bits) if fitting else min(ours, key=lambda engine: engine.bits)


def measurable_limits(arguments: argparse.Namespace) -> dict[int, Limits]:
    """By bits of the weights; none where there is no native library to measure with."""
    from tripos.errors import TriposError

    found = {
        bits: limits.of_shape(arguments.shape, weights, engines.KV_CACHE[weights], arguments.threads)
        for bits, weights in NOMINAL.items()
    }
    try:
        found[8].sample()
    except (TriposError, RuntimeError) as problem:
        print(f"no limits: {problem}", file=sys.stderr)
        return {}
    return found


def results_file(arguments: argparse.Namespace, table: Table) -> Path:
    """DATE-MACHINE/SHAPE.md, which does not exist yet. A choice of peers is named behind the shape; the next run of the
    day gets a number.
    """
    peers = dict.fromkeys(each.partition("-")[0] for each in arguments.only.split(",") if each)
    machine = re.sub(r"[^a-z0-9.]+", "-", table.cpu.lower()).strip("-")
    stem = "-".join((arguments.shape, *peers))
    folder: Path = arguments.results / f"{table.date}-{machine}"
    names = (f"{stem}.md" if i == 1 else f"{stem}-{i}.md" for i in itertools.count(1))
    return next(path for name in names if not (path := folder / name).exists())


def write_results(path: Path, text: str, found: dict[str, Any]) -> None:
    """The table, and beside it the same as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    arguments = parse_arguments()
    prefixes = tuple(filter(None, arguments.only.split(",")))
    ours = [engines.ours(*name.split(":")) for name in arguments.ours.split(",")]
    named = [*(baseline(engine) for engine in ours if arguments.baseline), *engines.PEERS]
    peers = [peer for peer in named if not prefixes or peer.name.startswith(prefixes)]
    if arguments.list or not peers:
        print(*(peer.name for peer in named), sep="\n")
        sys.exit(None if arguments.list else f"--only {arguments.only}: no such peer")
    for row in arguments.workloads.split(","):
        work(row)  # a wrong name now, not in an hour
    table = Table(arguments.shape, arguments.threads)
    comparison = Comparison(arguments, table)
    comparison.make_checkpoint()
    for engine in (*ours, *(peer for peer in peers if peer.environment == engines.BASELINE)):
        try:
            comparison.pack(engine)
        except Failed as problem:
            sys.exit(f"{engine.name}: {problem}")
    path = results_file(arguments, table)
    for peer in peers:
        comparison.compare(beside(ours, peer), peer)
        found = table.as_json()
        text = report.markdown(table)
        write_results(path, text, found)  # a run that is broken off keeps what it has
    print(text)
    print(f"written to {path}", end="\n\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
