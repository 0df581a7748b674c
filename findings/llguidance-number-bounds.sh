#!/usr/bin/env bash
# llguidance turns a JSON Schema's numbers into masks. Some ranges take numbers that lie outside, others take nothing.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet llguidance==1.9.1 jsonschema==4.26.0

"$folder/venv/bin/python" - <<'PYTHON'
import json
from decimal import Decimal
from importlib.metadata import version

import jsonschema
import llguidance


class Bytes:
    """A vocabulary of single bytes."""

    is_tokenizer_wrapper, bos_token_id, eos_token_id = True, None, 256
    special_token_ids = [256]
    tokens = [bytes([i]) for i in range(256)] + [b"</s>"]

    def __call__(self, text):
        return list(text if isinstance(text, bytes) else text.encode())


VOCABULARY = llguidance.LLTokenizer(Bytes(), eos_token=256)


def takes(schema, text):
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    matcher = llguidance.LLMatcher(VOCABULARY, grammar, log_level=0)
    return not matcher.is_error() and matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()


def is_valid(schema, text):
    exact = {name: Decimal(str(value)) if isinstance(value, float) else value for name, value in schema.items()}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(exact, format_checker=checker).is_valid(json.loads(text, parse_float=Decimal))


# schema, text, what llguidance says of it
SEEN = [
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.01}, "0", True),
    ({"type": "number", "exclusiveMinimum": 3, "maximum": 3.7}, "3", True),
    ({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0}, "-0", True),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "0", False),  # as it should
    ({"type": "number", "multipleOf": 0.1, "minimum": 0.25, "maximum": 0.35}, "0.3", False),
    ({"type": "number", "multipleOf": 0.1, "minimum": 0.3, "maximum": 0.3}, "0.3", False),
    ({"type": "number", "multipleOf": 0.07}, "0.14", False),
    ({"type": "number", "multipleOf": 0.25}, "1.5", False),
    ({"type": "number", "multipleOf": 0.25}, "1.50", True),
    ({"type": "number", "maximum": 0.25}, "0.2", False),
    ({"type": "number", "maximum": 0.25}, "0.20", True),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, "5", False),
    ({"type": "number", "maximum": 1.7976931348623157e308}, "5", False),
    ({"const": 2**53 + 1}, str(2**53), True),
    ({"type": "string", "format": "date"}, '"2023-02-29"', True),
]
print("llguidance", version("llguidance"), "beside jsonschema", version("jsonschema"))
print(f"{'llguidance':>10} {'valid':>6}  text           schema")
is_as_seen = True
for schema, text, seen in SEEN:
    taken = takes(schema, text)
    print(f"{'takes' if taken else 'refuses':>10} {'yes' if is_valid(schema, text) else 'no':>6}  {text:14} {json.dumps(schema)}")
    is_as_seen = is_as_seen and taken == seen
raise SystemExit(0 if is_as_seen else "this is no longer so")
PYTHON
