"""The digest is of the model, not of its files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tripos.models.files.digest import model_digest
from tripos.plan.ir import WeightTensor


def tensor(name: str, values: Any) -> WeightTensor:
    data = np.asarray(values, np.float32)
    return WeightTensor(name, "f32", data.shape, data)


WEIGHTS = {"a": tensor("a", [[1, 2], [3, 4]]), "b": tensor("b", [5])}
CONFIG = {"hidden_size": 4, "nested": {"x": [1, 2.5, None]}}


def digest(config: Any = CONFIG, weights: Any = WEIGHTS, tokenizer: bytes = b"t", template: str | None = "x") -> str:
    return model_digest(config, weights, tokenizer, template)


def test_same_model_has_the_same_digest_in_any_order() -> None:
    assert digest() == digest(dict(reversed(CONFIG.items())), dict(reversed(WEIGHTS.items())))
    assert len(bytes.fromhex(digest())) == 32


def test_layout_in_memory_does_not_matter() -> None:
    turned = np.asfortranarray(WEIGHTS["a"].data)
    assert digest() == digest(weights={**WEIGHTS, "a": WeightTensor("a", "f32", (2, 2), turned)})


@pytest.mark.parametrize(
    "change",
    [
        {"config": {**CONFIG, "hidden_size": 5}},
        {"tokenizer": b"u"},
        {"template": "y"},
        {"template": None},
        {"template": ""},
        {"weights": {"a": WEIGHTS["a"]}},
        {"weights": {**WEIGHTS, "b": tensor("b", [6])}},
        {"weights": {**WEIGHTS, "a": tensor("a", [1, 2, 3, 4])}},
        {"weights": {"b": WEIGHTS["a"], "a": WEIGHTS["b"]}},
        {"weights": {**WEIGHTS, "b": WeightTensor("b", "i32", (1,), WEIGHTS["b"].data)}},
    ],
)
def test_any_change_changes_the_digest(change: dict[str, Any]) -> None:
    assert digest(**change) != digest()
