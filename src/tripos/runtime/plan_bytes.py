"""The plan and its weights as the native library reads them (kernels/plan/plan.h, tripos.h), and its table of ops.

Numbers of ops, attributes, enum values and formats are the library's: it prints its names in order, and they are
matched with ours by name.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.errors import ModelRefused
from tripos.plan.formats import FORMATS
from tripos.plan.ir import Attr, Op, Panels, Plan, Weights, WeightSpec, WeightTensor, map_of
from tripos.plan.ops import OPS, AttrType, OpSpec

PANELS = 255  # TRIPOS_PANELS
INTERLEAVED = 256  # kInterleavedPanels

_MAGIC = 0x4E4C5054
_ROWS = {"T": 0, "S": 1}


class NativeWeight(ctypes.Structure):
    """TriposWeight."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_int64), ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64), ("format", ctypes.c_int32), ("panel_format", ctypes.c_int32),
        ("is_mapped", ctypes.c_int32), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


# -- the table of ops ------------------------------------------------------------------------------------------
def read_ops(printed: str) -> dict[str, OpSpec]:
    """The rows that tripos_ops printed, in its order: `name(inputs; weights) -> outputs: attribute=type ...`."""
    found = {}
    for line in printed.splitlines():
        match = re.fullmatch(r"(\w+)\((.*); (.*)\) -> (.*):(.*)", line)
        if match is None:
            raise ValueError(f"the native kernels print an op as {line!r}. This is a bug in Tripos")
        name, inputs, weights, outputs, attrs = match.groups()
        types = dict(attr.split("=") for attr in attrs.split())
        found[name] = OpSpec(
            name, tuple(inputs.split()), tuple(weights.split()), tuple(outputs.split()),
            {attr: tuple(kind.split("|")) if "|" in kind else kind for attr, kind in types.items()}, False,
        )  # fmt: skip
    return found


def op_differences(theirs: Mapping[str, OpSpec]) -> list[str]:
    """Differences between the library's ops and OPS; the order of ops, attributes and enum values does not matter."""
    found = _differences("op", OPS.keys(), theirs.keys())
    for name in OPS.keys() & theirs.keys():
        op, other = OPS[name], theirs[name]
        for kind in ("inputs", "weights", "outputs"):
            if getattr(op, kind) != getattr(other, kind):
                found.append(f"{name} takes {kind} {getattr(op, kind)} here, {getattr(other, kind)} there")
        found += _differences(f"{name}: attribute", op.attrs.keys(), other.attrs.keys())
        for attr in op.attrs.keys() & other.attrs.keys():
            found += _type_differences(f"{name}: {attr}", op.attrs[attr], other.attrs[attr])
    return sorted(found)


def _type_differences(what: str, ours: AttrType, theirs: AttrType) -> list[str]:
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return _differences(f"{what}: value", dict.fromkeys(ours).keys(), dict.fromkeys(theirs).keys())
    return [] if ours == theirs else [f"{what} is {ours} here, {theirs} there"]


def _differences(what: str, ours: Any, theirs: Any) -> list[str]:
    return [f"{what} {name} is here only" for name in ours - theirs] + [
        f"{what} {name} is there only" for name in theirs - ours
    ]


# -- the plan --------------------------------------------------------------------------------------------------
def encode_plan(plan: Plan, table: WeightTable, ops: Mapping[str, OpSpec], abi: int) -> bytes:
    """PlanHeader, tensors, weights, ops: their numbers are places in `ops`, the library's table."""
    kv = plan.kv
    header = np.array(
        [_MAGIC, abi, len(plan.tensors), len(plan.ops), len(table.rows), kv.num_layers, kv.num_kv_heads, kv.head_dim,
         plan.vocab_size, plan.output], np.int32,
    )  # fmt: skip
    tensors = np.array([(_ROWS[t.rows], t.cols) for t in plan.tensors], np.int32)
    weights = np.array(table.rows, np.int32)
    kinds = {name: number for number, name in enumerate(ops)}
    encoded = [_encode_op(op, kinds[op.kind], ops[op.kind], table) for op in plan.ops]
    return b"".join((header.tobytes(), tensors.tobytes(), weights.tobytes(), *encoded))


def _encode_op(op: Op, kind: int, spec: OpSpec, table: WeightTable) -> bytes:
    """PlanOpHeader, views, outputs, weights, and each attribute with its tag."""
    if problem := OPS[op.kind].problem(op):
        raise ModelRefused(f"op {op.kind} of the plan: {problem}. This is a bug in Tripos")
    ints = [kind, len(op.inputs), len(op.outputs), len(op.weights), len(op.attrs)]
    for view in op.inputs:
        ints += (view.tensor, view.offset, view.cols)
    matrix = matrix_of(op)
    ints += op.outputs
    ints += (table.index_of_matrix(name) if name == matrix else table.index[name] for name in op.weights)
    for tag, (name, attr_type) in enumerate(spec.attrs.items()):
        ints += (tag, _bits(op.attrs[name], attr_type))
    return np.array(ints, np.int32).tobytes()


def _bits(value: Attr, attr_type: AttrType) -> int:
    if isinstance(attr_type, tuple):
        return attr_type.index(str(value))
    return int(np.float32(value).view(np.int32)) if attr_type == "float" else int(value)


def matrix_of(op: Op) -> str | None:
    """The weight of an op that is packed, where it has one."""
    return op.weights[0] if OPS[op.kind].weights[:1] == ("matrix",) else None


def tables_of(plan: Plan) -> set[str]:
    """The embedding tables of a plan: their rows are read in place, matrices are packed and vectors converted."""
    return {name for op in plan.ops if op.kind == "embed" for name in op.weights}


# -- weights ---------------------------------------------------------------------------------------------------
class WeightTable:
    """The checkpoint tensors of a plan, one entry per part, and which entries make each weight. `about`: of the
    library, for its formats."""

    def __init__(self, plan: Plan, weights: Weights, about: Mapping[str, str]) -> None:
        self.arrays: list[npt.NDArray[Any]] = []  # keeps the memory of the entries alive
        self.entries: list[NativeWeight] = []
        self.index: dict[str, int] = {}
        self.rows: list[tuple[int, int, int, int]] = []  # PlanWeight
        self._layout = int(about["panel_layout"])
        self._stored, self._packed = (numbers_of(about[key]) for key in ("stored_formats", "panel_formats"))
        matrices = {matrix_of(op) for op in plan.ops}
        others = {name for op in plan.ops for name in op.weights if name != matrix_of(op)}
        tables = tables_of(plan)
        for name, spec in plan.weights.items():
            panels = _tensor(weights, spec.parts[0]).panels if name in matrices else None
            if panels is not None:
                self._begin(_panels_of(name), spec.shape[0], spec.shape[1], 1)
                self._add_panels(spec, panels)
            if panels is None or name in others:
                self._begin(name, spec.shape[0], spec.shape[1] if len(spec.shape) > 1 else 1, len(spec.parts))
                for part in spec.parts:
                    self._add(_tensor(weights, part), stays=name in tables)
        for name, constant in plan.constants.items():
            self._begin(name, constant.size, 1, 1)
            self._add(WeightTensor(name, "f32", constant.shape, constant))

    def index_of_matrix(self, name: str) -> int:
        return self.index[_panels_of(name) if _panels_of(name) in self.index else name]

    def arrays_of(self, name: str) -> list[npt.NDArray[Any]]:
        _, _, first, count = self.rows[self.index[name]]
        return self.arrays[first : first + count]

    def _begin(self, name: str, rows: int, cols: int, num_parts: int) -> None:
        self.index[name] = len(self.rows)
        self.rows.append((rows, cols, len(self.entries), num_parts))

    def _add(self, tensor: WeightTensor, stays: bool = False) -> None:
        """`stays`: the kernels read the tensor in place. Then it is copied out of its file: writing to the file would
        change answers, and shortening it would end this process."""
        if tensor.dtype not in FORMATS:
            raise ModelRefused(f"tensor {tensor.name} is stored as {tensor.dtype}; supported: {', '.join(FORMATS)}")
        data = np.ascontiguousarray(tensor.data)
        if stays and map_of(data) is not None:
            data = data.copy()
        values, size = FORMATS[tensor.dtype]
        num_values = int(np.prod(tensor.shape, dtype=np.int64))
        if data.nbytes != num_values // values * size or num_values % values:
            raise ModelRefused(
                f"tensor {tensor.name}: {data.nbytes} bytes do not hold shape {tensor.shape} of {tensor.dtype}"
            )
        self.arrays.append(data)
        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        self.entries.append(
            NativeWeight(
                tensor.name.encode(), data.ctypes.data, data.nbytes, rows, num_values // max(rows, 1),
                self._stored[tensor.dtype], 0, _is_mapped(data), 0,
            )
        )  # fmt: skip

    def _add_panels(self, spec: WeightSpec, panels: Panels) -> None:
        if panels.layout != self._layout:
            raise ModelRefused(
                f"tensor {spec.parts[0]}: packed in layout {panels.layout}, these kernels read {self._layout}: "
                "pack the model again with tripos quantize"
            )
        if panels.parts != spec.parts or panels.shape != spec.shape:
            raise ModelRefused(
                f"tensor {spec.parts[0]}: packed with {len(panels.parts) - 1} others as {list(panels.shape)}, the plan "
                f"wants {list(spec.shape)} of {len(spec.parts)}: pack the model again with tripos quantize"
            )
        if panels.format not in self._packed:
            raise ModelRefused(f"tensor {spec.parts[0]}: packed as {panels.format}; known: {', '.join(self._packed)}")
        kind = self._packed[panels.format] + (INTERLEAVED if panels.is_interleaved else 0)
        self.arrays.append(panels.data)
        self.entries.append(
            NativeWeight(
                spec.parts[0].encode(), panels.data.ctypes.data, panels.data.nbytes, *panels.shape, PANELS, kind,
                _is_mapped(panels.data), 0,
            )
        )  # fmt: skip


def numbers_of(names: str) -> dict[str, int]:
    """`name:number,name:number`, as the library prints its formats."""
    return {name: int(number) for name, number in (each.split(":") for each in names.split(","))}


def _panels_of(name: str) -> str:
    """The key of a weight's panels. An embedding table may have panels and tensors."""
    return f"panels of {name}"


def _tensor(weights: Weights, name: str) -> WeightTensor:
    if name not in weights:
        raise ModelRefused(f"the checkpoint has no tensor {name}")
    return weights[name]


def _is_mapped(array: npt.NDArray[Any]) -> int:
    return int(map_of(array) is not None)
