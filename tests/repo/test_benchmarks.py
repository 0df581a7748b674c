"""The benchmarks run, and their limits are what the arithmetic says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks import engine, machine
from tripos.models.shapes import SHAPES

TINY = SHAPES["smollm2-135m"] | {"num_hidden_layers": 2, "vocab_size": 512}


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(machine, "ROUNDS", 1)
    engine.write_checkpoint("tiny", tmp_path)
    return argparse.Namespace(
        directory=tmp_path, weights="bf16", kv_cache="auto", threads=1, requests=[1, 3], rounds=1, shape="tiny"
    )


def test_engine_benchmark_measures_every_row_beside_a_limit(arguments: argparse.Namespace) -> None:
    result = engine.measure_speed(arguments)
    assert [row["name"] for row in result["rows"]] == ["decode", "pp512", "pp2048", "1 concurrent", "3 concurrent"]
    assert all(row["tokens_per_s"] > 0 and row["limit"] > 0 for row in result["rows"])
    assert json.loads(json.dumps(result)) == result
    assert "pp2048" in engine.table({**result, "shape": "tiny", "first_token_s": 0.0})


def test_first_token_is_measured_in_its_own_process(arguments: argparse.Namespace) -> None:
    found = engine.in_process(arguments, arguments.directory, "first-token")
    assert found["done_s"] > 0
    assert found["peak_memory_mb"] > 0


def test_machine_benchmark_prints_each_limit() -> None:
    limits = machine.measure(working_sets=(2 * machine.MIB,))
    assert all(value is None or value > 0 for row in limits["peak_gop_s"].values() for value in row.values())
    assert "read 2 MiB" in machine.table(limits)
