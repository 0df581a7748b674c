#!/usr/bin/env bash
# LiteLLM's anthropic/ provider hands out a thinking block whose signature is empty, as servers of open models send it,
# and then leaves it out when its own message comes back in the history: without a word, also for another api_base. The
# model does not see what it reasoned before its tool call. With any signature the block goes back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: 'litellm==1.110.2'
cat > "$folder/talk.py" <<'PYTHON'
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

litellm.telemetry, litellm.suppress_debug_info = False, True
seen: list[dict] = []
signature = ""


class Server(BaseHTTPRequestHandler):
    """Anthropic's protocol, always with the same answer."""

    def do_POST(self):
        seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        content = [
            {"type": "thinking", "thinking": "Paris, so Celsius.", "signature": signature},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}},
        ]
        usage = {"input_tokens": 1, "output_tokens": 1}
        body = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
                "stop_reason": "tool_use", "stop_sequence": None, "usage": usage}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
asked = {
    "model": "anthropic/m", "api_base": f"http://127.0.0.1:{server.server_port}", "api_key": "none",
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "allowed_openai_params": ["thinking"], "max_tokens": 4000,
    "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": parameters}}],
}
kinds = {}
for signature in ("", "any"):
    messages = [{"role": "user", "content": "How warm is it in Paris?"}]
    answer = litellm.completion(**asked, messages=messages).choices[0].message
    assert answer.thinking_blocks[0]["thinking"] == "Paris, so Celsius.", answer
    messages += [answer.model_dump(), {"role": "tool", "tool_call_id": "toolu_1", "content": "22"}]
    litellm.completion(**asked, messages=messages)
    kinds[signature] = [block["type"] for block in seen[-1]["messages"][1]["content"]]
    print(f"signature {signature!r}: the assistant's message goes back as {kinds[signature]}")
assert kinds == {"": ["tool_use"], "any": ["thinking", "tool_use"]}, "litellm behaves otherwise now"
PYTHON
"$folder/venv/bin/pip" list 2>/dev/null | grep -i '^litellm '
"$folder/venv/bin/python" "$folder/talk.py"
