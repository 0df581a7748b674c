"""Driver of our own engine: the same door as the peers', one step at a time."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers import work


class Tripos:
    """A loaded engine. `facts` are its executor's, and the size of the packed checkpoint."""

    def __init__(self, setup: work.Setup) -> None:
        from tripos.build import language as build
        from tripos.config import ModelOptions
        from tripos.types import Sampling

        options = ModelOptions(
            source=setup.model, **options_of(setup), max_sequences=setup.max_sequences, max_model_len=setup.max_tokens
        )
        opened = build.open_model(options)
        assert isinstance(opened.kind, build.LanguageKind)
        need = opened.kind.need
        cache_bytes = setup.cache_tokens * need.kv_bytes_per_token  # as much as the peers get
        self._engine = opened.load(need.standing_bytes + cache_bytes).engine
        self._sampling = Sampling(temperature=0.0, ignore_eos=True)
        self.facts = facts_of(self._engine.executor, setup)

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


class Cold:
    """A model as a program opens it that wants one answer."""

    def __init__(self, setup: work.Setup) -> None:
        from tripos import LLM

        self._setup, self._llm = setup, LLM(setup.model, **options_of(setup))

    def complete(self, text: str) -> str:
        completion = self._llm.generate(text, max_tokens=1, temperature=0.0)[0]
        if completion.error is not None:
            raise completion.error
        return completion.text

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self._llm._model.engine.executor, self._setup)

    def __call__(self, prompts: list[list[int]], max_tokens: int) -> work.Timing:
        raise NotImplementedError("a cold start has one job")


def options_of(setup: work.Setup) -> dict[str, Any]:
    return {
        "threads": setup.threads,
        "weights": setup.weights,
        "kv_cache": setup.kv_cache,
        "speculate": "off",  # random weights repeat themselves more than a model would
    }


def facts_of(executor: Any, setup: work.Setup) -> dict[str, Any]:
    packed_bytes = sum(file.stat().st_size for file in Path(setup.model).glob("*.safetensors"))
    return asdict(executor.info()) | {"packed_bytes": packed_bytes}


def load(setup: work.Setup) -> work.Answer:
    return Cold(setup) if setup.rows == [work.COLD] else Tripos(setup)


if __name__ == "__main__":
    work.serve(load, "tripos")
