"""The native CPU executor: hands a plan, its weights and each step to the C++ library through ctypes.

Owns the library and the handle of an executor. Knows no kernel. runtime/plan_bytes.py writes the
bytes of a plan, runtime/step_arrays.py those of a step.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.errors import ConfigError, EnvironmentProblem, ModelRefused
from tripos.plan.formats import FORMATS
from tripos.plan.ir import Adapter, LowRank, Panels, Plan, Weights, WeightSpec, WeightTensor
from tripos.plan.lora import Place, check_adapter, places
from tripos.plan.ops import OpSpec
from tripos.runtime.executor import (
    ExecutorInfo,
    ExecutorOptions,
    Progress,
    StepInput,
    StepOutput,
    ignore_progress,
)
from tripos.runtime.machine import Birthplace
from tripos.runtime.plan_bytes import (
    INTERLEAVED,
    NativeWeight,
    WeightTable,
    encode_plan,
    matrix_of,
    numbers_of,
    op_differences,
    read_ops,
    tables_of,
)
from tripos.runtime.step_arrays import (
    SAMPLING_ARRAYS,
    STEP_ARRAYS,
    Addresses,
    Call,
    NativeOutput,
    NativeStep,
    address_of,
)

ABI = 7  # TRIPOS_ABI
LIBRARY_NAME = "libtripos_kernels.so"
PEAKS = ("read", "fp32", "bf16", "int8", "barriers", "amx_int8", "amx_bf16")  # in the order of TriposPeak


class _Options(ctypes.Structure):
    _fields_ = [
        ("abi", ctypes.c_int32), ("block_size", ctypes.c_int32), ("max_num_tokens", ctypes.c_int32),
        ("max_num_rows", ctypes.c_int32), ("threads", ctypes.c_int32), ("profile", ctypes.c_int32),
        ("max_adapters", ctypes.c_int32), ("reserved", ctypes.c_int32),
        ("weights", ctypes.c_char_p), ("kv_cache", ctypes.c_char_p), ("isa", ctypes.c_char_p),
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


_Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double)


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
        "tripos_ops": (text, ()),
        "tripos_error": (text, ()),
        "tripos_create": (status, (ctypes.POINTER(_Options), ctypes.POINTER(executor))),
        "tripos_destroy": (None, (executor,)),
        "tripos_load": (
            status, (executor, text, ctypes.c_size_t, ctypes.POINTER(NativeWeight), ctypes.c_size_t, _Progress),
        ),
        "tripos_guard": (status, (ctypes.c_int32,)),
        "tripos_panels": (status, (executor, ctypes.c_int32, ctypes.POINTER(_Panels))),
        "tripos_reserve": (status, (executor, ctypes.c_int64)),
        "tripos_set_adapter": (status, (executor, ctypes.c_int32, ctypes.POINTER(_LowRank), ctypes.c_size_t)),
        "tripos_run": (status, (executor, ctypes.POINTER(NativeStep), ctypes.POINTER(NativeOutput))),
        "tripos_describe": (text, (executor,)),
        "tripos_dequantize": (status, (ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)),
        "tripos_measure": (
            status, (ctypes.c_int32, text, ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(ctypes.c_double)),
        ),
    }  # fmt: skip
    library.tripos_about.restype = text
    about = _lines(library.tripos_about())
    if about["abi"] != str(ABI):
        raise EnvironmentProblem(
            f"the native kernels have version {about['abi']}, version {ABI} is needed: build them again"
        )
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if differences := op_differences(read_ops(library.tripos_ops().decode())):
        raise EnvironmentProblem(f"the native kernels have other ops: {'; '.join(differences)}: build them again")
    return library


def _lines(text: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.decode().splitlines())


def check(library: ctypes.CDLL, status: int, error: type[Exception]) -> None:
    """Raises `error` with the library's message where its call failed."""
    if status != 0:
        raise error(library.tripos_error().decode())


def about() -> dict[str, str]:
    """cpu, isas (best first, comma-separated), known_isas (also those this CPU lacks), bf16, amx_problem (empty where
    AMX is usable), cores, panel_layout, stored_formats and panel_formats."""
    return _lines(load_library().tripos_about())


def ops() -> dict[str, OpSpec]:
    """The library's table of ops, in its order. Equal to plan.ops.OPS: else the library is refused."""
    return read_ops(load_library().tripos_ops().decode())


def measure(peak: str, *, threads: int = 1, working_set_bytes: int = 1 << 28, isa: str = "auto") -> float | None:
    """A peak of this machine per second, all threads together: bytes ("read"), operations ("fp32", "bf16", "int8", and
    of tiles "amx_int8", "amx_bf16") or "barriers". None where the CPU has no such operation. Takes about 0.1 s.
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
    number = numbers_of(about()["stored_formats"])[tensor.dtype]
    status = library.tripos_dequantize(number, data.ctypes.data, out.size, out.ctypes.data)
    check(library, status, ModelRefused)
    return out


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
        self._addresses = Addresses()
        self._last_call: Call | None = None
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
        table = WeightTable(plan, weights, about())
        encoded = encode_plan(plan, table, ops(), ABI)
        entries = (NativeWeight * len(table.entries))(*table.entries)
        raised: list[BaseException] = []
        reporter = _relay(progress, raised)
        next(reporter)
        # A callback waits for the interpreter lock, which another thread may hold: none without a progress function.
        go_on = _Progress() if progress is ignore_progress else _Progress(reporter.send)
        status = self._library.tripos_load(self._open, encoded, len(encoded), entries, len(entries), go_on)
        if raised:
            raise raised.pop()  # popped: no reference cycle keeps the weights alive
        check(self._library, status, ModelRefused)
        self._arrays = [array for name in tables_of(plan) for array in table.arrays_of(name)]
        matrices = [name for name in map(matrix_of, plan.ops) if name is not None]
        self._matrices = {plan.weights[name]: table.index_of_matrix(name) for name in matrices}
        self._places = places(plan, weights)
        self._weight_index = {place.weight: table.index_of_matrix(place.weight) for place in self._places.values()}
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
            place.first_col, low.rank, numbers_of(about()["stored_formats"])[low.a.dtype], low.scale, 0,
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
        facts = about()
        names = {number: name for name, number in numbers_of(facts["panel_formats"]).items()}
        is_interleaved = native.panel_format >= INTERLEAVED
        rows, cols = spec.shape
        kind = names[native.panel_format % INTERLEAVED]
        return Panels(spec.parts, (rows, cols), kind, is_interleaved, int(facts["panel_layout"]), data)

    def reserve(self, num_blocks: int) -> int:
        check(self._library, self._library.tripos_reserve(self._open, num_blocks), EnvironmentProblem)
        return num_blocks

    def run(self, step: StepInput) -> StepOutput:
        """Raises ValueError for a step that would read out of bounds: a bug in the engine."""
        call = self._last_call
        if call is None or call.step is not step:
            self._last_call = None
            call = self._last_call = self._call(step)
        if self._library.tripos_run(self._open, call.native_step, call.native_output) != 0:
            raise ValueError(self._library.tripos_error().decode())
        return call.copy_output()

    def _call(self, step: StepInput) -> Call:
        s = step.sampling
        num_tokens, num_seqs, num_rows = len(step.token_ids), len(step.seq_lens), len(step.last_rows)
        history, bias, requested = len(s.history_ids), len(s.bias_ids), len(s.requested_ids)
        num_types = num_tokens if len(step.token_types) else 0
        lengths = (
            num_tokens, num_seqs, num_seqs + 1, num_rows, num_rows + 1, history, bias, len(s.mask), requested, num_types
        )  # fmt: skip
        keep: list[npt.NDArray[Any]] = []
        addresses = self._addresses
        native = NativeStep(
            num_tokens, num_seqs, num_rows, step.block_tables.shape[1],
            *addresses.of(step, STEP_ARRAYS, lengths), *addresses.of(s, SAMPLING_ARRAYS, lengths),
            *s.mask.shape, history, bias, requested, self._adapter_slots(step, keep),
        )  # fmt: skip
        keeps_logits = self.options.keep_logits
        out = StepOutput.zeros(step, np.zeros((num_rows, self._vocab_size), np.float32) if keeps_logits else None)
        logits = address_of(out.logits) if out.logits is not None else None
        native_out = NativeOutput(
            address_of(out.token_ids), address_of(out.logprobs), address_of(out.top_ids), address_of(out.top_logprobs),
            address_of(out.ok), logits, address_of(out.requested_logprobs), out.top_ids.shape[1], 0,
        )  # fmt: skip
        return Call(step, ctypes.byref(native), out, ctypes.byref(native_out), keep)

    @staticmethod
    def _adapter_slots(step: StepInput, keep: list[npt.NDArray[Any]]) -> int | None:
        if step.adapter_slots is None:
            return None
        slots = np.ascontiguousarray(step.adapter_slots, np.int32)
        if len(slots) != len(step.seq_lens):
            raise ValueError(f"step: adapter_slots has {len(slots)} entries, needs {len(step.seq_lens)}")
        keep.append(slots)
        return address_of(slots)

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
        """Free everything; idempotent. A fork does not have the threads: there the memory is freed with the process."""
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


def _relay(progress: Progress, raised: list[BaseException]) -> Generator[int, float, None]:
    """Reports the progress of a load from C++ and carries exceptions around C++, which they may not pass through.

    Receives the part of a load that is done and yields 1 to go on, 0 to end it; `raised` then holds the exception.

    A generator, because an interrupt is raised at the first instruction of the Python code that C++ calls: in a
    function that is before any try, in a generator it is inside.
    """
    try:
        while True:
            progress((yield 1))
    except GeneratorExit:
        return
    except BaseException as error:
        raised.append(error)
    yield 0
