"""A plan as text: one line an op, with the arithmetic and the bytes that a roofline needs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tripos.plan.ir import Op, Plan, View


@dataclass(frozen=True)
class Cost:
    """The work of a plan. Multiply-adds count as two operations; bytes are of weights at the given width."""

    flops_per_token: int  # linear ops on T rows, and their elementwise neighbours are not counted
    flops_per_row: int  # linear ops on S rows (the head)
    flops_per_token_and_key: int  # attention: scores and values, for each key that a query sees
    weight_bytes: int
    kv_bytes_per_token: int


def cost(plan: Plan, *, bytes_per_weight: float = 4.0, bytes_per_kv: float = 4.0) -> Cost:
    """Arithmetic and traffic of one step, so that time >= max(flops / peak, bytes / bandwidth)."""
    per_token = per_row = per_key = 0
    for op in plan.ops:
        if op.kind == "linear":
            flops = 2 * prod(plan.weights[op.weights[0]].shape)
            if plan.tensor(op.inputs[0]).rows == "T":
                per_token += flops
            else:
                per_row += flops
        elif op.kind in ("attention", "self_attention"):
            per_key += 4 * int(op.attrs["num_heads"]) * int(op.attrs["head_dim"])
    linears = {op.weights[0] for op in plan.ops if op.kind == "linear"}
    values = sum(prod(plan.weights[name].shape) for name in linears)
    kv = 2 * plan.kv.num_layers * plan.kv.num_kv_heads * plan.kv.head_dim
    return Cost(per_token, per_row, per_key, int(values * bytes_per_weight), int(kv * bytes_per_kv))


def dump(plan: Plan, *, bytes_per_weight: float = 4.0, bytes_per_kv: float = 4.0) -> str:
    """The plan, one line an op: outputs = kind(inputs; weights) attrs, and of linears FLOPs per row and bytes read."""
    lines = [
        f"plan: {len(plan.ops)} ops, {len(plan.tensors)} tensors, {len(plan.weights)} weights, vocab {plan.vocab_size}"
    ]
    lines += [_line(plan, i, op, bytes_per_weight) for i, op in enumerate(plan.ops)]
    total = cost(plan, bytes_per_weight=bytes_per_weight, bytes_per_kv=bytes_per_kv)
    lines.append(
        f"total: {total.flops_per_token:,} FLOP/token + {total.flops_per_row:,} FLOP/row"
        f" + {total.flops_per_token_and_key:,} FLOP/token/key, {total.weight_bytes:,} bytes of weights,"
        f" {total.kv_bytes_per_token:,} bytes of cache/token"
    )
    return "\n".join(lines)


def _line(plan: Plan, index: int, op: Op, bytes_per_weight: float) -> str:
    outputs = ", ".join(f"%{t}[{plan.tensors[t].rows}, {plan.tensors[t].cols}]" for t in op.outputs)
    operands = ", ".join(_view(plan, v) for v in op.inputs)
    shapes = {name: spec.shape for name, spec in plan.weights.items()} | {n: c.shape for n, c in plan.constants.items()}
    weights = ", ".join(f"{name}{list(shapes[name])}" for name in op.weights)
    attrs = " ".join(f"{k}={v}" for k, v in op.attrs.items())
    line = f"{index:4d}  {outputs} = {op.kind}({operands}{'; ' + weights if weights else ''})  {attrs}".rstrip()
    if op.kind == "linear":
        values = prod(plan.weights[op.weights[0]].shape)
        line += f"  {2 * values:,} FLOP/row, {int(values * bytes_per_weight):,} bytes"
    return line


def _view(plan: Plan, view: View) -> str:
    whole = view.offset == 0 and view.cols == plan.tensors[view.tensor].cols
    return f"%{view.tensor}" if whole else f"%{view.tensor}[:, {view.offset}:{view.offset + view.cols}]"
