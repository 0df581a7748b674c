"""Reads facts.txt: what a passage can say, how it is asked, and the one answer to each question.

Knows nothing of values or conversations. A phrase with {a|b} stands for all its readings; `expand` lists them.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

FACTS_PATH = Path(__file__).with_name("facts.txt")

_CHOICE = re.compile(r"\{([^{}]*)\}")
_OPTIONAL = re.compile(r"\[([^\]]*)\]")


@dataclass
class Ask:
    """One kind of question about a subject; `answer` holds <slots>."""

    name: str
    kind: str
    answer: str = ""
    training: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


@dataclass
class Fact:
    """One kind of sentence about a subject; every phrase states all `slots` (slot name to value type)."""

    name: str
    kind: str
    slots: dict[str, str] = field(default_factory=dict)
    asks: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


def load_facts(path: Path = FACTS_PATH) -> tuple[dict[str, Ask], list[Fact]]:
    """Parse the file; raises ValueError with the line number for a line that fits nowhere."""
    asks: dict[str, Ask] = {}
    facts: list[Fact] = []
    current: Ask | Fact | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        head = re.fullmatch(r"\[(ask|fact) (\w+) (\w+)\]", line)
        if not line or line.startswith("#"):
            continue
        if head and head[1] == "ask":
            current = asks[head[2]] = Ask(head[2], head[3])
        elif head:
            current = Fact(head[2], head[3])
            facts.append(current)
        elif current is None or not _add_line(current, line):
            raise ValueError(f"{path.name}:{number}: expected 'A/Q/S/H text' or 'slot: type', got {line!r}")
    return asks, facts


def _add_line(current: Ask | Fact, line: str) -> bool:
    mark, _, text = line.partition(" ")
    if mark in ("Q", "S"):
        current.training.append(text)
    elif mark == "H":
        current.held_out.append(text)
    elif isinstance(current, Ask) and mark == "A":
        current.answer = text
    elif isinstance(current, Fact) and mark == "asks:":
        current.asks = text.split()
    elif isinstance(current, Fact) and mark.endswith(":"):
        current.slots[mark[:-1]] = text
    else:
        return False
    return True


def choose(rng: random.Random, phrase: str, named: bool) -> str:
    """One reading of a phrase; `named` keeps the [optional] part that names the subject."""
    phrase = _OPTIONAL.sub(r"\1" if named else "", phrase)
    phrase = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), phrase)
    return re.sub(r"  +", " ", phrase).replace(" .", ".").replace(" ?", "?").strip()


def expand(phrase: str) -> set[str]:
    """All readings of a phrase, lower case and without the optional part."""
    parts = _CHOICE.split(_OPTIONAL.sub("", phrase))
    options = [part.split("|") if index % 2 else [part] for index, part in enumerate(parts)]
    texts = ("".join(reading) for reading in itertools.product(*options))
    return {" ".join(text.lower().replace(" .", ".").replace(" ?", "?").split()) for text in texts}


def fill(phrase: str, values: dict[str, str]) -> str:
    """Put the values into the <slots>."""
    return re.sub(r"<(\w+)>", lambda match: values[match[1]], phrase)
