"""Adapters of the demo assistant, from files to answers: the library, and a server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.unit.models.files.adapter_files import adapter_folder, matrices
from tripos import LLM
from tripos.build.language import open_model
from tripos.config import ModelOptions
from tripos.errors import ConfigError, ModelRefused, NotFound
from tripos.types import Message, Sampling

DEMO = "demo:assistant"
GREEDY = Sampling(temperature=0.0)
QUESTION = (Message(role="user", content="What can you do?"),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random adapters, of attention alone and of everything, strong enough to change every answer."""
    root = tmp_path_factory.mktemp("adapters")
    opened = open_model(ModelOptions(source=DEMO))
    shapes = {
        name.removesuffix(".weight"): (spec.shape[0], spec.shape[1])
        for name, spec in opened.plan.weights.items()
        if name.endswith("_proj.weight")
    }
    opened.close()

    def write(name: str, targets: tuple[str, ...], seed: int) -> Path:
        chosen = {module: shape for module, shape in shapes.items() if module.endswith(targets)}
        tensors = {key: np.float32(0.1) * values for key, values in matrices(chosen, rank=4, seed=seed).items()}
        return adapter_folder(root / name, tensors, r=4, lora_alpha=8, target_modules=list(targets))

    everything = tuple({module.rpartition(".")[2] for module in shapes})
    return {"attention": write("attention", ("q_proj", "v_proj"), 1), "all": write("all", everything, 2)}


def test_the_library_mixes_adapters_in_one_batch(folders: dict[str, Path]) -> None:
    names = ["", "all", "attention", "all", ""]
    with LLM(DEMO, adapters=folders) as llm:
        together = llm.generate([QUESTION] * 5, adapter=names, sampling=GREEDY, max_tokens=24)
        alone = {name: llm.generate([QUESTION], adapter=name, sampling=GREEDY, max_tokens=24)[0] for name in names}
        for completion, name in zip(together, names, strict=True):
            assert completion.error is None
            assert completion.token_ids == alone[name].token_ids
        with pytest.raises(NotFound, match="nobody"):
            llm.generate([QUESTION], adapter="nobody")
        with pytest.raises(ConfigError, match="2 adapters for 1 prompts"):
            llm.generate([QUESTION], adapter=["all", ""])
    with LLM(DEMO) as plain:
        assert plain.generate([QUESTION], sampling=GREEDY, max_tokens=24)[0].token_ids == together[0].token_ids
    assert len({completion.token_ids for completion in together}) == 3


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4", "fp8"])
def test_every_weight_format_takes_adapters(folders: dict[str, Path], weights: str) -> None:
    with LLM(DEMO, adapters=folders, weights=weights) as llm:
        answers = llm.generate([QUESTION] * 3, adapter=["", "all", "attention"], sampling=GREEDY, max_tokens=12)
        assert all(answer.error is None for answer in answers)
        assert answers[0].token_ids != answers[1].token_ids
        again = llm.generate([QUESTION], adapter="all", sampling=GREEDY, max_tokens=12)
        assert again[0].token_ids == answers[1].token_ids


def test_an_adapter_that_does_not_fit_stops_the_start(folders: dict[str, Path], tmp_path: Path) -> None:
    wrong = adapter_folder(tmp_path, matrices({"model.layers.0.self_attn.q_proj": (4, 4)}), target_modules=["q_proj"])
    with pytest.raises(ModelRefused, match=r"trained on another model|has no tensors"):
        LLM(DEMO, adapters={"wrong": wrong})
    with pytest.raises(ModelRefused, match="from 1 to 2"):
        LLM(DEMO, adapters=folders, max_adapter_rank=2)


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[str]:
    """`tripos serve` with one adapter, room for two, and the other's directory below a model root."""
    command = [
        sys.executable, "-m", "tripos", "serve", DEMO, "--port", "0", "--adapter", f"first={folders['all']}",
        "--max-adapters", "2", "--model-roots", str(folders["all"].parent),
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "listening on " in line:
                break
        else:
            raise AssertionError("".join(lines))
        try:
            yield line.rpartition("listening on ")[2].split()[0]
        finally:
            process.terminate()
            process.wait(20)


def ask(url: str, model: str) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": "What can you do?"}], "temperature": 0}
    return httpx.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": 24}, timeout=30)


def test_a_server_loads_and_unloads(server: str, folders: dict[str, Path]) -> None:
    def change(kind: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{server}/v1/{kind}_lora_adapter", json=body, timeout=30)

    texts = [ask(server, name).json()["choices"][0]["message"]["content"] for name in (DEMO, "first")]
    assert texts[0] != texts[1]
    loaded = change("load", lora_name="second", lora_path=str(folders["attention"]))
    assert loaded.status_code == 200, loaded.text
    listed = {each["id"]: each["parent"] for each in httpx.get(f"{server}/v1/models").json()["data"]}
    assert listed == {DEMO: None, "first": DEMO, "second": DEMO}
    assert ask(server, "second").status_code == 200
    outside = change("load", lora_name="third", lora_path=str(folders["all"].parents[1]))
    assert outside.status_code == 403
    reload: dict[str, Any] = {"url": f"{server}/admin/models/reload", "json": {"name": DEMO}, "timeout": 60}
    carries = httpx.post(**reload)
    assert carries.status_code == 409
    assert "carries second: unload them first" in carries.text
    assert change("unload", lora_name="second").status_code == 200
    assert ask(server, "second").status_code == 404
    # one that was named at the start comes back by the same path
    assert change("unload", lora_name="first").status_code == 200
    assert change("load", lora_name="first", lora_path=str(folders["all"])).status_code == 200
    assert ask(server, "first").json()["choices"][0]["message"]["content"] == texts[1]
    assert ask(server, DEMO).json()["choices"][0]["message"]["content"] == texts[0]
    assert httpx.post(**reload).status_code == 200  # with the adapters of the configuration
    for name, text in zip((DEMO, "first"), texts, strict=True):
        assert ask(server, name).json()["choices"][0]["message"]["content"] == text
    assert change("unload", lora_name="first").status_code == 200
    assert httpx.post(**reload).status_code == 200
    assert ask(server, "first").status_code == 200
