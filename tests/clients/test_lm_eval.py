"""lm-eval scores our answers as its own transformers backend does, in an environment of its own."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

import tripos.demo
from tests.api.running import running
from tripos.build.language import load_model
from tripos.config import ModelOptions

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-lm-eval" / "bin" / "python"
PROGRAM = Path(__file__).parent / "flows" / "score_with_lm_eval.py"
MODEL = Path(next(iter(tripos.demo.__path__))) / "assistant"
MOST_OFF = 1e-3  # nats
PATIENCE_S = 600.0


async def score(url: str) -> dict[str, Any]:
    """What both backends find."""
    process = await asyncio.create_subprocess_exec(
        PYTHON, PROGRAM, url, "demo", MODEL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


@pytest.mark.timeout(PATIENCE_S + 60)
async def test_lm_eval_finds_what_its_transformers_backend_finds() -> None:
    if not (ROOT / ".venv-lm-eval" / "made").exists():
        pytest.skip("needs lm-eval in .venv-lm-eval: make .venv-lm-eval/made installs it")
    options = ModelOptions(source=str(MODEL), name="demo", weights="fp32", kv_cache="fp32", threads=1)
    async with running(load_model(options)) as server:
        found = await score(server.url)
    ours, theirs, answers = found["ours"], found["theirs"], found["answers"]
    for (logprob, is_greedy), (expected, is_expected) in zip(
        ours["loglikelihood"], theirs["loglikelihood"], strict=True
    ):
        assert logprob == pytest.approx(expected, abs=MOST_OFF)
        assert is_greedy == is_expected
    assert all(is_greedy for _, is_greedy in ours["loglikelihood"][-len(answers) :]), "right answers score as wrong"
    assert ours["rolling"] == pytest.approx(theirs["rolling"], abs=MOST_OFF)
