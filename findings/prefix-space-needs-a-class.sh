#!/usr/bin/env bash
# add_prefix_space in tokenizer_config.json, beside the one in tokenizer.json: which holds depends on the tokenizer's class
# and on transformers' version, without a word.
#   - tokenizer_class GPT2TokenizerFast: tokenizer_config.json holds, and its silence means false, in 4 and 5.
#   - the generic PreTrainedTokenizerFast: the same in 4; in 5 tokenizer.json holds and tokenizer_config.json is ignored.
# So the one directory gives "hi" two tokens or three: with add_prefix_space true in tokenizer.json and nothing in
# tokenizer_config.json, upgrading puts a space before every text; with true in tokenizer_config.json it takes it away.
#
# Seen: transformers 4.57.6 and 5.24.0, byte-level BPE of single bytes; the table is below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/count.py" <<'PYTHON'
import json
import sys
import tempfile
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers


def num_tokens(kind, in_tokenizer, in_config):
    """Of "hi", by a directory with both settings."""
    folder = Path(tempfile.mkdtemp(dir=Path(__file__).parent))
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=in_tokenizer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    settings = {"tokenizer_class": kind} | ({} if in_config is None else {"add_prefix_space": in_config})
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(transformers.AutoTokenizer.from_pretrained(str(folder))("hi")["input_ids"])


CASES = [(in_tokenizer, in_config) for in_tokenizer in (False, True) for in_config in (None, True, False)]
BY_CONFIG, BY_TOKENIZER = [2, 3, 2, 2, 3, 2], [2, 2, 2, 3, 3, 3]
is_as_seen = True
for kind in ("GPT2TokenizerFast", "PreTrainedTokenizerFast"):
    found = [num_tokens(kind, *case) for case in CASES]
    for (in_tokenizer, in_config), count in zip(CASES, found):
        print(f"{transformers.__version__:8} {kind:24} tokenizer.json {in_tokenizer!s:6} config {in_config!s:6} -> {count} tokens")
    is_ignored = kind.startswith("PreTrained") and sys.argv[1] == "ignored"
    is_as_seen = is_as_seen and found == (BY_TOKENIZER if is_ignored else BY_CONFIG)
sys.exit(0 if is_as_seen else "this is no longer so")
PYTHON
for each in "4.57.6 honoured" "5.24.0 ignored"; do
    read -r version expected <<< "$each"
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version"
    "$folder/$version/bin/python" "$folder/count.py" "$expected" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
done
