"""Tripos: one light server for every kind of inference. The public names, imported on first use.

Tested in tests/e2e/test_library.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tripos.version import __version__

__all__ = ["LLM", "Embedder", "Service", "__version__", "errors", "types"]

if TYPE_CHECKING:
    from tripos import errors, types
    from tripos.library import LLM, Embedder
    from tripos.service import Service


def __getattr__(name: str) -> object:
    import importlib

    homes = {"LLM": "tripos.library", "Embedder": "tripos.library", "Service": "tripos.service"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    if name in ("errors", "types"):
        return importlib.import_module(f"tripos.{name}")
    raise AttributeError(f"module 'tripos' has no attribute {name!r}")
