"""Questions to models of a remote KServe server, in tensors and in OpenAI's words."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from backends.config import ModelConfig, read
from backends.interface import adopt
from backends.kserve import RemoteModel, connect
from backends.model import Endpoint, Endpoints, InferRequest, InferResponse, OpenAIRequest, State
from backends.tensors import Tensor, join
from tests.servers import ROOT, Tritium


def config(remote: Tritium, name: str, path: Path = ROOT, **parameters: str) -> ModelConfig:
    """The local configuration of a remote model, as the supervisor completes it."""
    with urlopen(f"{remote.url}/v2/models/{name}/config") as answer:
        told = json.load(answer)
    given = {"endpoints": remote.url, "model": name, "grpc_port": str(remote.grpc_port), **parameters}
    fields: dict[str, Any] = {"name": "local", "backend": "kserve"}
    fields["parameters"] = {key: {"string_value": value} for key, value in given.items()}
    adopt(fields, told)
    return read(json.dumps(fields), version=1, path=str(path), arguments={})


@asynccontextmanager
async def model(remote: Tritium, name: str, path: Path = ROOT, **parameters: str) -> AsyncIterator[RemoteModel]:
    found = connect(
        config(remote, name, path, **parameters), Endpoints((Endpoint("r", remote.url, State.READY),)), None
    )
    try:
        yield found
    finally:
        await found.aclose()


def numbers(*values: float) -> Tensor:
    return Tensor("IN", "FP32", (1, len(values)), struct.pack(f"<{len(values)}f", *values))


def text(name: str, *texts: str, shape: tuple[int, ...] | None = None) -> Tensor:
    return Tensor(name, "BYTES", (len(texts),) if shape is None else shape, join(one.encode() for one in texts))


async def ask(asked: RemoteModel, *inputs: Tensor, **fields: Any) -> list[InferResponse]:
    responses = asked.infer(InferRequest("local", list(inputs), **fields))
    try:
        return [response async for response in responses]
    finally:
        await responses.aclose()


async def post(asked: RemoteModel, path: str, **fields: Any) -> bytes:
    body = json.dumps({"model": "local", **fields}).encode()
    response = await asked.respond(OpenAIRequest(path, body, "local", stream=bool(fields.get("stream"))))
    try:
        assert response.status == 200
        return b"".join([part async for part in response.body])
    finally:
        await response.body.aclose()


async def answer(asked: RemoteModel, path: str, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await post(asked, path, **fields))
    return found


async def chunks(asked: RemoteModel, path: str, **fields: Any) -> list[dict[str, Any]]:
    events = (await post(asked, path, stream=True, **fields)).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def content(found: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content", "") for chunk in found for choice in chunk["choices"])
