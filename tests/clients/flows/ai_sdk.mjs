// The AI SDK with Zod: a tool loop, whole and streamed, and an object of a given form; over each of its providers.
//
// node ai_sdk.mjs URL

import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const baseURL = `${process.argv[2]}/v1`;
const openai = createOpenAI({ baseURL, apiKey: 'none' });
const models = {
  compatible: createOpenAICompatible({ name: 'tripos', baseURL, includeUsage: true, supportsStructuredOutputs: true })(
    'obliging',
  ),
  chat: openai.chat('obliging'),
  responses: openai.responses('obliging'),
  anthropic: createAnthropic({ baseURL, apiKey: 'none' })('obliging'),
};
const given = [];
const tools = {
  get_weather: tool({
    description: 'Weather of a city.',
    inputSchema: z.object({
      city: z.string().min(1),
      days: z.number().int().positive(),
      unit: z.enum(['C', 'F']).default('C'),
      near: z.array(z.object({ name: z.string(), km: z.number() })).optional(),
      limits: z.record(z.string(), z.number()).optional(),
      note: z.union([z.string(), z.null()]).optional(),
    }),
    execute: async ({ city, days }) => {
      given.push([city, days]);
      return '22 degrees';
    },
  }),
};
const said = { city: 'Paris', days: 2, unit: 'C', limits: { low: 1.5 } };
const form = { name: 'Paris', size: 3, tags: ['a'] };

async function talk(model) {
  given.length = 0;
  const asked = { model, tools, maxRetries: 0, stopWhen: stepCountIs(4), system: 'Be brief.' };
  asked.providerOptions = { anthropic: { thinking: { type: 'enabled', budgetTokens: 1024 } } };
  asked.prompt = `Please call get_weather ${JSON.stringify(said)}`;
  const whole = await generateText(asked);
  let failure;
  const stream = streamText({ ...asked, onError: ({ error }) => (failure = error) });
  await stream.consumeStream();
  if (failure) throw failure;
  const { output } = await generateText({
    model,
    maxRetries: 0,
    output: Output.object({ schema: z.object({ name: z.string(), size: z.number().int(), tags: z.array(z.string()) }) }),
    prompt: `Please say ${JSON.stringify(form)} or call json ${JSON.stringify(form)}`,
  });
  return {
    given: [...given],
    texts: [whole.text, await stream.text],
    steps: [whole.steps.length, (await stream.steps).length],
    reasoning: [whole.reasoningText ?? null, (await stream.reasoningText) ?? null],
    form: output,
  };
}

const found = {};
for (const [name, model] of Object.entries(models)) found[name] = await talk(model);
console.log(JSON.stringify(found));
