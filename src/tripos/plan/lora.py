"""Low-rank adapters in a plan: where they add, and the pass that prepares a plan for them.

Every linear but the head may carry one. The pass works on a plan that is already optimized, so that a stacked linear
(q, k and v) gets one `shrink` for all its parts. A plan without the pass is untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tripos.errors import ModelRefused
from tripos.plan.ir import Adapter, Op, Plan, Tensor, View, WeightTensor

RANK_STEP = 16  # ranks are rounded up to this many columns: a vector of the native kernels


@dataclass(frozen=True)
class Place:
    """Where an adapter adds: rows first_row .. first_row + shape[0] - 1 of a linear's weight, its own columns of the
    linear's shrunk tensor, and the shape [N, K] that it must have."""

    weight: str  # of the plan; several places share a stacked one
    first_row: int
    first_col: int
    shape: tuple[int, int]
    max_rank: int


def padded_rank(rank: int) -> int:
    return -(-rank // RANK_STEP) * RANK_STEP


def with_adapters(plan: Plan, max_rank: int) -> Plan:
    """The plan with a `shrink` before every linear but the head. Rows without an adapter stay the same."""
    tensors, ops = list(plan.tensors), []
    cols = padded_rank(max_rank)
    for op in plan.ops:
        if op.kind == "linear" and op.outputs[0] != plan.output:
            num_parts = len(plan.weights[op.weights[0]].parts)
            rows = plan.tensors[op.outputs[0]].rows
            shrunk = Tensor(len(tensors), rows, num_parts * cols, "shrunk")
            tensors.append(shrunk)
            ops.append(Op("shrink", op.inputs[:1], (shrunk.id,), op.weights[:1], {"rank": cols}))
            ops.append(op.with_(inputs=(*op.inputs, View(shrunk.id, 0, shrunk.cols))))
        else:
            ops.append(op)
    return replace(plan, ops=tuple(ops), tensors=tuple(tensors))


def places(plan: Plan, weights: Mapping[str, WeightTensor]) -> dict[str, Place]:
    """Checkpoint tensor name -> place, of a plan that went through `with_adapters`."""
    found: dict[str, Place] = {}
    for op in plan.ops:
        if op.kind != "shrink":
            continue
        spec = plan.weights[op.weights[0]]
        first_row = 0
        for i, part in enumerate(spec.parts):
            rows = weights[part].shape[0]
            rank = int(op.attrs["rank"])
            found[part] = Place(spec.name, first_row, i * rank, (rows, spec.shape[1]), rank)
            first_row += rows
    return found


def check_adapter(adapter: Adapter, known: Mapping[str, Place], slot: int, num_slots: int) -> None:
    """Raises ModelRefused for an adapter that an executor with these places and slots cannot hold."""
    if not 0 <= slot < num_slots:
        raise ModelRefused(f"adapter slot {slot} does not exist: the executor has {num_slots}")
    for name, low in adapter.items():
        place = known.get(name)
        if place is None:
            raise ModelRefused(f"the adapter adds to {name}, which is not a linear layer that an adapter may change")
        if (low.b.shape[0], low.a.shape[1]) != place.shape or low.b.shape[1] != low.rank:
            raise ModelRefused(
                f"the adapter's matrices {list(low.a.shape)} and {list(low.b.shape)} for {name} do not fit its shape "
                f"{list(place.shape)}: it was trained on another model"
            )
        if not 1 <= low.rank <= place.max_rank:
            raise ModelRefused(f"the adapter's rank for {name} is {low.rank}, must be 1 to {place.max_rank}")
        if low.a.dtype != low.b.dtype or low.a.dtype not in ("f32", "bf16"):
            raise ModelRefused(
                f"the adapter's matrices for {name} are {low.a.dtype} and {low.b.dtype}: use f32 or bf16"
            )
