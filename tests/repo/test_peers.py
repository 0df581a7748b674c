"""The comparison with peers: which engine runs where, and what its table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import engines, report
from benchmarks.peers.figures import Measured
from benchmarks.peers.process import Failed, Places
from benchmarks.peers.report import Table
from benchmarks.peers.run import baseline, beside

INT8, BF16 = engines.ours("int8"), engines.ours("bf16")
BARE = {
    "name": "peer", "title": "Peer", "environment": "peer", "driver": "drive", "weights": "int8", "kv_cache": "int8",
}  # fmt: skip
PEERS = {peer.name: peer for peer in engines.PEERS}


def test_a_baseline_runs_its_own_driver_in_its_own_environment(tmp_path: Path) -> None:
    places = Places(tmp_path / "environments", tmp_path / "models", 2, tmp_path / "other")
    other = baseline(engines.ours("int8", "fp16"))
    assert (other.name, other.weights, other.kv_cache) == ("baseline-int8", "int8", "fp16")
    assert other.model == "baseline-int8"  # packed anew: layouts may differ
    assert places.program(other.environment) == str(tmp_path / "other" / ".venv" / "bin" / "python")
    assert places.variables(other.environment)["PYTHONPATH"] == str(tmp_path / "other")
    with pytest.raises(Failed, match="no baseline"):
        Places(tmp_path, tmp_path, 2).program(other.environment)


def test_an_engine_is_measured_beside_ours_of_no_more_bits() -> None:
    assert beside([INT8, BF16], baseline(INT8)) == INT8
    assert beside([INT8, BF16], baseline(BF16)) == BF16
    assert beside([INT8, BF16], PEERS["openvino-bf16"]) == BF16


def test_only_libraries_that_are_there_are_preloaded(tmp_path: Path) -> None:
    places, peer = Places(tmp_path, tmp_path, 2), engines.Engine(**BARE, preload=("lib/a.so", "lib/b.so"))
    assert places.preload(peer) == {}
    library = tmp_path / "peer" / "lib" / "b.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert places.preload(peer) == {"LD_PRELOAD": str(library)}


def test_a_ratio_shows_its_rounds_and_a_baseline_is_not_the_best_peer() -> None:
    table = Table("smollm2-135m", 2)
    for our, theirs in ((110.0, 100.0), (130.0, 100.0), (90.0, 100.0)):
        table.add_pair(INT8, baseline(INT8), "pp512", Measured(our, 1), Measured(theirs, 1))
    table.add_pair(INT8, PEERS["vllm-w8a8"], "pp512", Measured(100.0, 1), Measured(50.0, 1))
    assert "1.10 (0.90 – 1.30, int8)" in report.markdown(table)
    found = table.as_json()
    assert found["ratios"][0] == {
        "row": "pp512", "ours": "tripos-int8", "peer": "baseline-int8", "ratio": 1.1, "least": 0.9, "most": 1.3,
    }  # fmt: skip
    assert [one["best_peer"] for one in found["best"]] == ["vllm-w8a8"]
