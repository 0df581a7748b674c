"""What a language model and an encoder of the library have in common: options, card, tokenizer, end.

Tested in tests/e2e/test_library.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.errors import ConfigError
from tripos.models.text.tokenizer import Tokenizer
from tripos.types import ModelCard

if TYPE_CHECKING:
    from tripos.predict.encoder import EncoderModel

M = TypeVar("M", LanguageModel, "EncoderModel")


class OpenedModel(Generic[M]):
    """A model in this process: what is known of it, and its end."""

    _model: M

    @property
    def card(self) -> ModelCard:
        return self._model.card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    def close(self) -> None:
        """Free weights and cache. Idempotent."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def options_of(name: str, **given: object) -> ModelOptions:
    """ModelOptions of a constructor's arguments. Raises ConfigError for one that is not known."""
    try:
        return replace(ModelOptions(), **given)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"{name}(...): {error}") from None
