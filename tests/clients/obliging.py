"""A model that does what the user's last words ask, behind the real engine, template, grammars and HTTP server.

`call NAME {…}` in them makes it call that tool, if it is offered; a tool's result makes it say the result. So a client
that ends with the result in its hand has done a whole tool loop. `say {…}` makes it say that JSON. It thinks first.

    python -m tests.clients.obliging

prints its address, then each conversation that it got, as the template rendered it, on a line of JSON.
"""

from __future__ import annotations

import json
import re

from tripos.api.http.server import serve
from tripos.build.service import make_stages
from tripos.config import RouteOptions, ServerOptions
from tripos.dialects.families import describe
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.runtime.executor import ExecutorOptions
from tripos.service import Service
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import ModelCard

NAME = "obliging"
WINDOW = 1 << 20  # bytes, each a token: agents bring a hundred thousand
BLOCK_SIZE = 64
END = 256
THOUGHT = "Let me see what is wanted."
TURN, ANSWER, THINK, THOUGHT_END = "<|turn|>", "<|answer|>", "<think>", "</think>"
MARKS = (TURN, ANSWER, THINK, THOUGHT_END, "<tool_call>", "</tool_call>")
TEMPLATE = """\
{%- if tools %}
  {{- '<|turn|>tools\\n' }}
  {%- for tool in tools %}{{- tool.function.name + ': ' + (tool | tojson) + '\\n' }}{% endfor %}
  {{- 'Call them so: <tool_call>{"name": …, "arguments": …}</tool_call>' }}
{%- endif %}
{%- for message in messages %}
  {{- '<|turn|>' + message.role + '\\n' }}
  {%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{% endif %}
  {{- message.content or '' }}
  {%- for call in message.tool_calls or [] %}
    {{- '<tool_call>' + (call.function | tojson) + '</tool_call>' }}
  {%- endfor %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|answer|>' }}
  {%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{% endif %}
{%- endif %}"""
_CALL = re.compile(r"\bcall ([A-Za-z0-9_-]+) (?=\{)")
_SAY = re.compile(r"\bsay (?=\{)")


def reply(prompt: str) -> str:
    """What is said to a rendered conversation."""
    turns = [turn.partition("\n")[::2] for turn in prompt.split(TURN)[1:]]
    offered = {line.split(":")[0] for role, text in turns if role == "tools" for line in text.splitlines()}
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=-1)
    if results := [text.strip() for role, text in turns[last + 1 :] if role == "tool"]:
        return f"The tool says: {'; '.join(results)}"
    asked = "\n".join(text for role, text in turns[last + 1 :] if role == "user")
    if wishes := [match for match in _CALL.finditer(asked) if match[1] in offered]:
        call = json.dumps({"name": wishes[-1][1], "arguments": _json_at(asked, wishes[-1].end())}, ensure_ascii=False)
        return f"<tool_call>\n{call}\n</tool_call>"
    if sayings := list(_SAY.finditer(asked)):
        return json.dumps(_json_at(asked, sayings[-1].end()), ensure_ascii=False)
    return f"You said: {asked.strip()[-80:]}"


def _json_at(text: str, at: int) -> object:
    return json.JSONDecoder().raw_decode(text, at)[0]


class Obliging(LanguageModel):
    """The real engine over an executor that spells a thought and `reply`, a byte at a time."""

    def __init__(self) -> None:
        self._said: dict[int, list[int]] = {}  # by the hash of the prompt
        tokenizer = byte_tokenizer(MARKS)
        tokenizer.assign_roles(bos_id=None, eos_ids=frozenset({END}), template_source=TEMPLATE)
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
        special = self.tokenizer.special_tokens
        if special[ANSWER] not in tokens:  # a prompt without a template
            return 97 + counter % 26
        start = len(tokens) - tokens[::-1].index(special[ANSWER])
        is_silent = tokens[start : start + 2] == [special[THINK], special[THOUGHT_END]]  # the template ended thinking
        key, num_said = hash((is_silent, *tokens[:start])), len(tokens) - start
        if num_said == (2 if is_silent else 0):  # the first token of an answer
            prompt = self.tokenizer.decode(tokens[: start - 1], skip_special=False)
            print(json.dumps(prompt), flush=True)
            thought = f"{THINK}{THOUGHT_END}" if is_silent else f"{THINK}\n{THOUGHT}\n{THOUGHT_END}"
            self._said[key] = [*self.tokenizer.encode_template(thought + reply(prompt)), END]
        said = self._said[key]
        return said[num_said] if num_said < len(said) else END


def main() -> None:
    model, service = Obliging(), Service()
    service.add(model, make_stages(RouteOptions(name=NAME), model))
    serve(service, ServerOptions(port=0), on_ready=lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
