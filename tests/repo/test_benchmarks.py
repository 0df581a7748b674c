"""The benchmarks run, and their limits are what the arithmetic says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import encoder, engine, limits, machine, quality
from benchmarks.limits import Limits, Rates
from benchmarks.peers.process import Places
from benchmarks.peers.work import work
from benchmarks.shapes import SHAPES
from tests.repo.tree import ROOT
from tripos.plan.dump import Cost

TINY = SHAPES["smollm2-135m"] | {"num_hidden_layers": 2, "vocab_size": 512}
COST = Cost(flops_per_token=80, flops_per_row=20, flops_per_token_and_key=2, weight_bytes=1000, kv_bytes_per_token=10)


def test_engine_benchmark_measures_every_row_beside_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    arguments = argparse.Namespace(
        shape="tiny", weights="int8", kv_cache="", threads=[1, 2], requests=[3], rounds=2, row_limit=600
    )
    result = engine.measure(arguments)
    assert (
        [run["threads"] for run in result["runs"]] == [1, 2] == [run["executor"]["threads"] for run in result["runs"]]
    )
    for run in result["runs"]:
        assert [row["row"] for row in run["rows"]] == ["decode", "pp512", "pp2048", "batch3", "cold"]
        assert all(row["median"] > 0 and len(row["rounds"]) == 2 for row in run["rows"])
        assert all(row["limit"][0] > 0 and len(row["rounds"][0]["read_gb_s"]) == 2 for row in run["rows"][:-1])
        assert all(row["peak_mb"] > 0 and row["asked_mb"] > 120 for row in run["rows"])
    assert json.loads(json.dumps(result)) == result
    text = engine.table(result)
    assert "from 1 to 2 threads" in text
    assert "pp2048" in text


def test_rows_that_take_long_get_fewer_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine.checkpoint, "write", lambda shape, folder: None)
    monkeypatch.setattr(engine, "prepare", lambda ours, places, timeout_s: None)
    arguments = argparse.Namespace(weights="int8", kv_cache="", shape="tiny", requests=[], rounds=3, row_limit=0)
    bench = engine.Bench(arguments, Places(tmp_path, tmp_path, 1))
    assert len(list(bench._rounds("decode"))) == 1
    arguments.row_limit = 600
    assert len(list(bench._rounds("decode"))) == 3


def test_limit_is_the_slower_of_arithmetic_and_memory() -> None:
    of = Limits(COST, ("int8",), 1)
    decode, prefill = work("decode"), work("pp512")
    reads = sum(1000 + 10 * (128 + k) for k in range(1, decode.max_tokens))
    assert of.tokens_per_s("decode", Rates(1.0, 1e12)) == pytest.approx(127 / reads)
    flops = 512 * 80 + 20 + 2 * 512 * 513 // 2
    assert of.tokens_per_s("pp512", Rates(1e12, 1.0)) == pytest.approx(prefill.lengths[0] / flops)
    both = of.tokens_per_s("batch16", Rates(1.0, 1.0))
    assert 0 < both < min(of.tokens_per_s("batch16", rates) for rates in (Rates(1.0, 1e12), Rates(1e12, 1.0)))


def test_round_is_judged_by_the_better_of_its_own_two_samples() -> None:
    of = Limits(COST, ("int8",), 1)
    slow, fast = Rates(1.0, 900.0), Rates(2.0, 800.0)
    assert slow.best(fast) == Rates(2.0, 900.0)
    assert of.of("decode", slow, fast).tokens_per_s == of.of("decode", fast, slow).tokens_per_s
    assert of.of("decode", slow, fast).tokens_per_s == of.tokens_per_s("decode", Rates(2.0, 900.0))
    assert (of.of("decode", slow, fast).before, of.of("decode", slow, fast).after) == (slow, fast)


def test_rates_are_sampled_at_the_size_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(peak: str, *, threads: int, working_set_bytes: int) -> float:
        asked.append((peak, threads, working_set_bytes))
        return {"read": 30e9, "fp32": 200e9, "bf16": 400e9, "amx_bf16": 4e12}[peak]

    monkeypatch.setattr(machine.native, "measure", measure)
    assert limits.of_shape("smollm2-135m", "bf16", "fp16", 2).sample() == Rates(30e9, 4e12)
    weight_bytes = limits.of_shape("smollm2-135m", "bf16", "fp16", 2).cost.weight_bytes
    assert [peak for peak, _, _ in asked] == ["read", "fp32", "bf16", "amx_bf16"]
    assert asked[0] == ("read", 2, weight_bytes // 2)
    monkeypatch.setattr(machine.native, "measure", lambda peak, **_: None)
    with pytest.raises(RuntimeError, match="measured nothing"):
        limits.of_shape("smollm2-135m", "int8", "int8", 2).sample()


def test_bandwidth_is_watched_as_a_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "WATCHED", 2 * machine.MIB)
    found = machine.watch(0.5)
    for row in found["read_gb_s"].values():
        assert row["samples"] > 1
        assert 0 < row["min"] <= row["p10"] <= row["p50"] <= row["p90"] <= row["max"]
    assert "read 2 MiB" in machine.watched_table(found)


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


RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/*.md")), ids=lambda path: path.stem)
def test_a_result_that_is_kept_stands_in_the_index_and_has_its_figures_beside_it(path: Path) -> None:
    assert f"]({path.relative_to(RESULTS)})" in (RESULTS / "README.md").read_text()
    assert path.with_suffix(".json").stat().st_size
