"""Embeddings, rerank and score: through the official clients, and every bad input by its row of the corpus."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import ollama
import openai
import pytest

from tests.api.running import ENCODER, HELLO, Running, error_code

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
EMBED: dict[str, Any] = {"model": ENCODER, "input": "card"}
RERANK: dict[str, Any] = {
    "model": ENCODER,
    "query": "lost card",
    "documents": ["pin", "my card", "where is my lost card"],
}
SCORE: dict[str, Any] = {"model": ENCODER, "text_1": "card", "text_2": "pin"}
WIDTH, LONGEST = 32, 36
LONG = "card " * 100


async def vector_of(server: Running, text: Any, **fields: Any) -> Any:
    response = await server.post("/v1/embeddings", {**EMBED, "input": text, **fields})
    assert response.status_code == 200, response.text
    return np.array(response.json()["data"][0]["embedding"], np.float32)


async def test_openai_client_embeds_texts_and_token_ids(server: Running) -> None:
    answer = await server.openai.embeddings.create(model=ENCODER, input=["card", "where is my card"])
    assert [each.index for each in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3 + 6
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-5)
    tokens = (await server.post("/tokenize", {"model": ENCODER, "prompt": "card"})).json()["tokens"]
    for given in (tokens, [tokens]):
        again = await server.openai.embeddings.create(model=ENCODER, input=given)
        assert again.data[0].embedding == answer.data[0].embedding


async def test_openai_client_in_a_thread(server: Running) -> None:
    def ask() -> Any:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return client.embeddings.create(model=ENCODER, input="card", encoding_format="float")

    answer = await asyncio.to_thread(ask)
    np.testing.assert_array_equal(np.array(answer.data[0].embedding, np.float32), await vector_of(server, "card"))


async def test_base64_holds_the_same_bits(server: Running) -> None:
    response = await server.post("/v1/embeddings", {**EMBED, "encoding_format": "base64"})
    data = base64.b64decode(response.json()["data"][0]["embedding"])
    np.testing.assert_array_equal(np.frombuffer(data, "<f4"), await vector_of(server, "card"))


async def test_fewer_dimensions_are_the_first_ones_normalised_again(server: Running) -> None:
    whole, short = await vector_of(server, "card"), await vector_of(server, "card", dimensions=5)
    np.testing.assert_allclose(short, whole[:5] / np.linalg.norm(whole[:5]), atol=1e-6)


async def test_prompts_go_before_texts(server: Running) -> None:
    prompted = await vector_of(server, "a new pin", prompt_name="query")
    np.testing.assert_array_equal(prompted, await vector_of(server, "how do i get a new pin"))


async def test_long_inputs_are_cut_when_asked(server: Running) -> None:
    for fields in ({"truncate_prompt_tokens": -1}, {"truncate": True}, {"truncate_prompt_tokens": 10}):
        response = await server.post("/v1/embeddings", {**EMBED, "input": LONG, **fields})
        kept = 10 if fields.get("truncate_prompt_tokens") == 10 else LONGEST
        assert response.json()["usage"]["prompt_tokens"] == kept
    np.testing.assert_array_equal(
        await vector_of(server, LONG, truncate=True), await vector_of(server, "card " * (LONGEST - 2))
    )


async def test_ollama_clients_embed(server: Running) -> None:
    client = ollama.AsyncClient(host=server.url, trust_env=False)
    answer = await client.embed(ENCODER, ["card", LONG])
    assert len(answer.embeddings) == 2
    np.testing.assert_array_equal(np.array(answer.embeddings[0], np.float32), await vector_of(server, "card"))
    assert answer.prompt_eval_count == 3 + LONGEST  # cut without asking, as Ollama does
    assert answer.total_duration
    older = await client.embeddings(ENCODER, "card")
    assert list(older.embedding) == list(answer.embeddings[0])
    with pytest.raises(ollama.ResponseError, match="102 tokens"):
        await client.embed(ENCODER, LONG, truncate=False)
    await client._client.aclose()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_rerank_orders_documents(server: Running, path: str) -> None:
    body = {**RERANK, "documents": ["pin", {"text": "my card"}, "lost card"], "return_documents": True}
    answer = (await server.post(path, body)).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]
    texts = ["pin", "my card", "lost card"]
    assert all(result["document"]["text"] == texts[result["index"]] for result in answer["results"])
    assert answer["usage"]["total_tokens"] > 0
    best = (await server.post(path, {**body, "top_n": 1, "return_documents": False})).json()["results"]
    assert best == [{key: answer["results"][0][key] for key in ("index", "relevance_score")}]
    assert len((await server.post(path, {**body, "top_n": 99})).json()["results"]) == 3


async def test_an_embedder_reranks_by_cosine_with_its_prompts(server: Running) -> None:
    query, document = await vector_of(server, "lost card", prompt_name="query"), await vector_of(server, "pin")
    answer = (await server.post("/rerank", {**RERANK, "documents": ["pin"]})).json()
    assert answer["results"][0]["relevance_score"] == pytest.approx(float(query @ document), abs=1e-6)


async def test_scores_come_in_the_order_of_the_pairs(server: Running) -> None:
    many = (await server.post("/v1/score", {**SCORE, "text_2": ["pin", "card"]})).json()
    assert [each["index"] for each in many["data"]] == [0, 1]
    pairs = (await server.post("/score", {**SCORE, "text_1": ["card", "card"], "text_2": ["card", "pin"]})).json()
    assert [each["score"] for each in pairs["data"]] == [each["score"] for each in reversed(many["data"])]
    assert many["usage"]["prompt_tokens"] == many["usage"]["total_tokens"] > 0


async def test_the_same_vector_alone_and_among_many_at_once(server: Running) -> None:
    alone = await vector_of(server, "where is my card")
    texts = ["where is my card", "pin", "a new account of the bank", "card"] * 8
    among = await asyncio.gather(*(vector_of(server, text) for text in texts))
    for vector in among[::4]:
        np.testing.assert_array_equal(vector, alone)


async def test_models_say_what_they_are_for(server: Running) -> None:
    card = (await server.http.get(f"/v1/models/{ENCODER}")).json()
    assert (card["task"], card["dimensions"], card["max_model_len"]) == ("embed", WIDTH, LONGEST)
    metrics = (await server.http.get("/metrics")).text
    assert f'vllm:num_requests_waiting{{engine="0",model_name="{ENCODER}"}} 0.0' in metrics


def changed(base: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**base, **fields}


ROWS: list[tuple[str, str, Any, str]] = [
    ("P24", "/v1/embeddings", changed(EMBED, input=[]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=""), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[""]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=["card", ""]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[[]]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=["x"] * 2049), "too_many_items"),
    ("P24", "/v1/embeddings", changed(EMBED, input=["x"] * 90_000), "too_many_items"),
    ("P24", "/v1/embeddings", changed(EMBED, input=["x"] * 100_000), "invalid_json"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[1, "x"]), "invalid_type"),
    ("P24", "/v1/embeddings", changed(EMBED, input=["x", 1]), "invalid_type"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[1.5]), "invalid_type"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[True]), "invalid_type"),
    ("P24", "/v1/embeddings", changed(EMBED, input={"text": "x"}), "invalid_type"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[64]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[-1]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[2**32 - 1]), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, input=[1] * (LONGEST + 1)), "context_length_exceeded"),
    ("P24", "/v1/embeddings", changed(EMBED, input=LONG), "context_length_exceeded"),
    ("P24", "/v1/embeddings", changed(EMBED, input="x" * 7 * MIB), "context_length_exceeded"),
    ("P24", "/v1/embeddings", changed(EMBED, dimensions=0), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, dimensions=-1), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, dimensions=WIDTH + 1), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, dimensions=2**40), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, encoding_format="int8"), "invalid_value"),
    ("P24", "/v1/embeddings", changed(EMBED, prompt_name="no such"), "invalid_value"),
    ("P24", "/v1/embeddings", changed(EMBED, truncate_prompt_tokens=0), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, truncate_prompt_tokens=2), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, truncate_prompt_tokens=LONGEST + 1), "out_of_range"),
    ("P24", "/v1/embeddings", changed(EMBED, truncate_prompt_tokens=9, truncate=False), "invalid_value"),
    ("P24", "/v1/embeddings", changed(EMBED, model="tiny"), "invalid_value"),
    ("P24", "/api/embed", changed(EMBED, input=[]), "out_of_range"),
    ("P24", "/api/embed", changed(EMBED, model="tiny"), "invalid_value"),
    ("P24", "/api/embeddings", {"model": ENCODER, "prompt": ""}, "out_of_range"),
    ("P24 S", "/v1/embeddings", changed(EMBED, input="\u202e\0 zalgo \U0001f642"), ""),
    ("P24 S", "/v1/embeddings", changed(EMBED, input="[CLS] card [SEP] [PAD]"), ""),
    ("P24 S", "/v1/embeddings", changed(EMBED, input=" "), ""),
    ("P24 S", "/v1/embeddings", changed(EMBED, input=["x"] * 2048), ""),
    ("P24 S", "/v1/embeddings", changed(EMBED, input="x" * 7 * MIB, truncate=True), ""),
    ("P25", "/v1/rerank", changed(RERANK, documents=[]), "out_of_range"),
    ("P25", "/v1/rerank", changed(RERANK, documents=["x"] * 2049), "too_many_items"),
    ("P25", "/v1/rerank", changed(RERANK, documents=["x"] * 99_000), "too_many_items"),
    ("P25", "/v1/rerank", changed(RERANK, documents=[5]), "invalid_type"),
    ("P25", "/v1/rerank", changed(RERANK, documents=[{"title": "x"}]), "invalid_type"),
    ("P25 S", "/v1/rerank", changed(RERANK, documents=[""]), ""),
    ("P25", "/v1/rerank", changed(RERANK, documents=[LONG]), "context_length_exceeded"),
    ("P25", "/v1/rerank", changed(RERANK, documents=["x" * 10 * MIB]), "request_too_large"),
    ("P25", "/v1/rerank", changed(RERANK, query=""), "out_of_range"),
    ("P25", "/v1/rerank", changed(RERANK, query=LONG), "context_length_exceeded"),
    ("P25", "/v1/rerank", changed(RERANK, top_n=-1), "out_of_range"),
    ("P25", "/v1/rerank", changed(RERANK, top_n=0), "out_of_range"),
    ("P25", "/v1/rerank", changed(RERANK, model="tiny"), "invalid_value"),
    ("P25 S", "/v1/rerank", changed(RERANK, documents=[LONG], max_tokens_per_doc=20), ""),
    ("P25", "/score", changed(SCORE, text_1=["a", "b"], text_2=["a"]), "invalid_value"),
    ("P25", "/score", changed(SCORE, text_1=[]), "out_of_range"),
    ("P25", "/score", changed(SCORE, text_2=""), "out_of_range"),
    ("P25", "/score", changed(SCORE, text_2=[["a"]]), "invalid_type"),
    ("task", "/v1/completions", {"model": ENCODER, "prompt": "x", "max_tokens": 1}, "invalid_value"),
    ("task", "/v1/chat/completions", {"model": ENCODER, "messages": HELLO}, "invalid_value"),
    ("task", "/api/generate", {"model": ENCODER, "prompt": "x"}, "invalid_value"),
]


@pytest.mark.parametrize(
    ("row", "path", "body", "code"), ROWS, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_bad_input_is_refused_by_name_and_nothing_else_is_lost(
    server: Running, row: str, path: str, body: Any, code: str
) -> None:
    before = await vector_of(server, "where is my card")
    response = await server.post(path, body)
    assert error_code(response) == code, response.text[:300]
    assert response.status_code == {"": 200, "request_too_large": 413}.get(code, 400)
    np.testing.assert_array_equal(await vector_of(server, "where is my card"), before)


async def test_a_model_of_the_wrong_kind_says_what_it_can_do(server: Running) -> None:
    refused = await server.post("/v1/completions", {"model": ENCODER, "prompt": "x", "max_tokens": 1})
    assert "embeds texts and reranks documents" in refused.json()["error"]["message"]
    refused = await server.post("/v1/embeddings", {**EMBED, "model": "tiny"})
    assert "is a language model and cannot embed" in refused.json()["error"]["message"]
