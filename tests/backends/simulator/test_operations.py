"""The other operations: embeddings, rerank, score, tokens, responses, messages; and what the server says of itself."""

from __future__ import annotations

import base64
import math
from array import array
from typing import Any

import httpx
import pytest

from tests.backends.simulator.asking import asking, chat, events, post
from tests.engines import EchoEngine, echo_engine
from tests.waiting import eventually_async


async def test_vectors_are_the_same_as_floats_and_as_base64(client: httpx.AsyncClient) -> None:
    body = {"model": "echo", "input": ["the quick fox", "a lazy dog"]}
    floats = await post(client, "/v1/embeddings", body)
    packed = await post(client, "/v1/embeddings", {**body, "encoding_format": "base64"})
    assert [entry["index"] for entry in floats["data"]] == [0, 1]
    for one, other in zip(floats["data"], packed["data"], strict=True):
        vector = array("f", base64.b64decode(other["embedding"]))
        assert one["embedding"] == vector.tolist()
        assert len(vector) == 384
        assert math.isclose(sum(value * value for value in vector), 1.0, rel_tol=1e-5)
    assert floats["usage"]["prompt_tokens"] == 6
    assert floats["data"] == (await post(client, "/v1/embeddings", body))["data"]


async def test_dimensions_are_chosen_within_the_models(client: httpx.AsyncClient) -> None:
    body = {"model": "echo", "input": "the quick fox", "dimensions": 8}
    assert len((await post(client, "/v1/embeddings", body))["data"][0]["embedding"]) == 8
    wrongs: list[dict[str, object]] = [
        {"dimensions": 385},
        {"dimensions": 0},
        {"encoding_format": "int8"},
        {"input": []},
    ]
    for wrong in wrongs:
        assert (await client.post("/v1/embeddings", json={**body, **wrong})).status_code == 400


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_are_ranked_by_the_words_they_share(client: httpx.AsyncClient, path: str) -> None:
    documents = ["dogs bark", {"text": "cats eat cat food"}, "cats"]
    body = {"model": "echo", "query": "cats eat", "documents": documents}
    whole = await post(client, path, body)
    scores = [entry["relevance_score"] for entry in whole["results"]]
    assert [entry["index"] for entry in whole["results"]][2] == 0
    assert scores == sorted(scores, reverse=True)
    assert whole["results"][0]["document"]["text"] in ("cats eat cat food", "cats")
    assert len((await post(client, path, {**body, "top_n": 1}))["results"]) == 1
    assert (await client.post(path, json={**body, "documents": []})).status_code == 400


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_scores_are_highest_for_the_same_text(client: httpx.AsyncClient, path: str) -> None:
    whole = await post(client, path, {"model": "echo", "text_1": "red wine", "text_2": ["red wine", "blue sky"]})
    assert [round(entry["score"], 3) for entry in whole["data"]] == [1.0, 0.0]
    wrong = {"model": "echo", "text_1": ["a", "b"], "text_2": ["a", "b", "c"]}
    assert (await client.post(path, json=wrong)).status_code == 400


async def test_tokens_come_back_as_the_text_they_were(client: httpx.AsyncClient) -> None:
    text = "  one two  one\n"
    tokens = await post(client, "/tokenize", {"model": "echo", "prompt": text, "return_token_strs": True})
    assert (tokens["count"], tokens["max_model_len"]) == (3, 32768)
    assert tokens["token_strs"] == ["  one", " two", "  one\n"]
    assert (await post(client, "/detokenize", {"model": "echo", "tokens": tokens["tokens"]}))["prompt"] == text
    assert (await client.post("/tokenize", json={"model": "echo"})).status_code == 400


async def test_a_response_is_kept_until_it_is_deleted(client: httpx.AsyncClient) -> None:
    made = await post(client, "/v1/responses", {"model": "echo", "input": "hello world"})
    assert made["output"][0]["content"][0]["text"] == "hello world"
    assert made["usage"]["output_tokens"] == 2
    path = f"/v1/responses/{made['id']}"
    assert (await client.get(path)).json() == made
    assert (await client.post(path + "/cancel")).status_code == 400
    again = await post(client, "/v1/responses", {"input": "more", "previous_response_id": made["id"], "store": False})
    assert again["usage"]["input_tokens"] == made["usage"]["total_tokens"] + 3
    assert (await client.get(f"/v1/responses/{again['id']}")).status_code == 404
    assert (await client.delete(path)).json() == {"id": made["id"], "object": "response", "deleted": True}
    assert (await client.get(path)).status_code == 404
    assert (await client.put(path)).status_code == 405
    assert (await client.post("/v1/responses", json={"input": []})).status_code == 400


async def test_a_background_response_is_filled_in_or_cancelled(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    body = {"model": "echo", "input": "hello world", "background": True}
    made = await post(client, "/v1/responses", body)
    assert made["status"] == "queued"

    async def completed() -> bool:
        return str((await client.get(f"/v1/responses/{made['id']}")).json()["status"]) == "completed"

    await eventually_async(completed)
    long = await post(client, "/v1/responses", {**body, "echo": {"ttft_ms": 60000}})
    cancelled = await client.post(f"/v1/responses/{long['id']}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert (await engine.idle(seconds=0.5))["aborted"] == 1
    assert (await client.post("/v1/responses", json={**body, "stream": True})).status_code == 400
    failing = await post(client, "/v1/responses", {**body, "echo": {"fault": "cut"}})

    async def failed() -> bool:
        return str((await client.get(f"/v1/responses/{failing['id']}")).json()["status"]) == "failed"

    await eventually_async(failed)


async def test_response_events_come_in_openais_order(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/responses", json={"model": "echo", "input": "a b", "stream": True})
    data = events(answer.text)
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in data]
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in data] == list(range(10))
    kept = (await client.get(f"/v1/responses/{data[0]['response']['id']}")).json()
    assert kept == data[-1]["response"]


async def test_a_response_that_meets_its_limit_is_incomplete(client: httpx.AsyncClient) -> None:
    body = {"model": "echo", "input": "a b c", "max_output_tokens": 2}
    made = await post(client, "/v1/responses", body)
    assert (made["status"], made["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    answer = await client.post("/v1/responses", json={**body, "stream": True})
    assert events(answer.text)[-1]["type"] == "response.incomplete"


async def test_a_message_is_answered_whole_and_as_events(client: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"model": "echo", "max_tokens": 10, "messages": [{"role": "user", "content": "hi there"}]}
    whole = await post(client, "/v1/messages", body)
    assert whole["content"] == [{"type": "text", "text": "hi there"}]
    assert whole["stop_reason"] == "end_turn"
    answer = await client.post("/v1/messages", json={**body, "stream": True})
    data = events(answer.text)
    assert [event["type"] for event in data] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert data[-2]["usage"] == whole["usage"]
    counted = await post(client, "/v1/messages/count_tokens", body)
    assert counted["input_tokens"] == whole["usage"]["input_tokens"]
    stopped = await post(client, "/v1/messages", {**body, "stop_sequences": [" there"]})
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " there")
    cut = await post(client, "/v1/messages", {**body, "max_tokens": 1})
    assert cut["stop_reason"] == "max_tokens"


async def test_errors_of_messages_are_anthropics(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/messages", json={"model": "none", "max_tokens": 1, "messages": []})
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert (await client.post("/v1/messages", json={"max_tokens": 1, "messages": []})).status_code == 400


async def test_the_server_tells_its_models_and_its_load(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    entry = (await client.get("/v1/models")).json()["data"][0]
    assert (entry["id"], entry["max_model_len"]) == ("echo", 32768)
    assert (await client.get("/version")).json() == {"version": "echo"}
    engine.configure(slots=1)
    body = chat("a b", stream=True, echo={"fault": "hang"})
    async with asking(engine, body) as reader, asking(engine, body):
        await reader.readuntil(b'"a"')
        await engine.holds(1, 1)
        lines = (await client.get("/metrics")).text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    label = 'engine="0",model_name="echo"'
    assert float(values[f"vllm:num_requests_running{{{label}}}"]) == 1
    assert float(values[f"vllm:num_requests_waiting{{{label}}}"]) == 1
    assert 0 < float(values[f"vllm:kv_cache_usage_perc{{{label}}}"]) < 1
    assert float(values[f"vllm:prompt_tokens_total{{{label}}}"]) == 4
    assert float(values[f"vllm:generation_tokens_total{{{label}}}"]) == 1
    assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="echo"}' in values


async def test_the_last_request_can_be_looked_at(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    await client.post("/v1/chat/completions?a=b", json=chat(), headers={"X-Mine": "yes"})
    last = engine.stats()["last"]
    assert (last["method"], last["path"]) == ("POST", "/v1/chat/completions?a=b")
    assert ["x-mine", "yes"] in last["headers"]
    assert '"hello world"' in last["body"]


async def test_unknown_paths_methods_and_options_are_refused(client: httpx.AsyncClient) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/responses/x/y", 404),
        ("GET", "/v1/responses/x/cancel", 404),
        ("GET", "/echo/config?speed=3", 400),
        ("GET", "/echo/config?slots=0", 400),
        ("GET", "/echo/config?fault=x", 400),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)


async def test_health_is_what_it_is_configured_to_be(client: httpx.AsyncClient, engine: EchoEngine) -> None:
    assert (await client.get("/health")).status_code == 200
    engine.configure(health=503)
    assert (await client.get("/health")).status_code == 503
    engine.configure(health=0)
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/health", timeout=0.1)


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    with echo_engine("--api-key", "secret", tcp=True, prompt_tokens=7) as engine:
        async with engine.client() as client:
            assert (await client.get("/v1/models")).status_code == 401
            client.headers["authorization"] = "Bearer secret"
            assert (await post(client, "/v1/chat/completions", chat()))["usage"]["prompt_tokens"] == 7
