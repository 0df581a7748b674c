"""What each weight and cache format costs in accuracy, against the same model in fp32 with an fp32 cache.

Runs text through the executor and compares all logits: perplexity, KL divergence (nats per token, of the fp32
distribution from the format's) and how often the likeliest token is the same. With the demo assistant also the exact
match of its held-out questions. Prints a table per model and one JSON line; on stderr what is measured now.

    python -m benchmarks.quality
    python -m benchmarks.quality --models path/to/model --text some.txt
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.evaluate import Question, held_out_questions
from tripos import LLM
from tripos.build.language import BLOCK_SIZE, LanguageKind, open_model
from tripos.build.opened import Opened
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.models.text.tokenizer import Tokenizer
from tripos.runtime.executor import ExecutorOptions, SamplingInput, StepInput
from tripos.runtime.native import NativeExecutor
from tripos.types import Message, Sampling

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STORIES = DATA / "lm" / "stories260K" / "derived-hf"
STORY_TEXT = DATA / "eval" / "tinystories" / "tinystories_sample.txt"
ASSISTANT = "demo:assistant"
EXACT = ("fp32", "fp32")
FORMATS = (
    EXACT, ("bf16", "fp32"), ("fp16", "fp32"), ("int8", "fp32"), ("fp8", "fp32"), ("int4", "fp32"), ("fp32", "fp16"),
    ("fp32", "int8"), ("int8", "fp16"), ("int8", "int8"), ("int4", "fp16"), ("auto", "fp32"),  # auto: as it is stored
)  # fmt: skip
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Text:
    """Token ids; those from `start` on are judged, each by what came before it."""

    token_ids: tuple[int, ...]
    start: int = 1


@dataclass(frozen=True)
class Row:
    """One format of one model. KL in nats per token; top1 and exact_match are shares."""

    weights: str
    kv_cache: str
    perplexity: float
    kl: float
    top1: float
    exact_match: float | None = None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="default: stories260K and demo:assistant, where they are")
    parser.add_argument("--text", type=Path, default=STORY_TEXT, help="judged text, documents apart by <|endoftext|>")
    parser.add_argument("--tokens", type=int, default=8000, help="judged tokens per model, about")
    parser.add_argument("--questions", type=int, default=200, help="exact match: questions per held-out set; 0: none")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


# -- what is judged -------------------------------------------------------------------------------------------------
def documents(path: Path, tokenizer: Tokenizer, max_len: int) -> Iterator[Text]:
    """A text file's documents, cut to the model's context."""
    for document in path.read_text(encoding="utf-8").split("<|endoftext|>"):
        ids = tokenizer.encode(document.strip(), add_special=True)[:max_len]
        if len(ids) > 1:
            yield Text(tuple(ids))


def conversations(tokenizer: Tokenizer) -> Iterator[Text]:
    """Held-out questions to the demo assistant with their right answers; only answers are judged."""
    for question in held_out_questions(2000):
        prompt = tokenizer.encode_chat(messages_of(question.messages))
        answer = tokenizer.encode(question.answer, add_special=False)
        yield Text((*prompt, *answer, min(tokenizer.eos_ids)), len(prompt))


def messages_of(raw: Iterable[dict[str, str]]) -> list[Message]:
    return [Message(role=each["role"], content=each["content"]) for each in raw]


def limited(texts: Iterable[Text], num_tokens: int) -> list[Text]:
    taken: list[Text] = []
    for text in texts:
        if num_tokens <= 0:
            break
        taken.append(text)
        num_tokens -= len(text.token_ids) - text.start
    return taken


# -- logits ---------------------------------------------------------------------------------------------------------
def log_probabilities(
    opened: Opened[LanguageModel], texts: list[Text], weights: str, kv_cache: str, threads: int
) -> Iterator[F32]:
    """Per text, [judged tokens, vocab_size]."""
    longest = max(len(text.token_ids) for text in texts)
    executor = NativeExecutor(
        ExecutorOptions(
            block_size=BLOCK_SIZE, max_num_tokens=longest, max_num_rows=longest, threads=threads, weights=weights,
            kv_cache=kv_cache, keep_logits=True,
        )
    )  # fmt: skip
    try:
        executor.load(opened.optimized(), opened.weights)
        executor.reserve(-(-longest // BLOCK_SIZE))
        for text in texts:
            logits = executor.run(step_of(text)).logits
            assert logits is not None
            yield log_softmax(logits)
    finally:
        executor.close()


def step_of(text: Text) -> StepInput:
    """All tokens but the last in one step; logits of those that come before a judged one."""
    ids = np.array(text.token_ids[:-1], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)
    rows = positions[text.start - 1 :]
    return StepInput(
        token_ids=ids,
        positions=positions,
        query_start=np.array([0, len(ids)], np.int32),
        seq_lens=np.array([len(ids)], np.int32),
        block_tables=np.arange(-(-len(ids) // BLOCK_SIZE), dtype=np.int32)[None],
        slots=positions,
        last_rows=rows,
        sampling=SamplingInput.greedy(len(rows)),
    )


def log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted, dtype=np.float64).sum(axis=1, keepdims=True)), np.float32)


def compare(texts: list[Text], exact: list[F32], others: Iterable[F32]) -> tuple[float, float, float]:
    """Perplexity of `others`, KL(exact from others) in nats per token, and the share of equal likeliest tokens."""
    surprise = divergence = agreed = 0.0
    count = 0
    for text, right, other in zip(texts, exact, others, strict=True):
        targets = np.array(text.token_ids[text.start :])
        surprise -= float(other[np.arange(len(targets)), targets].sum(dtype=np.float64))
        divergence += float((np.exp(right, dtype=np.float64) * (right.astype(np.float64) - other)).sum())
        agreed += int((right.argmax(1) == other.argmax(1)).sum())
        count += len(targets)
    return float(np.exp(surprise / count)), divergence / count, agreed / count


def exact_match(source: str, weights: str, kv_cache: str, num_questions: int, threads: int) -> float:
    """Share of held-out questions that the assistant answers word for word, greedily."""
    questions: list[Question] = held_out_questions(num_questions)
    with LLM(source, weights=weights, kv_cache=kv_cache, threads=threads) as llm:
        prompts = [messages_of(question.messages) for question in questions]
        answers = llm.generate(prompts, max_tokens=64, sampling=Sampling(temperature=0))
    pairs = zip(answers, questions, strict=True)
    return sum(answer.text.strip() == question.answer for answer, question in pairs) / len(questions)


# -- the table ------------------------------------------------------------------------------------------------------
def measure(source: str, arguments: argparse.Namespace) -> list[Row]:
    """All formats of one model."""
    tell(f"{source}: fp32 weights, fp32 cache, which the others are compared with")
    opened = open_model(ModelOptions(source=source))
    tokenizer, is_assistant = opened.source.tokenizer, source == ASSISTANT
    assert isinstance(opened.kind, LanguageKind)
    max_len = opened.kind.need.max_model_len
    texts = conversations(tokenizer) if is_assistant else documents(arguments.text, tokenizer, max_len)
    judged = limited(texts, arguments.tokens)
    exact = list(log_probabilities(opened, judged, *EXACT, arguments.threads))
    rows = []
    for number, (weights, kv_cache) in enumerate(FORMATS, 1):
        tell(f"{source}: {weights} weights, {kv_cache} cache ({number} of {len(FORMATS)})")
        found = compare(judged, exact, log_probabilities(opened, judged, weights, kv_cache, arguments.threads))
        match = None
        if is_assistant and arguments.questions:
            match = exact_match(source, weights, kv_cache, arguments.questions, arguments.threads)
        rows.append(Row(weights, kv_cache, *found, match))
    opened.source.close()
    return rows


def tell(what: str) -> None:
    """What is measured now, on stderr: a model takes minutes."""
    print(what, file=sys.stderr, flush=True)


def table(name: str, rows: list[Row]) -> str:
    """Markdown."""
    head = ["weights", "cache", "perplexity", "KL (nats/token)", "top-1 agreement"]
    if has_match := rows[0].exact_match is not None:
        head.append("exact match")
    lines = [name, "", f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in rows:
        cells = [row.weights, row.kv_cache, f"{row.perplexity:.4f}", f"{row.kl:.6f}", f"{row.top1:.2%}"]
        if has_match:
            cells.append(f"{row.exact_match:.2%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def default_models() -> list[str]:
    assistant = Path(__file__).resolve().parents[1] / "src" / "tripos" / "demo" / "assistant"
    found = [str(STORIES)] if STORIES.is_dir() and STORY_TEXT.is_file() else []
    return found + ([ASSISTANT] if (assistant / "model.safetensors").is_file() else [])


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    results = {}
    for source in arguments.models or default_models():
        rows = measure(source, arguments)
        name = source if source == ASSISTANT else "/".join(Path(source).resolve().parts[-2:])
        results[name] = [asdict(row) for row in rows]
        if not arguments.json:
            print(table(name, rows), end="\n\n", flush=True)
    print(json.dumps({"benchmark": "quality", "tokens": arguments.tokens, "models": results}))


if __name__ == "__main__":
    main()
