"""The definition of sampling: one row of logits in, one token and its logprobs out (numpy, row by row).

The order of operations and the random number generator are part of the contract: the native executor must
draw the same token from the same logits, up to rounding at a threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tripos.runtime.executor import SamplingInput

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform(seed: int, counter: int) -> float:
    """A number in [0, 1) with 53 random bits, fixed by (seed, counter): drawing again gives it again."""
    return (mix((mix((seed + GOLDEN) & MASK) + (counter + 1) * GOLDEN) & MASK) >> 11) * 2.0**-53


class Draw(NamedTuple):
    """The result of one row of logits."""

    token_id: int
    logprob: float
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float32]
    ok: bool
    requested_logprobs: npt.NDArray[np.float32] = np.zeros(0, np.float32)


def adjust(raw: npt.NDArray[np.float32], s: SamplingInput, row: int) -> npt.NDArray[np.float32]:
    """Penalties, bias and mask, in this order: [vocab_size] float32."""
    logits = raw.copy()
    span = slice(s.history_start[row], s.history_start[row + 1])
    ids, counts = s.history_ids[span], s.history_counts[span].astype(np.float32)
    if len(ids):
        seen = logits[ids]
        penalty = s.repetition_penalty[row]
        seen = np.where(seen > 0, seen / penalty, seen * penalty)
        seen -= s.frequency_penalty[row] * counts
        seen -= s.presence_penalty[row] * (counts > 0)
        logits[ids] = seen
    span = slice(s.bias_start[row], s.bias_start[row + 1])
    np.add.at(logits, s.bias_ids[span], s.bias_values[span])
    if s.mask_row[row] >= 0:
        bits = np.unpackbits(s.mask[s.mask_row[row]].view(np.uint8), bitorder="little")[: len(logits)]
        logits[bits == 0] = -np.inf
    return logits


def keep(logits: npt.NDArray[np.float32], *, top_k: int, top_p: float, min_p: float) -> npt.NDArray[np.float32]:
    """Weights exp(l - max), zero where top_k, top_p or min_p cut; values that tie with the last kept stay."""
    if 0 < top_k < len(logits):
        kth = np.partition(logits, len(logits) - top_k)[len(logits) - top_k]
        logits = np.where(logits >= kth, logits, -np.inf)
    weights: npt.NDArray[np.float32] = np.exp(logits - logits.max()).astype(np.float32)
    if top_p < 1.0:
        ordered = np.sort(weights)[::-1]
        cumulative = np.cumsum(ordered, dtype=np.float64)
        last = int(np.searchsorted(cumulative, top_p * cumulative[-1]))
        weights = np.where(weights >= ordered[min(last, len(ordered) - 1)], weights, np.float32(0))
    if min_p > 0.0:
        weights = np.where(weights >= np.float32(min_p), weights, np.float32(0))  # the largest weight is 1
    return weights


def sample_row(raw: npt.NDArray[np.float32], s: SamplingInput, row: int) -> Draw:
    """Choose a token for row `row` of the step's sampling arrays. raw: [vocab_size] float32 logits."""
    empty = Draw(0, 0.0, np.zeros(0, np.int32), np.zeros(0, np.float32), False)
    if not np.isfinite(raw).all():
        return empty
    token_id = int(s.forced_token[row])
    if token_id < 0:
        logits = adjust(raw, s, row)
        if not np.isfinite(logits.max()):
            return empty
        temperature = float(s.temperature[row])
        if temperature == 0.0:
            token_id = int(np.argmax(logits))
        else:
            weights = keep(
                logits / np.float32(temperature),
                top_k=int(s.top_k[row]), top_p=float(s.top_p[row]), min_p=float(s.min_p[row]),
            )  # fmt: skip
            cumulative = np.cumsum(weights, dtype=np.float64)
            target = uniform(int(s.seed[row]), int(s.counter[row])) * cumulative[-1]
            token_id = int(np.searchsorted(cumulative, target, side="right"))
    count = int(s.num_logprobs[row])
    if count < 0:
        return Draw(token_id, 0.0, empty.top_ids, empty.top_logprobs, True)
    highest = raw.max()
    logprobs = raw - (highest + np.float32(np.log(np.exp(raw - highest, dtype=np.float32).sum(dtype=np.float64))))
    top = np.lexsort((np.arange(len(raw)), -raw))[:count].astype(np.int32) if count else empty.top_ids
    requested = s.requested_ids[s.requested_start[row] : s.requested_start[row + 1]]
    return Draw(
        token_id, float(logprobs[token_id]), top, logprobs[top].astype(np.float32), True, logprobs[requested]
    )  # fmt: skip
