"""Plan to plan: the fusions. Each returns a plan that computes the same values with fewer, larger ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tripos.plan.ir import Op, Plan, Tensor, View, WeightSpec


def optimize(plan: Plan, dtypes: Mapping[str, str] | None = None) -> Plan:
    """All fusions, in order. `dtypes` (checkpoint tensor name -> dtype) keeps linears whose weights are stored
    in different formats apart, so that each can be packed without loss."""
    return fuse_add_norm(stack_linears(hoist_select(plan), dtypes or {}))


ROW_WISE = frozenset({"norm", "add_norm", "linear", "glu", "act", "add"})


def hoist_select(plan: Plan) -> Plan:
    """Select rows right after the last attention: the rest of the last layer then works on S rows, not on T."""
    kinds = [op.kind for op in plan.ops]
    mixers = [i for i, kind in enumerate(kinds) if kind in ("attention", "self_attention")]
    if kinds.count("select") != 1 or not mixers:
        return plan
    start, end = mixers[-1] + 1, kinds.index("select")
    body, select = plan.ops[start:end], plan.ops[end]
    if plan.output == select.outputs[0] and select.inputs[0].cols != plan.tensors[select.inputs[0].tensor].cols:
        return plan
    if not body or not ROW_WISE.issuperset(kinds[start:end]) or plan.output in _tensors_of(body):
        return plan
    inner = _tensors_of(body)
    tensors = [replace(t, rows="S") if t.id in inner else t for t in plan.tensors]
    selected: dict[int, int] = {}
    for view in (view for op in body for view in op.inputs):
        if view.tensor not in inner and view.tensor not in selected:
            selected[view.tensor] = len(tensors)
            tensors.append(replace(plan.tensors[view.tensor], id=len(tensors), rows="S"))
    old, new = select.outputs[0], select.inputs[0]

    def remap(view: View) -> View:
        if view.tensor == old:
            return View(new.tensor, new.offset + view.offset, view.cols)
        return replace(view, tensor=selected.get(view.tensor, view.tensor))

    selects = [
        Op("select", (View(each, 0, plan.tensors[each].cols),), (copy,), (), select.attrs)
        for each, copy in selected.items()
    ]
    rest = [op.with_(inputs=tuple(map(remap, op.inputs))) for op in (*body, *plan.ops[end + 1 :])]
    output = new.tensor if plan.output == old else plan.output
    return _tidy(replace(plan, ops=(*plan.ops[:start], *selects, *rest), tensors=tuple(tensors), output=output))


def _tensors_of(ops: tuple[Op, ...]) -> set[int]:
    return {tensor for op in ops for tensor in op.outputs}


def embedding(plan: Plan) -> Plan:
    """A traced decoder as an embedder: whole sequences without a cache, and instead of logits [S, vocab_size] what the
    head would read [S, hidden_size].

    Raises ValueError for a plan that does not end in a linear, or caps its attention scores.
    """
    *body, head = plan.ops
    if head.kind != "linear" or head.outputs[0] != plan.output:
        raise ValueError(f"the plan ends in {head.kind}, not in a head")
    hidden = head.inputs[0]
    tidy = _tidy(replace(plan, ops=tuple(map(_uncached, body)), output=hidden.tensor))
    return replace(tidy, kv=replace(plan.kv, num_layers=0), vocab_size=hidden.cols)


def _uncached(op: Op) -> Op:
    if op.kind != "attention":
        return op
    if op.attrs["softcap"]:
        raise ValueError("self_attention has no softcap")
    kept = {name: op.attrs[name] for name in ("num_heads", "num_kv_heads", "head_dim", "scale")}
    return op.with_(kind="self_attention", attrs={**kept, "left": int(op.attrs["window"]) - 1, "right": 0})


def stack_linears(plan: Plan, dtypes: Mapping[str, str]) -> Plan:
    """Linears that read the same view (q, k and v; gate and up) become one, and their outputs views of it."""
    groups: dict[object, list[Op]] = {}
    for op in plan.ops:
        if op.kind == "linear" and op.outputs[0] != plan.output:
            dtype = dtypes.get(plan.weights[op.weights[0]].parts[0])
            groups.setdefault((op.inputs[0], len(op.weights), dtype), []).append(op)
    stacks = [ops for ops in groups.values() if len(ops) > 1 and _are_close(plan, ops)]
    if not stacks:
        return plan
    tensors, weights = list(plan.tensors), dict(plan.weights)
    moved: dict[int, View] = {}
    fused: dict[int, Op] = {}
    dropped: set[int] = set()
    for ops in stacks:
        old = [plan.tensors[op.outputs[0]] for op in ops]
        new = Tensor(len(tensors), old[0].rows, sum(t.cols for t in old), "+".join(t.name for t in old))
        tensors.append(new)
        offset = 0
        for tensor in old:
            moved[tensor.id] = View(new.id, offset, tensor.cols)
            offset += tensor.cols
        names = tuple(_stack(weights, [op.weights[i] for op in ops]) for i in range(len(ops[0].weights)))
        fused[id(ops[0])] = Op("linear", ops[0].inputs, (new.id,), names)
        dropped.update(id(op) for op in ops[1:])

    def remap(view: View) -> View:
        base = moved.get(view.tensor)
        return View(base.tensor, base.offset + view.offset, view.cols) if base else view

    kept = (fused.get(id(op), op) for op in plan.ops if id(op) not in dropped)
    ops_ = tuple(op.with_(inputs=tuple(map(remap, op.inputs))) for op in kept)
    return _tidy(replace(plan, ops=ops_, tensors=tuple(tensors), weights=weights))


def _are_close(plan: Plan, ops: list[Op]) -> bool:
    """Stacking runs the later linears where the first stands; their weights must be used there only."""
    uses = [name for op in plan.ops for name in op.weights]
    return all(uses.count(op.weights[0]) == 1 for op in ops)


def _stack(weights: dict[str, WeightSpec], names: list[str]) -> str:
    specs = [weights[name] for name in names]
    name = "+".join(names)
    shape = (sum(s.shape[0] for s in specs), *specs[0].shape[1:])
    weights[name] = WeightSpec(name, shape, tuple(part for s in specs for part in s.parts))
    return name


def fuse_add_norm(plan: Plan) -> Plan:
    """A residual sum followed by a norm of the whole sum becomes one op with both outputs."""
    norms: dict[View, Op] = {}
    for op in plan.ops:
        if op.kind == "norm" and plan.weights[op.weights[0]].shape[0] == op.inputs[0].cols:
            norms.setdefault(op.inputs[0], op)
    fused: dict[int, Op] = {}
    dropped: set[int] = set()
    for op in plan.ops:
        if op.kind != "add":
            continue
        whole = View(op.outputs[0], 0, plan.tensors[op.outputs[0]].cols)
        norm = norms.get(whole)
        if norm is not None:
            fused[id(op)] = Op("add_norm", op.inputs, (op.outputs[0], norm.outputs[0]), norm.weights, norm.attrs)
            dropped.add(id(norm))
    return replace(plan, ops=tuple(fused.get(id(op), op) for op in plan.ops if id(op) not in dropped))


def _tidy(plan: Plan) -> Plan:
    """Drop tensors and weights that no op names any more; renumber the tensors."""
    used = sorted({t for op in plan.ops for t in (*op.outputs, *(v.tensor for v in op.inputs))})
    number = {old: new for new, old in enumerate(used)}
    names = {name for op in plan.ops for name in op.weights}

    def renumber(view: View) -> View:
        return replace(view, tensor=number[view.tensor])

    return replace(
        plan,
        ops=tuple(
            op.with_(inputs=tuple(map(renumber, op.inputs)), outputs=tuple(number[t] for t in op.outputs))
            for op in plan.ops
        ),
        tensors=tuple(replace(plan.tensors[old], id=new) for old, new in number.items()),
        weights={name: spec for name, spec in plan.weights.items() if name in names},
        output=number[plan.output],
    )
