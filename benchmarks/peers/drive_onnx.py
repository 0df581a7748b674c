"""Driver of ONNX Runtime GenAI: a batch is one padded generation."""

from __future__ import annotations

import numpy as np
import onnxruntime_genai as genai

from benchmarks.peers import work

PAD = 0


def load(setup: work.Setup) -> work.Answer:
    config = genai.Config(setup.model)
    config.overlay(f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {setup.threads}}}}}}}}}')
    model = genai.Model(config)

    def answer(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        longest = max(map(len, prompts))
        length = longest + max_tokens
        params = genai.GeneratorParams(model)
        params.set_search_options(batch_size=len(prompts), min_length=length, max_length=length, do_sample=False)
        ids = np.asarray([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts], np.int32)
        clock = work.Clock()
        generator = genai.Generator(model, params)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
            clock.add(len(prompts))
        return clock.stop(len(prompts) * max_tokens)

    return answer


if __name__ == "__main__":
    work.serve(load, "onnxruntime_genai")
