"""/metrics: vLLM's names, true counts, and no series that a client can make."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.api.running import Running, TinyModel, running
from tripos.api.auth import Keys
from tripos.testing import ScriptedModel
from tripos.version import __version__

NAMES = {
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits", "vllm:num_preemptions", "vllm:prompt_tokens", "vllm:generation_tokens",
    "vllm:request_success", "vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
    "vllm:request_time_per_output_token_seconds", "vllm:e2e_request_latency_seconds",
    "vllm:request_queue_time_seconds", "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds",
    "gen_ai_server_request_duration_seconds", "gen_ai_server_time_to_first_token_seconds",
    "gen_ai_server_time_per_output_token_seconds",
}  # fmt: skip


async def scrape(server: Running) -> dict[tuple[str, str], float]:
    """(sample name, finish reason or "") → value."""
    text = (await server.http.get("/metrics")).text
    return {
        (sample.name, sample.labels.get("finished_reason", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_metrics_have_vllms_names() -> None:
    async with running(TinyModel()) as server:
        text = (await server.http.get("/metrics")).text
        assert {family.name for family in text_string_to_metric_families(text)} >= NAMES


async def test_metrics_count_what_was_answered() -> None:
    async with running(TinyModel(step_s=0.002)) as server:
        asked = {"model": "tiny", "prompt": "abc", "max_tokens": 5}
        for _ in range(3):
            assert (await server.post("/v1/completions", asked)).status_code == 200
        assert (await server.post("/v1/completions", {**asked, "max_tokens": 999})).status_code == 400
        found = await scrape(server)
        assert found["vllm:prompt_tokens_total", ""] == 9
        assert found["vllm:generation_tokens_total", ""] == 15
        assert found["vllm:request_success_total", "length"] == 3
        assert found["vllm:request_success_total", "error"] == 1
        assert found["vllm:time_to_first_token_seconds_count", ""] == 3
        # Between events, not tokens: a busy machine may hand over several tokens in one.
        assert 0 < found["vllm:inter_token_latency_seconds_count", ""] <= 12
        assert found["vllm:request_time_per_output_token_seconds_sum", ""] > 0
        assert found["vllm:num_requests_running", ""] == 0


async def test_engine_gauges_are_of_now() -> None:
    model = TinyModel(step_s=0.02)
    async with running(model) as server:
        body = {"model": "tiny", "prompt": "abc", "max_tokens": 100, "n": 2}
        asking = asyncio.create_task(server.post("/v1/completions", body))
        while len(model.engine.scheduler.running) < 2:
            await asyncio.sleep(0.005)
        found = await scrape(server)
        assert found["vllm:num_requests_running", ""] == 2
        assert 0 < found["vllm:kv_cache_usage_perc", ""] < 1
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await server.service.wait_idle()
        assert (await scrape(server))["vllm:request_success_total", "abort"] == 1


async def test_made_up_names_grow_no_series() -> None:
    async with running(ScriptedModel()) as server:

        async def ask(i: int) -> None:
            await server.post("/v1/completions", {"model": f"made-up-{i}", "prompt": "x"}, x_request_id=f"r{i}")
            await server.http.get(f"/made/up/{i}")
            await server.http.get(f"/v1/models/made-up-{i}")
            await server.raw(b"MADE%d /up HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n" % i)

        await ask(0)  # each way of being refused has one series, of the paths and methods that there are
        await server.http.get("/metrics")
        before = (await server.http.get("/metrics")).text.count("\n")
        for i in range(1, 20):
            await ask(i)
        text = (await server.http.get("/metrics")).text
        assert text.count("\n") == before
        assert "made" not in text.lower()


async def test_requests_are_counted_by_path_method_and_status() -> None:
    async with running(ScriptedModel(), keys=Keys({"k" * 20: frozenset({"generate"})})) as server:
        key = {"authorization": "Bearer " + "k" * 20}
        for _ in range(2):
            await server.post("/v1/completions", {"model": "scripted", "prompt": "x"}, **key)
        await server.post("/v1/completions", b"{", **key)
        await server.post("/v1/completions", {"model": "absent", "prompt": "x"}, **key)
        await server.post("/v1/completions", {})
        await server.http.get("/nowhere")
        await server.raw(b"nonsense\r\n\r\n")
        await server.http.get("/livez")
        found = {
            (sample.labels["method"], sample.labels["handler"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families((await server.http.get("/metrics", headers=key)).text)
            for sample in family.samples
            if sample.name == "http_requests_total"
        }
    assert found == {
        ("POST", "/v1/completions", "200"): 2, ("POST", "/v1/completions", "400"): 1,
        ("POST", "/v1/completions", "404"): 1, ("POST", "/v1/completions", "401"): 1, ("GET", "other", "404"): 1,
        ("other", "other", "400"): 1, ("GET", "/livez", "200"): 1,
    }  # fmt: skip


async def test_the_process_and_its_build_are_told() -> None:
    async with running(ScriptedModel()) as server:
        text = (await server.http.get("/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["process_resident_memory_bytes"].samples[0].value > 2**20
    assert families["process_open_fds"].samples[0].value > 3
    assert families["tripos_build_info"].samples[0].labels == {"version": __version__}
    states = {sample.labels["state"]: sample.value for sample in families["tripos_model_state"].samples}
    assert states == {"unloaded": 0, "loading": 0, "ready": 1, "draining": 0, "failed": 0}
