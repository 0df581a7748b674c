"""POST /v1/completions: text or token ids, one prompt or a list; echo; the legacy shape of logprobs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tripos.errors import InvalidRequest
from tripos.types import Delta, Generate, TokenLogprob
from tripos.wire import foreign
from tripos.wire.constraint import read_constraint
from tripos.wire.fields import Field, kind_of, read_json, table
from tripos.wire.generation import MAX_TOKENS, Collected, GenerationRequest, read_token_ids
from tripos.wire.openai.generation import (
    DELIVERY,
    IGNORED,
    SAMPLING,
    Answer,
    Identity,
    read_delivery,
    read_sampling,
)

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's

FIELDS = table(
    Field("prompt", "any", "Text, token ids, or a list of up to 64 of either.", required=True),
    *DELIVERY,
    *SAMPLING,
    Field("max_tokens", "integer", "Most tokens of each choice. Default 16; 0 only with echo.", low=0, high=MAX_TOKENS),
    Field("logprobs", "integer", "Log-probability of each token and of this many alternatives.", low=0, high=20),
    Field("echo", "boolean", "Begin each choice with the prompt."),
    Field("response_format", "object", "text, json_object, or json_schema: the answer follows the schema."),
    Field("structured_outputs", "object", "One of json, json_object, regex, choice, grammar (Lark or GBNF)."),
    *IGNORED,
    Field("suffix", "any", "the models fill no gaps", use="refused"),
    *foreign.COMPLETIONS,
)


def decode(body: bytes) -> GenerationRequest:
    """Raises InvalidRequest naming the field."""
    found = read_json(body, FIELDS)
    echo, logprobs = found.get("echo", False), found.get("logprobs")
    max_tokens = found.get("max_tokens", DEFAULT_MAX_TOKENS)
    if max_tokens == 0 and not echo:
        raise InvalidRequest("max_tokens is 0: that needs echo: true", code="out_of_range", param="max_tokens")
    template = Generate(
        prompt="",
        max_tokens=max_tokens,
        n=found.get("n", 1),
        sampling=read_sampling(found, logprobs),
        prompt_logprobs=logprobs if echo else None,
        echo=echo,
        constraint=read_constraint(found),
        cache_salt=found.get("cache_salt", ""),
    )
    requests = tuple(replace(template, prompt=prompt) for prompt in read_prompts(found["prompt"]))
    return GenerationRequest(requests=requests, **read_delivery(found), ignored=tuple(found.ignored))


def read_prompts(value: Any) -> list[str | tuple[int, ...]]:
    """One prompt per Call. Raises InvalidRequest."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InvalidRequest(
            f"prompt must be text or an array, not {kind_of(value)}", code="invalid_type", param="prompt"
        )
    if not value:
        raise InvalidRequest("prompt is empty", code="out_of_range", param="prompt")
    if not isinstance(value[0], str | list):
        return [read_token_ids(value, "prompt")]
    if len(value) > MAX_PROMPTS:
        message = f"prompt has {len(value)} prompts, at most {MAX_PROMPTS} may be given"
        raise InvalidRequest(message, code="too_many_items", param="prompt")
    return [_read_prompt(each, f"prompt[{i}]") for i, each in enumerate(value)]


def _read_prompt(value: Any, path: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be text or token ids, not {kind_of(value)}", code="invalid_type", param=path)
    if not value:
        raise InvalidRequest(f"{path} is empty", code="out_of_range", param=path)
    return read_token_ids(value, path)


class CompletionAnswer(Answer):
    """text_completion, whole and in chunks."""

    object = "text_completion"
    chunk_object = "text_completion"

    def __init__(self, body: GenerationRequest, identity: Identity) -> None:
        super().__init__(body, identity)
        self._choices = [Collected() for _ in range(len(body.requests) * self._n)]

    def _opening(self) -> list[dict[str, Any]]:
        """Completions begin with text at once."""
        return []

    def _add(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if not self.body.stream:
            self._choices[index].add(delta)
            return None
        choice = Collected()
        choice.add(delta)
        return self._encode(index, choice)

    def _whole_choices(self) -> list[dict[str, Any]]:
        return [self._encode(index, choice) for index, choice in enumerate(self._choices)]

    def _encode(self, index: int, choice: Collected) -> dict[str, Any]:
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self._encode_logprobs(choice),
            "finish_reason": choice.finish_reason,
            "stop_reason": choice.stop,
        }

    def _encode_logprobs(self, choice: Collected) -> dict[str, list[Any]] | None:
        """Parallel lists over the tokens; the prompt's first token has no log-probability."""
        if self.body.requests[0].sampling.logprobs is None:
            return None
        tokens: list[TokenLogprob | None] = [*choice.prompt_logprobs, *choice.logprobs]
        if choice.prompt_token_ids and not choice.prompt_logprobs:
            tokens.insert(0, None)  # a prompt of one token
        return {
            "tokens": [choice.prompt_start if token is None else _name(token) for token in tokens],
            "token_logprobs": [None if token is None else _finite(token.logprob) for token in tokens],
            "top_logprobs": [None if token is None else _top(token) for token in tokens],
            "text_offset": [*choice.prompt_offsets, *choice.text_offsets],
        }


def _top(token: TokenLogprob) -> dict[str, float]:
    return {_name(each): _finite(each.logprob) for each in (*token.top, token)}


def _name(token: TokenLogprob) -> str:
    """The token's text, or its bytes when they are no text, as OpenAI writes them."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _finite(logprob: float) -> float:
    """JSON has no infinity."""
    return max(logprob, -9999.0)
