"""The contracts that every layer meets in: Call, requests, events, Usage, ModelCard, Model, Stage.

Owns no behaviour; what a chat is made of is defined in messages.py. Imports the standard library and msgspec only, so
that any layer may import it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from enum import IntEnum
from typing import Any, Literal, Protocol

import msgspec

from tripos.messages import Effort as Effort
from tripos.messages import Message as Message
from tripos.messages import ReasoningMarks as ReasoningMarks
from tripos.messages import ReasoningOptions as ReasoningOptions
from tripos.messages import Tool as Tool
from tripos.messages import ToolCall as ToolCall
from tripos.messages import ToolChoice as ToolChoice

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "abort", "error"]
Task = str  # generate, embed, rerank, predict; another kind of model brings its own


class Priority(IntEnum):
    """Scheduling class. Lower runs first: batch work fills what online work leaves."""

    ONLINE = 0
    BATCH = 1


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen. The executor applies the fields in this order: penalties, logit_bias,
    temperature, top_k, top_p, min_p. Reported logprobs are of the unmodified distribution.
    """

    temperature: float = 1.0  # 0 = greedy; ties go to the lowest token id
    top_k: int = 0  # 0 = whole vocabulary
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output tokens
    presence_penalty: float = 0.0  # over output tokens
    frequency_penalty: float = 0.0  # over output tokens
    logit_bias: dict[int, float] = {}
    seed: int | None = None  # None: drawn once per request
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False  # keep the matched stop string in the text
    ignore_eos: bool = False  # for benchmarks
    logprobs: int | None = None  # None: none; k >= 0: of each chosen token and of the k likeliest
    logprob_token_ids: tuple[int, ...] = ()  # with logprobs: of these tokens too, at the place of each chosen one


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice's text must match. Enforced token by token, or the call is refused before its first token."""

    kind: Literal["json_object", "json_schema", "regex", "lark", "gbnf"]
    source: str = ""  # the schema as JSON text, the pattern, the grammar; nothing for json_object
    param: str | None = None  # where the client wrote it, for errors


Prompt = str | tuple[int | Message, ...]  # text, token ids, or the messages of a chat: all of one kind


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked to do. Every kind of request is a subclass with a tag of its own."""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A further prompt of a call, answered as a choice of its own. What it shares with the call's prompt is computed
    once.
    """

    prompt: Prompt
    suffix: tuple[int, ...] = ()  # token ids that follow the prompt
    logprob_token_ids: tuple[int, ...] = ()  # instead of the call's


class Generate(Request, frozen=True, kw_only=True, tag="generate"):
    """Continue a prompt. `prompt` is text, token ids, or chat messages for the model's template.

    `tools`, `tool_choice` and `reasoning` say what the client wants of a chat. The model's dialect translates them to
    `template_tools`, `reasoning_marks`, `shown_tokens` and a `constraint`, which the engine reads.
    """

    prompt: Prompt
    max_tokens: int | None = None  # None: up to the context length
    n: int = 1
    sampling: Sampling = Sampling()
    prompt_logprobs: int | None = None  # as Sampling.logprobs, for each prompt token after the first
    echo: bool = False  # the first Delta of each choice carries the prompt
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    reasoning: ReasoningOptions = ReasoningOptions()
    template_args: dict[str, Any] = {}
    template_tools: tuple[dict[str, Any], ...] = ()  # tools as the model's template shows them
    constraint: Constraint | None = None  # of what follows the reasoning
    reasoning_marks: ReasoningMarks | None = None  # None: the output is read as text without reasoning
    shown_tokens: tuple[str, ...] = ()  # special tokens that are part of the text
    adapter: str = ""  # name of a LoRA adapter of the model, set by the route; "": the model as it is
    cache_salt: str = ""  # narrows prefix reuse further within the principal
    branches: tuple[Branch, ...] = ()  # choice 1, 2 ...; then n is 1


class Embed(Request, frozen=True, kw_only=True, tag="embed"):
    """Turn each input (text or token ids) into one vector."""

    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None  # keep the first ones only, and normalise again
    truncate_to: int | None = None  # tokens kept of a longer input; 0: as many as the model takes; None: refuse it
    prompt_name: str | None = None  # of the model's prompts, put before each text; None: its default, "": none


class Rerank(Request, frozen=True, kw_only=True, tag="rerank"):
    """Score each document against the query."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    truncate_to: int | None = None  # as Embed's, of query and document together where the model reads them so


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One possible answer of a question, in a caller's words."""

    name: str
    description: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be decided: whether it is so (options: what true and false mean, or none), which option it is, or
    which level it reaches (options in rising order).
    """

    kind: Literal["predicate", "choice", "score"]
    instructions: str
    options: tuple[Option, ...] = ()


class Decide(Request, frozen=True, kw_only=True, tag="decide"):
    """Answer questions about a state with a probability for each option. `option_orders` 2: choices are read again
    with their options reversed, and averaged.
    """

    state: str
    questions: tuple[Question, ...]
    instructions: str = ""  # go before the state
    option_orders: int = 1
    min_label_mass: float = 0.0  # with less the model declined
    template_args: dict[str, Any] = {}
    cache_salt: str = ""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of one type in row-major order, little-endian."""

    dtype: str  # numpy's name: float32, int64 ...
    shape: tuple[int, ...]
    data: bytes


class Predict(Request, frozen=True, kw_only=True, tag="predict"):
    """Run a one-shot model on named tensors."""

    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] = ()


class Unmetered(Request, frozen=True, kw_only=True):
    """A request that runs no model: it asks about one or changes it. No metric counts it."""


class Tokenize(Unmetered, frozen=True, kw_only=True, tag="tokenize"):
    """The token ids of a prompt, as `generate` would compute them. Answered by `Result.token_ids` of one entry."""

    generate: Generate
    add_special: bool = True  # where the prompt is text
    has_texts: bool = False  # `Result.texts` holds the text of each token


class Detokenize(Unmetered, frozen=True, kw_only=True, tag="detokenize"):
    """The text of token ids, special tokens included. Answered by `Result.texts` of one entry."""

    token_ids: tuple[int, ...]


class LabelTokens(Unmetered, frozen=True, kw_only=True, tag="label_tokens"):
    """How the tokenizer writes labels, each given as texts that mean the same. Answered by `Result.label_tokens`."""

    labels: tuple[tuple[str, ...], ...]


class LoadAdapter(Unmetered, frozen=True, kw_only=True, tag="load_adapter"):
    """Load the adapter in `path`; `in_place`: instead of the one of that name. Answered by `Result.adapter`."""

    name: str
    path: str
    in_place: bool = False


class UnloadAdapter(Unmetered, frozen=True, kw_only=True, tag="unload_adapter"):
    """Take no new calls for an adapter. Answered when the last call that uses it has ended."""

    name: str


def known_requests() -> tuple[type[Request], ...]:
    """Every kind of request that is defined by now: a decoder takes the union of them."""
    found: list[type[Request]] = [Request]
    for kind in found:
        found += kind.__subclasses__()
    return tuple(kind for kind in found if kind.__struct_config__.tag is not None)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request on its way through a route. Stages change it with `msgspec.structs.replace`."""

    id: str
    route: str  # the model name that the client asked for
    request: Request
    principal: str = ""  # who asks; salts the prefix cache
    priority: Priority = Priority.ONLINE
    arrival_s: float = 0.0  # time.monotonic() at the door
    deadline_s: float | None = None  # time.monotonic() after which the answer is worthless


class TokenLogprob(msgspec.Struct, frozen=True):
    """Natural-log probability of a token and of the likeliest alternatives at its place."""

    token_id: int
    text: str  # may hold U+FFFD when the token is part of a character
    data: bytes  # the token's exact bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    requested: tuple[float, ...] = ()  # of Sampling.logprob_token_ids, in their order


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one call took. Seconds are the call's own share of each step, not wall time, except queue_s."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    output_tokens: int = 0
    reasoning_tokens: int = 0  # of the output, the marks around it included
    queue_s: float = 0.0  # waiting for a place
    prefill_s: float = 0.0  # from scheduled to first token
    decode_s: float = 0.0  # from first token to last
    ttft_s: float = 0.0  # from arrival to first token
    num_preemptions: int = 0


class Delta(msgspec.Struct, frozen=True, kw_only=True, tag="delta"):
    """More output of choice `index`: reasoning, text and tool calls, in this order. `finish_reason` is set on the last
    Delta of a choice, which may be empty. A token that ends the output is among the tokens and has no text.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()  # whole
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    text_offsets: tuple[int, ...] = ()  # with logprobs: the character of the choice's output that each token begins in
    num_prompt_tokens: int = 0  # first Delta of a choice
    prompt_token_ids: tuple[int, ...] = ()  # first Delta of a choice with echo
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None  # entry 0 is None: nothing precedes it
    prompt_offsets: tuple[int, ...] = ()  # with prompt_token_ids and logprobs: as text_offsets
    prompt_start: str = ""  # with prompt_offsets: text of the first prompt token, which no TokenLogprob has
    finish_reason: FinishReason | None = None
    stop: str | int | None = None  # the stop string, or the one of the asked-for token ids, that matched


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one question. A predicate's options are true and false."""

    probabilities: tuple[float, ...]  # of the options, summing to 1; none: the model declined
    label_mass: float  # probability that the model gave to any option's label, of all that it could have said
    argmax_is_label: bool  # whether the likeliest token begins a label
    order_shift: float | None = None  # with two orders: total variation distance between their answers, 0 to 1


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine tells when asked. `num_running`, `num_waiting` and `kv_usage` are of now; the rest never fall.
    What an engine does not have, such as an encoder a cache, stays 0.
    """

    num_running: int  # sequences
    num_waiting: int
    kv_usage: float = 0.0  # of the cache blocks, 0 to 1
    prefix_queries: int = 0  # tokens looked up in the prefix cache
    prefix_hits: int = 0  # tokens found there
    num_preemptions: int = 0
    drafted_tokens: int = 0  # guessed and computed
    accepted_tokens: int = 0  # of these, also drawn
    max_adapters: int = 0  # that may be loaded
    running_adapters: tuple[str, ...] = ()  # of sequences in the step
    waiting_adapters: tuple[str, ...] = ()


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that a model has loaded."""

    name: str
    digest: str
    num_parameters: int

    @property
    def key(self) -> str:
        """For Generate.adapter: means this one while it is there, even when another took its name."""
        return f"{self.name},{self.digest}"


class Result(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """The whole answer to a request that does not generate text. The fields that the request asks for are set."""

    vectors: tuple[bytes, ...] = ()  # of the inputs, in their order: float32, little-endian
    scores: tuple[float, ...] = ()  # of the documents, in their order
    decisions: tuple[Decision, ...] = ()
    tensors: dict[str, Tensor] = {}
    token_ids: tuple[tuple[int, ...], ...] = ()
    texts: tuple[str, ...] = ()
    label_tokens: tuple[tuple[int, tuple[int, ...]], ...] = ()  # (index of the label, token ids) for each spelling
    adapter: AdapterInfo | None = None


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag="finish"):
    """The last event of every run. `reason` is the reason of choice 0."""

    reason: FinishReason
    usage: Usage = Usage()


Event = Delta | Result | Finish


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a client may know of a model. `digest` is SHA-256 over tensors, tokenizer, template and config."""

    name: str
    task: Task
    digest: str
    max_model_len: int = 0  # tokens, prompt and output together
    vocab_size: int = 0
    architecture: str = ""
    weights: str = ""  # format the weights run in: fp32, bf16, fp16, int8 ...
    file_format: str = ""  # of its files: safetensors or gguf
    num_parameters: int = 0
    num_bytes: int = 0  # of the weights in memory
    dimensions: int = 0  # of an embedder's vectors
    created: int = 0  # unix seconds, when this server loaded it
    sampling: Sampling = Sampling()  # what the model's makers recommend where a client is silent
    tool_dialect: str = ""  # how it writes tool calls, and reasoning: names of dialects
    has_tool_prompt: bool = False  # whether its template tells it of tools
    reasoning_dialect: str = ""  # "": it does not reason
    template_args: tuple[str, ...] | None = None  # names that its template reads of a request; None: not known
    reasoning_switch: str = ""  # the template's argument that turns reasoning off, "" for none
    marker_ids: dict[str, int] = {}  # marks of these dialects that are special tokens
    parent: str = ""  # of an adapter: the name of the model that it adapts
    has_tokenizer: bool = False  # answers Tokenize and Detokenize
    has_chat_template: bool = False  # its own: it was trained on conversations
    max_adapters: int = 0  # that may be loaded at once; 0: it takes none
    adapters: tuple[AdapterInfo, ...] = ()  # loaded together with it


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What changes while a model runs. Its holder asks for it at each probe or scrape, and keeps the answer."""

    is_progressing: bool = True  # started, not failed, and its work moves on
    stats: EngineStats | None = None  # None: it has no engine
    adapters: tuple[AdapterInfo, ...] = ()  # loaded now


class Model(Protocol):
    """Anything that answers. Closing the generator that `run` gives cancels the work."""

    card: ModelCard

    def run(self, call: Call) -> AsyncGenerator[Event, None]: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def info(self) -> ModelInfo: ...


Run = Callable[[Call], AsyncGenerator[Event, None]]
Stage = Callable[[Call, Run], AsyncGenerator[Event, None]]
