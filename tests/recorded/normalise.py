"""What of an answer has to stay the same, in a form that can be compared.

Left out are ids, times, versions, digests, numbers of bytes, the texts of errors, metric values, and how a stream was
cut into pieces (streams.py). An id stands as #1, #2 ... in the order of its first place in the answer.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.recorded.models import REPOSITORY
from tests.recorded.served import Answer
from tests.recorded.streams import join, parse_events, parse_lines

HEX = re.compile(r"(?<![0-9a-zA-Z])((?:[a-z]+[-_])+)([0-9a-f]{24,64})(?![0-9a-f])")
BARE_ID = re.compile(r"[0-9a-zA-Z]{9}|[0-9a-f]{24,64}")
ID_KEYS = {"id", "call_id", "tool_call_id", "tool_use_id", "item_id"}
VALUES = {
    "<time>": {"created", "created_at", "completed_at", "since", "expires_at", "modified_at"},
    "<number>": {
        "total_duration", "load_duration", "prompt_eval_duration", "eval_duration",
        "memory_bytes", "total_bytes", "reserved_bytes", "free_bytes", "size", "size_vram",
    },
    "<digest>": {"digest", "system_fingerprint"},
    "<version>": {"version"},
    "<text>": {"signature"},
}  # fmt: skip
REPLACED = {key: text for text, keys in VALUES.items() for key in keys}
HEADERS = {"content-length": "<number>", "retry-after": "<number>", "x-tripos-model-digest": "<digest>"}
ONE_FOR_ALL = re.compile(
    r'(model_name|gen_ai_request_model|version|running_lora_adapters|waiting_lora_adapters)="[^"]*"'
)


class Normaliser:
    """Of one answer: equal ids get equal numbers. `root`: the folder of the models, whose name differs each time."""

    def __init__(self, root: Path) -> None:
        self._folders = {str(root): "<root>", str(REPOSITORY): "<repository>"}
        self._ids: dict[str, str] = {}

    def record(self, answer: Answer) -> dict[str, Any]:
        kept = {name: value for name, value in sorted(answer.headers.items()) if name != "date"}
        headers = {name: HEADERS.get(name) or self._text(value) for name, value in kept.items()}
        found: dict[str, Any] = {"status": answer.status, "headers": headers}
        kind = answer.headers.get("content-type", "").partition(";")[0]
        if kind == "text/event-stream":
            return {**found, "events": join(self._value(parse_events(answer.body.decode())))}
        if kind == "application/x-ndjson":
            return {**found, "events": join(self._value(parse_lines(answer.body.decode())))}
        if kind == "application/json" and answer.body:
            return {**found, "body": self._value(json.loads(answer.body))}
        text = answer.body.decode()
        if "# TYPE " in text:
            return {**found, "metrics": metric_names(text)}
        return {**found, "text": self._text(text)}

    def _value(self, value: Any, key: str = "") -> Any:
        if key in REPLACED and value is not None and not isinstance(value, dict | list):
            return REPLACED[key]
        if isinstance(value, dict):
            return self._object(value, key)
        if isinstance(value, list):
            return [self._value(each, key) for each in value]
        if isinstance(value, float):
            return float(f"{value:.6g}")
        return self._text(value, key) if isinstance(value, str) else value

    def _object(self, value: Mapping[str, Any], key: str) -> dict[str, Any]:
        if key == "metrics":
            return dict.fromkeys(value, "<number>")
        found = {name: self._value(each, name) for name, each in value.items()}
        for name in ("error", "message"):  # Ollama's errors are {"error": text}
            if isinstance(found.get(name), str) and "code" in found:
                found[name] = "<text>"
        if isinstance(found.get("embedding"), str) and found["embedding"]:
            vector = base64.b64decode(found["embedding"])
            numbers = struct.unpack(f"<{len(vector) // 4}f", vector)
            found["embedding"] = {"base64": [float(f"{number:.6g}") for number in numbers]}
        return found

    def _text(self, text: str, key: str = "") -> str:
        for folder, name in self._folders.items():
            text = text.replace(folder, name)
        if key in ID_KEYS and BARE_ID.fullmatch(text) and re.search(r"\d", text):
            return self._number(text)
        return HEX.sub(lambda match: match[1] + self._number(match[2]), text)

    def _number(self, id: str) -> str:
        return self._ids.setdefault(id, f"#{len(self._ids) + 1}")


def metric_names(text: str) -> dict[str, Any]:
    """Kind of each metric; of each kind of sample its sets of labels, models as one, and the bounds of its buckets."""
    kinds = [line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE ")]
    samples: dict[str, dict[str, list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        name, _, labels = line.rpartition(" ")[0].partition("{")
        sample = samples.setdefault(name, {"labels": [], "bounds": []})
        bound = re.search(r'le="([^"]*)"', labels)
        found = {"labels": ONE_FOR_ALL.sub(r'\1="*"', re.sub(r',?le="[^"]*"', "", labels.removesuffix("}")))}
        found |= {"bounds": bound[1]} if bound is not None else {}
        for key, each in found.items():
            if each not in sample[key]:
                sample[key].append(each)
    for sample in samples.values():
        sample["labels"].sort()
    return {"kinds": dict(kinds), "samples": dict(sorted(samples.items()))}
