"""Commands and flags of other servers, and what to type here instead. Misspelt words get a suggestion."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tripos import config

# A command of Ollama, vLLM, llama.cpp or a model hub → what to type.
COMMANDS = {
    "run": "tripos chat MODEL talks in the terminal, tripos generate MODEL PROMPT answers once",
    "ask": "tripos generate MODEL PROMPT answers once",
    "complete": "tripos generate MODEL PROMPT --raw continues a text",
    "pull": "tripos serve hf:ORG/NAME downloads a model at its first use",
    "download": "tripos serve hf:ORG/NAME downloads a model at its first use",
    "push": "models are not published from here",
    "list": "tripos models list asks a running server; models are not kept in a store of ours",
    "ls": "tripos models list asks a running server; models are not kept in a store of ours",
    "ps": "tripos models list asks a running server",
    "show": "tripos doctor MODEL shows a model, tripos config show the settings",
    "info": "tripos doctor shows the machine, tripos doctor MODEL a model",
    "env": "tripos doctor shows the machine, tripos config show the settings",
    "collect-env": "tripos doctor shows the machine, tripos config show the settings",
    "rm": "delete the model's directory, or use the hub's own tool for what it downloaded",
    "cp": "tripos serve MODEL --name NAME gives a name, or a route in tripos.toml",
    "create": "models, routes and their settings stand in tripos.toml; tripos config check reads it",
    "load": "tripos models load NAME [SOURCE] loads into a running server",
    "unload": "tripos models unload NAME takes a model out of a running server",
    "stop": "send SIGTERM to the server, or take out one model: tripos models unload NAME",
    "start": "tripos serve [MODEL] starts a server",
    "server": "tripos serve [MODEL] starts a server",
    "cli": "tripos chat MODEL talks in the terminal",
    "bench": "run make bench in a checkout of the sources",
    "convert": "tripos quantize SOURCE --weights FORMAT -o DIR writes packed weights",
    "pack": "tripos quantize SOURCE --weights FORMAT -o DIR writes packed weights",
    "run-batch": "there are no batch jobs: send the requests to a server, which answers many at once",
    "login": "hf: reads the access token of the environment variable HF_TOKEN",
}

_ARGUMENT = "the model is an argument: tripos serve MODEL"
_HUB = "name the hub's model as the argument: tripos serve hf:ORG/NAME"
_REVISION = "write hf:ORG/NAME@REVISION"
_THREADS = "--threads"
_CPU = "leave it out: Tripos runs on the processor"
_ONE_PROCESS = "leave it out: one process answers all requests"
_ATTENTION = "leave it out: there is one attention, for every model"
_SHARED = "leave it out: requests always share steps"
_PREFIXES = "leave it out: prefixes are always reused, and answers are the same bits as without"
_PURPOSE = "leave it out: the model's files say what it is for"
_TOKENIZER = "leave it out: the tokenizer of the model's files is used"
_LOADER = "leave it out: the model's files say how they are read"
_TEMPLATE = "leave it out: the model's own template is used, chat_template.jinja in its directory"
_METRICS = "leave it out: a server's /metrics is always there"
_NO_PROMPTS = "leave it out: prompts are never logged"
_SEED = "leave it out: requests to a server carry seed"
_GRAMMAR = "--regex or --json-schema; a served model takes grammars"
_KEYS = "--api-key-file FILE, with a key on each line"
# A flag of vLLM, llama.cpp, TGI, SGLang or Ollama → what to type here.
FLAGS = {
    "--served-model-name": "--name",
    "--alias": "--name",
    "-a": "--name",
    "--model": _ARGUMENT,
    "-m": _ARGUMENT,
    "--model-path": _ARGUMENT,
    "--model-id": _ARGUMENT,
    "-hf": _HUB,
    "--hf-repo": _HUB,
    "-hfr": _HUB,
    "--revision": _REVISION,
    "--download-dir": "set the environment variable HF_HOME",
    "-c": "--max-model-len",
    "--ctx-size": "--max-model-len",
    "--context-length": "--max-model-len",
    "--max-total-tokens": "--max-model-len",
    "--max-input-tokens": "--max-model-len",
    "--num-ctx": "--max-model-len",
    "-np": "--max-sequences",
    "--parallel": "--max-sequences",
    "--max-num-seqs": "--max-sequences",
    "--max-running-requests": "--max-sequences",
    "--max-concurrent-requests": "--max-sequences",
    "--max-num-batched-tokens": "--token-budget",
    "--chunked-prefill-size": "--token-budget",
    "-b": "--token-budget",
    "--batch-size": "--token-budget",
    "-ub": "--token-budget",
    "--ubatch-size": "--token-budget",
    "-t": _THREADS,
    "-tb": _THREADS,
    "--threads-batch": _THREADS,
    "--dtype": "--weights",
    "--quantization": "--weights, for weights that are not packed yet; what a checkpoint was packed in is read from it",
    "-q": "--weights",
    "--kv-cache-dtype": "--kv-cache",
    "-ctk": "--kv-cache",
    "-ctv": "--kv-cache",
    "--cache-type-k": "--kv-cache",
    "--cache-type-v": "--kv-cache",
    "--gpu-memory-utilization": "--memory SIZE, such as 8GiB",
    "--mem-fraction-static": "--memory SIZE, such as 8GiB",
    "--swap-space": "--memory SIZE, such as 8GiB",
    "-ngl": _CPU,
    "--n-gpu-layers": _CPU,
    "--gpu-layers": _CPU,
    "--tensor-parallel-size": _CPU,
    "-tp": _CPU,
    "--pipeline-parallel-size": _CPU,
    "--num-shard": _CPU,
    "--data-parallel-size": _ONE_PROCESS,
    "-dp": _ONE_PROCESS,
    "--device": _CPU,
    "-fa": _ATTENTION,
    "--flash-attn": _ATTENTION,
    "--mlock": "leave it out: packed weights stay in memory",
    "--no-mmap": "leave it out: weights are packed into memory",
    "-cb": _SHARED,
    "--cont-batching": _SHARED,
    "--enable-prefix-caching": _PREFIXES,
    "--no-enable-prefix-caching": _PREFIXES,
    "--enable-chunked-prefill": "leave it out: long prompts always come in pieces",
    "--trust-remote-code": "leave it out: code in model directories never runs",
    "--jinja": _TEMPLATE,
    "--chat-template": _TEMPLATE,
    "--tool-call-parser": "--tool-dialect",
    "--enable-auto-tool-choice": "leave it out: tools are always understood",
    "--reasoning-parser": "leave it out: the model's template says how it reasons",
    "--speculative-config": "--speculate",
    "--lora-modules": "--adapter NAME=PATH",
    "--lora": "--adapter NAME=PATH",
    "--enable-lora": "--adapter NAME=PATH, or --max-adapters",
    "--max-loras": "--max-adapters",
    "--max-lora-rank": "--max-adapter-rank",
    "--embedding": _PURPOSE,
    "--embeddings": _PURPOSE,
    "--reranking": _PURPOSE,
    "--rerank": _PURPOSE,
    "--task": _PURPOSE,
    "--runner": _PURPOSE,
    "--tokenizer": _TOKENIZER,
    "--tokenizer-mode": _TOKENIZER,
    "--load-format": _LOADER,
    "--config-format": _LOADER,
    "--generation-config": "leave it out: the generation_config.json of the model's files holds",
    "--mmproj": "leave it out: models read text alone",
    "--enforce-eager": "leave it out: nothing is captured or compiled when a model starts",
    "--metrics": _METRICS,
    "--enable-metrics": _METRICS,
    "--max-log-len": _NO_PROMPTS,
    "--disable-log-requests": "--access-log off",
    "--log-disable": "--access-log off",
    "--root-path": "leave it out: let the proxy take its prefix off the path",
    "--seed": _SEED,
    "-s": _SEED,
    "--repeat-penalty": "leave it out: requests to a server carry repetition_penalty",
    "--api-key": _KEYS,
    "--admin-api-key": _KEYS,
    "-n": "--max-tokens",
    "-p": "the prompt is an argument: tripos generate MODEL PROMPT",
    "--prompt": "the prompt is an argument: tripos generate MODEL PROMPT",
    "-f": "pipe the file: tripos generate MODEL < FILE",
    "--file": "pipe the file: tripos generate MODEL < FILE",
    "-cnv": "tripos chat MODEL talks in the terminal",
    "--conversation": "tripos chat MODEL talks in the terminal",
    "-md": "leave it out: no second model drafts",
    "--model-draft": "leave it out: no second model drafts",
    "-to": "--max-call-s",
    "--timeout": "--max-call-s",
    "--n-predict": "--max-tokens",
    "--num-predict": "--max-tokens",
    "--max-new-tokens": "--max-tokens",
    "--temp": "--temperature",
    "-sys": "--system",
    "--system-prompt": "--system",
    "--grammar": _GRAMMAR,
    "--grammar-file": _GRAMMAR,
    "--format": "--json-schema",
    "--verbose": "--stats",
    "-v": "tripos version prints the version",
    "--ssl-certfile": "--tls-cert",
    "--ssl-cert-file": "--tls-cert",
    "--ssl-keyfile": "--tls-key",
    "--ssl-key-file": "--tls-key",
    "--uds": "--unix-socket",
    "--allowed-origins": "--cors-origins",
    "--allowed-headers": "leave it out: pages of --cors-origins may send any header",
    "--allowed-methods": "leave it out: pages of --cors-origins may use every method there is",
    "--forwarded-allow-ips": "--trusted-proxies",
    "--timeout-keep-alive": "--keep-alive-s",
    "--bind": "--host",
    "--hostname": "--host",
    "-H": "--host",
    "-P": "--port",
}


def answer_command(name: str, known: Iterable[str]) -> str:
    """The message for an unknown command."""
    known = list(known)
    if name in COMMANDS:
        return f"there is no command {name!r} here: {COMMANDS[name]}"
    return f"there is no command {name[:60]!r}{config.hint(name, known) or ': there are ' + ', '.join(known)}"


def flag_given(name: str, arguments: Iterable[str]) -> str:
    """The flag as typed, of which click reports only the part `name`."""
    if len(name) != 2:
        return name
    words = (argument.partition("=")[0] for argument in arguments)
    typed = [word for word in words if word[:1] == "-" != word[1:2] and name[1] in word]
    return next((word for word in typed if word in FLAGS), name if name in FLAGS or not typed else typed[0])


def answer_flag(name: str, known: Iterable[str]) -> str:
    """The message for a flag that a command does not have."""
    known = list(known)
    answer = FLAGS.get(name, "")
    named = re.findall(r"(?<!\S)--[a-z-]+", answer.partition("tripos ")[0])
    if answer and set(named) <= set(known):
        return f"there is no flag {name} here: {'give ' if answer.startswith('-') else ''}{answer}"
    near = (
        flag for flag in known if not set(flag.split("-")) < set(name.split("-"))
    )  # a flag with one more word is another flag
    return f"there is no flag {name[:60]}{config.hint(name, near) or ': --help lists those there are'}"
