"""Trains the tokenizer: byte-level BPE, so that every text can be encoded and comes back unchanged.

Digits are single tokens, and no token spans a word boundary: a copied word has the same tokens as its source.

    python -m training.tokenizer --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.generate import TRAINING, conversations

PAD, BOS, SYSTEM, USER, ASSISTANT, END = SPECIAL_TOKENS = [
    "<|pad|>",
    "<|bos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
]
VOCAB_SIZE = 1536
MAX_LENGTH = 1024

# A word, a digit or a run of signs, each with the space before it; line ends on their own.
WORD_PATTERN = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\n|\s"

# One message: its role token, its text, <|end|>. Content may be a string or a list of text parts.
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% elif message['role'] == 'user' or message['role'] == 'tool' %}{{ '<|user|>' }}"
    "{% else %}{{ '<|system|>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% elif message['content'] %}{% for part in message['content'] %}{{ part['text'] | default('') }}{% endfor %}"
    "{% endif %}"
    "{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def training_texts(count: int, seed: str = "tokenizer") -> Iterator[str]:
    """The message texts of `count` training conversations."""
    for conversation in islice(conversations(seed, TRAINING, max_turns=3), count):
        for message in conversation.messages:
            yield message["content"]


def train_tokenizer(num_conversations: int = 30_000) -> Tokenizer:
    """Learn the merges from training conversations."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(num_conversations), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode_conversation(
    tokenizer: Tokenizer, messages: list[dict[str, str]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids as the chat template gives them, and the (start, end) of each answer, its <|end|> included."""
    roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
    texts = tokenizer.encode_batch([message["content"].strip() for message in messages], add_special_tokens=False)
    end_id = tokenizer.token_to_id(END)
    ids: list[int] = [tokenizer.token_to_id(BOS)]
    answers: list[tuple[int, int]] = []
    for message, text in zip(messages, texts, strict=True):
        ids.append(tokenizer.token_to_id(roles[message["role"]]))
        start = len(ids)
        ids += [*text.ids, end_id]
        if message["role"] == "assistant":
            answers.append((start, len(ids)))
    return ids, answers


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    save_tokenizer(train_tokenizer(), options.out)


if __name__ == "__main__":
    main()
