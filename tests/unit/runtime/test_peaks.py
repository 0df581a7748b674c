"""What the machine reaches, and whether AMX is used: by what the system says of the processor."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tripos.runtime import native, peaks
from tripos.runtime.executor import ExecutorInfo

HAS_AMX = {"amx_tile", "amx_int8", "amx_bf16"} <= set(Path("/proc/cpuinfo").read_text().split())
INFO = ExecutorInfo("native", "auto", 1, "int8", "int8", 0, 0, 0)

REPORT = """
from tripos.runtime import native
print(native.about()["amx_problem"])
print(*(native.measure(peak) is not None for peak in ("int8", "amx_int8", "amx_bf16")))
"""
SMALL_STACK = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(8192)
stack = Stack(ctypes.addressof(memory), 0, 8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0
"""


def report(program: str, *options: str) -> tuple[str, str]:
    """Of a process of its own, for one asks for AMX once: the problem, and which peaks it can measure."""
    done = subprocess.run(
        [sys.executable, *options, "-c", program + REPORT], capture_output=True, text=True, check=True, timeout=60
    )
    problem, measured = done.stdout.splitlines()
    return problem, measured


@pytest.mark.parametrize("options", [(), ("-X", "faulthandler")])
def test_amx_is_used_where_the_processor_has_it(options: tuple[str, ...]) -> None:
    problem, measured = report("", *options)
    assert (problem == "") == HAS_AMX, problem
    assert measured.split()[1:] == [str(HAS_AMX)] * 2


def test_a_signal_stack_too_small_for_tiles_leaves_amx_off() -> None:
    problem, measured = report(SMALL_STACK)
    assert ("alternate signal stack" if HAS_AMX else "no AMX") in problem
    assert measured.split()[1:] == ["False", "False"]


def test_every_instruction_set_multiplies_floats_and_bytes() -> None:
    rates = {
        isa: (native.measure("fp32", isa=isa), native.measure("int8", isa=isa))
        for isa in native.about()["isas"].split(",")
    }
    assert not [isa for isa, rate in rates.items() if None in rate or min(map(float, filter(None, rate))) < 1e6]


def test_a_smaller_instruction_set_has_no_tiles() -> None:
    assert native.measure("amx_int8", isa="scalar") is None


def test_what_the_machine_reaches_is_told_by_type() -> None:
    rows = dict(peaks.machine_rows(INFO))
    assert rows["AMX"] == "usable" or rows["AMX"].startswith("not used: ")
    assert re.fullmatch(r"\d+\.\d GB/s", rows["reads"])
    assert re.search(r"fp32 \d+\.\d\d TFLOP/s", rows["multiplies"])
    assert ("int8" in rows["multiplies"] and "(AMX)" in rows["multiplies"]) == (rows["AMX"] == "usable")


def test_the_fastest_instructions_of_a_type_count(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"fp32": 0.25e12, "bf16": None, "amx_bf16": None, "int8": 1.5e12, "amx_int8": 6e12}
    monkeypatch.setattr(native, "measure", lambda peak, **_: rates[peak])
    assert peaks.multiplies(INFO) == "fp32 0.25 TFLOP/s, int8 6.00 TOP/s (AMX)"


def test_numpy_measures_nothing() -> None:
    info = ExecutorInfo("reference", "numpy", 1, "fp32", "fp32", 0, 0, 0)
    assert [name for name, _ in peaks.machine_rows(info)] == ["processor", "cores"]
