"""Every call is counted once, however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import pytest

from tripos.errors import DeadlineExceeded
from tripos.metering.metrics import Metrics
from tripos.service import Service
from tripos.types import Call, Delta, Event, Finish, Generate, ModelCard, ModelInfo, Run, Usage

CARD = ModelCard(name="m", task="generate", digest="d")
CALL = Call(id="c", route="m", request=Generate(prompt="x"))
USAGE = Usage(prompt_tokens=3, output_tokens=2, queue_s=0.1, prefill_s=0.2, decode_s=0.3, ttft_s=0.001)


class _Model:
    card = CARD

    def __init__(self, run: Run) -> None:
        self.run = run

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def info(self) -> ModelInfo:
        return ModelInfo()


async def run(events: list[Event | Exception], read: int = 9) -> Metrics:
    metrics = Metrics()

    async def model(call: Call) -> AsyncGenerator[Event, None]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    with suppress(DeadlineExceeded, ZeroDivisionError):
        service = Service(metrics)
        service.add(_Model(model))
        await service.start()
        async with aclosing(service.run(CALL)) as stream:
            async for _ in stream:
                read -= 1
                if not read:
                    break
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, {"model_name": "m", "engine": "0", **labels})
    assert found is not None, name
    return found


DELTAS: list[Event | Exception] = [
    Delta(text="a", token_ids=(1,)),
    Delta(text="b", token_ids=(2,), finish_reason="stop"),
]


@pytest.mark.parametrize(
    ("events", "read", "reason", "error"),
    [
        ([*DELTAS, Finish(reason="stop", usage=USAGE)], 9, "stop", ""),
        ([*DELTAS, Finish(reason="length", usage=USAGE)], 9, "length", ""),
        (DELTAS, 1, "abort", ""),
        ([DeadlineExceeded("late")], 9, "error", "deadline_exceeded"),
        ([*DELTAS, ZeroDivisionError()], 9, "error", "internal_error"),
    ],
)
async def test_each_end_is_counted_once(events: list[Event | Exception], read: int, reason: str, error: str) -> None:
    metrics = await run(events, read)
    for each in ("stop", "length", "abort", "error"):
        assert value(metrics, "vllm:request_success_total", finished_reason=each) == (each == reason)
    assert value(metrics, "vllm:e2e_request_latency_seconds_count") == 1
    labels = {"gen_ai_request_model": "m", "error_type": error}
    assert metrics.registry.get_sample_value("gen_ai_server_request_duration_seconds_count", labels) == 1


async def test_usage_is_added_up() -> None:
    metrics = await run([*DELTAS, Finish(reason="stop", usage=USAGE)])
    assert value(metrics, "vllm:prompt_tokens_total") == 3
    assert value(metrics, "vllm:generation_tokens_total") == 2
    assert value(metrics, "vllm:request_queue_time_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "vllm:request_prefill_time_seconds_sum") == pytest.approx(0.2)
    assert value(metrics, "vllm:request_decode_time_seconds_sum") == pytest.approx(0.3)
    assert value(metrics, "vllm:time_to_first_token_seconds_count") == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_count") == 1


async def test_buckets_are_finer_than_a_small_models_first_token() -> None:
    metrics = await run([*DELTAS, Finish(reason="stop", usage=USAGE)])
    assert value(metrics, "vllm:time_to_first_token_seconds_bucket", le="0.001") >= 0
    assert "vllm:time_to_first_token_seconds_bucket" in metrics.render().decode()
