"""The machine's limits: memory bandwidth by working set, and arithmetic peaks by type, with 1 thread and with all.

Prints a table for people and one JSON line for machines. The loops that are timed are the native library's
(`tripos_measure`); each figure is the best of a few runs, for a limit is what the machine can do undisturbed.
With --seconds it samples the bandwidth alone for so long, one thread and all in turn, and prints how it is distributed:
a host may have several states, and one sample shows one of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import quantiles
from typing import Any

from tripos.runtime import native

MIB = 2**20
WORKING_SETS = (64 * MIB, 135 * MIB, 269 * MIB, 1024 * MIB)  # bytes, all threads together
PEAKS = ("fp32", "bf16", "int8", "amx_bf16", "amx_int8")  # of half precision no kernel makes use
ROUNDS = 3
WATCHED = 135 * MIB  # the working set of --seconds


def thread_counts() -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return sorted({1, cores})


def sample(peak: str, threads: int, size: int = 0) -> float | None:
    """Operations or bytes per second now, over 50 ms, or None where this CPU cannot do it."""
    return native.measure(peak, threads=threads, working_set_bytes=max(size // threads, 2**16))


def best(peak: str, threads: int, size: int = 0) -> float | None:
    """The most of a few samples."""
    runs = [sample(peak, threads, size) for _ in range(ROUNDS)]
    return max((run for run in runs if run is not None), default=None)


def measure(working_sets: tuple[int, ...] = WORKING_SETS) -> dict[str, Any]:
    """GB/s read by working set in MiB, and G operations/s by type, each with its thread counts as keys."""
    read = {
        str(size // MIB): {str(threads): scaled(best("read", threads, size)) for threads in thread_counts()}
        for size in working_sets
    }
    peaks = {peak: {str(threads): scaled(best(peak, threads)) for threads in thread_counts()} for peak in PEAKS}
    return {"machine": native.about(), "read_gb_s": read, "peak_gop_s": peaks}


def watch(seconds: float) -> dict[str, Any]:
    """The bandwidth's distribution over so long, with one thread and with all in turn, in GB/s."""
    samples: dict[int, list[float]] = {threads: [] for threads in thread_counts()}
    end_s = time.monotonic() + seconds
    while not all(len(found) > 1 for found in samples.values()) or time.monotonic() < end_s:
        for threads, found in samples.items():
            found.append((sample("read", threads, WATCHED) or 0.0) / 1e9)
    return {
        "machine": native.about(),
        "working_set_mib": WATCHED // MIB,
        "read_gb_s": {
            str(threads): {
                "min": round(min(found), 1),
                **{
                    f"p{10 * (i + 1)}": round(value, 1)
                    for i, value in enumerate(quantiles(found, n=10, method="inclusive"))
                },
                "max": round(max(found), 1),
                "samples": len(found),
            }
            for threads, found in samples.items()
        },
    }


def watched_table(found: dict[str, Any]) -> str:
    columns = ("min", "p10", "p50", "p90", "max", "samples")
    title = f"read {found['working_set_mib']} MiB, GB/s"
    lines = [f"{title:28}" + "".join(f"{name:>9}" for name in columns)]
    for threads, row in found["read_gb_s"].items():
        lines.append(f"{f'{threads} threads':28}" + "".join(f"{row[name]:>9}" for name in columns))
    return "\n".join(["", *lines])


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
    parser.add_argument("--seconds", type=float, default=0, help="sample the bandwidth alone for so long")
    arguments = parser.parse_args()
    found = watch(arguments.seconds) if arguments.seconds > 0 else measure()
    if not arguments.json:
        text = watched_table(found) if arguments.seconds > 0 else table(found)
        print(f"{found['machine']['cpu']} ({found['machine']['isas']})", text, "", sep="\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
