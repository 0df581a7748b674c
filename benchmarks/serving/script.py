"""What the scripted models answer, and what every server is asked. Imported in each server's own environment."""

from __future__ import annotations

TEXT = "Sixteen small words stand here so that an answer has some length to it now."
TOKENS = [f" token{i}" for i in range(64)]  # of a stream, a chunk each
QUESTION = "What is the capital of the country whose flag shows a red leaf?"


def body(*, stream: bool) -> dict[str, object]:
    """A chat completion as clients send it."""
    return {
        "model": "scripted",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": QUESTION},
        ],
        "temperature": 0.7,
        "top_p": 0.95,
        "max_tokens": 64 if stream else 16,
        "stream": stream,
    }
