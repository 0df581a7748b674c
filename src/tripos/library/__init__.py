"""The library: a language model, an embedder or a reranker in this process, without a server.

Any number of threads may call one of them at once: their calls share the model's steps, and each waits for its own.
Tested in tests/e2e/test_library.py, tests/e2e/test_streams.py and tests/e2e/test_embedder.py.
"""

from tripos.library.completion import Completion
from tripos.library.embedder import Embedder, Hit
from tripos.library.llm import LLM

__all__ = ["LLM", "Completion", "Embedder", "Hit"]
