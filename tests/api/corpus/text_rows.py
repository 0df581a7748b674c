"""Section 3.5: Unicode and tokens (U). What a model says (U08, U09) is in tests/unit/engine/test_text.py."""

from __future__ import annotations

from typing import Any

from tests.api.corpus.row import MIB, Ask, chat, completion, message, row
from tests.api.running import WINDOW

CONTEXT = "400 context_length_exceeded"
POINTS = range(0x0, 0x110000)


def block(start: int) -> str:
    """64 code points, none of them half of a pair."""
    return "".join(chr(point) for point in range(start, start + 64) if not 0xD800 <= point < 0xE000)


ROWS: list[Any] = [
    *(row("U01", f"1 MiB of {text!r}", completion(prompt=text * MIB), CONTEXT) for text in ("a", " ", "\n")),
    row("U02", "100,000 marks on a letter", completion(prompt="a" + "\u0301" * 100_000), CONTEXT),
    row("U02", "50,000 joined emoji", completion(prompt="\U0001f468\u200d" * 50_000), CONTEXT),
    *(row("U03 S", f"code points from U+{start:04X}", Ask("/tokenize", {"model": "tiny", "prompt": block(start)}), "200") for start in range(0, 0x110000, 0x4000) if not 0xD800 <= start < 0xE000),
    row("U04 S", "NUL, U+FFFE, private use, tags", completion(prompt="\0\ufffe\ue000\U000e0041"), "200"),
    row("U05 S", "overrides and isolates", message(content="\u202e\u2066\u2067abc\u2069"), "200"),
    row("U06 S", "special tokens as text", message(content="</s><|im_end|><|end|>[INST]"), "200"),
    *(row("U07 S", f"stop {stop!r}", completion(stop=stop), "200") for stop in ("\u00e9", "e\u0301", "\ufb01")),
    row("U10 S", "one token less than the window", completion(prompt="x" * (WINDOW - 1)), "200"),
    row("U10", "as many tokens as the window and one out", completion(prompt="x" * WINDOW), CONTEXT),
    row("U10", "one token more than the window", completion(prompt="x" * (WINDOW + 1)), CONTEXT),
    row("U11", "text of many tokens", completion(prompt="\U0001f600" * WINDOW), CONTEXT),
    row("U12", "a model's name in look-alikes", chat(model="t\u0456ny"), "404 model_not_found"),
]  # fmt: skip
