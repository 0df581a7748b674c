"""What was measured, as a table for people and as JSON: medians, spread, ratios, limits, and every loss and failure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.limits import Rates
from benchmarks.peers.engines import BASELINE, OURS, Engine
from benchmarks.peers.figures import Measured

UNITS = {"decode": "tokens/s", "pp": "prompt tokens/s", "batch": "generated tokens/s, whole run", "cold": "seconds"}


@dataclass
class Pairs:
    """One peer beside one of ours in one row, round by round."""

    ours: Engine
    peer: Engine
    row: str
    rounds: list[tuple[Measured, Measured]] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """How many times as fast ours was, round by round."""
        return [faster(self.row, ours.figure, theirs.figure) for ours, theirs in self.rounds]

    def ratio(self) -> float:
        """The median of the rounds' own ratios."""
        return median(self.ratios())


def faster(row: str, ours: float, theirs: float) -> float:
    return theirs / ours if row == "cold" else ours / theirs


@dataclass
class Table:
    """Everything of one run."""

    shape: str
    threads: int
    pairs: list[Pairs] = field(default_factory=list)
    failures: list[tuple[Engine, str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    @property
    def cpu(self) -> str:
        from tripos.runtime.machine import cpu_name

        return cpu_name()

    def add_pair(self, ours: Engine, peer: Engine, row: str, our: Measured, theirs: Measured) -> None:
        for pairs in self.pairs:
            if (pairs.ours, pairs.peer, pairs.row) == (ours, peer, row):
                pairs.rounds.append((our, theirs))
                return
        self.pairs.append(Pairs(ours, peer, row, [(our, theirs)]))

    def rates(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        """Minimum, median and maximum of all samples, by bits: GB/s read, and Gop/s."""
        samples: dict[int, list[Rates]] = {}
        for pairs in self.pairs:
            for engine, index in ((pairs.ours, 0), (pairs.peer, 1)):
                for measured in (both[index] for both in pairs.rounds):
                    if measured.limit is not None:
                        samples.setdefault(engine.bits, []).extend((measured.limit.before, measured.limit.after))
        return {
            str(bits): {
                "read_gb_s": spread([rates.bytes_per_s / 1e9 for rates in found]),
                "peak_gop_s": spread([rates.ops_per_s / 1e9 for rates in found]),
            }
            for bits, found in sorted(samples.items())
        }

    def fail(self, engine: Engine, row: str, reason: str) -> None:
        if (engine, row, reason) not in self.failures:
            self.failures.append((engine, row, reason))

    def rows(self) -> list[str]:
        return list(dict.fromkeys(pairs.row for pairs in self.pairs))

    def measured(self, row: str) -> dict[Engine, list[Measured]]:
        """By engine, ours first."""
        found: dict[Engine, list[Measured]] = {}
        for pairs in self.pairs:
            if pairs.row == row:
                found.setdefault(pairs.ours, []).extend(our for our, _ in pairs.rounds)
        for pairs in self.pairs:
            if pairs.row == row:
                found.setdefault(pairs.peer, []).extend(theirs for _, theirs in pairs.rounds)
        return found

    def best_peer(self, row: str, ours: Engine) -> tuple[Engine, float] | None:
        """The fastest peer with as many bits as ours or more, and how many times as fast ours is."""
        candidates = [
            (engine, median(one.figure for one in figures))
            for engine, figures in self.measured(row).items()
            if engine.environment not in (OURS, BASELINE) and engine.bits >= ours.bits
        ]
        if not candidates:
            return None
        best = (min if row == "cold" else max)(candidates, key=lambda candidate: candidate[1])[0]
        for pairs in self.pairs:
            if (pairs.ours, pairs.peer, pairs.row) == (ours, best, row):
                return best, pairs.ratio()  # measured in turn
        figures = self.measured(row)
        medians = [median(one.figure for one in figures[engine]) for engine in (ours, best)]
        return best, faster(row, *medians)

    def as_json(self) -> dict[str, Any]:
        rows = [
            {
                "row": row,
                "engine": engine.name,
                "median": round(median(one.figure for one in figures), 3),
                "share": None if (share := median_share(figures)) is None else round(share, 3),
                "peak_mb": max(one.peak_mb for one in figures),
                "asked_mb": figures[0].asked_mb,
                "rounds": [round_json(one) for one in figures],
            }
            for row in self.rows()
            for engine, figures in self.measured(row).items()
        ]
        ratios = [
            {
                "row": p.row, "ours": p.ours.name, "peer": p.peer.name, "ratio": round(p.ratio(), 3),
                "least": round(min(p.ratios()), 3), "most": round(max(p.ratios()), 3),
            }
            for p in self.pairs
        ]  # fmt: skip
        failures = [{"engine": engine.name, "row": row, "reason": reason} for engine, row, reason in self.failures]
        return {
            "shape": self.shape, "cpu": self.cpu, "threads": self.threads, "date": self.date, "machine": self.rates(),
            "versions": self.versions, "rows": rows, "ratios": ratios, "best": best(self), "failures": failures,
        }  # fmt: skip


def best(table: Table) -> list[dict[str, Any]]:
    """For each row and each of ours: the best peer at the same bits or more."""
    found = []
    for row in table.rows():
        for ours in [engine for engine in table.measured(row) if engine.environment == OURS]:
            beside = table.best_peer(row, ours)
            if beside is not None:
                figures = table.measured(row)[ours]
                share = median_share(figures)
                found.append({
                    "row": row, "ours": ours.name, "figure": round(median(one.figure for one in figures), 3),
                    "best_peer": beside[0].name, "ratio": round(beside[1], 3),
                    "limit_share": None if share is None else round(share, 3),
                    "peak_mb": max(one.peak_mb for one in figures), "asked_mb": figures[0].asked_mb,
                })  # fmt: skip
    return found


def median_share(figures: list[Measured]) -> float | None:
    """The median of each round's part of its own limit."""
    shares = [one.share for one in figures if one.share is not None]
    return median(shares) if shares else None


def spread(values: list[float]) -> tuple[float, float, float]:
    """Minimum, median and maximum."""
    return round(min(values), 1), round(median(values), 1), round(max(values), 1)


def round_json(one: Measured) -> dict[str, Any]:
    """Its figure, its limit, and the samples that the limit comes from: before and after."""
    found: dict[str, Any] = {"figure": round(one.figure, 3)}
    if one.limit is not None:
        both = (one.limit.before, one.limit.after)
        found["limit"] = round(one.limit.tokens_per_s, 1)
        found["read_gb_s"] = [round(rates.bytes_per_s / 1e9, 1) for rates in both]
        found["peak_gop_s"] = [round(rates.ops_per_s / 1e9) for rates in both]
    return found


def markdown(table: Table) -> str:
    lines = [
        f"# {table.shape} beside its peers",
        "",
        f"{table.date}, {table.cpu}, {table.threads} threads. Medians of rounds in turn (ours, peer, ours, peer …).",
        "The ratio is the median of the rounds' own ratios, with the least and the most (of the medians where the",
        "two were not measured in turn); below 1 ours is slower. The limit is what the machine could do at most with",
        "weights of so many bits, by the better of its rates right before and right after the same round; the part of",
        "it is the median of the rounds' own parts. Memory asked: 1.3 times the packed checkpoint and the cache of the",
        "row's tokens, and 120 MB.",
        "",
        "## Ours beside the best peer with the same bits or more",
        "",
        "| row | ours | figure | of the limit | best peer | times as fast | peak MB | asked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in best(table):
        share = "–" if one["limit_share"] is None else f"{one['limit_share']:.0%}"
        asked = "–" if one["asked_mb"] is None else f"{one['asked_mb']:,}"
        lines.append(
            f"| {one['row']} | {one['ours']} | {number(one['figure'])} | {share} | {one['best_peer']} |"
            f" {one['ratio']:.2f} | {one['peak_mb']:,} | {asked} |"
        )
    for row in table.rows():
        lines += ["", *row_lines(table, row)]
    lines += ["", *ending(table)]
    return "\n".join(lines) + "\n"


def row_lines(table: Table, row: str) -> list[str]:
    unit = next(unit for kind, unit in UNITS.items() if row.startswith(kind))
    ratios = {pairs.peer: pairs for pairs in table.pairs if pairs.row == row}
    lines = [
        f"## {row}, {unit}",
        "",
        "| engine | weights | median | min – max | rounds | limit (min – max) | of it | peak MB | ours is × as fast |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for engine, figures in table.measured(row).items():
        values = [one.figure for one in figures]
        middle, peak_mb = median(values), max(one.peak_mb for one in figures)
        share = "–" if (part := median_share(figures)) is None else f"{part:.0%}"
        beside = times_as_fast(ratios[engine]) if engine in ratios else ""
        lines.append(
            f"| {engine.title} | {engine.weights} | {number(middle)} | {number(min(values))} – {number(max(values))} |"
            f" {len(values)} | {limits_of(figures)} | {share} | {peak_mb:,} | {beside} |"
        )
    lines += [
        f"| {engine.title} | {engine.weights} | failed: {reason} | | | | | | |"
        for engine, failed, reason in table.failures
        if failed in (row, "") and engine not in table.measured(row)
    ]
    return lines


def times_as_fast(pairs: Pairs) -> str:
    least, middle, most = (f"{value:.2f}" for value in (min(pairs.ratios()), pairs.ratio(), max(pairs.ratios())))
    return f"{middle} ({least} – {most}, {pairs.ours.weights})"


def limits_of(figures: list[Measured]) -> str:
    limits = [one.limit.tokens_per_s for one in figures if one.limit is not None]
    if not limits:
        return "–"
    return f"{number(median(limits))} ({number(min(limits))} – {number(max(limits))})"


def ending(table: Table) -> list[str]:
    lines = ["## The machine and the engines", ""]
    for bits, found in table.rates().items():
        (least, middle, most), (_, arithmetic, _) = found["read_gb_s"], found["peak_gop_s"]
        lines.append(
            f"- {bits}-bit weights: {middle} GB/s read at their size ({least} – {most}), {arithmetic:,.0f} Gop/s"
        )
    lines += [f"- {name}: {version}" for name, version in table.versions.items()]
    for engine, row, reason in table.failures:
        lines.append(f"- {engine.name} failed{f' in {row}' if row else ''}: {reason}")
    return lines


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
