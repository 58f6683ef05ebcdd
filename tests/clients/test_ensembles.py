"""An ensemble in pure `config.pbtxt`: embed, retrieve, a streaming model; by generate and by gRPC streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerException
from tritonclient.grpc import aio as grpc_client

from tests.servers import ROOT, Tritium, serving
from tests.waiting import eventually

pytestmark = pytest.mark.slow

QUESTIONS = {
    "What is the capital of France?": "Paris is the capital of France. What is the capital of France?",
    "Are whales mammals?": "Whales are mammals. Are whales mammals?",
    "What joins requests?": "Batching joins requests into one execution. What joins requests?",
}
CLIENTS = 32


@pytest.fixture(scope="module")
def server() -> Iterator[Tritium]:
    with serving(ROOT / "tests" / "ensembles" / "rag", "--strict-readiness", "--workers", "2") as server:
        yield server


@pytest.fixture
async def http(server: Tritium) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        yield client


@pytest.fixture
async def grpc(server: Tritium) -> AsyncIterator[grpc_client.InferenceServerClient]:
    async with grpc_client.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


async def generated(client: httpx.AsyncClient, question: str, **fields: Any) -> list[str]:
    body = {"question": question, "stream": True, **fields}
    async with client.stream("POST", "/v2/models/rag/generate_stream", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        events = [json.loads(line.removeprefix("data: ")) async for line in answer.aiter_lines() if line]
    return [event["answer"] for event in events]


def inputs(question: str, *, stream: bool) -> list[grpc_client.InferInput]:
    text = grpc_client.InferInput("question", [1], "BYTES")
    text.set_data_from_numpy(np.array([question.encode()], dtype=np.object_))
    flag = grpc_client.InferInput("stream", [1], "BOOL")
    flag.set_data_from_numpy(np.array([stream]))
    return [text, flag]


async def streamed(client: grpc_client.InferenceServerClient, question: str) -> list[str]:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": "rag",
            "inputs": inputs(question, stream=True),
            "request_id": "r",
            "enable_empty_final_response": True,
        }

    texts = []
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        response = result.get_response()
        assert response.id == "r"
        if response.outputs:
            texts.append(result.as_numpy("answer")[0].decode())
    assert response.parameters["triton_final_response"].bool_param
    return texts


@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_answer_streams_over_generate(http: httpx.AsyncClient, question: str) -> None:
    texts = await generated(http, question)
    assert len(texts) > 5
    assert "".join(texts) == QUESTIONS[question]


async def test_a_whole_answer_is_one_response_that_begins_with_its_prompt(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v2/models/rag/generate", json={"question": "Are whales mammals?", "stream": False})
    assert answer.json()["answer"] == 2 * QUESTIONS["Are whales mammals?"]


@pytest.mark.parametrize("question", QUESTIONS)
async def test_an_answer_streams_over_grpc(grpc: grpc_client.InferenceServerClient, question: str) -> None:
    texts = await streamed(grpc, question)
    assert len(texts) > 5
    assert "".join(texts) == QUESTIONS[question]


async def test_optional_inputs_of_the_last_step_are_those_of_the_ensemble(http: httpx.AsyncClient) -> None:
    assert "".join(await generated(http, "Are whales mammals?", max_tokens=3)).strip() == "Whales are mammals."


async def test_many_requests_at_once_all_get_their_own_answers(
    http: httpx.AsyncClient, grpc: grpc_client.InferenceServerClient
) -> None:
    asked = [list(QUESTIONS)[number % 3] for number in range(CLIENTS)]
    answers = await asyncio.gather(
        *(
            generated(http, question) if number % 2 else streamed(grpc, question)
            for number, question in enumerate(asked)
        )
    )
    assert ["".join(texts) for texts in answers] == [QUESTIONS[question] for question in asked]


async def test_leaving_an_ensemble_leaves_its_steps(server: Tritium, http: httpx.AsyncClient) -> None:
    body = {"question": "Are whales mammals?", "stream": True, "parameters": {"min_tokens": 5000, "ignore_eos": True}}
    async with http.stream("POST", "/v2/models/rag/generate_stream", json=body) as answer:
        await anext(answer.aiter_lines())

    def cancelled() -> bool:
        lines = httpx.get(f"{server.metrics_url}/metrics").text.splitlines()
        counts = [line for line in lines if 'failure{model="llm",reason="CANCELED"' in line]
        return [float(line.rsplit(" ", 1)[1]) for line in counts] == [1.0]

    eventually(cancelled, what="the end of the generation")


async def successes(client: httpx.AsyncClient, name: str) -> int:
    told = (await client.get(f"/v2/models/{name}/stats")).json()
    return int(told["model_stats"][0]["inference_stats"]["success"]["count"])


async def test_statistics_count_the_requests_of_all_server_processes(
    server: Tritium, http: httpx.AsyncClient, grpc: grpc_client.InferenceServerClient
) -> None:
    before = [await successes(http, name) for name in ("rag", "llm")]
    for _ in range(6):
        async with httpx.AsyncClient(base_url=server.url) as other:  # whichever process the kernel gives it to
            await generated(other, "Are whales mammals?", max_tokens=1)
    assert [await successes(http, name) for name in ("rag", "llm")] == [count + 6 for count in before]
    told = await grpc.get_inference_statistics("rag")
    assert told.model_stats[0].inference_stats.success.count == before[0] + 6


async def test_infer_is_refused_as_tritons_front_end_refuses_it(
    http: httpx.AsyncClient, grpc: grpc_client.InferenceServerClient
) -> None:
    body = {"inputs": [{"name": "question", "shape": [1], "datatype": "BYTES", "data": ["x"]}]}
    refused = await http.post("/v2/models/rag/infer", json=body)
    assert refused.json() == {"error": "HTTP end point doesn't support models with decoupled transaction policy"}
    with pytest.raises(InferenceServerException, match="doesn't support models with decoupled transaction policy"):
        await grpc.infer("rag", inputs("x", stream=False))
