"""Driver of vLLM's CPU engine, stepped in this process."""

from __future__ import annotations

import os

from benchmarks.peers import work


def load(setup: work.Setup) -> work.Answer:
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that its memory is this process's
        "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "-".join(map(str, (0, setup.threads - 1))),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    import vllm

    engine = vllm.LLM(
        setup.model,
        dtype="bfloat16",
        max_num_seqs=work.MOST_SEQUENCES,
        max_model_len=work.LONGEST,
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
