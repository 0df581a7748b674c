"""/tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, post

MESSAGES = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
TOKENIZED: dict[str, dict[str, Any]] = {
    "a text": {"prompt": "Hello, world"},
    "an empty text": {"prompt": ""},
    "text that is not English": {"prompt": "Grüße 🙂"},
    "without special tokens": {"prompt": "Hello", "add_special_tokens": False},
    "with their texts": {"prompt": "Hello 🙂", "return_token_strs": True},
    "a conversation": {"messages": MESSAGES},
    "a conversation without a new turn": {"messages": MESSAGES, "add_generation_prompt": False},
    "a conversation that goes on": {
        "messages": MESSAGES,
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "of an embedder": {"model": "embedder", "prompt": "card"},
    "of bytes": {"model": "talker", "prompt": "ab", "return_token_strs": True},
    "refused: nothing": {},
    "refused: both": {"prompt": "x", "messages": MESSAGES},
    "refused: another server's name": {"content": "x"},
    "refused: an unknown model": {"model": "nobody", "prompt": "x"},
    "refused: a text of another type": {"prompt": 5},
}
DETOKENIZED: dict[str, dict[str, Any]] = {
    "tokens": {"tokens": [100, 200, 300]},
    "none": {"tokens": []},
    "of bytes": {"model": "talker", "tokens": [72, 105]},
    "refused: no tokens": {},
    "refused: a token that is none": {"tokens": [10_000_000]},
    "refused: text": {"tokens": ["x"]},
}

REQUESTS: list[Request] = [
    *(post(f"tokenize: {name}", "/tokenize", {"model": "assistant", **fields}) for name, fields in TOKENIZED.items()),
    *(
        post(f"detokenize: {name}", "/detokenize", {"model": "assistant", **fields})
        for name, fields in DETOKENIZED.items()
    ),
]
