"""The comparison with peers is fair where a program can tell, and hides nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import checkpoint
from benchmarks.limits import Limit, Rates
from benchmarks.peers import engines, report, run, work
from benchmarks.peers.figures import Measured, asked_mb
from benchmarks.peers.process import Driver, Failed, Places
from benchmarks.peers.report import Table
from tripos.models.shapes import SHAPES
from tripos.models.tokenizer import tokenizer_from_json

LLAMA_8, LLAMA_4 = engines.llama("q8_0"), engines.llama("q4_0")
INT8, INT4 = engines.ours("int8"), engines.ours("int4")


def measured() -> Table:
    """Ours at 8 bits is twice as fast as the 8-bit peer, and half as fast as the 4-bit one."""
    table = Table("smollm2-135m", 2)
    for noise in (0.9, 1.0, 1.2):
        table.add_pair(INT8, LLAMA_8, "decode", Measured(100 * noise, 300), Measured(50 * noise, 200))
        table.add_pair(INT4, LLAMA_4, "decode", Measured(100 * noise, 300), Measured(200 * noise, 200))
    return table


def test_prompts_are_the_same_for_all_and_never_the_same_twice() -> None:
    assert work.prompts("batch16", 3, 49152) == work.prompts("batch16", 3, 49152)
    assert work.prompts("batch16", 3, 49152) != work.prompts("batch16", 4, 49152)
    assert list(map(len, work.prompts("batch16", 3, 49152))) == list(map(len, work.prompts("batch16", 4, 49152)))


def test_cache_holds_every_sequence_of_the_largest_row() -> None:
    setup = INT8.setup(Path("models"), 2, 49152, ["decode", "batch64"])
    assert setup.max_sequences == 64
    assert setup.cache_tokens >= sum(work.work("batch64").lengths) + 64 * 128


@pytest.mark.parametrize("name", ["decode5", "pp", "batch", "prefill"])
def test_unknown_row_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        work.work(name)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_tokenizer_fills_the_vocabulary(shape: str) -> None:
    raw = SHAPES[shape]
    made = checkpoint.tokenizer(raw["vocab_size"], checkpoint.special_tokens(raw))
    tokenizer = tokenizer_from_json(json.dumps(made).encode())
    assert tokenizer.vocab_size == raw["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("naïve 東京")) == "naïve 東京"


def test_best_peer_has_no_fewer_bits_than_ours() -> None:
    best = {one["ours"]: one for one in report.best(measured())}
    assert (best["tripos-int8"]["best_peer"], best["tripos-int8"]["ratio"]) == ("llama-q8_0", 2.0)
    assert (best["tripos-int4"]["best_peer"], best["tripos-int4"]["ratio"]) == ("llama-q4_0", 0.5)


def test_peer_is_measured_beside_ours_with_no_more_bits() -> None:
    assert run.beside([INT8, INT4], LLAMA_4) is INT4
    assert run.beside([INT8, INT4], LLAMA_8) is INT8
    assert run.beside([INT8, INT4], engines.llama("bf16")) is INT8


def test_losses_and_failures_stand_in_the_table() -> None:
    table = measured()
    table.fail(engines.llama("bf16"), "", "not installed: no compiler")
    text = report.markdown(table)
    assert "| 0.50 (int4) |" in text
    assert "failed: not installed: no compiler" in text
    assert json.loads(json.dumps(table.as_json()))["failures"][0]["reason"] == "not installed: no compiler"


def test_share_of_the_limit_is_the_median_of_the_rounds_own() -> None:
    slow, fast = Rates(30e9, 900e9), Rates(60e9, 900e9)
    table = Table("smollm2-135m", 2)
    for figure, limit in ((150, Limit(200, slow, slow)), (160, Limit(400, slow, fast)), (180, Limit(200, slow, slow))):
        table.add_pair(INT8, LLAMA_8, "decode", Measured(figure, 300, 299, limit), Measured(50, 200, None, limit))
    row, peer = table.as_json()["rows"]
    assert row["share"] == 0.75  # of 0.75, 0.4 and 0.9; the medians of figures and limits alone would say 0.8
    assert peer["share"] == 0.25
    assert row["rounds"][1]["read_gb_s"] == [30.0, 60.0]
    assert table.rates()["8"]["read_gb_s"] == (30.0, 30.0, 60.0)
    text = report.markdown(table)
    assert "| 200 (200 – 400) | 75% |" in text
    assert "| 300 | 299 |" in text
    assert "30.0 GB/s read at their size (30.0 – 60.0)" in text


def test_memory_asked_counts_the_packed_checkpoint_and_every_token_of_the_row() -> None:
    facts = {"packed_bytes": 100_000_000, "kv_bytes_per_token": 10_000}
    assert asked_mb(facts, "decode") == int(1.3 * (100 + 256 * 0.01) + 120)
    assert asked_mb({}, "decode") is None  # a peer does not say


def test_part_of_a_run_is_named_by_what_it_measured() -> None:
    whole = {"shape": "smollm2-135m", "only": "", "workloads": run.ROWS, "ours": run.OURS}
    table = Table("smollm2-135m", 2, date="2026-01-02")

    def stem(**chosen: str) -> str:
        return run.stem(argparse.Namespace(**{**whole, **chosen}), table)

    assert stem().startswith("2026-01-02-")
    assert stem().endswith("-smollm2-135m")
    assert stem(only="llama-q8,onnx") == stem() + "-llama-q8-onnx-part"
    assert stem(workloads="decode,pp512", ours="int8:fp16") == stem() + "-decode-pp512-ours-int8-fp16-part"


def test_driver_that_cannot_start_says_why(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "models", 1)
    places.logs.mkdir(parents=True)
    setup = LLAMA_8.setup(places.models, 1, 49152, ["decode"])
    with pytest.raises(Failed, match="not installed: no llama/bin/python"):
        Driver(LLAMA_8, setup, places)
    (tmp_path / "llama" / "bin").mkdir(parents=True)
    (tmp_path / "llama" / "bin" / "python").symlink_to(sys.executable)
    with Driver(LLAMA_8, setup, places) as driver, pytest.raises(Failed, match="llama_cpp"):
        driver.wait(60)
    (tmp_path / "llama" / "failed").write_text("no compiler\n")
    with pytest.raises(Failed, match="not installed: no compiler"):
        Driver(LLAMA_8, setup, places)
