"""An encoder through sentence-transformers or ONNX Runtime, for benchmarks/encoder.py. Runs in the peers' environment.

    python drive_encoders.py ENGINE MODEL QUERIES THREADS WORK

Reads a line from stdin per round, embeds every query and answers with the seconds; the first round, which is not
timed, also writes the vectors to WORK. Text in, vectors of length 1 out: tokenizing is part of the work.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32  # texts, sentence-transformers' own default
Embed = Callable[[list[str]], Any]


def torch_engine(model: Path, threads: int, work: Path, batch: int = BATCH) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(str(model), device="cpu")
    return lambda texts: encoder.encode(texts, batch_size=batch, show_progress_bar=False)


def onnx_engine(model: Path, threads: int, work: Path, *, is_int8: bool = False) -> Embed:
    """The transformer as a graph that ONNX Runtime's own tool fused for BERT; batches sorted by length, as
    sentence-transformers sorts them; pooling in numpy."""
    import onnxruntime
    import tokenizers

    path = work / ("int8.onnx" if is_int8 else "fused.onnx")
    if not path.exists():
        export(model, work)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> Any:
        order = np.argsort([-len(text) for text in texts])
        vectors = np.empty((len(texts), 384), np.float32)
        for at in range(0, len(texts), BATCH):
            rows = order[at : at + BATCH]
            encoded = tokenizer.encode_batch_fast([texts[i] for i in rows])
            ids = np.array([each.ids for each in encoded], np.int64)
            mask = np.array([each.attention_mask for each in encoded], np.int64)
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = session.run(None, inputs)[0]
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            vectors[rows] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    return embed


def export(model: Path, work: Path) -> None:
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModel

    class Hidden(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = AutoModel.from_pretrained(str(model), attn_implementation="eager").eval()

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    ids = torch.ones(2, 8, dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "hidden"]}
    torch.onnx.export(
        Hidden(), (ids, ids, torch.zeros_like(ids)), str(work / "plain.onnx"), input_names=names,
        output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    fused = optimizer.optimize_model(str(work / "plain.onnx"), model_type="bert", num_heads=12, hidden_size=384)
    fused.save_model_to_file(str(work / "fused.onnx"))
    print("fused:", fused.get_fused_operator_statistics(), file=sys.stderr)
    quantize_dynamic(
        str(work / "fused.onnx"), str(work / "int8.onnx"), weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip


ENGINES: dict[str, Callable[[Path, int, Path], Embed]] = {
    "sentence-transformers": torch_engine,
    "sentence-transformers, batch 128": lambda model, threads, work: torch_engine(model, threads, work, 128),
    "onnxruntime": onnx_engine,
    "onnxruntime int8": lambda model, threads, work: onnx_engine(model, threads, work, is_int8=True),
}


def main(engine: str, model: str, queries: str, threads: str, work: str) -> None:
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever the libraries say
    texts = json.loads(Path(queries).read_text())
    embed = ENGINES[engine](Path(model), int(threads), Path(work))
    np.save(Path(work) / f"{engine}.npy", embed(texts))
    for _ in sys.stdin:
        began_s = time.perf_counter()
        embed(texts)
        print(time.perf_counter() - began_s, file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
