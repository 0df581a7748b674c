"""Driver of vLLM's CPU engine, stepped in this process."""

from __future__ import annotations

import json
import os
from pathlib import Path

from benchmarks.peers import work


def cache_gib(setup: work.Setup) -> int:
    """Whole GiB that hold the cache of the largest row in bf16."""
    config = json.loads((Path(setup.model) / "config.json").read_text())
    values = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"]
    return int(-(-2 * values * setup.cache_tokens // 2**30))


def load(setup: work.Setup) -> work.Answer:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that its memory is this process's
        "VLLM_CPU_KVCACHE_SPACE": str(cache_gib(setup)),
        "VLLM_CPU_OMP_THREADS_BIND": "-".join(map(str, (0, setup.threads - 1))),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    import vllm

    engine = vllm.LLM(
        setup.model,
        dtype="bfloat16",
        max_num_seqs=setup.max_sequences,
        max_model_len=max(setup.max_tokens, 256),
        enable_prefix_caching=False,
    ).llm_engine

    def answer(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        sampling = vllm.SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
        clock = work.Clock()
        have = dict.fromkeys(map(str, range(len(prompts))), 0)
        for i, prompt in enumerate(prompts):
            engine.add_request(str(i), {"prompt_token_ids": prompt}, sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                num_tokens = len(output.outputs[0].token_ids)
                clock.add(num_tokens - have[output.request_id])
                have[output.request_id] = num_tokens
        return clock.stop(len(prompts) * max_tokens)

    return answer


if __name__ == "__main__":
    work.serve(load, "vllm_cpu")
