"""The native CPU executor: hands a plan, its weights and each step to the C++ library through ctypes.

Owns the layout of what crosses (kernels/include/tripos.h, kernels/plan/plan.h). Knows no kernel.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.errors import ConfigError, EnvironmentProblem, ModelRefused
from tripos.plan.adapters import Place, check_adapter, places
from tripos.plan.formats import FORMATS
from tripos.plan.ir import Adapter, LowRank, Op, Panels, Plan, Weights, WeightSpec, WeightTensor, map_of
from tripos.plan.ops import ACTIVATIONS, OP_KINDS, SOURCES
from tripos.runtime.executor import (
    ExecutorInfo,
    ExecutorOptions,
    Progress,
    StepInput,
    StepOutput,
    ignore_progress,
)
from tripos.runtime.machine import Birthplace
from tripos.runtime.relay import relay

ABI = 6  # TRIPOS_ABI
LIBRARY_NAME = "libtripos_kernels.so"
PEAKS = ("read", "fp32", "bf16", "int8", "barriers")

_FORMATS = tuple(FORMATS)  # in the order of TriposFormat
_PANELS = 255  # TRIPOS_PANELS
_PANEL_FORMATS = ("fp32", "bf16", "fp16", "int8", "int4", "fp8", "int8_group")  # linear.h, WeightFormat
_INTERLEAVED = 256
_NORMS = ("rms", "layer")
_INTEGERS = ("layer", "num_heads", "num_kv_heads", "head_dim", "rotary_dim", "window", "left", "right")  # of PlanOp
_MAGIC = 0x4E4C5054


class _Options(ctypes.Structure):
    _fields_ = [
        ("abi", ctypes.c_int32), ("block_size", ctypes.c_int32), ("max_num_tokens", ctypes.c_int32),
        ("max_num_rows", ctypes.c_int32), ("threads", ctypes.c_int32), ("profile", ctypes.c_int32),
        ("max_adapters", ctypes.c_int32), ("reserved", ctypes.c_int32),
        ("weights", ctypes.c_char_p), ("kv_cache", ctypes.c_char_p), ("isa", ctypes.c_char_p),
    ]  # fmt: skip


class _Weight(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("bytes", ctypes.c_int64), ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64), ("format", ctypes.c_int32), ("panel_format", ctypes.c_int32),
        ("is_mapped", ctypes.c_int32), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


class _Panels(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("bytes", ctypes.c_int64), ("panel_format", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]  # fmt: skip


class _LowRank(ctypes.Structure):
    _fields_ = [
        ("a", ctypes.c_void_p), ("b", ctypes.c_void_p), ("first_row", ctypes.c_int64), ("rows", ctypes.c_int64),
        ("cols", ctypes.c_int64), ("weight", ctypes.c_int32), ("first_col", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("format", ctypes.c_int32), ("scale", ctypes.c_float), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


# The arrays of a step in the order of TriposStep: name, element type, and the length that C++ cannot see but trusts.
_TOKENS, _SEQS, _SEQS_1, _ROWS, _ROWS_1, _HISTORY, _BIAS, _ANY, _WANTED, _TOKENS_OR_NONE = range(10)
_STEP_ARRAYS = (
    ("token_ids", np.int32, _TOKENS), ("positions", np.int32, _TOKENS), ("query_start", np.int32, _SEQS_1),
    ("seq_lens", np.int32, _SEQS), ("block_tables", np.int32, _SEQS), ("slots", np.int32, _TOKENS),
    ("last_rows", np.int32, _ROWS), ("token_types", np.int32, _TOKENS_OR_NONE),
)  # fmt: skip
_SAMPLING_ARRAYS: tuple[tuple[str, type[np.generic], int], ...] = (
    ("temperature", np.float32, _ROWS), ("top_k", np.int32, _ROWS), ("top_p", np.float32, _ROWS),
    ("min_p", np.float32, _ROWS), ("repetition_penalty", np.float32, _ROWS), ("presence_penalty", np.float32, _ROWS),
    ("frequency_penalty", np.float32, _ROWS), ("seed", np.uint64, _ROWS), ("counter", np.uint64, _ROWS),
    ("forced_token", np.int32, _ROWS), ("num_logprobs", np.int32, _ROWS), ("history_start", np.int32, _ROWS_1),
    ("history_ids", np.int32, _HISTORY), ("history_counts", np.int32, _HISTORY), ("bias_start", np.int32, _ROWS_1),
    ("bias_ids", np.int32, _BIAS), ("bias_values", np.float32, _BIAS), ("mask_row", np.int32, _ROWS),
    ("mask", np.uint32, _ANY), ("wanted_start", np.int32, _ROWS_1), ("wanted_ids", np.int32, _WANTED),
)  # fmt: skip


_Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double)


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_seqs", "num_rows", "max_blocks")),
        *((name, ctypes.c_void_p) for name, _, _ in (*_STEP_ARRAYS, *_SAMPLING_ARRAYS)),
        *((name, ctypes.c_int32) for name in ("num_masks", "mask_words", "history_size", "bias_size", "wanted_size")),
        ("adapter_slots", ctypes.c_void_p),
    ]


class _Output(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("token_ids", "logprobs", "top_ids", "top_logprobs", "ok", "logits")),
        ("wanted_logprobs", ctypes.c_void_p), ("top_width", ctypes.c_int32), ("reserved", ctypes.c_int32),
    ]  # fmt: skip


def find_library() -> Path | None:
    """TRIPOS_NATIVE_LIBRARY where set (development), else the library installed beside this file; None: neither."""
    named = os.environ.get("TRIPOS_NATIVE_LIBRARY")
    path = Path(named) if named else Path(__file__).with_name(LIBRARY_NAME)
    return path if path.is_file() else None


_loaded: dict[Path, ctypes.CDLL] = {}


def load_library() -> ctypes.CDLL:
    """The library with its signatures. Raises EnvironmentProblem when it is missing or of another version."""
    path = find_library()
    if path is None:
        raise EnvironmentProblem(
            f"the native kernels ({LIBRARY_NAME}) are not built: run `pip install .` with a C++20 compiler and CMake, "
            "or set TRIPOS_NATIVE_LIBRARY to a built library"
        )
    if path not in _loaded:
        _loaded[path] = _declare(_open(path))
    return _loaded[path]


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EnvironmentProblem(f"the native kernels cannot be loaded: {error}") from error


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    executor, text, status = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "tripos_about": (text, ()),
        "tripos_error": (text, ()),
        "tripos_create": (status, (ctypes.POINTER(_Options), ctypes.POINTER(executor))),
        "tripos_destroy": (None, (executor,)),
        "tripos_load": (
            status, (executor, text, ctypes.c_size_t, ctypes.POINTER(_Weight), ctypes.c_size_t, _Progress),
        ),
        "tripos_guard": (status, (ctypes.c_int32,)),
        "tripos_panels": (status, (executor, ctypes.c_int32, ctypes.POINTER(_Panels))),
        "tripos_reserve": (status, (executor, ctypes.c_int64)),
        "tripos_set_adapter": (status, (executor, ctypes.c_int32, ctypes.POINTER(_LowRank), ctypes.c_size_t)),
        "tripos_run": (status, (executor, ctypes.POINTER(_Step), ctypes.POINTER(_Output))),
        "tripos_describe": (text, (executor,)),
        "tripos_dequantize": (status, (ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)),
        "tripos_measure": (
            status, (ctypes.c_int32, text, ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(ctypes.c_double)),
        ),
    }  # fmt: skip
    library.tripos_about.restype = text
    about = _lines(library.tripos_about())
    if about["abi"] != str(ABI):
        raise EnvironmentProblem(f"the native kernels are of version {about['abi']}, need {ABI}: build them again")
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _lines(text: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.decode().splitlines())


def check(library: ctypes.CDLL, status: int, error: type[Exception]) -> None:
    """Raises `error` with what the library says, where a call of it failed."""
    if status != 0:
        raise error(library.tripos_error().decode())


def about() -> dict[str, str]:
    """cpu, isas (best first, comma-separated), bf16, cores, panel_layout."""
    return _lines(load_library().tripos_about())


def measure(peak: str, *, threads: int = 1, working_set_bytes: int = 1 << 28, isa: str = "auto") -> float | None:
    """A peak of this machine per second, all threads together: bytes ("read"), operations ("fp32", "bf16", "int8")
    or "barriers". None where the CPU has no such operation. Takes about 0.1 s.
    """
    library, result = load_library(), ctypes.c_double()
    status = library.tripos_measure(PEAKS.index(peak), isa.encode(), threads, working_set_bytes, ctypes.byref(result))
    check(library, status, ConfigError)
    return result.value if result.value >= 0 else None


def dequantize(tensor: WeightTensor) -> npt.NDArray[np.float32]:
    """The tensor's values, float32, in its logical shape; as plan.formats.to_float32, at native speed."""
    library = load_library()
    data = np.ascontiguousarray(tensor.data)
    out = np.empty(tensor.shape, np.float32)
    values, size = FORMATS[tensor.dtype]
    if data.nbytes != out.size // values * size:
        raise ModelRefused(f"tensor {tensor.name}: {data.nbytes} bytes do not hold {out.size} values of {tensor.dtype}")
    status = library.tripos_dequantize(_FORMATS.index(tensor.dtype), data.ctypes.data, out.size, out.ctypes.data)
    check(library, status, ModelRefused)
    return out


# -- the plan as bytes (kernels/plan/plan.h) -------------------------------------------------------------------
def encode_plan(plan: Plan, weight_index: dict[str, int]) -> bytes:
    """PlanHeader, tensors, ops; the weights follow."""
    kv = plan.kv
    header = np.array(
        [_MAGIC, ABI, len(plan.tensors), len(plan.ops), len(weight_index), kv.num_layers, kv.num_kv_heads, kv.head_dim,
         plan.vocab_size, plan.output], np.int32,
    )  # fmt: skip
    tensors = np.array([(("T", "S").index(t.rows), t.cols) for t in plan.tensors], np.int32)
    ops = b"".join(_encode_op(op, weight_index) for op in plan.ops)
    return header.tobytes() + tensors.tobytes() + ops


def _encode_op(op: Op, weight_index: dict[str, int]) -> bytes:
    def integer(name: str) -> int:
        return int(op.attrs.get(name, 0))

    def choice(name: str, names: Sequence[str]) -> int:
        return names.index(str(op.attrs[name])) if name in op.attrs else 0

    views = [(v.tensor, v.offset, v.cols) for v in op.inputs] + [(0, 0, 0)] * (3 - len(op.inputs))
    keys = list(op.weights)
    if op.kind == "linear" and _packed(keys[0]) in weight_index:
        keys[0] = _packed(keys[0])
    weights = [weight_index[key] for key in keys]
    ints = [
        OP_KINDS.index(op.kind), len(op.inputs), *(field for view in views for field in view),
        len(op.outputs), *_padded(op.outputs, 2), len(weights), *_padded(weights, 2),
        choice("source", SOURCES), integer("row_offset"), choice("kind", _NORMS), choice("act", ACTIVATIONS),
        *(integer(name) for name in _INTEGERS),
    ]  # fmt: skip
    floats = [float(op.attrs.get(name, 0.0)) for name in ("eps", "scale", "softcap")]
    return np.array(ints, np.int32).tobytes() + np.array(floats, np.float32).tobytes()


def _padded(values: Iterable[int], size: int) -> list[int]:
    known = list(values)
    return known + [0] * (size - len(known))


def _packed(name: str) -> str:
    """The key of a weight's panels, beside the key of its tensors: an embedding table may have both."""
    return f"panels of {name}"


def _is_mapped(array: npt.NDArray[Any]) -> int:
    return int(map_of(array) is not None)


def tables_of(plan: Plan) -> set[str]:
    """Embedding tables: their rows are read in place, where matrices are packed and vectors converted."""
    return {name for op in plan.ops if op.kind == "embed" for name in op.weights}


class _WeightTable:
    """The checkpoint tensors of a plan, one entry per part, and which entries make each weight."""

    def __init__(self, plan: Plan, weights: Weights) -> None:
        self.arrays: list[npt.NDArray[Any]] = []  # keeps what the entries point at alive
        self.entries: list[_Weight] = []
        self.index: dict[str, int] = {}
        self._rows: list[tuple[int, int, int, int]] = []  # PlanWeight
        linears = {op.weights[0] for op in plan.ops if op.kind == "linear"}
        others = {name for op in plan.ops for name in op.weights[op.kind == "linear" :]}
        tables = tables_of(plan)
        for name, spec in plan.weights.items():
            panels = self._tensor(weights, spec.parts[0]).panels if name in linears else None
            if panels is not None:
                self._begin(_packed(name), spec.shape[0], spec.shape[1], 1)
                self._add_panels(spec, panels)
            if panels is None or name in others:
                self._begin(name, spec.shape[0], spec.shape[1] if len(spec.shape) > 1 else 1, len(spec.parts))
                for part in spec.parts:
                    self._add(self._tensor(weights, part), stays=name in tables)
        for name, table in plan.constants.items():
            self._begin(name, table.size, 1, 1)
            self._add(WeightTensor(name, "f32", table.shape, table))

    def encode(self) -> bytes:
        return np.array(self._rows, np.int32).tobytes()

    def index_of_linear(self, name: str) -> int:
        return self.index[_packed(name) if _packed(name) in self.index else name]

    def arrays_of(self, name: str) -> list[npt.NDArray[Any]]:
        _, _, first, count = self._rows[self.index[name]]
        return self.arrays[first : first + count]

    @staticmethod
    def _tensor(weights: Weights, name: str) -> WeightTensor:
        if name not in weights:
            raise ModelRefused(f"the checkpoint has no tensor {name}")
        return weights[name]

    def _begin(self, name: str, rows: int, cols: int, num_parts: int) -> None:
        self.index[name] = len(self._rows)
        self._rows.append((rows, cols, len(self.entries), num_parts))

    def _add(self, tensor: WeightTensor, stays: bool = False) -> None:
        """`stays`: the kernels read it where it lies, for as long as they run. Then it may lie in no file: whoever
        writes over that file would change our answers, and whoever shortens it end this process."""
        if tensor.dtype not in _FORMATS:
            raise ModelRefused(f"tensor {tensor.name} is stored as {tensor.dtype}; known are {', '.join(_FORMATS)}")
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
            _Weight(
                tensor.name.encode(), data.ctypes.data, data.nbytes, rows, num_values // max(rows, 1),
                _FORMATS.index(tensor.dtype), 0, _is_mapped(data), 0,
            )
        )  # fmt: skip

    def _add_panels(self, spec: WeightSpec, panels: Panels) -> None:
        layout = int(about()["panel_layout"])
        if panels.layout != layout:
            raise ModelRefused(
                f"tensor {spec.parts[0]}: packed in layout {panels.layout}, these kernels read {layout}: "
                "pack the model again with tripos quantize"
            )
        if panels.parts != spec.parts or panels.shape != spec.shape:
            raise ModelRefused(
                f"tensor {spec.parts[0]}: packed with {len(panels.parts) - 1} others as {list(panels.shape)}, the plan "
                f"wants {list(spec.shape)} of {len(spec.parts)}: pack the model again with tripos quantize"
            )
        if panels.format not in _PANEL_FORMATS:
            raise ModelRefused(f"tensor {spec.parts[0]}: packed as {panels.format}; known: {', '.join(_PANEL_FORMATS)}")
        kind = _PANEL_FORMATS.index(panels.format) + (_INTERLEAVED if panels.is_interleaved else 0)
        self.arrays.append(panels.data)
        self.entries.append(
            _Weight(
                spec.parts[0].encode(), panels.data.ctypes.data, panels.data.nbytes, *panels.shape, _PANELS, kind,
                _is_mapped(panels.data), 0,
            )
        )  # fmt: skip


class NativeExecutor:
    """Implements runtime.executor.Executor."""

    def __init__(self, options: ExecutorOptions | None = None) -> None:
        """Raises EnvironmentProblem without the library, ConfigError for options that it does not take."""
        self.options = options or ExecutorOptions()
        self._library = load_library()
        self._birthplace = Birthplace()
        self._handle: ctypes.c_void_p | None = ctypes.c_void_p()
        self._arrays: list[npt.NDArray[Any]] = []
        self._matrices: dict[WeightSpec, int] = {}
        self._places: dict[str, Place] = {}
        self._weight_index: dict[str, int] = {}
        self._vocab_size = 0
        self._addresses = _Addresses()
        self._last_call: _Call | None = None
        o = self.options
        isa = os.environ.get("TRIPOS_ISA", o.isa) if o.isa == "auto" else o.isa
        native = _Options(
            ABI, o.block_size, o.max_num_tokens, o.max_num_rows, o.threads,
            int(o.profile or os.environ.get("TRIPOS_PROFILE") == "1"), o.max_adapters, 0,
            o.weights.encode(), o.kv_cache.encode(), isa.encode(),
        )  # fmt: skip
        status = self._library.tripos_create(ctypes.byref(native), ctypes.byref(self._handle))
        check(self._library, status, ConfigError)

    def load(self, plan: Plan, weights: Weights, progress: Progress = ignore_progress) -> None:
        """Pack the weights. Raises ModelRefused naming the tensor or op that does not fit, and what `progress` raises:
        nothing is loaded then."""
        table = _WeightTable(plan, weights)
        encoded = encode_plan(plan, table.index) + table.encode()
        entries = (_Weight * len(table.entries))(*table.entries)
        raised: list[BaseException] = []
        told = relay(progress, raised)
        next(told)
        # A call back waits for the interpreter, which another thread may hold: none where nobody listens.
        go_on = _Progress() if progress is ignore_progress else _Progress(told.send)
        status = self._library.tripos_load(self._open, encoded, len(encoded), entries, len(entries), go_on)
        if raised:
            raise raised.pop()  # held by nothing else: no cycle keeps the weights
        check(self._library, status, ModelRefused)
        self._arrays = [array for name in tables_of(plan) for array in table.arrays_of(name)]
        linears = [op.weights[0] for op in plan.ops if op.kind == "linear"]
        self._matrices = {plan.weights[name]: table.index_of_linear(name) for name in linears}
        self._places = places(plan, weights)
        self._weight_index = {place.weight: table.index_of_linear(place.weight) for place in self._places.values()}
        self._vocab_size = plan.vocab_size

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        check_adapter(adapter, self._places, slot, self.options.max_adapters)
        keep: list[npt.NDArray[Any]] = []
        modules = [self._low_rank(self._places[name], low, keep) for name, low in adapter.items()]
        entries = (_LowRank * len(modules))(*modules)
        status = self._library.tripos_set_adapter(self._open, slot, entries, len(modules))
        check(self._library, status, ModelRefused)

    def _low_rank(self, place: Place, low: LowRank, keep: list[npt.NDArray[Any]]) -> _LowRank:
        a, b = np.ascontiguousarray(low.a.data), np.ascontiguousarray(low.b.data)
        keep += [a, b]
        return _LowRank(
            a.ctypes.data, b.ctypes.data, place.first_row, *place.shape, self._weight_index[place.weight],
            place.first_col, low.rank, _FORMATS.index(low.a.dtype), low.scale, 0,
        )  # fmt: skip

    def panels(self) -> list[Panels]:
        """The packed form of every linear's weight, in the order of the plan. Valid until load or close."""
        return [self._panels(spec, index) for spec, index in self._matrices.items()]

    def _panels(self, spec: WeightSpec, index: int) -> Panels:
        native = _Panels()
        check(self._library, self._library.tripos_panels(self._open, index, ctypes.byref(native)), ValueError)
        memory = (ctypes.c_uint8 * native.bytes).from_address(native.data)
        memory.executor = self  # the view keeps its owner alive
        data = np.frombuffer(memory, np.uint8)
        kind = _PANEL_FORMATS[native.panel_format % _INTERLEAVED]
        is_interleaved = native.panel_format >= _INTERLEAVED
        rows, cols = spec.shape
        return Panels(spec.parts, (rows, cols), kind, is_interleaved, int(about()["panel_layout"]), data)

    def reserve(self, num_blocks: int) -> int:
        check(self._library, self._library.tripos_reserve(self._open, num_blocks), EnvironmentProblem)
        return num_blocks

    def run(self, step: StepInput) -> StepOutput:
        """Raises ValueError for a step that would read out of bounds: a bug in the engine."""
        call = self._last_call
        if not step.is_continued or call is None or call.step is not step:
            self._last_call = None
            call = self._last_call = self._call(step)
        if self._library.tripos_run(self._open, call.native_step, call.native_output) != 0:
            raise ValueError(self._library.tripos_error().decode())
        return call.copy_output()

    def _call(self, step: StepInput) -> _Call:
        s = step.sampling
        num_tokens, num_seqs, num_rows = len(step.token_ids), len(step.seq_lens), len(step.last_rows)
        history, bias, wanted = len(s.history_ids), len(s.bias_ids), len(s.wanted_ids)
        num_types = num_tokens if len(step.token_types) else 0
        lengths = (
            num_tokens, num_seqs, num_seqs + 1, num_rows, num_rows + 1, history, bias, len(s.mask), wanted, num_types
        )  # fmt: skip
        keep: list[npt.NDArray[Any]] = []
        addresses = self._addresses
        native = _Step(
            num_tokens, num_seqs, num_rows, step.block_tables.shape[1],
            *addresses.of(step, _STEP_ARRAYS, lengths), *addresses.of(s, _SAMPLING_ARRAYS, lengths),
            *s.mask.shape, history, bias, wanted, self._adapter_slots(step, keep),
        )  # fmt: skip
        out = self._output(num_rows, max((0, *s.num_logprobs.tolist())), wanted)
        logits = _address(out.logits) if out.logits is not None else None
        native_out = _Output(
            _address(out.token_ids), _address(out.logprobs), _address(out.top_ids), _address(out.top_logprobs),
            _address(out.ok), logits, _address(out.wanted_logprobs), out.top_ids.shape[1], 0,
        )  # fmt: skip
        return _Call(step, ctypes.byref(native), out, ctypes.byref(native_out), keep)

    @staticmethod
    def _adapter_slots(step: StepInput, keep: list[npt.NDArray[Any]]) -> int | None:
        if step.adapter_slots is None:
            return None
        slots = np.ascontiguousarray(step.adapter_slots, np.int32)
        if len(slots) != len(step.seq_lens):
            raise ValueError(f"step: adapter_slots has {len(slots)} entries, needs {len(step.seq_lens)}")
        keep.append(slots)
        return _address(slots)

    def _output(self, num_rows: int, width: int, num_wanted: int) -> StepOutput:
        return StepOutput(
            token_ids=np.zeros(num_rows, np.int32),
            logprobs=np.zeros(num_rows, np.float32),
            top_ids=np.zeros((num_rows, width), np.int32),
            top_logprobs=np.zeros((num_rows, width), np.float32),
            ok=np.zeros(num_rows, np.uint8),
            wanted_logprobs=np.zeros(num_wanted, np.float32),
            logits=np.zeros((num_rows, self._vocab_size), np.float32) if self.options.keep_logits else None,
        )

    def info(self) -> ExecutorInfo:
        facts = _lines(self._library.tripos_describe(self._open))
        prefix = "kernel."
        kernels = {key.removeprefix(prefix): value for key, value in facts.items() if key.startswith(prefix)}
        formats = sorted({op.removeprefix("linear.") for op in kernels if op.startswith("linear.")})
        return ExecutorInfo(
            name="native",
            isa=facts["isa"],
            threads=int(facts["threads"]),
            weights="+".join(formats) or self.options.weights,
            kv_cache=facts["kv_cache"],
            weight_bytes=int(facts.get("weight_bytes", 0)),
            kv_bytes_per_token=int(facts.get("kv_bytes_per_block", 0)) // self.options.block_size,
            arena_bytes=int(facts.get("arena_bytes", 0)),
            kernels=kernels,
            num_sliced_steps=int(facts.get("sliced_steps", 0)),
            profile=_profile(facts),
        )

    def close(self) -> None:
        """Free everything; idempotent. A fork has the memory and not the threads: there it goes with the process."""
        handle, self._handle = self._handle, None
        if handle is not None and self._birthplace.is_here:
            self._library.tripos_destroy(handle)
        self._arrays, self._last_call = [], None

    @property
    def _open(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise ValueError("the executor is closed")
        return self._handle

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.close()


def _profile(facts: dict[str, str]) -> dict[str, tuple[float, float]]:
    times = {key.removeprefix("profile."): value.split() for key, value in facts.items() if key.startswith("profile.")}
    return {name: (float(run), float(wait)) for name, (run, wait) in times.items()}


_Start = ctypes.c_char * 0


def _address(array: Any) -> int:
    """Through the buffer protocol: array.ctypes is several times slower, and a step has thirty arrays."""
    try:
        return ctypes.addressof(_Start.from_buffer(array))
    except TypeError:  # read-only
        return int(array.ctypes.data)


@dataclass
class _Call:
    """A step as C++ reads it, and where it writes. Serves again when the step is continued."""

    step: StepInput
    native_step: Any
    output: StepOutput
    native_output: Any
    keep: list[npt.NDArray[Any]]

    def copy_output(self) -> StepOutput:
        """What the caller may keep: the next run writes to the same place."""
        o = self.output
        return StepOutput(
            o.token_ids.copy(), o.logprobs.copy(), _copy(o.top_ids), _copy(o.top_logprobs), o.ok.copy(),
            _copy(o.wanted_logprobs), None if o.logits is None else o.logits.copy(),
        )  # fmt: skip


def _copy(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array.copy() if array.size else array


class _Addresses:
    """Where the arrays of a step lie. Remembers them and holds them until the next step: of the thirty arrays of a
    decoding batch most are those of the step before, and looking one up takes a microsecond and more."""

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
                own = given if array is given else None  # a copy tells nothing of the next step
                entry = known[name] = (own, array, _address(array) if len(array) else 0)
            if len(entry[1]) != lengths[length]:
                raise ValueError(f"step: {name} has {len(entry[1])} entries, needs {lengths[length]}")
            found.append(entry[2])
        return found
