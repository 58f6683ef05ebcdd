"""Embeddings that are served without a task: answered, refused, given up and counted as those that have one."""

from __future__ import annotations

import json
from array import array
from asyncio import Event
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.config import ModelConfig
from backends.errors import Code, InferenceError, ModelNotReady, Unavailable
from backends.model import Begun, InferRequest, InferResponse, OpenAIRequest, OpenAIResponse, State
from backends.tensors import Tensor, elements
from backends.worker.openai.face import Face
from backends.worker.text import USAGE
from ensembles.endpointless import Endpointless
from gateway.access_log import NoLog
from gateway.auth import Keys
from gateway.kserve.dataplane import DataPlane
from gateway.plane import Plane
from gateway.registry import Registry
from gateway.settings import Settings
from gateway.snapshot import ModelStatus, Snapshot
from gateway.telemetry import Telemetry
from tests.backends.worker.texts import config, folder
from tests.gateway.kserve.http_client import Client, until
from tests.gateway.kserve.http_server import listening
from tests.gateway.kserve.tensor_models import Model, Responses

PATH = "/v1/embeddings"
LONG_WAY = {"traceparent": "00-1-2-01"}


async def measure(request: InferRequest) -> AsyncIterator[InferResponse]:
    """Each text's length and a one; `wait` is never answered, `bad` is refused."""
    texts = elements(request.inputs[0].data)
    if b"wait" in texts:
        await Event().wait()
    if b"bad" in texts:
        yield InferResponse(error=InferenceError("bad text", Code.INVALID_ARG))
        return
    data = array("f", [value for text in texts for value in (len(text), 1)]).tobytes()
    yield InferResponse([Tensor("embedding", "FP32", (len(texts), 2), data)], {USAGE: sum(map(len, texts))})


class Embedder(Endpointless):
    """A model that takes texts, without a worker. `begun` counts what it was asked to begin, `asked` all inferences."""

    session_header = b""
    is_listenable = True

    def __init__(self, told: ModelConfig) -> None:
        self.config = told
        self.begun = 0
        self.tensors = Model(told, measure)
        self._face = Face(told)
        self.capabilities = self._face.capabilities

    @property
    def asked(self) -> int:
        return len(self.tensors.requests)

    def infer(self, request: InferRequest) -> Responses:
        return self.tensors.infer(request)

    def begin(self, request: OpenAIRequest) -> Begun | None:
        found = self._face.begin(self.tensors, request)
        self.begun += found is not None
        return found

    async def respond(self, request: OpenAIRequest) -> OpenAIResponse:
        return await self._face.respond(self.tensors, request)

    def lacking(self) -> ModelNotReady | None:
        return None

    def ready(self) -> bool:
        return True


@asynccontextmanager
async def served(
    path: Path, keys: Keys | None = None, **settings: Any
) -> AsyncIterator[tuple[Client, Plane, Embedder]]:
    output = [{"name": "embedding", "data_type": "TYPE_FP32", "dims": [2]}]
    told = config(folder(path), name="embedder", output=output, max_batch_size=2)
    embedder = Embedder(told)
    registry = Registry(lambda _backend: lambda *_arguments: embedder, share=1, max_queue_size=8)
    registry.apply(Snapshot((ModelStatus(told, State.READY),), settled=True))
    telemetry = Telemetry(registry.connections, NoLog())
    plane = Plane(Settings(model_repository=(path,), **settings), registry, keys, telemetry)
    async with listening(plane, DataPlane(registry)) as port:
        yield Client(port), plane, embedder


def asked(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"model": "embedder", "input": texts, **fields}


async def test_both_ways_answer_and_count_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, plane, embedder):
        heads, bodies = [], []
        for headers in ({}, LONG_WAY):
            connection = await client.open()
            await connection.send(PATH, asked("abc", "de"), x_request_id="mine", **headers)
            status, head, body = await connection.receive()
            assert status == 200
            heads.append({name: value for name, value in head.items() if name != "date"})
            bodies.append(json.loads(body))
            connection.close()
        assert embedder.begun == 1
        assert bodies[0] == bodies[1]
        assert [item["embedding"] for item in bodies[0]["data"]] == [[3, 1], [2, 1]]
        assert heads[0] == heads[1]
        assert heads[0]["x-request-id"] == "mine"
        counted = plane.telemetry.model("embedder")
        assert counted.requests == {("embeddings", 200): 2}
        assert (counted.prompt_tokens, counted.completion_tokens, counted.in_flight) == (10, 0, 0)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (asked("bad"), 400, "input"),
        (asked("a", dimensions=3), 400, "dimensions"),
        (asked(), 400, "input"),
        ({"model": "embedder"}, 400, "input"),
        ({"model": "nobody", "input": "a"}, 404, "model"),
    ],
)
async def test_both_ways_refuse_the_same(tmp_path: Path, body: dict[str, Any], status: int, param: str) -> None:
    async with served(tmp_path) as (client, plane, _):
        found = [await client.ask(PATH, body, **headers) for headers in ({}, LONG_WAY)]
        assert found[0] == found[1]
        assert found[0][0] == status
        assert found[0][1]["error"]["param"] == param
        assert not plane.clock.members


async def test_what_takes_several_inferences_is_large_or_has_somebodys_key_goes_the_long_way(tmp_path: Path) -> None:
    async with served(tmp_path, request_timeout=5) as (client, plane, embedder):
        status, answer = await client.ask(PATH, asked("a", "bb", "ccc"))
        assert status == 200
        assert [item["embedding"][0] for item in answer["data"]] == [1, 2, 3]
        assert (embedder.begun, embedder.asked) == (0, 2)
        assert (await client.ask(PATH, asked("a" * 20_000)))[0] == 200
        assert embedder.begun == 0
        plane.keys = Keys([])
        assert (await client.ask(PATH, asked("a")))[0] == 401
        plane.keys, plane.draining = None, True
        assert (await client.ask(PATH, asked("a")))[0] == 503
        assert embedder.begun == 0


async def test_leaving_cancels_the_inference(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, plane, embedder):
        connection = await client.open()
        await connection.send(PATH, asked("wait"))
        await until(lambda: embedder.begun == 1)
        connection.close()
        await until(lambda: embedder.tensors.ended == 1 and not plane.clock.members)
        assert plane.telemetry.model("embedder").disconnects == {"before_first_byte": 1}


async def test_a_deadline_ends_it_with_504_and_the_connection_is_good_for_more(tmp_path: Path) -> None:
    async with served(tmp_path, request_timeout=0.2) as (client, _, embedder):
        connection = await client.open()
        await connection.send(PATH, asked("wait"))
        status, _, body = await connection.receive()
        assert (status, json.loads(body)["error"]["type"]) == (504, "timeout_error")
        assert embedder.tensors.ended == 1
        await connection.send(PATH, asked("a"))
        assert (await connection.receive())[0] == 200
        connection.close()


async def test_a_drain_that_cannot_wait_says_so(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, plane, _):
        connection = await client.open()
        await connection.send(PATH, asked("wait"))
        await until(lambda: len(plane.clock.members) == 1)
        for member in tuple(plane.clock.members):
            member.interrupt(Unavailable("shutting down"))
        status, _, body = await connection.receive()
        assert (status, json.loads(body)["error"]["message"]) == (503, "shutting down")
        connection.close()


async def test_an_answer_after_which_the_connection_closes_is_given_all_the_same(tmp_path: Path) -> None:
    async with served(tmp_path) as (client, _, embedder):
        connection = await client.open()
        await connection.send(PATH, asked("abc"), connection="close")
        data = await connection.reader.read()
        assert data.startswith(b"HTTP/1.1 200")
        assert b'"embedding":[3.0,1.0]' in data
        assert embedder.begun == 1
        connection.close()
