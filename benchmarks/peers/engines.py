"""The engines that are measured: environment, driver, how its model is made, what its weights are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.work import Setup

OURS, BASELINE = "tripos", "baseline"  # environments of our own; the second is another build of ours
KV_CACHE = {"fp32": "fp32", "bf16": "fp16", "fp16": "fp16", "fp8": "int8", "int8": "int8", "int4": "int8"}  # ours
BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "q8_0": 8, "w8a8": 8, "int4": 4, "q4_0": 4}  # nominal
EXPORT = ("optimum-cli", "export", "openvino", "--model", "{checkpoint}", "--task", "text-generation-with-past")
BUILDER = ("python", "-m", "onnxruntime_genai.models.builder", "-m", "{checkpoint}", "-i", "{checkpoint}")
GGUF = ("python", "-m", "benchmarks.peers.write_gguf", "{checkpoint}", "{model}")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine with one type of weights. `prepare` makes `model` out of the checkpoint, in `prepare_in`."""

    name: str
    title: str
    environment: str
    driver: str
    weights: str
    kv_cache: str
    model: str = "checkpoint"
    prepare_in: str = ""
    prepare: tuple[str, ...] = ()
    mode: str = ""
    preload: tuple[str, ...] = ()  # libraries: of the environment, or of the system where the path is absolute
    only: tuple[str, ...] = ("decode", "pp", "batch", "cold")  # kinds of rows that tell something new

    @property
    def bits(self) -> int:
        return BITS[self.weights]

    def measures(self, row: str) -> bool:
        return row.startswith(self.only)

    def setup(self, models: Path, threads: int, vocab_size: int, rows: list[str]) -> Setup:
        return Setup(
            model=str(models / self.model),
            weights=self.weights,
            kv_cache=self.kv_cache,
            threads=threads,
            vocab_size=vocab_size,
            rows=rows,
            mode=self.mode,
        )


def ours(weights: str, kv_cache: str = "", environment: str = OURS) -> Engine:
    if weights not in KV_CACHE:
        raise ValueError(f"weights {weights}: expected one of {', '.join(KV_CACHE)}")
    return Engine(
        name=f"{environment}-{weights}",
        title="Tripos" if environment == OURS else "Tripos, baseline",
        environment=environment,
        driver="drive_tripos",
        weights=weights,
        kv_cache=kv_cache or KV_CACHE[weights],
        model=f"{environment}-{weights}",
        prepare_in=environment,
        prepare=("python", "-m", "tripos", "quantize", "{checkpoint}", "--weights", weights, "-o", "{model}"),
    )


def llama(weights: str) -> Engine:
    return Engine(
        name=f"llama-{weights}",
        title="llama.cpp",
        environment="llama",
        driver="drive_llama",
        weights=weights,
        kv_cache="fp16",
        model=f"{weights}.gguf",
        prepare_in="llama",
        prepare=(*GGUF, weights),
    )


def openvino(weights: str, *options: str) -> Engine:
    """Without options the weights stay as the checkpoint has them, bf16."""
    return Engine(
        name=f"openvino-{weights}",
        title="OpenVINO GenAI",
        environment="openvino",
        driver="drive_openvino",
        weights=weights,
        kv_cache="u8",
        model=f"openvino-{weights}",
        prepare_in="convert",
        prepare=(*EXPORT, *options, "{model}"),
    )


def vllm(weights: str, **model: Any) -> Engine:
    """With the two libraries that its documentation wants loaded first, where they are."""
    return Engine(
        name=f"vllm-{weights}",
        title="vLLM CPU",
        environment="vllm",
        driver="drive_vllm",
        weights=weights,
        kv_cache="bf16",
        preload=("lib/libiomp5.so", "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"),
        **model,
    )


def transformers(weights: str, mode: str = "", only: tuple[str, ...] = ("decode", "pp", "batch", "cold")) -> Engine:
    return Engine(
        name="-".join(filter(None, ("transformers", weights, mode))),
        title="Transformers, padded batch" if mode else "Transformers, one after another",
        environment="transformers",
        driver="drive_transformers",
        weights=weights,
        kv_cache=weights,
        mode=mode,
        only=only,
    )


PEERS = (
    llama("q4_0"),
    llama("q8_0"),
    llama("bf16"),
    openvino("bf16"),
    openvino("int8", "--weight-format", "int8"),
    # A group of 64 divides every row of the shapes.
    openvino("int4", "--weight-format", "int4", "--sym", "--group-size", "64", "--ratio", "1.0"),
    Engine(
        name="onnx-int4",
        title="ONNX Runtime GenAI",
        environment="onnx",
        driver="drive_onnx",
        weights="int4",
        kv_cache="fp32",
        model="onnx-int4",
        prepare_in="convert",
        prepare=(
            *BUILDER, "-o", "{model}", "-p", "int4", "-e", "cpu", "-c", "{model}-cache",
            "--extra_options", "int4_accuracy_level=4", "int4_block_size=32",
        ),
    ),
    vllm(
        "w8a8",
        model="w8a8",
        prepare_in="vllm",
        prepare=("python", "-m", "benchmarks.peers.write_w8a8", "{checkpoint}", "{model}"),
    ),
    vllm("bf16"),
    transformers("fp32"),
    transformers("bf16"),
    transformers("bf16", "padded", only=("batch",)),
)  # fmt: skip
