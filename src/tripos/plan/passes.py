"""Plan to plan: all fusions. Each returns a plan that computes the same values with fewer, larger ops.

The result is the plan that runs: executors lower each op by itself and fuse nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tripos.plan.ir import Op, Plan, Tensor, View, Weights, WeightSpec
from tripos.plan.ops import EPILOGUES, OPS

ROW_WISE = frozenset(name for name, spec in OPS.items() if spec.is_row_wise)


def optimize(plan: Plan, weights: Weights | None = None) -> Plan:
    """All fusions, in order. The checkpoint's `weights` keep linears apart that are stored in different formats, so
    that each can be packed without loss, and as they were packed where they are packed already."""
    stored = weights or {}
    return fuse_add_norm(fuse_epilogues(stack_linears(hoist_select(plan), stored), stored))


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

    selects = [Op("select", (_whole(plan, each),), (copy,), (), select.attrs) for each, copy in selected.items()]
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
    retained = {name: op.attrs[name] for name in ("num_heads", "num_kv_heads", "head_dim", "scale")}
    return op.with_(kind="self_attention", attrs={**retained, "left": int(op.attrs["window"]) - 1, "right": 0})


def stack_linears(plan: Plan, stored: Weights) -> Plan:
    """Linears that read the same view (q, k and v; gate and up) become one, and their outputs views of it."""
    groups: dict[object, list[Op]] = {}
    for op in plan.ops:
        if op.kind == "linear" and op.attrs["epilogue"] == "store" and op.outputs[0] != plan.output:
            source = stored.get(plan.weights[op.weights[0]].parts[0])
            kind = "" if source is None else source.kind
            groups.setdefault((op.inputs, len(op.weights), kind), []).append(op)
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
        fused[id(ops[0])] = ops[0].with_(outputs=(new.id,), weights=names)
        dropped.update(id(op) for op in ops[1:])

    def remap(view: View) -> View:
        base = moved.get(view.tensor)
        return View(base.tensor, base.offset + view.offset, view.cols) if base else view

    retained = (fused.get(id(op), op) for op in plan.ops if id(op) not in dropped)
    ops_ = tuple(op.with_(inputs=tuple(map(remap, op.inputs))) for op in retained)
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


def fuse_epilogues(plan: Plan, stored: Weights) -> Plan:
    """A linear whose output is read only by the op behind it takes over that op: an activation, the product
    of a gated pair, or the sum with a residual, over which it then writes."""
    reads: dict[int, list[int]] = {}  # tensor -> the ops that read it, in order
    for index, op in enumerate(plan.ops):
        for view in op.inputs:
            reads.setdefault(view.tensor, []).append(index)
    ops: list[Op] = []
    for index, op in enumerate(plan.ops):
        is_behind = index > 0 and ops[-1] is plan.ops[index - 1] and ops[-1].kind == "linear"
        fused = _fused(plan, index - 1, reads, stored) if is_behind else None
        if fused is None:
            ops.append(op)
        else:
            ops[-1] = fused
    return _tidy(replace(plan, ops=tuple(ops)))


def _fused(plan: Plan, index: int, reads: Mapping[int, list[int]], stored: Weights) -> Op | None:
    """The linear at `index` with the op behind it as its epilogue; None: they stay apart."""
    op, after = plan.ops[index : index + 2]
    whole = _whole(plan, op.outputs[0])
    if op.attrs["epilogue"] != "store" or whole.tensor == plan.output or set(reads[whole.tensor]) != {index + 1}:
        return None
    if after.kind == "act" and after.inputs == (whole,) and after.attrs["act"] in EPILOGUES:
        return _with_epilogue(op, after, str(after.attrs["act"]))
    if after.kind == "glu" and after.inputs == _halves(whole) and f"glu_{after.attrs['act']}" in EPILOGUES:
        panels = [stored[part].panels for part in plan.weights[op.weights[0]].parts if part in stored]
        is_packed_apart = any(each is not None and not each.is_interleaved for each in panels)
        return None if is_packed_apart else _with_epilogue(op, after, f"glu_{after.attrs['act']}", interleaved=True)
    if after.kind == "add" and after.inputs.count(whole) == 1 and after.outputs[0] != plan.output:
        residual = after.inputs[1 - after.inputs.index(whole)]
        is_last = reads[residual.tensor][-1] == index + 1 and index not in reads[residual.tensor]
        if is_last and residual == _whole(plan, residual.tensor) and residual.tensor != plan.output:
            return _with_epilogue(op.with_(inputs=(*op.inputs, residual)), after, "add")
    return None


def _with_epilogue(linear: Op, after: Op, epilogue: str, interleaved: bool = False) -> Op:
    return linear.with_(outputs=after.outputs, attrs={"epilogue": epilogue, "interleaved": interleaved})


def _whole(plan: Plan, tensor: int) -> View:
    return View(tensor, 0, plan.tensors[tensor].cols)


def _halves(whole: View) -> tuple[View, View]:
    half = whole.cols // 2
    return View(whole.tensor, 0, half), View(whole.tensor, half, half)


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
        norm = norms.get(_whole(plan, op.outputs[0]))
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
