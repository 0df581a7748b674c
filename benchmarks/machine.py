"""The machine's limits: memory bandwidth by working set, and arithmetic peaks by type, with 1 thread and with all.

Prints a table for people and one JSON line for machines. The loops that are timed are the native library's
(`tripos_measure`); each figure is the best of a few runs, for a limit is what the machine can do undisturbed.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from tripos.runtime import native

MIB = 2**20
WORKING_SETS = (64 * MIB, 135 * MIB, 269 * MIB, 1024 * MIB)  # bytes, all threads together
PEAKS = ("fp32", "bf16", "int8")  # x86 without AVX512-FP16 has no half-precision arithmetic to measure
ROUNDS = 3


def thread_counts() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, cores})


def best(peak: str, threads: int, size: int = 0) -> float | None:
    """Operations or bytes per second, or None where this CPU cannot do it."""
    share = max(size // threads, 2**16)
    runs = [native.measure(peak, threads=threads, working_set_bytes=share) for _ in range(ROUNDS)]
    return max((run for run in runs if run is not None), default=None)


def measure(working_sets: tuple[int, ...] = WORKING_SETS) -> dict[str, Any]:
    """GB/s read by working set in MiB, and G operations/s by type, each with its thread counts as keys."""
    read = {
        str(size // MIB): {str(threads): scaled(best("read", threads, size)) for threads in thread_counts()}
        for size in working_sets
    }
    peaks = {peak: {str(threads): scaled(best(peak, threads)) for threads in thread_counts()} for peak in PEAKS}
    return {"machine": native.about(), "read_gb_s": read, "peak_gop_s": peaks}


def scaled(per_second: float | None) -> float | None:
    return None if per_second is None else round(per_second / 1e9, 1)


def table(limits: dict[str, Any]) -> str:
    counts = thread_counts()
    lines = ["", f"{'':28}" + "".join(f"{f'{n} threads':>12}" for n in counts)]
    groups = [(f"read {size} MiB, GB/s", row) for size, row in limits["read_gb_s"].items()]
    groups += [(f"{peak}, Gop/s", row) for peak, row in limits["peak_gop_s"].items()]
    for label, row in groups:
        values = ("–" if row[str(n)] is None else f"{row[str(n)]:,.1f}" for n in counts)
        lines.append(f"{label:28}" + "".join(f"{value:>12}" for value in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    arguments = parser.parse_args()
    limits = measure()
    if not arguments.json:
        print(f"{limits['machine']['cpu']} ({limits['machine']['isas']})", table(limits), "", sep="\n")
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
