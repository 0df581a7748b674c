"""The reference executor: the meaning of every op in plain numpy, float32. Readable, and slow.

Every other executor is compared with this one, op by op (tests/ops).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tripos.errors import ModelRefused
from tripos.plan.formats import to_float32
from tripos.plan.ir import Adapter, LowRank, Op, Plan, View, Weights, WeightSpec
from tripos.plan.lora import Place, check_adapter, places
from tripos.runtime.executor import ExecutorInfo, ExecutorOptions, Progress, StepInput, StepOutput, ignore_progress
from tripos.runtime.sampling import sample_row

F32 = npt.NDArray[np.float32]


def erf(x: F32) -> F32:
    """Error function, within 1.5e-7 (Abramowitz and Stegun 7.1.26)."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x, dtype=np.float64))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    value = np.sign(x) * (1.0 - poly * np.exp(-np.square(x, dtype=np.float64)))
    return np.asarray(value, np.float32)


def activate(x: F32, act: str) -> F32:
    """silu (Elfwing 2017), gelu (Hendrycks & Gimpel 2016) and its tanh form, tanh, relu."""
    if act == "silu":
        with np.errstate(over="ignore"):  # exp(-x) = inf gives the right 0
            y = x / (1.0 + np.exp(-x))
    elif act == "gelu":
        y = 0.5 * x * (1.0 + erf(x * np.float32(0.70710678)))
    elif act == "gelu_tanh":
        y = 0.5 * x * (1.0 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))
    elif act == "tanh":
        y = np.tanh(x)
    else:
        y = np.maximum(x, 0)
    return np.asarray(y, np.float32)


def normalize(x: F32, weight: F32, bias: F32 | None, *, kind: str, eps: float) -> F32:
    """RMS norm (Zhang & Sennrich 2019) or layer norm, over groups of len(weight) columns."""
    groups = x.reshape(x.shape[0], x.shape[1] // len(weight), len(weight)).astype(np.float32)
    if kind == "layer":
        groups = groups - groups.mean(-1, keepdims=True)
    y = groups / np.sqrt(np.mean(groups * groups, -1, keepdims=True) + np.float32(eps)) * weight
    if bias is not None:
        y = y + bias
    return np.asarray(y.reshape(x.shape), np.float32)


class ReferenceExecutor:
    """Implements runtime.executor.Executor."""

    def __init__(self, options: ExecutorOptions | None = None) -> None:
        self.options = options or ExecutorOptions()
        self._plan: Plan | None = None
        self._weights: dict[str, F32] = {}
        self._places: dict[str, Place] = {}
        self._adapters: dict[int, Adapter] = {}
        self._k = self._v = np.zeros((0, 0, 0, 0), np.float32)

    def load(self, plan: Plan, weights: Weights, progress: Progress = ignore_progress) -> None:
        """Take the plan and a float32 copy of every weight."""

        def stack(spec: WeightSpec) -> F32:
            if any(weights[part].dtype == "panels" for part in spec.parts):
                raise ModelRefused(
                    f"{spec.parts[0]} is packed for the native kernels, which are not built: "
                    "give the model that it was packed from"
                )
            return np.concatenate([to_float32(weights[part]).reshape(-1, *spec.shape[1:]) for part in spec.parts])

        self._plan = plan
        self._weights = dict(plan.constants)
        for i, (name, spec) in enumerate(plan.weights.items(), 1):
            self._weights[name] = stack(spec)
            progress(i / len(plan.weights))
        self._places, self._adapters = places(plan, weights), {}

    def reserve(self, num_blocks: int) -> int:
        """Cache rows of [layer, slot, kv head, head_dim] float32, zeroed."""
        assert self._plan is not None, "load() comes before reserve()"
        kv = self._plan.kv
        shape = (kv.num_layers, num_blocks * self.options.block_size, kv.num_kv_heads, kv.head_dim)
        self._k, self._v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        return num_blocks

    def run(self, step: StepInput) -> StepOutput:
        """Execute the plan's ops in order, then sample."""
        plan = self._plan
        assert plan is not None, "load() comes before run()"
        values: dict[int, F32] = {}
        for op in plan.ops:
            inputs = [self._read(values, view) for view in op.inputs]
            outputs = getattr(self, f"_{op.kind}")(op, inputs, step)
            for tensor, value in zip(op.outputs, outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
                values[tensor] = value
        return self._sample(values[plan.output], step)

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Raises ModelRefused for a name or shape that the plan does not have."""
        check_adapter(adapter, self._places, slot, self.options.max_adapters)
        self._adapters[slot] = adapter

    def info(self) -> ExecutorInfo:
        weight_bytes = sum(w.nbytes for w in self._weights.values())
        kv = self._plan.kv if self._plan else None
        per_token = 8 * kv.num_layers * kv.num_kv_heads * kv.head_dim if kv else 0
        return ExecutorInfo("reference", "numpy", 1, "fp32", "fp32", weight_bytes, per_token, 0)

    def close(self) -> None:
        self._plan, self._weights = None, {}

    # -- ops: (op, inputs, step) -> output or outputs --------------------------------------------------------
    @staticmethod
    def _read(values: dict[int, F32], view: View) -> F32:
        return values[view.tensor][:, view.offset : view.offset + view.cols]

    def _embed(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        ids = getattr(step, str(op.attrs["source"]))
        if op.attrs["source"] == "token_types" and not len(ids):
            ids = np.zeros(len(step.token_ids), np.int32)
        rows = self._weights[op.weights[0]][ids + int(op.attrs["row_offset"])]
        return np.asarray(rows * np.float32(op.attrs["scale"]), np.float32)

    def _norm(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        w = [self._weights[name] for name in op.weights]
        bias = w[1] if len(w) > 1 else None
        return normalize(inputs[0], w[0], bias, kind=str(op.attrs["kind"]), eps=float(op.attrs["eps"]))

    def _add_norm(self, op: Op, inputs: list[F32], step: StepInput) -> tuple[F32, F32]:
        total = inputs[0] + inputs[1]
        return total, self._norm(op, [total], step)

    def _linear(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        y = inputs[0] @ self._weights[op.weights[0]].T
        if len(op.weights) > 1:
            y = y + self._weights[op.weights[1]]
        epilogue = str(op.attrs["epilogue"])
        if len(inputs) > 1 + (epilogue == "add"):
            for rows, place, low in self._adapted(op, step):
                shrunk = inputs[-1][rows, place.first_col : place.first_col + low.rank]
                y[rows, place.first_row : place.first_row + place.shape[0]] += shrunk @ to_float32(low.b).T
        if epilogue == "store":
            return y
        if epilogue == "add":
            return inputs[1] + y
        if epilogue.startswith("glu_"):
            gate, up = np.split(y, 2, axis=1)
            return np.asarray(activate(gate, epilogue.removeprefix("glu_")) * up, np.float32)
        return activate(y, epilogue)

    def _shrink(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        assert self._plan is not None
        y = np.zeros((len(inputs[0]), self._plan.tensors[op.outputs[0]].cols), np.float32)
        for rows, place, low in self._adapted(op, step):
            y[rows, place.first_col : place.first_col + low.rank] = low.scale * (inputs[0][rows] @ to_float32(low.a).T)
        return y

    def _adapted(self, op: Op, step: StepInput) -> Iterator[tuple[npt.NDArray[np.intp], Place, LowRank]]:
        """The products that the step's adapters add to the op's, each with the rows that it is for."""
        if step.adapter_slots is None:
            return
        assert self._plan is not None
        slots = np.repeat(step.adapter_slots, np.diff(step.query_start))  # of each token
        if self._plan.tensors[op.outputs[0]].rows == "S":
            slots = slots[step.last_rows]
        for slot in np.unique(slots[slots >= 0]).tolist():
            for name, low in self._adapters[slot].items():
                if self._places[name].weight == op.weights[0]:
                    yield np.flatnonzero(slots == slot), self._places[name], low

    def _rope_table(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        angle = step.positions[:, None].astype(np.float32) * self._weights[op.weights[0]]
        table = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * np.float32(op.attrs["scale"])
        return np.asarray(table, np.float32)

    def _rope(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        cos, sin = (each[:, None] for each in np.split(inputs[1], 2, axis=1))
        half = cos.shape[-1]
        x = inputs[0].reshape(len(inputs[0]), -1, int(op.attrs["head_dim"])).copy()
        a, b = x[..., :half].copy(), x[..., half : 2 * half].copy()
        x[..., :half] = a * cos - b * sin
        x[..., half : 2 * half] = b * cos + a * sin
        return x.reshape(inputs[0].shape)

    def _attention(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        a = op.attrs
        num_kv_heads, head_dim, layer = int(a["num_kv_heads"]), int(a["head_dim"]), int(a["layer"])
        q = inputs[0].reshape(-1, num_kv_heads, int(a["num_heads"]) // num_kv_heads, head_dim)
        self._k[layer][step.slots] = inputs[1].reshape(-1, num_kv_heads, head_dim)
        self._v[layer][step.slots] = inputs[2].reshape(-1, num_kv_heads, head_dim)
        out = np.empty_like(q)
        for b in range(len(step.seq_lens)):
            rows = slice(step.query_start[b], step.query_start[b + 1])
            slots = self._slots_of(step, b)
            out[rows] = self._attend(op, q[rows], self._k[layer][slots], self._v[layer][slots], step.positions[rows])
        return out.reshape(inputs[0].shape)

    def _slots_of(self, step: StepInput, b: int) -> npt.NDArray[np.intp]:
        positions = np.arange(step.seq_lens[b])
        size = self.options.block_size
        return np.asarray(step.block_tables[b][positions // size] * size + positions % size, np.intp)

    def _attend(self, op: Op, q: F32, k: F32, v: F32, positions: npt.NDArray[np.int32]) -> F32:
        """Softmax(q·k·scale)·v. q [n, kv, group, d]; k, v [length, kv, d]; causal, windowed."""
        scores = np.einsum("nhgd,lhd->nhgl", q, k) * np.float32(op.attrs["scale"])
        if softcap := float(op.attrs["softcap"]):
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        key = np.arange(len(k))
        visible = key[None] <= positions[:, None]
        if window := int(op.attrs["window"]):
            visible &= key[None] > positions[:, None] - window
        scores = np.where(visible[:, None, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.asarray(np.einsum("nhgl,lhd->nhgd", weights, v), np.float32)

    def _self_attention(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        """Softmax(q·k·scale)·v within each sequence, a query at i seeing keys i - left .. i + right."""
        num_kv_heads, head_dim = int(op.attrs["num_kv_heads"]), int(op.attrs["head_dim"])
        q = inputs[0].reshape(len(inputs[0]), num_kv_heads, -1, head_dim)
        k, v = (x.reshape(len(x), num_kv_heads, head_dim) for x in inputs[1:])
        left, right = int(op.attrs["left"]), int(op.attrs["right"])
        out = np.empty_like(q)
        for b in range(len(step.seq_lens)):
            rows = slice(step.query_start[b], step.query_start[b + 1])
            scores = np.einsum("nhgd,lhd->nhgl", q[rows], k[rows]) * np.float32(op.attrs["scale"])
            ahead = np.arange(scores.shape[0])[None] - np.arange(scores.shape[0])[:, None]  # key - query
            visible = (ahead >= (-left if left >= 0 else -len(ahead))) & (
                ahead <= (right if right >= 0 else len(ahead))
            )
            scores = np.where(visible[:, None, None], scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[rows] = np.einsum("nhgl,lhd->nhgd", weights, v[rows])
        return out.reshape(inputs[0].shape)

    def _pool(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        spans = zip(step.query_start[:-1], step.query_start[1:], strict=True)
        return np.stack([inputs[0][start:end].mean(0) for start, end in spans])

    def _glu(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        return activate(inputs[0], str(op.attrs["act"])) * inputs[1]

    def _act(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        return activate(inputs[0], str(op.attrs["act"]))

    def _add(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        return inputs[0] + inputs[1]

    def _select(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        return inputs[0][step.last_rows]

    # -- sampling --------------------------------------------------------------------------------------------
    def _sample(self, logits: F32, step: StepInput) -> StepOutput:
        out = StepOutput.zeros(step, logits if self.options.keep_logits else None)
        for row in range(len(step.last_rows)):
            draw = sample_row(logits[row], step.sampling, row)
            out.token_ids[row], out.logprobs[row], out.ok[row] = draw.token_id, draw.logprob, draw.ok
            out.top_ids[row, : len(draw.top_ids)] = draw.top_ids
            out.top_logprobs[row, : len(draw.top_ids)] = draw.top_logprobs
            first = step.sampling.requested_start[row]
            out.requested_logprobs[first : first + len(draw.requested_logprobs)] = draw.requested_logprobs
        return out
