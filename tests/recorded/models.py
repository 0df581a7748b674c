"""Writes the models, adapters and service files of the recorded corpus: small, fp32, the same on every machine.

The scripted models come from ../shared/tools/scripted_model.py, the encoders from tests/models/golden_encoders.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
ENCODERS = REPOSITORY / "tests" / "models" / "golden_encoders"
SCRIPTED_MODEL = REPOSITORY.parent / "shared" / "tools" / "scripted_model.py"
NUM_POSITIONS = 256  # the window of the scripted models, and their hidden size

ARGUMENTS = '{"city": "Paris", "days": 2}'
CALL = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
SECOND = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
LISTED = f'{{"name": "get_weather", "arguments": {ARGUMENTS}}}'
CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
BEGIN, SEP, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"


def template(marks: str, prompt: str = "x") -> str:
    """Renders to `prompt`; the dialect is recognised by the marks."""
    return "{% if tools %}{% if false %}" + marks + "{% endif %}{% endif %}" + prompt


HERMES = template("<tool_call></tool_call>")
THINKING = "{% if enable_thinking %}{% endif %}" + template("<think></think><tool_call></tool_call>")

# name -> script, chat template, tokens of its own
SCRIPTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "talker": ("Hello there, friend. Grüße 🙂 日本. One two three four five.", template(""), ()),
    "writer": ('{"city": "Paris", "days": 2}', HERMES, ()),
    "hermes": (f"Sure.\n{CALL}", HERMES, ("<tool_call>", "</tool_call>")),
    "hermes-two": (f"{CALL}\n{SECOND}", HERMES, ("<tool_call>", "</tool_call>")),
    "hermes-caller": (CALL, HERMES, ("<tool_call>", "</tool_call>")),
    "hermes-now": (SECOND, HERMES, ("<tool_call>", "</tool_call>")),
    "hermes-space": (CALL.replace("get_weather", "crm__get_weather"), HERMES, ("<tool_call>", "</tool_call>")),
    "hermes-unknown": ('<tool_call>\n{"name": "nobody", "arguments": {}}\n</tool_call>', HERMES, ()),
    "mistral": (f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}", template("[TOOL_CALLS][ARGS]"), ()),
    "mistral-list": (f"[TOOL_CALLS][{LISTED}]", template("[TOOL_CALLS]"), ()),
    "deepseek-r1": (
        f"{CALLS}{BEGIN}function{SEP}get_weather\n```json\n{ARGUMENTS}\n```{END}{CALLS_END}",
        template(f"{CALLS}{BEGIN}function{SEP}```json```{END}{CALLS_END}"),
        (CALLS, BEGIN, SEP, END, CALLS_END),
    ),
    "deepseek-v31": (
        f"{CALLS}{BEGIN}get_weather{SEP}{ARGUMENTS}{END}{CALLS_END}",
        template(f"{CALLS}{BEGIN}{SEP}{END}{CALLS_END}"),
        (CALLS, BEGIN, SEP, END, CALLS_END),
    ),
    "llama3": (
        f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
        template('<|python_tag|>{"name": "f", "parameters": {} }'),
        (),
    ),
    "generic": (LISTED, "x", ()),
    "thinker": (
        "<think>\nTwo and two are four.\n</think>\n\nThe answer is 4.",
        THINKING,
        ("<think>", "</think>"),
    ),
    "thinking-caller": (
        f"<think>\nI look.\n</think>\n\nA moment.\n{CALL}",
        THINKING,
        ("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "mistral-thinker": ("[THINK]Hm.[/THINK]Yes.", template("[THINK][/THINK][TOOL_CALLS]"), ("[THINK]", "[/THINK]")),
    "thinking-writer": (f"<think>Hm.</think>{ARGUMENTS}", THINKING, ("<think>", "</think>")),
}
# Their template opens the block of reasoning itself: a prompt of two tokens.
OPENED = {"opened-thinker": ("Hm, well.\n</think>\nYes.", template("<think></think>", "x<think>"))}

SERVER = '[server]\nport = 0\nmemory = "2GiB"\nmodel_roots = ["."]\ndrain_s = 5\n'
SETTINGS = 'weights = "fp32"\nkv_cache = "fp32"\nthreads = 1\nmemory = "32MiB"\nspeculate = "off"\n'
OPEN_REST = """
[models.assistant]
source = "demo:assistant"
{settings}
[models.adapted]
source = "talker"
max_adapters = 3
adapters = {{ first = "adapters/first" }}
{settings}
[models.later]
source = "talker"
preload = false
{settings}
[routes.strict]
model = "talker"
unknown_fields = "refuse"

[routes.limited]
model = "talker"
stages = [
  {{ stage = "limits", max_n = 1, max_prompt_chars = 40, max_messages = 2, max_logprobs = 2, max_stops = 1 }},
  "deadline",
]

[routes.nightly]
model = "talker"
need = {{ class = "bulk", deadline_s = 60 }}
"""
ENCODER = 'weights = "fp32"\nthreads = 1\nmemory = "32MiB"\n'
ENCODER_NAMES = {
    "embedder": "bert-mean",
    "truncated": "bert-truncated",
    "static": "static-mean",
    "reranker": "bert-cross",
}
KEYS = {
    "generate": "generate-key-0123456789",
    "admin": "admin-key-01234567890123",
    "metrics": "metrics-key-012345678901",
}


def scripted_model() -> ModuleType:
    """The maker of scripted models. FileNotFoundError, saying so, where ../shared is not beside the checkout."""
    if not SCRIPTED_MODEL.exists():
        raise FileNotFoundError("needs ../shared/tools/scripted_model.py, which is not beside this checkout")
    spec = importlib.util.spec_from_file_location("scripted_model", SCRIPTED_MODEL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_adapter(folder: Path, maker: ModuleType, seed: int) -> None:
    """A LoRA adapter of the scripted GPT-2 that moves what it says; `seed` makes another one."""
    folder.mkdir(parents=True)
    shapes = {"mlp.c_fc": (32, NUM_POSITIONS), "mlp.c_proj": (NUM_POSITIONS, 32)}  # outputs, inputs
    tensors = {}
    for module, (outputs, inputs) in shapes.items():
        prefix = f"base_model.model.transformer.h.0.{module}"
        for which, shape in (("lora_A", (2, inputs)), ("lora_B", (outputs, 2))):
            count = shape[0] * shape[1]
            tensors[f"{prefix}.{which}.weight"] = np.sin(np.arange(count) * seed).reshape(shape).astype(np.float32)
    maker.save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["c_fc", "mlp.c_proj"], "fan_in_fan_out": True, "modules_to_save": None, "use_dora": False,
        "base_model_name_or_path": "talker", "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_scripted(root: Path, name: str) -> Path:
    """One of the scripted models, in a folder of its name."""
    scripted_model().write(root / name, *SCRIPTS[name], NUM_POSITIONS)
    return root / name


def write_all(root: Path) -> None:
    """Models, adapters, keys, and the service files open.toml and keyed.toml in `root`."""
    maker = scripted_model()
    for name, (script, chat_template, marks) in SCRIPTS.items():
        maker.write(root / name, script, chat_template, marks, NUM_POSITIONS)
    for name, (script, chat_template) in OPENED.items():
        maker.write(root / name, script, chat_template, ("<think>", "</think>"), NUM_POSITIONS, prompt_len=2)
    for seed, name in enumerate(("first", "second", "third"), 1):
        write_adapter(root / "adapters" / name, maker, seed)
    (root / "damaged").mkdir()
    (root / "damaged" / "config.json").write_text("{")
    tables = [f'[models.{name}]\nsource = "{name}"\n{SETTINGS}' for name in (*SCRIPTS, *OPENED)]
    tables += [f'[models.{name}]\nsource = "{ENCODERS / which}"\n{ENCODER}' for name, which in ENCODER_NAMES.items()]
    (root / "open.toml").write_text("\n".join([SERVER, *tables, OPEN_REST.format(settings=SETTINGS)]))
    (root / "keys.txt").write_text("\n".join(f"{key} {scope}" for scope, key in KEYS.items()) + "\n")
    (root / "keys.txt").chmod(0o600)
    keyed = SERVER + 'api_key_file = "keys.txt"\ncors_origins = ["https://app.example"]\n'
    keyed += 'allowed_hosts = ["models.example"]\n'
    tables = [f'[models.{name}]\nsource = "{name}"\n{SETTINGS}' for name in ("talker", "hermes")]
    tables.append(f'[models.later]\nsource = "writer"\npreload = false\n{SETTINGS}')
    (root / "keyed.toml").write_text("\n".join([keyed, *tables]))
