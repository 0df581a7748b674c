"""What users of other servers type, and what it is called here. A guess is made for slips of the hand only."""

from __future__ import annotations

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
    "cp": "a name of your own: tripos serve MODEL --name NAME, or a route in tripos.toml",
    "create": "models, routes and their settings stand in tripos.toml; tripos config check reads it",
    "load": "tripos models load NAME [SOURCE] loads into a running server",
    "unload": "tripos models unload NAME takes a model out of a running server",
    "stop": "send SIGTERM to the server, or take out one model: tripos models unload NAME",
    "start": "tripos serve [MODEL]",
    "server": "tripos serve [MODEL]",
    "cli": "tripos chat MODEL talks in the terminal",
    "bench": "make bench, in a checkout of the sources",
    "convert": "tripos quantize SOURCE --weights FORMAT -o DIR",
    "pack": "tripos quantize SOURCE --weights FORMAT -o DIR",
    "login": "hf: reads the access token of the environment variable HF_TOKEN",
}

_ARGUMENT = "the model is an argument: tripos serve MODEL"
_THREADS = "--threads"
_CPU = "nothing to say: Tripos runs on the processor"
_KEYS = "--api-key-file FILE, with a key on each line"
# A flag of vLLM, llama.cpp, TGI, SGLang or Ollama → what to say here.
FLAGS = {
    "--served-model-name": "--name",
    "--alias": "--name",
    "-a": "--name",
    "--model": _ARGUMENT,
    "-m": _ARGUMENT,
    "--model-path": _ARGUMENT,
    "--model-id": _ARGUMENT,
    "-hf": "tripos serve hf:ORG/NAME",
    "--hf-repo": "tripos serve hf:ORG/NAME",
    "--revision": "hf:ORG/NAME@REVISION",
    "--download-dir": "the environment variable HF_HOME",
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
    "--device": _CPU,
    "-fa": "nothing to say: there is one attention, and it is fast",
    "--flash-attn": "nothing to say: there is one attention, and it is fast",
    "--mlock": "nothing to say: packed weights stay in memory",
    "--no-mmap": "nothing to say: weights are packed into memory",
    "-cb": "nothing to say: requests always share steps",
    "--cont-batching": "nothing to say: requests always share steps",
    "--enable-prefix-caching": "nothing to say: prefixes are always reused",
    "--enable-chunked-prefill": "nothing to say: long prompts always come in pieces",
    "--trust-remote-code": "nothing to say: code in model directories never runs",
    "--jinja": "nothing to say: the model's own template is always used",
    "--tool-call-parser": "--tool-dialect",
    "--enable-auto-tool-choice": "nothing to say: tools are always understood",
    "--reasoning-parser": "nothing to say: the model's template says how it reasons",
    "--speculative-config": "--speculate",
    "--lora-modules": "--adapter NAME=PATH",
    "--lora": "--adapter NAME=PATH",
    "--enable-lora": "--adapter NAME=PATH, or --max-adapters",
    "--max-loras": "--max-adapters",
    "--max-lora-rank": "--max-adapter-rank",
    "--api-key": _KEYS,
    "--admin-api-key": _KEYS,
    "-n": "--max-tokens",
    "-p": "the prompt is an argument: tripos generate MODEL PROMPT",
    "--prompt": "the prompt is an argument: tripos generate MODEL PROMPT",
    "--n-predict": "--max-tokens",
    "--num-predict": "--max-tokens",
    "--max-new-tokens": "--max-tokens",
    "--temp": "--temperature",
    "-sys": "--system",
    "--system-prompt": "--system",
    "--grammar": "--regex or --json-schema; a served model takes grammars",
    "--format": "--json-schema",
    "--verbose": "--stats",
    "-v": "tripos --version, or --stats for speed",
    "--ssl-certfile": "--tls-cert",
    "--ssl-cert-file": "--tls-cert",
    "--ssl-keyfile": "--tls-key",
    "--ssl-key-file": "--tls-key",
    "--uds": "--unix-socket",
    "--allowed-origins": "--cors-origins",
    "--forwarded-allow-ips": "--trusted-proxies",
    "--timeout-keep-alive": "--keep-alive-s",
    "--bind": "--host",
    "--hostname": "--host",
    "-H": "--host",
    "-P": "--port",
}


def answer_command(name: str, known: Iterable[str]) -> str:
    """What to tell who typed a command that there is not."""
    known = list(known)
    if name in COMMANDS:
        return f"there is no command {name} here: {COMMANDS[name]}"
    return f"there is no command {name[:60]!r}{config.hint(name, known) or ': there are ' + ', '.join(known)}"


def flag_given(name: str, arguments: Iterable[str]) -> str:
    """The flag as it was typed, where `name` may be the first letter of one that has several behind one dash."""
    words = (argument.partition("=")[0] for argument in arguments)
    return next((word for word in words if word.startswith(name) and word in FLAGS), name)


def answer_flag(name: str, known: Iterable[str]) -> str:
    """What to tell who gave a flag that a command does not have."""
    known = list(known)
    if name in FLAGS:
        said = FLAGS[name]
        flag = said.split()[0].rstrip(",")
        if not flag.startswith("-") or flag in known:
            return f"there is no flag {name} here: {'give ' if flag.startswith('-') else ''}{said}"
    return f"there is no flag {name[:60]}{config.hint(name, known) or ': --help lists those there are'}"
