"""What the simulator's tests ask with, and how they read the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.engines import EchoEngine


def chat(content: str = "hello world", **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": content}], **fields}


def events(text: str) -> list[Any]:
    """The data of every event, decoded; `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def said(chunks: list[Any]) -> list[str]:
    """The texts of a chat stream's chunks that have one."""
    deltas = [choice["delta"].get("content") for chunk in chunks if chunk != "[DONE]" for choice in chunk["choices"]]
    return [delta for delta in deltas if delta]


def request(path: str, body: dict[str, Any], *headers: str) -> bytes:
    """A request as bytes."""
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: echo", f"content-length: {len(data)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + data


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@asynccontextmanager
async def asking(
    engine: EchoEngine, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> AsyncIterator[asyncio.StreamReader]:
    """A request under way; leaves without a word at the end of the block."""
    async with engine.connect() as (reader, writer):
        writer.write(request(path, body))
        yield reader
