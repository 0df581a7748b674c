"""Prometheus metrics: vLLM's names with finer buckets, OpenTelemetry's gen_ai.server ones, and the process's own.

Label values come from closed sets only (registered model names, finish reasons, error codes, paths of the route table),
so that no client can grow the number of series. Gauges of an engine show what it last reported.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from tripos.errors import TriposError
from tripos.types import Call, Delta, EngineStats, Event, Finish, Usage
from tripos.version import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENGINE = "0"
# vLLM's begin at 0.3 s; a small model on a warm cache answers in milliseconds.
LATENCY_S = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 40, 80, 160, 320, 640
)  # fmt: skip
TOKEN_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    0.75, 1, 2, 5,
)  # fmt: skip
TOKENS = tuple(float(4**i) for i in range(10))
MAX_UNSORTED = 256
MODEL_STATES = ("unloaded", "loading", "ready", "draining", "failed")
OTHER = "other"  # a method that no path takes, a path that no route has
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "abort", "error")


class Tally:
    """One series of a histogram. It is on the path of every token: no lock, for one thread observes."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds  # inclusive, rising
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def observe_all(self, values: Sequence[float]) -> None:
        """Sorted, they take one search per bucket instead of one per value."""
        ordered = sorted(values)
        ends = [bisect_right(ordered, bound) for bound in self._bounds]
        for i, (begin, end) in enumerate(pairwise((0, *ends, len(ordered)))):
            self.counts[i] += end - begin
        self.total += sum(ordered)


class Histogram:
    """The series of one name by their labels."""

    def __init__(self, name: str, doc: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self._name, self._doc, self._labels, self._bounds = name, doc, labels, bounds
        self._tallies: dict[tuple[str, ...], Tally] = {}

    def labels(self, *values: str, **named: str) -> Tally:
        key = values or tuple(named[label] for label in self._labels)
        return self._tallies.setdefault(key, Tally(self._bounds))

    def remove(self, model: str) -> None:
        """The series whose first label is this model's name, as of every family it is."""
        self._tallies = {labels: tally for labels, tally in self._tallies.items() if labels[0] != model}

    def collect(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._doc, labels=self._labels)
        names = [str(float(bound)) for bound in self._bounds] + ["+Inf"]
        for labels, tally in self._tallies.items():
            family.add_metric(labels, list(zip(names, accumulate(tally.counts), strict=True)), tally.total)
        return family


class Count:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Counter:
    """The series of one name by their labels."""

    def __init__(self, name: str, doc: str, labels: tuple[str, ...]) -> None:
        self._name, self._doc, self._labels = name, doc, labels
        self._counts: dict[tuple[str, ...], Count] = {}

    def labels(self, **named: str) -> Count:
        return self._counts.setdefault(tuple(named[label] for label in self._labels), Count())

    def remove(self, model: str) -> None:
        """The series whose first label is this model's name, as of every family it is."""
        self._counts = {labels: count for labels, count in self._counts.items() if labels[0] != model}

    def collect(self) -> Metric:
        family = CounterMetricFamily(self._name, self._doc, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count.value)
        return family


Family = TypeVar("Family", Histogram, Counter)


class HttpCounter:
    """Requests that were answered or refused, by method, path of the route table and status."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, int], int] = {}

    def count(self, method: str, path: str, status: int) -> None:
        """`method`, `path`: of closed sets, "" for what is not in them. `status`: ours; 499: the client left."""
        key = method, path, status
        self._counts[key] = self._counts.get(key, 0) + 1

    def collect(self) -> Metric:
        labels = ("method", "handler", "status")
        family = CounterMetricFamily("http_requests", "HTTP requests by how they were answered.", labels=labels)
        for (method, path, status), number in self._counts.items():
            family.add_metric((method or OTHER, path or OTHER, str(status)), float(number))
        return family


class Series:
    """The metrics of one model, labels bound."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._labels = {"model_name": name, "engine": ENGINE}
        self._outcomes = metrics.outcomes

        def bind(metric: Any) -> Any:
            return metric.labels(**self._labels)

        self.inter_token = bind(metrics.inter_token)
        self._first, self._first_otel = bind(metrics.first_token), metrics.otel_first.labels(name)
        self._e2e, self._per_token = bind(metrics.e2e), bind(metrics.per_token)
        self._queue, self._prefill, self._decode = bind(metrics.queue), bind(metrics.prefill), bind(metrics.decode)
        self._prompt, self._output = bind(metrics.prompt_tokens), bind(metrics.output_tokens)
        self._prompt_size, self._output_size = bind(metrics.prompt_size), bind(metrics.output_size)
        self._otel_duration, self._otel_per_token = metrics.otel_duration, metrics.otel_per_token.labels(name)
        self._name = name
        self._reasons = {
            reason: self._outcomes.labels(**self._labels, finished_reason=reason) for reason in FINISH_REASONS
        }
        self._durations: dict[str, Tally] = {}  # by error
        self._firsts: list[float] = []  # not sorted yet, like:
        self._ended: list[tuple[str, float, Usage | None]] = []

    def observe_first(self, seconds: float) -> None:
        self._firsts.append(seconds)

    def observe_end(self, outcome: str, seconds: float, usage: Usage | None) -> None:
        """`outcome`: a finish reason or an error's code. `usage` is None when the call did not finish.

        What was observed is sorted into its buckets together, when MAX_UNSORTED calls have ended or somebody looks.
        """
        self._ended.append((outcome, seconds, usage))
        if len(self._ended) >= MAX_UNSORTED:
            self.sort()

    def sort(self) -> None:
        """Count what was observed since the last time."""
        firsts, ended, self._firsts, self._ended = self._firsts, self._ended, [], []
        for tally in (self._first, self._first_otel):
            tally.observe_all(firsts)
        self._e2e.observe_all([seconds for _, seconds, _ in ended])
        for outcome, seconds, _ in ended:
            self._reasons[outcome if outcome in FINISH_REASONS else "error"].value += 1
            error = "" if outcome in FINISH_REASONS else outcome
            if error not in self._durations:
                self._durations[error] = self._otel_duration.labels(self._name, error)
            self._durations[error].observe(seconds)
        usages = [usage for _, _, usage in ended if usage is not None]
        self._queue.observe_all([usage.queue_s for usage in usages])
        self._prefill.observe_all([usage.prefill_s for usage in usages])
        self._decode.observe_all([usage.decode_s for usage in usages])
        for count, size, numbers in (
            (self._prompt, self._prompt_size, [usage.prompt_tokens for usage in usages]),
            (self._output, self._output_size, [usage.output_tokens for usage in usages]),
        ):
            count.value += sum(numbers)
            size.observe_all(numbers)
        per_token_s = [
            max(0.0, seconds - usage.ttft_s) / (usage.output_tokens - 1)
            for _, seconds, usage in ended
            if usage is not None and usage.output_tokens > 1 and usage.ttft_s
        ]
        for tally in (self._per_token, self._otel_per_token):
            tally.observe_all(per_token_s)


class Meter:
    """Counts one call, however it ends: `see` each event, then `end`."""

    __slots__ = ("_arrival_s", "_finish", "_last_s", "_series")

    def __init__(self, series: Series, call: Call) -> None:
        self._series = series
        self._arrival_s = call.arrival_s or time.monotonic()
        self._last_s = 0.0  # of the last event with tokens
        self._finish: Finish | None = None

    def see(self, event: Event) -> None:
        if type(event) is Delta:
            if event.token_ids:
                now_s = time.monotonic()
                if self._last_s:
                    self._series.inter_token.observe(now_s - self._last_s)
                else:
                    self._series.observe_first(now_s - self._arrival_s)
                self._last_s = now_s
        elif type(event) is Finish:
            self._finish = event

    def end(self, error: BaseException | None) -> None:
        """`error`: that ended the call, GeneratorExit where its reader let go."""
        finish = self._finish
        if isinstance(error, TriposError):
            outcome = error.code
        elif isinstance(error, Exception):
            outcome = "internal_error"
        else:
            outcome = "abort" if finish is None else finish.reason
        self._series.observe_end(outcome, time.monotonic() - self._arrival_s, finish.usage if finish else None)


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stats: Mapping[str, EngineStats] = {}  # of the models with an engine, by name, when last asked
        self._series: dict[str, Series] = {}
        self._families: list[Histogram | Counter] = []
        self.http = HttpCounter()
        self.states: Mapping[str, str] = {}  # model name -> one of MODEL_STATES, when last asked
        self._process = ProcessCollector(registry=None)
        self.first_token = self._histogram("time_to_first_token_seconds", "Arrival to first token.", LATENCY_S)
        self.inter_token = self._histogram("inter_token_latency_seconds", "Between output events.", TOKEN_S)
        self.per_token = self._histogram(
            "request_time_per_output_token_seconds", "Mean per token after the first.", TOKEN_S
        )
        self.e2e = self._histogram("e2e_request_latency_seconds", "Arrival to end.", LATENCY_S)
        self.queue = self._histogram("request_queue_time_seconds", "Waiting for a place.", LATENCY_S)
        self.prefill = self._histogram(
            "request_prefill_time_seconds", "Own share of steps before the first token.", LATENCY_S
        )
        self.decode = self._histogram("request_decode_time_seconds", "Own share of steps after it.", LATENCY_S)
        self.prompt_size = self._histogram("request_prompt_tokens", "Prompt tokens per request.", TOKENS)
        self.output_size = self._histogram("request_generation_tokens", "Output tokens per request.", TOKENS)
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.output_tokens = self._counter("generation_tokens", "Output tokens of finished requests.")
        self.outcomes = self._counter("request_success", "Requests by how they ended.", "finished_reason")
        self.otel_duration = self._otel_histogram(
            "request_duration_seconds", "Arrival to end.", ("gen_ai_request_model", "error_type"), LATENCY_S
        )
        model = ("gen_ai_request_model",)
        self.otel_first = self._otel_histogram(
            "time_to_first_token_seconds", "Arrival to first token.", model, LATENCY_S
        )
        self.otel_per_token = self._otel_histogram(
            "time_per_output_token_seconds", "Mean per token after the first.", model, TOKEN_S
        )
        self.ignored = self._added(
            Counter("tripos:ignored_fields", "Fields of requests that were not heeded.", ("model_name", "group"))
        )
        self.registry.register(self)

    def _histogram(self, name: str, doc: str, buckets: tuple[float, ...]) -> Histogram:
        return self._added(Histogram(f"vllm:{name}", doc, ("model_name", "engine"), buckets))

    def _otel_histogram(self, name: str, doc: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return self._added(Histogram(f"gen_ai_server_{name}", doc, labels, buckets))

    def _counter(self, name: str, doc: str, *more: str) -> Counter:
        return self._added(Counter(f"vllm:{name}", doc, ("model_name", "engine", *more)))

    def _added(self, family: Family) -> Family:
        self._families.append(family)
        return family

    def series(self, name: str) -> Series:
        """For a registered model; a name that a client made up must not come here."""
        if name not in self._series:
            self._series[name] = Series(self, name)
        return self._series[name]

    def remove_model(self, name: str) -> None:
        """Forget every series of a model that is no longer served."""
        self.stats = {each: stats for each, stats in self.stats.items() if each != name}
        self._series.pop(name, None)
        for family in self._families:
            family.remove(name)

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """What was counted, and the engines' own numbers (prometheus_client's collector protocol)."""
        for series in self._series.values():
            series.sort()
        for family in self._families:
            yield family.collect()
        yield self.http.collect()
        yield from self._process.collect()
        yield from self._about()
        stats = self.stats
        for metric, field, doc in (
            ("num_requests_running", "num_running", "Sequences in the step."),
            ("num_requests_waiting", "num_waiting", "Sequences that wait for a place."),
            ("kv_cache_usage_perc", "kv_usage", "Part of the cache blocks in use, 0 to 1."),
        ):
            gauge = GaugeMetricFamily(f"vllm:{metric}", doc, labels=("model_name", "engine"))
            for name, each in stats.items():
                gauge.add_metric((name, ENGINE), getattr(each, field))
            yield gauge
        yield _adapters(stats)
        for metric, field, doc in (
            ("prefix_cache_queries", "prefix_queries", "Prompt tokens looked up in the prefix cache."),
            ("prefix_cache_hits", "prefix_hits", "Prompt tokens found there."),
            ("num_preemptions", "num_preemptions", "Sequences that lost their blocks and were computed again."),
            ("spec_decode_num_draft_tokens", "drafted_tokens", "Tokens guessed ahead of a sequence."),
            ("spec_decode_num_accepted_tokens", "accepted_tokens", "Guessed tokens that were drawn."),
        ):
            count = CounterMetricFamily(f"vllm:{metric}", doc, labels=("model_name", "engine"))
            for name, each in stats.items():
                count.add_metric((name, ENGINE), getattr(each, field))
            yield count

    def _about(self) -> Iterable[Metric]:
        """Which build runs, and the state of every model that the server knows."""
        build = GaugeMetricFamily("tripos_build_info", "1, labelled by the version.", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build
        state = GaugeMetricFamily("tripos_model_state", "1 for the state it is in.", labels=("model_name", "state"))
        for name, now in self.states.items():
            for each in MODEL_STATES:
                state.add_metric((name, each), float(each == now))
        yield state


def _adapters(stats: Mapping[str, EngineStats]) -> GaugeMetricFamily:
    """vLLM's gauge, whose labels are what it tells and whose value is the time."""
    labels = ("model_name", "engine", "max_lora", "running_lora_adapters", "waiting_lora_adapters")
    gauge = GaugeMetricFamily(
        "vllm:lora_requests_info", "Adapters of sequences in the step, and waiting.", labels=labels
    )
    for name, each in stats.items():
        if each.max_adapters:  # an encoder has none
            names = (",".join(each.running_adapters), ",".join(each.waiting_adapters))
            gauge.add_metric((name, ENGINE, str(each.max_adapters), *names), time.time())
    return gauge
