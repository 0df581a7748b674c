"""Driver of our own engine: the same door as the peers', one step at a time."""

from __future__ import annotations

from benchmarks.peers import work


def load(setup: work.Setup) -> work.Answer:
    import numpy as np

    from tripos import build
    from tripos.config import ModelOptions
    from tripos.engine.sequence import Sequence
    from tripos.types import Sampling

    options = ModelOptions(
        source=setup.model,
        threads=setup.threads,
        weights=setup.weights,
        kv_cache=setup.kv_cache,
        max_sequences=setup.max_sequences,
        max_model_len=setup.max_tokens,
        speculate="off",  # random weights repeat themselves more than a model would
    )
    engine = build.load_model(options).engine
    sampling = Sampling(temperature=0.0, ignore_eos=True)

    def answer(prompts: list[list[int]], max_tokens: int) -> work.Timing:
        clock = work.Clock()
        for prompt in prompts:
            engine.add(Sequence(np.asarray(prompt, np.int32), max_tokens, sampling))
        while engine.has_work:
            outputs = engine.step()
            clock.add(sum(len(output.tokens) for output in outputs))
            for output in outputs:
                if output.error is not None:
                    raise output.error
        return clock.stop(len(prompts) * max_tokens)

    return answer


if __name__ == "__main__":
    work.serve(load, "tripos")
