"""Load tools get an answer to each of their requests, over each endpoint that they know and we have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clients.environment import Obliging, find_program, run
from tests.clients.obliging import MARKS
from tripos.testing import byte_tokenizer

pytestmark = pytest.mark.timeout(600)

NUM_REQUESTS = 6


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with the model's tokenizer, for tools that count tokens by themselves."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(byte_tokenizer(MARKS).to_json())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "model_max_length": 1 << 20}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_guidellm_gets_every_answer(server: Obliging, tmp_path: Path, tokenizer: Path, path: str) -> None:
    report = tmp_path / "report.json"
    command = [
        find_program("guidellm"), "run", "--disable-console",
        "--backend", f"kind=openai_http,target={server.url},model=obliging,request_format={path}",
        "--profile", "kind=concurrent,streams=2",
        "--constraint", f"kind=max_requests,count={NUM_REQUESTS}",
        "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
        "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
        "--output", f"kind=json,path={report}",
    ]  # fmt: skip
    run(command, tmp_path, {"HF_HUB_OFFLINE": "1"})
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert {name: totals[name] for name in ("successful", "errored", "incomplete")} == {
        "successful": NUM_REQUESTS,
        "errored": 0,
        "incomplete": 0,
    }


@pytest.mark.parametrize("kind", ["chat", "completions", "responses", "messages"])
def test_aiperf_gets_every_answer(server: Obliging, tmp_path: Path, tokenizer: Path, kind: str) -> None:
    command = [
        find_program("aiperf"), "profile", "--model", "obliging", "--url", server.url, "--endpoint-type", kind,
        "--streaming", "--tokenizer", tokenizer, "--concurrency", "2", "--request-count", str(NUM_REQUESTS),
        "--prompt-input-tokens-mean", "64", "--prompt-output-tokens-mean", "16",
        "--output-artifact-dir", tmp_path / "out", "--ui", "none", "--no-auto-plot",
    ]  # fmt: skip
    run(command, tmp_path)
    report = json.loads((tmp_path / "out" / "profile_export_aiperf.json").read_text())
    assert report["request_count"]["avg"] == NUM_REQUESTS
    assert report["error_summary"] == []
