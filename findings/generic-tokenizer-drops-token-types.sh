#!/usr/bin/env bash
# One directory of tokenizer files (WordPiece, BERT's template, tokenizer_class PreTrainedTokenizerFast, the generic class),
# one pair of texts. transformers 4 feeds token_type_ids, 0 for the first text and 1 for the second; transformers 5 feeds
# none, so that a BERT takes all tokens for the first text: no error, no warning, other scores from every cross-encoder that
# was saved so. tokenizer_class BertTokenizer, or token_type_ids in model_input_names, keeps them in both.
#
# Seen: 4.57.6 {input_ids, token_type_ids [0, 0, 0, 1, 1], attention_mask}; 5.24.0 {input_ids, attention_mask}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/feed.py" <<'PYTHON'
import json
import sys
import tempfile
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors


def fed(**settings):
    """What the model is given for a pair, by a directory with these settings."""
    folder = Path(tempfile.mkdtemp(dir=Path(__file__).parent))
    vocab = {text: i for i, text in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b"])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return dict(transformers.AutoTokenizer.from_pretrained(str(folder))("a", "b"))


types = {}
for name, settings in {
    "generic class": {"tokenizer_class": "PreTrainedTokenizerFast"},
    "generic class, inputs named": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    },
    "BERT's class": {"tokenizer_class": "BertTokenizerFast"},
}.items():
    types[name] = fed(**settings).get("token_type_ids")
    print(transformers.__version__, name, "-> token_type_ids", types[name])
told = [0, 0, 0, 1, 1]
expected = {"generic class": told if sys.argv[1] == "fed" else None, "generic class, inputs named": told, "BERT's class": told}
sys.exit(0 if types == expected else f"expected {expected}")
PYTHON
for each in "4.57.6 fed" "5.24.0 dropped"; do
    read -r version expected <<< "$each"
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version"
    "$folder/$version/bin/python" "$folder/feed.py" "$expected" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
done
