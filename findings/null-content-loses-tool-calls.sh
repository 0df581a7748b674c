#!/usr/bin/env bash
# transformers 5 takes keys whose value is null out of messages before a chat template sees them. A template that knows an
# assistant's calls by `message['content'] is none` (the form that DeepSeek V3 and R1 published) then renders the turn
# without its calls: no error, no warning. With transformers 4 the same template, messages and call render them.
#
# Seen: transformers 4.57.6: "<user>hi<call>f {"a": 1}<tool>sunny"; 5.24.0: "<user>hi<tool>sunny", for content null, for
# no content, and for "" alike. OpenAI clients send null there every time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/render.py" <<'PYTHON'
import sys

import transformers
from tokenizers import Tokenizer, models

TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<user>{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'assistant' and message['content'] is none %}"
    "{% for call in message['tool_calls'] %}<call>{{ call['function']['name'] + ' ' + call['function']['arguments'] }}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' and message['content'] is not none %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'tool' %}<tool>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
)
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
texts = set()
for content in ({"content": None}, {}, {"content": ""}):
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", **content, "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]
    text = tokenizer.apply_chat_template(talk, chat_template=TEMPLATE, tokenize=False)
    print(transformers.__version__, content, "->", text)
    texts.add(text)
shown = '<user>hi<call>f {"a": 1}<tool>sunny'
is_shown = shown in texts
sys.exit(0 if is_shown == (sys.argv[1] == "shown") else f"expected the calls to be {sys.argv[1]}")
PYTHON
for each in "4.57.6 shown" "5.24.0 lost"; do
    read -r version expected <<< "$each"
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "transformers==$version" jinja2==3.1.6
    "$folder/$version/bin/python" "$folder/render.py" "$expected" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
done
