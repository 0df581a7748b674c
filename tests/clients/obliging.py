"""A model that does what the user's last words ask of it, behind the real engine, template, grammars and HTTP server.

`call NAME {…}` in the user's text makes it call that tool, if it is offered; a tool's result makes it say the result. So
a client that finishes with the result in its hand has done a whole tool loop. It thinks first, aloud.

    python -m tests.clients.obliging [--plain]

prints its address, then one JSON line for each prompt that it got. `--plain`: a model that does not reason.
"""

from __future__ import annotations

import argparse
import json
import re

from tripos.api.server import serve
from tripos.build import make_stages
from tripos.config import RouteOptions, ServerOptions
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.runtime.executor import ExecutorOptions
from tripos.service import Service
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import ModelCard
from tripos.wire.tools.dialects import describe

NAME = "obliging"
WINDOW = 1 << 20  # bytes, each a token: agents bring a hundred thousand
BLOCK_SIZE = 64
THOUGHT = "Let me see what is wanted."
TURN, ANSWER = "<|turn|>", "<|answer|>"
MARKS = (TURN, ANSWER, "<think>", "</think>", "<tool_call>", "</tool_call>")
_BEFORE_TURNS = """\
{%- if tools %}
  {{- '<|turn|>tools\\n' }}
  {%- for tool in tools %}{{- tool.function.name + ': ' + (tool | tojson) + '\\n' }}{% endfor %}
  {{- 'Call them so: <tool_call>{"name": …, "arguments": …}</tool_call>' }}
{%- endif %}
{%- for message in messages %}
  {{- '<|turn|>' + message.role + '\\n' }}"""
_REASONING = """
  {%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{% endif %}"""
_AFTER_REASONING = """
  {{- message.content or '' }}
  {%- for call in message.tool_calls or [] %}
    {{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
  {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|answer|>' }}{% endif %}"""
_WISH = re.compile(r"\bcall ([A-Za-z0-9_-]+) (?=\{)")


def reply(prompt: str, does_reason: bool) -> str:
    """What is said to a rendered conversation."""
    turns = [turn.partition("\n")[::2] for turn in prompt.split(TURN)[1:]]
    offered = {line.split(":")[0] for role, text in turns if role == "tools" for line in text.splitlines()}
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=-1)
    since = turns[last + 1 :]
    thought = f"<think>\n{THOUGHT}\n</think>\n\n" if does_reason else ""
    if results := [text.strip() for role, text in since if role == "tool"]:
        return f"{thought}The tool says: {'; '.join(results)}"
    asked = "\n".join(text for role, text in since if role == "user")
    wishes = [match for match in _WISH.finditer(asked) if match[1] in offered]
    if not wishes:
        return f"{thought}You said: {asked.strip()[-80:]}"
    arguments, _ = json.JSONDecoder().raw_decode(asked, wishes[-1].end())
    call = json.dumps({"name": wishes[-1][1], "arguments": arguments}, ensure_ascii=False)
    return f"{thought}<tool_call>\n{call}\n</tool_call>"


class Obliging(LanguageModel):
    """The real engine over an executor that spells `reply`, a byte at a time."""

    def __init__(self, does_reason: bool = True) -> None:
        self._does_reason = does_reason
        self._tokenizer = tokenizer = byte_tokenizer(MARKS)
        self._ids = {text: tokenizer.token_id(text) for text in MARKS}
        self._said: dict[int, list[int]] = {}  # by the hash of the prompt
        tokenizer.assign_roles(
            bos_id=None,
            eos_ids=frozenset({256}),
            template_source=_BEFORE_TURNS + (_REASONING if does_reason else "") + _AFTER_REASONING,
        )
        executor = ScriptedExecutor(
            tokenizer.vocab_size, ExecutorOptions(block_size=BLOCK_SIZE), next_token=self._next_token
        )
        num_blocks = 2 * WINDOW // BLOCK_SIZE
        executor.reserve(num_blocks)
        card = ModelCard(
            name=NAME,
            task="generate",
            digest="0b" * 32,
            max_model_len=WINDOW,
            vocab_size=tokenizer.vocab_size,
            created=1,
            **describe(tokenizer.template_source, tokenizer.special_tokens, "auto"),
        )
        super().__init__(card, tokenizer, Engine(executor, EngineOptions(num_blocks, BLOCK_SIZE, WINDOW)))

    def _next_token(self, tokens: list[int], seed: int, counter: int) -> int:
        answer = self._ids[ANSWER]
        if answer not in tokens:  # legacy completions have no turns: every prompt is answered alike
            return 97 + counter % 26
        start = len(tokens) - tokens[::-1].index(answer)
        key = hash(tuple(tokens[:start]))
        if key not in self._said:
            prompt = self._tokenizer.decode(tokens[: start - 1], skip_special=False)
            print(json.dumps(prompt), flush=True)
            self._said[key] = [*self._tokenizer.encode_template(reply(prompt, self._does_reason)), 256]
        said, done = self._said[key], len(tokens) - start
        return said[done] if done < len(said) else 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true")
    model = Obliging(does_reason=not parser.parse_args().plain)
    service = Service()
    service.add(model, make_stages(RouteOptions(name=NAME), model))
    serve(service, ServerOptions(port=0), on_ready=lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
