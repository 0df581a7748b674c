"""Driver of OpenVINO GenAI's continuous batching."""

from __future__ import annotations

import numpy as np
import openvino
import openvino_genai as genai

from benchmarks.peers import work

BLOCK_SIZE = 32  # tokens of a cache block on a CPU
STEP_TOKENS = 2048  # most tokens of one step; its default of 256 is slower here in every row


def load(setup: work.Setup) -> work.Answer:
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = STEP_TOKENS
    scheduler.max_num_seqs = setup.max_sequences
    scheduler.num_kv_blocks = setup.cache_tokens // BLOCK_SIZE
    properties = {"INFERENCE_NUM_THREADS": setup.threads, "KV_CACHE_PRECISION": setup.kv_cache}
    pipeline = genai.ContinuousBatchingPipeline(setup.model, scheduler, "CPU", properties)

    def answer(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
        clock = work.Clock()
        handles = [
            pipeline.add_request(i, openvino.Tensor(np.asarray([prompt], np.int64)), config)
            for i, prompt in enumerate(prompts)
        ]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle in handles:
                if handle.can_read():
                    clock.add(sum(len(output.generated_ids) for output in handle.read().values()))
        return clock.stop(len(prompts) * max_tokens)

    return answer


if __name__ == "__main__":
    work.serve(load, "openvino_genai")
