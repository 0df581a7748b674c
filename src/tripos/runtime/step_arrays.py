"""A step as the native library reads it (TriposStep, TriposOutput of kernels/include/tripos.h): addresses of arrays.

Tested in tests/ops/test_refusals.py.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.runtime.executor import StepInput, StepOutput

# The arrays of a step in the order of TriposStep: name, element type, and the length that C++ assumes.
_TOKENS, _SEQS, _SEQS_1, _ROWS, _ROWS_1, _HISTORY, _BIAS, _ANY, _REQUESTED, _TOKENS_OR_NONE = range(10)
STEP_ARRAYS = (
    ("token_ids", np.int32, _TOKENS), ("positions", np.int32, _TOKENS), ("query_start", np.int32, _SEQS_1),
    ("seq_lens", np.int32, _SEQS), ("block_tables", np.int32, _SEQS), ("slots", np.int32, _TOKENS),
    ("last_rows", np.int32, _ROWS), ("token_types", np.int32, _TOKENS_OR_NONE),
)  # fmt: skip
SAMPLING_ARRAYS: tuple[tuple[str, type[np.generic], int], ...] = (
    ("temperature", np.float32, _ROWS), ("top_k", np.int32, _ROWS), ("top_p", np.float32, _ROWS),
    ("min_p", np.float32, _ROWS), ("repetition_penalty", np.float32, _ROWS), ("presence_penalty", np.float32, _ROWS),
    ("frequency_penalty", np.float32, _ROWS), ("seed", np.uint64, _ROWS), ("counter", np.uint64, _ROWS),
    ("forced_token", np.int32, _ROWS), ("num_logprobs", np.int32, _ROWS), ("history_start", np.int32, _ROWS_1),
    ("history_ids", np.int32, _HISTORY), ("history_counts", np.int32, _HISTORY), ("bias_start", np.int32, _ROWS_1),
    ("bias_ids", np.int32, _BIAS), ("bias_values", np.float32, _BIAS), ("mask_row", np.int32, _ROWS),
    ("mask", np.uint32, _ANY), ("requested_start", np.int32, _ROWS_1), ("requested_ids", np.int32, _REQUESTED),
)  # fmt: skip


class NativeStep(ctypes.Structure):
    """TriposStep."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_seqs", "num_rows", "max_blocks")),
        *((name, ctypes.c_void_p) for name, _, _ in (*STEP_ARRAYS, *SAMPLING_ARRAYS)),
        *((name, ctypes.c_int32) for name in ("num_masks", "mask_words", "history_size", "bias_size", "wanted_size")),
        ("adapter_slots", ctypes.c_void_p),
    ]


class NativeOutput(ctypes.Structure):
    """TriposOutput."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("token_ids", "logprobs", "top_ids", "top_logprobs", "ok", "logits")),
        ("wanted_logprobs", ctypes.c_void_p), ("top_width", ctypes.c_int32), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


_Start = ctypes.c_char * 0


def address_of(array: Any) -> int:
    """The address of an array, through the buffer protocol: array.ctypes is several times slower."""
    try:
        return ctypes.addressof(_Start.from_buffer(array))
    except TypeError:  # read-only
        return int(array.ctypes.data)


@dataclass
class Call:
    """A step as C++ reads it, and the arrays it writes. Used again when the same StepInput comes again."""

    step: StepInput
    native_step: Any
    output: StepOutput
    native_output: Any
    keep: list[npt.NDArray[Any]]

    def copy_output(self) -> StepOutput:
        """A copy for the caller: the next run writes to the same arrays."""
        o = self.output
        return StepOutput(
            o.token_ids.copy(), o.logprobs.copy(), _copy(o.top_ids), _copy(o.top_logprobs), o.ok.copy(),
            _copy(o.requested_logprobs), None if o.logits is None else o.logits.copy(),
        )  # fmt: skip


def _copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.copy() if array.size else array


class Addresses:
    """Addresses of a step's arrays, cached until the next step: most of the thirty arrays of a decoding batch are those
    of the step before, and finding an address takes more than a microsecond."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, npt.NDArray[Any], int]] = {}

    def of(
        self, owner: object, arrays: tuple[tuple[str, type[np.generic], int], ...], lengths: tuple[int, ...]
    ) -> list[int]:
        """One address per array, its length checked (C++ checks the values); 0: it is empty."""
        found = []
        known = self._known
        for name, dtype, length in arrays:
            given = getattr(owner, name)
            entry = known.get(name)
            if entry is None or entry[0] is not given:
                array = np.ascontiguousarray(given, dtype)
                own = given if array is given else None  # a copy is not cached
                entry = known[name] = (own, array, address_of(array) if len(array) else 0)
            if len(entry[1]) != lengths[length]:
                raise ValueError(f"step: {name} has {len(entry[1])} entries, needs {lengths[length]}")
            found.append(entry[2])
        return found
