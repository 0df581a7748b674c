"""lm-eval's scores of the same requests, from a running server and from its own transformers backend, as one JSON line.

    score_with_lm_eval.py URL NAME DIR

NAME is served at URL from the checkpoint in DIR. Some of the continuations are the model's whole answers, behind which
it says its end token.
"""

from __future__ import annotations

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI

QUESTIONS = ("Where is my card?", "I lost my PIN.", "Hello", "How do I close my account?", "Thank you!", "yes or no?")
PAIRS = (
    ("Once upon a time", " there was a card"),
    ("The answer is", " yes"),
    ("The answer is", " 42, which nobody knew 😀 before"),
    ("", "A text without anything before it"),
)
TEXTS = ("Your card is on its way.", "The bank is open on Monday; bring your PIN.", "é😀 ü")


def requests(kind: str, arguments: list[tuple[str, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=i) for i, each in enumerate(arguments)]


def whole_answers(model: HFLM, count: int = 64) -> list[tuple[str, str]]:
    """Questions with what the model says to them until it ends, greedily."""
    pairs = []
    for question in QUESTIONS:
        prompt = model.tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        ids = model.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        made = model.model.generate(ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :].tolist()
        ended = made[:-1] if made[-1] == model.eot_token_id else made
        pairs.append((prompt, model.tokenizer.decode(ended)))
    return pairs


def main(url: str, name: str, folder: str) -> None:
    theirs = HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=1)
    ours = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions", model=name, tokenizer=folder, tokenizer_backend="huggingface",
        num_concurrent=1, max_retries=1, batch_size=2, max_length=theirs.max_length,
    )  # fmt: skip
    answers = whole_answers(theirs)
    found = {
        backend: {
            "loglikelihood": model.loglikelihood(requests("loglikelihood", [*PAIRS, *answers])),
            "rolling": model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,) for text in TEXTS])),
        }
        for backend, model in (("ours", ours), ("theirs", theirs))
    }
    print(json.dumps(found | {"answers": answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
