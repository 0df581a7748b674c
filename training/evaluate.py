"""Held-out exact match of the demo assistant: from its folder, or through any OpenAI-compatible server.

Prints a table for people and one JSON line for machines. The folder needs torch and transformers; the server
needs only the standard library:

    python -m training.evaluate --folder src/tripos/demo/assistant
    python -m training.evaluate --url http://127.0.0.1:8000/v1 --model demo:assistant
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.generate import NEW_BOTH, NEW_PHRASING, Message, Split, conversations

SETS: dict[str, Split] = {"new phrasing": NEW_PHRASING, "new phrasing + values": NEW_BOTH}
KINDS = ("answerable", "unanswerable", "greeting")
Answerer = Callable[[list[list[Message]]], list[str]]


@dataclass(frozen=True)
class Question:
    """A conversation that ends with the user's question, and the one answer that counts as right."""

    messages: list[Message]
    answer: str
    kind: str
    group: str


def held_out_questions(count: int) -> list[Question]:
    """`count` questions of each set; one per conversation, its last, after up to two earlier turns."""
    questions = []
    for group, split in SETS.items():
        source = conversations(f"evaluation/{group}", split, max_turns=3, answerable_share=0.68)
        for conversation in islice(source, count):
            *messages, last = conversation.messages
            questions.append(Question(messages, last["content"], conversation.kinds[-1], group))
    return questions


def folder_answerer(folder: Path, batch_size: int = 32) -> Answerer:
    """Greedy decoding of the shipped weights with transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(prompts: list[list[Message]]) -> list[str]:
        texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        answers = [""] * len(texts)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            inputs = tokenizer(
                [texts[row] for row in rows], return_tensors="pt", padding=True, add_special_tokens=False
            )
            inputs.pop("token_type_ids", None)
            with torch.no_grad():
                output = model.generate(**inputs, do_sample=False, max_new_tokens=64)
            for row, ids in zip(rows, output[:, inputs["input_ids"].shape[1] :], strict=True):
                answers[row] = tokenizer.decode(ids, skip_special_tokens=True)
        return answers

    return answer


def server_answerer(url: str, model: str, num_concurrent: int) -> Answerer:
    """Ask a server's /chat/completions at temperature 0; the key, if any, is in OPENAI_API_KEY."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"

    def ask(messages: list[Message]) -> str:
        body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])

    def answer(prompts: list[list[Message]]) -> list[str]:
        with ThreadPoolExecutor(num_concurrent) as pool:
            return list(pool.map(ask, prompts))

    return answer


def score(questions: list[Question], answers: list[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """Per set and kind (and "all"): how many are right, of how many. Space around an answer does not count."""
    table = {group: dict.fromkeys((*KINDS, "all"), (0, 0)) for group in (*SETS, "all")}
    for question, answer in zip(questions, answers, strict=True):
        is_right = answer.strip() == question.answer
        for group in (question.group, "all"):
            for kind in (question.kind, "all"):
                right, total = table[group][kind]
                table[group][kind] = (right + is_right, total + 1)
    return table


def format_table(table: dict[str, dict[str, tuple[int, int]]]) -> str:
    """The scores as a Markdown table."""
    columns = (*KINDS, "all")
    lines = [f"| held-out set | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for group, row in table.items():
        cells = (f"{right / max(1, total):.1%} ({right}/{total})" for right, total in (row[c] for c in columns))
        lines.append(f"| {group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="evaluate the weights in this folder")
    parser.add_argument("--url", help="evaluate the server at this address (with /v1)")
    parser.add_argument("--model", default="demo:assistant")
    parser.add_argument("--count", type=int, default=1000, help="questions per set")
    parser.add_argument("--concurrent", type=int, default=8)
    parser.add_argument("--show-wrong", type=int, default=0, help="print so many wrong answers")
    options = parser.parse_args()
    if bool(options.folder) == bool(options.url):
        parser.error("give one of --folder and --url")
    questions = held_out_questions(options.count)
    answerer = (
        folder_answerer(options.folder)
        if options.folder
        else server_answerer(options.url, options.model, options.concurrent)
    )
    started = time.monotonic()
    answers = answerer([question.messages for question in questions])
    elapsed_s = time.monotonic() - started
    wrong = [(q, a) for q, a in zip(questions, answers, strict=True) if a.strip() != q.answer]
    for question, answer in wrong[: options.show_wrong]:
        print(
            json.dumps(
                {"messages": question.messages, "expected": question.answer, "got": answer},
                ensure_ascii=False,
            )
        )
    table = score(questions, answers)
    print(format_table(table))
    right, total = table["all"]["all"]
    counts = {group: {kind: list(cell) for kind, cell in row.items()} for group, row in table.items()}
    print(
        json.dumps(
            {
                "exact_match": right / total,
                "questions": total,
                "elapsed_s": round(elapsed_s, 1),
                "counts": counts,
            }
        )
    )


if __name__ == "__main__":
    main()
