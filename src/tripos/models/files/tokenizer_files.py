"""A checkpoint's tokenizer: tokenizer.json, or a GGUF file's vocabulary, with what other files say of its tokens.

Owns which file names the beginning, the end and the chat templates. Knows nothing of weights.
Tested in tests/unit/models/files/test_source.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripos.errors import ModelRefused, shown
from tripos.models.files.opening import is_there, read_bytes
from tripos.models.task import task_of
from tripos.models.text.tokenizer import Tokenizer, tokenizer_from_json
from tripos.models.text.tokenizer_check import MAX_TOKENIZER_BYTES
from tripos.models.text.tokenizer_settings import with_settings

if TYPE_CHECKING:
    from tripos.models.files.gguf import GgufFile

MAX_TEMPLATE_BYTES = 1 << 20
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
TOOL_USE = "tool_use"  # name of a model's template for chats with tools
_OTHER_TOKENIZERS = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
    "tekken.json",
)


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], generation: Mapping[str, Any], settings: Mapping[str, Any]
) -> Tokenizer:
    """The tokenizer of a checkpoint, from tokenizer.json and the contents of config.json, generation_config.json and
    tokenizer_config.json. Raises ModelRefused naming the file and the field that is wrong."""
    path = folder / "tokenizer.json"
    if not is_there(path):
        raise ModelRefused(_without_tokenizer(folder))
    data = with_settings(read_bytes(path, MAX_TOKENIZER_BYTES), settings, config)
    tokenizer = tokenizer_from_json(data, path.name)
    if task_of(config) != "generate":
        return tokenizer  # nothing is written, so no token begins or ends it
    bos = _named_id(tokenizer, settings, "bos_token") or _ids(tokenizer, config, "bos_token_id", "config.json")
    eos = (
        _named_id(tokenizer, settings, "eos_token")
        | _ids(tokenizer, config, "eos_token_id", "config.json")
        | _ids(tokenizer, generation, "eos_token_id", "generation_config.json")
    )
    tokenizer.assign_roles(min(bos, default=None), eos, *_templates(folder, settings))
    return tokenizer


def gguf_tokenizer(gguf: GgufFile) -> Tokenizer:
    """The tokenizer of a GGUF file, from its metadata. Raises ModelRefused as read_tokenizer."""
    from tripos.models.files.gguf_vocabulary import end_ids, vocabulary_json

    tokenizer = tokenizer_from_json(vocabulary_json(gguf), gguf.file)
    template = gguf.metadata.get("tokenizer.chat_template")
    tool_template = gguf.metadata.get(f"tokenizer.chat_template.{TOOL_USE}")
    if not (isinstance(template, str | None) and isinstance(tool_template, str | None)):
        raise ModelRefused(f"{gguf.file}: tokenizer.chat_template is no string")
    bos = _ids(tokenizer, gguf.metadata, "tokenizer.ggml.bos_token_id", gguf.file)
    tokenizer.assign_roles(min(bos, default=None), end_ids(gguf)[0], template, tool_template)
    return tokenizer


def _ids(tokenizer: Tokenizer, raw: Mapping[str, Any], key: str, file: str) -> frozenset[int]:
    """The token ids under a key that may hold one, a list, or nothing."""
    value, most = raw.get(key), tokenizer.vocab_size - 1
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(id) is int and 0 <= id <= most for id in ids):
        raise ModelRefused(f"{file}: {key} is {shown(value)}; expected token ids from 0 to the tokenizer's {most}")
    return frozenset(ids)


def _named_id(tokenizer: Tokenizer, settings: Mapping[str, Any], key: str) -> frozenset[int]:
    """The id of a token that tokenizer_config.json names by its text, or by an object that holds its text."""
    value = settings.get(key)
    text = value.get("content") if isinstance(value, Mapping) else value
    if text is None:
        return frozenset()
    id = tokenizer.token_id(text) if isinstance(text, str) else None
    if id is None:
        raise ModelRefused(f"tokenizer_config.json: {key} is {str(text)[:60]!a}, which is not in the vocabulary")
    return frozenset((id,))


def _templates(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The model's template, and the one for chats with tools if it is another: chat_template.jinja and named ones in a
    folder, else chat_template in tokenizer_config.json, which is one template or a list of named ones."""
    named: dict[Any, Any] = {path.stem: _read_text(path) for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if is_there(path := folder / TEMPLATE_FILE):
        named["default"] = _read_text(path)
    value = settings.get("chat_template")
    if not isinstance(value, list):
        named = {"default": value} | named
    elif not named:
        named = {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
    if "default" not in named:
        raise ModelRefused("tokenizer_config.json: chat_template lists several templates, none called default")
    if not all(isinstance(each, str | None) for each in named.values()):
        raise ModelRefused("tokenizer_config.json: chat_template is no string")
    return named["default"], named.get(TOOL_USE)


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as problem:
        raise ModelRefused(f"{path.name}: is not UTF-8") from problem


def checked(tokenizer: Tokenizer, config: Mapping[str, Any], template_file: str) -> Tokenizer:
    """The tokenizer, whose ids fit the config and whose templates compile. Raises ModelRefused."""
    rows = config.get("vocab_size")
    if type(rows) is int and tokenizer.vocab_size > rows:
        raise ModelRefused(
            f"tokenizer.json: has ids up to {tokenizer.vocab_size - 1}, which is too many: vocab_size is {rows}"
        )
    if tokenizer.template_source is not None:
        try:
            tokenizer.chat_template, tokenizer.tool_template  # noqa: B018  compiles
        except ModelRefused as refused:
            raise ModelRefused(f"{template_file}: {refused.message}") from refused
    return tokenizer


def _without_tokenizer(folder: Path) -> str:
    """What the directory holds instead of a tokenizer.json, and what to do."""
    others = [name for name in _OTHER_TOKENIZERS if (folder / name).exists()]
    if not others:
        return "tokenizer.json: is missing: take it from where the model comes from"
    return (
        f"tokenizer.json: is missing, and {' and '.join(others)} alone is not read: make it where transformers is "
        "installed: AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY)"
    )
