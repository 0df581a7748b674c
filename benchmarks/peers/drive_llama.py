"""Driver of llama.cpp through llama-cpp-python's binding of its C interface: prompts first, then all decode together.

Each job gets a context of its own size. Sequences keep separate caches, so that none attends over the others' cells.
"""

from __future__ import annotations

import ctypes

import llama_cpp as llama
import numpy as np

from benchmarks.peers import work

BATCH_TOKENS = 2048  # of one call
PHYSICAL_TOKENS = 512  # of one pass through the layers, the engine's default

quiet = llama.llama_log_callback(lambda level, text, data: None)


class Context:
    """One llama context and the batch that is filled for it."""

    def __init__(self, model: llama.llama_model_p, setup: work.Setup, num_sequences: int, longest: int) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx = -(-longest // 256) * 256 * num_sequences
        params.n_batch, params.n_ubatch = BATCH_TOKENS, PHYSICAL_TOKENS
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = setup.threads
        params.kv_unified = False
        self._vocab_size = setup.vocab_size
        self._context = llama.llama_init_from_model(model, params)
        if not self._context:
            raise RuntimeError(f"no context of {params.n_ctx} tokens")
        self._batch = llama.llama_batch_init(BATCH_TOKENS, 0, 1)

    def decode(self, entries: list[tuple[int, int, int, bool]]) -> list[int]:
        """Compute (token, position, sequence, wanted) entries; the likeliest next token of each that is wanted."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        status = llama.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode: {status}")
        return [self._likeliest(i) for i, entry in enumerate(entries) if entry[3]]

    def _likeliest(self, row: int) -> int:
        logits = llama.llama_get_logits_ith(self._context, row)
        return int(np.argmax(np.ctypeslib.as_array(logits, (self._vocab_size,))))

    def close(self) -> None:
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)


class Llama:
    """A loaded model."""

    def __init__(self, setup: work.Setup) -> None:
        llama.llama_log_set(quiet, None)
        llama.llama_backend_init()
        self._setup = setup
        self._model = llama.llama_model_load_from_file(setup.model.encode(), llama.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"{setup.model} was not loaded")

    def __call__(self, prompts: list[list[int]], max_tokens: int) -> work.Timing:
        context = Context(self._model, self._setup, len(prompts), max(map(len, prompts)) + max_tokens)
        clock = work.Clock()
        latest = prefill(context, prompts, clock)
        for step in range(max_tokens - 1):
            entries = [(latest[i], len(prompt) + step, i, True) for i, prompt in enumerate(prompts)]
            for i, token in enumerate(context.decode(entries)):
                latest[i] = token
            clock.add(len(prompts))
        timing = clock.stop(len(prompts) * max_tokens)
        context.close()
        return timing

    def complete(self, text: str) -> str:
        """The likeliest first token behind a text."""
        vocab, data = llama.llama_model_get_vocab(self._model), text.encode()
        ids, piece = (llama.llama_token * len(data))(), ctypes.create_string_buffer(256)
        count = llama.llama_tokenize(vocab, data, len(data), ids, len(data), True, False)
        context = Context(self._model, self._setup, 1, count + 1)
        token = prefill(context, [list(ids[:count])], work.Clock())[0]
        size = llama.llama_token_to_piece(vocab, token, piece, len(piece), 0, True)
        context.close()
        return piece.raw[:size].decode(errors="replace")


def prefill(context: Context, prompts: list[list[int]], clock: work.Clock) -> dict[int, int]:
    """All prompts in full batches; the first token of each."""
    entries = [
        (token, position, i, position == len(prompt) - 1)
        for i, prompt in enumerate(prompts)
        for position, token in enumerate(prompt)
    ]
    first: list[int] = []
    for start in range(0, len(entries), BATCH_TOKENS):
        found = context.decode(entries[start : start + BATCH_TOKENS])
        clock.add(len(found))
        first += found
    return dict(enumerate(first))


if __name__ == "__main__":
    work.serve(Llama, "llama_cpp_python")
