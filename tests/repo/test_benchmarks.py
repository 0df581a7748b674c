"""The benchmarks run, and their limits are what the arithmetic says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import encoder, engine, machine, quality
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


def test_quality_compares_distributions_number_by_number() -> None:
    texts = [quality.Text((5, 1, 0), start=1)]
    right = [np.log(np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1]], np.float32))]
    other = [np.log(np.array([[0.25, 0.5, 0.25], [0.8, 0.1, 0.1]], np.float32))]
    perplexity, kl, top1 = quality.compare(texts, right, other)
    assert perplexity == pytest.approx((0.5 * 0.8) ** -0.5)  # the judged tokens are 1 and 0
    assert kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert top1 == 0.5
    assert quality.compare(texts, right, right)[1:] == (0.0, 1.0)


def test_quality_judges_each_token_by_what_came_before() -> None:
    step = quality.step_of(quality.Text((7, 8, 9, 10, 11), start=3))
    assert step.token_ids.tolist() == [7, 8, 9, 10]
    assert step.last_rows.tolist() == [2, 3]  # whose logits judge 10 and 11
    assert step.slots.tolist() == step.positions.tolist() == [0, 1, 2, 3]


def test_encoder_benchmark_compares_within_rounds() -> None:
    seconds = {"tripos int8": [1.0, 2.0, 1.0], encoder.TORCH: [4.0, 8.0, 3.0], encoder.ONNX: [2.0, 4.0, 3.0]}
    vectors = {name: np.array([[1.0, 0.0]], np.float32) for name in seconds}
    vectors["tripos int8"] = np.array([[0.6, 0.8]], np.float32)
    row = encoder.report(seconds, vectors, 1000)["rows"][0]
    assert (row["queries_per_s"], row["vs_sentence_transformers"], row["vs_onnxruntime"]) == (1000, 4, 2)
    assert row["max_cosine_distance"] == pytest.approx(0.4)
    assert "| tripos int8 | 1,000 | 4.00 | 2.00 | 4.0e-01 |" in encoder.table(encoder.report(seconds, vectors, 1000))
