"""The peaks of this machine, measured in half a second, and why AMX is not used where it is not."""

from __future__ import annotations

from tripos.runtime import native
from tripos.runtime.executor import ExecutorInfo
from tripos.runtime.machine import cpu_name, num_cores

ARITHMETIC = {"fp32": ("fp32",), "bf16": ("bf16", "amx_bf16"), "int8": ("int8", "amx_int8")}  # native.PEAKS of a type
_READ_BYTES = 1 << 27  # of all threads together


def machine_rows(info: ExecutorInfo) -> list[tuple[str, str]]:
    """Rows for a table: the processor, and its peaks with the instruction set and threads of a native executor."""
    rows = [("processor", cpu_name()), ("cores", str(num_cores()))]
    if info.name == "native":
        rows += [("AMX", amx()), ("reads", reads(info)), ("multiplies", multiplies(info))]
    return rows


def amx() -> str:
    """Whether this process may use AMX, or why not."""
    problem = native.about()["amx_problem"]
    return f"not used: {problem}" if problem else "usable"


def reads(info: ExecutorInfo) -> str:
    size = _READ_BYTES // info.threads
    rate = native.measure("read", threads=info.threads, working_set_bytes=size, isa=info.isa) or 0.0
    return f"{rate / 1e9:.1f} GB/s"


def multiplies(info: ExecutorInfo) -> str:
    """Peaks of multiplications by type, each with its fastest instructions."""
    found = []
    for kind, peaks in ARITHMETIC.items():
        rate, peak = max((native.measure(peak, threads=info.threads, isa=info.isa) or 0.0, peak) for peak in peaks)
        if rate:
            unit = "TOP/s" if kind == "int8" else "TFLOP/s"
            found.append(f"{kind} {rate / 1e12:.2f} {unit}" + " (AMX)" * peak.startswith("amx"))
    return ", ".join(found)
