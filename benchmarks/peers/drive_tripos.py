"""Driver of our own engine: the same door as the peers', one step at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from benchmarks.peers import work


class Tripos:
    """A loaded engine. `facts` are its executor's, and the size of the packed checkpoint."""

    def __init__(self, setup: work.Setup) -> None:
        from tripos import build
        from tripos.config import ModelOptions
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
        opened = build.open_model(options)
        need = opened.need
        cache_bytes = setup.cache_tokens * need.kv_bytes_per_token  # as much as the peers get
        self._engine = opened.load(need.standing_bytes + cache_bytes).engine
        self._sampling = Sampling(temperature=0.0, ignore_eos=True)
        packed_bytes = sum(file.stat().st_size for file in Path(setup.model).glob("*.safetensors"))
        self.facts = asdict(self._engine.executor.info()) | {"packed_bytes": packed_bytes}

    def __call__(self, prompts: list[list[int]], max_tokens: int) -> work.Timing:
        import numpy as np

        from tripos.engine.sequence import Sequence

        engine = self._engine
        engine.pool.clear_cache()  # no prompt comes twice, and the memory of a row is to be its own
        clock = work.Clock()
        for prompt in prompts:
            engine.add(Sequence(np.asarray(prompt, np.int32), max_tokens, self._sampling))
        while engine.has_work:
            outputs = engine.step()
            clock.add(sum(len(output.tokens) for output in outputs))
            for output in outputs:
                if output.error is not None:
                    raise output.error
        return clock.stop(len(prompts) * max_tokens)


if __name__ == "__main__":
    work.serve(Tripos, "tripos")
