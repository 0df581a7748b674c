"""generation_config.json: a checkpoint's defaults for generation, with transformers' meaning.

Owns the file's fields: those that are applied, each in its range, and those that would change an answer and are named
in a note. Knows nothing of requests, which override them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tripos.errors import plain
from tripos.models.fields import Family, Fields

MAX_LENGTH = 1 << 30
MAX_SEQUENCES = 1 << 16  # of bad_words_ids or sequence_bias
MAX_BIAS = 1e6
Ids = tuple[int, ...]

# Fields that would change an answer and are not applied -> the values at which they change nothing.
_CHANGING: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,), "num_beam_groups": (1,), "diversity_penalty": (0,), "penalty_alpha": (0,), "use_mtp": (),
    "typical_p": (1,), "epsilon_cutoff": (0,), "eta_cutoff": (0,), "top_h": (), "guidance_scale": (1,),
    "encoder_repetition_penalty": (1,), "encoder_no_repeat_ngram_size": (0,), "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (), "forced_eos_token_id": (), "force_words_ids": (), "constraints": (), "stop_strings": (),
    "max_time": (), "token_healing": (False,), "watermarking_config": (), "dola_layers": (),
    "assistant_ensemble_weight": (),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """Defaults under the file's own names; None or empty where the file has none."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    max_length: int | None = None  # of prompt and answer; max_new_tokens takes precedence
    min_new_tokens: int | None = None
    min_length: int | None = None  # as max_length
    no_repeat_ngram_size: int = 0
    suppress_tokens: Ids = ()
    begin_suppress_tokens: Ids = ()  # banned as the first token of an answer
    bad_words_ids: tuple[Ids, ...] = ()
    sequence_bias: tuple[tuple[Ids, float], ...] = ()

    def fields(self) -> dict[str, Any]:
        """The content of an equal generation_config.json."""
        silent = GenerationDefaults()
        return {name: value for name, value in vars(self).items() if value != getattr(silent, name)}


def parse_generation(
    raw: Mapping[str, Any], file: str = "generation_config.json", vocab_size: int = 1 << 24
) -> GenerationDefaults:
    """Raises ModelRefused naming the field that is out of its range.

    Greedy decoding (do_sample false) is temperature 0, under which all that rules tokens out still holds.
    """
    fields = Fields(raw, file, Family())

    def number(key: str, low: float, high: float) -> float | None:
        return fields.number(key, low, high) if raw.get(key) is not None else None

    def integer(key: str, low: int, high: int) -> int | None:
        return fields.integer(key, low, high) if raw.get(key) is not None else None

    is_greedy = not fields.flag("do_sample", True)
    return GenerationDefaults(
        temperature=0.0 if is_greedy else number("temperature", 0.0, 100.0),
        top_p=None if is_greedy else number("top_p", 0.0, 1.0),
        top_k=None if is_greedy else integer("top_k", 0, 1 << 24),
        min_p=None if is_greedy else number("min_p", 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 0.01, 100.0),
        max_new_tokens=integer("max_new_tokens", 1, MAX_LENGTH),
        max_length=integer("max_length", 1, MAX_LENGTH),
        min_new_tokens=integer("min_new_tokens", 0, MAX_LENGTH),
        min_length=integer("min_length", 0, MAX_LENGTH),
        no_repeat_ngram_size=fields.integer("no_repeat_ngram_size", 0, MAX_LENGTH, 0),
        suppress_tokens=_suppressed(fields, "suppress_tokens", vocab_size),
        begin_suppress_tokens=_suppressed(fields, "begin_suppress_tokens", vocab_size),
        bad_words_ids=tuple(
            _sequence(fields, "bad_words_ids", each, vocab_size) for each in _list(fields, "bad_words_ids")
        ),
        sequence_bias=tuple(_biased(fields, each, vocab_size) for each in _list(fields, "sequence_bias")),
    )


def generation_notes(raw: Mapping[str, Any], file: str = "generation_config.json") -> tuple[str, ...]:
    """A note for each field that would change an answer and is not applied."""
    given = {key: raw[key] for key in _CHANGING if raw.get(key) is not None}
    return tuple(
        f"{file}: {key} is {str(value)[:40]!a}, which is not honoured"
        for key, value in given.items()
        if not any(value == neutral for neutral in _CHANGING[key])
    )


def _list(fields: Fields, key: str) -> list[Any]:
    value = fields.get(key, [])
    if not isinstance(value, list) or len(value) > MAX_SEQUENCES:
        raise fields.refuse(key, f"is not a list of at most {MAX_SEQUENCES}")
    return value


def _suppressed(fields: Fields, key: str, vocab_size: int) -> Ids:
    """Token ids; ids outside the vocabulary have no effect."""
    ids = _list(fields, key)
    if any(type(id) is not int for id in ids):
        raise fields.refuse(key, "holds something other than token ids")
    return tuple(id for id in ids if 0 <= id < vocab_size)


def _sequence(fields: Fields, key: str, value: Any, vocab_size: int) -> Ids:
    if not isinstance(value, list) or not value:
        raise fields.refuse(key, "holds something other than lists of token ids")
    for id in value:
        if type(id) is not int or not 0 <= id < vocab_size:
            raise fields.refuse(key, f"holds {str(id)[:20]!a}; expected token ids below vocab_size {vocab_size}")
    return tuple(value)


def _biased(fields: Fields, value: Any, vocab_size: int) -> tuple[Ids, float]:
    """[[id, ...], bias]."""
    if not isinstance(value, list) or len(value) != 2 or type(value[1]) not in (int, float):
        raise fields.refuse("sequence_bias", "holds something other than [token ids, number]")
    if not -MAX_BIAS <= value[1] <= MAX_BIAS:
        raise fields.refuse("sequence_bias", f"holds the bias {plain(value[1])}; at most {plain(MAX_BIAS)} is read")
    return _sequence(fields, "sequence_bias", value[0], vocab_size), float(value[1])


def gguf_generation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A GGUF's general.sampling keys under the names of generation_config.json."""
    names = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
             "penalty_repeat": "repetition_penalty"}  # fmt: skip
    found = {ours: metadata.get(f"general.sampling.{theirs}") for theirs, ours in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def gguf_generation_notes(metadata: Mapping[str, Any], file: str) -> tuple[str, ...]:
    """A note for each sampler that a GGUF names and that is not implemented."""
    keys = ("sequence", "xtc_probability", "mirostat", "penalty_last_n")
    found = {f"general.sampling.{key}": metadata.get(f"general.sampling.{key}") for key in keys}
    return tuple(
        f"{file}: {key} is {str(value)[:40]!a}, which is not honoured" for key, value in found.items() if value
    )
