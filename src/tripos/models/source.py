"""What the user typed (a directory, a file, hf:org/name, demo:name) becomes a Source: config, weights, tokenizer.

Owns the choice of files and their agreement with each other. Refuses pickles and code; opens nothing remote unless
asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tripos.errors import ModelRefused
from tripos.models.config import read_json
from tripos.models.tokenizer import MAX_TOKENIZER_BYTES, SpecialIds, Tokenizer, tokenizer_from_json
from tripos.models.weights import Checkpoint, open_checkpoint


@dataclass(frozen=True)
class Source:
    """A model's files, opened: everything that ARCHITECTURES and the engine need, nothing computed yet."""

    name: str
    config: dict[str, Any]  # as config.json; models/config.py checks it
    weights: Checkpoint
    tokenizer: Tokenizer | None
    generation: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was found and not used, for the person who starts the server

    def close(self) -> None:
        self.weights.close()


def open_source(spec: str) -> Source:
    """Open what `spec` names. Raises ModelRefused naming the file and field that is wrong."""
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path)
    raise ModelRefused(f"{spec}: no such directory")


def _open_folder(folder: Path) -> Source:
    config = read_json(folder / "config.json")
    weights = open_checkpoint(folder)
    return Source(folder.name, config, weights, _read_tokenizer(folder, config))


def _read_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    with path.open("rb") as file:
        data = file.read(MAX_TOKENIZER_BYTES + 1)
    eos = config.get("eos_token_id")
    special = SpecialIds(config.get("bos_token_id"), tuple(eos) if isinstance(eos, list) else (eos,))
    return tokenizer_from_json(data, special)
