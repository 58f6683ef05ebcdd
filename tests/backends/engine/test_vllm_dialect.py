"""vLLM's streams of Responses end as OpenAI's do; everything else passes untouched."""

from __future__ import annotations

import json

import pytest

from backends.engine.vllm_dialect import Adapter
from backends.errors import UpstreamProtocolError
from backends.model import OpenAIRequest
from tests.backends.bodies import pumped, read, stream, whole

RESPONSES = "/v1/responses"
FIRST = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'


def asked(path: str = RESPONSES, *, is_stream: bool = True) -> OpenAIRequest:
    return OpenAIRequest(path, b"{}", "m", stream=is_stream)


def last(status: str) -> bytes:
    fields = {"type": "response.completed", "sequence_number": 9, "response": {"id": "r", "status": status}}
    return b"event: response.completed\ndata: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("status", ["incomplete", "failed"])
async def test_a_response_that_was_cut_ends_as_what_it_is(status: str, size: int) -> None:
    data = FIRST + last(status)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    expected = FIRST + last(status).replace(b"response.completed", f"response.{status}".encode())
    assert await read(Adapter().response(asked(), stream(*pieces)).body) == expected
    assert await pumped(Adapter().response(asked(), stream(*pieces)).body) == expected


async def test_a_response_that_is_complete_passes_untouched() -> None:
    data = FIRST + last("completed")
    assert await read(Adapter().response(asked(), stream(data)).body) == data


def test_all_else_passes_untouched() -> None:
    for request, response in (
        (asked("/v1/chat/completions"), stream()),
        (asked(is_stream=False), whole()),
        (asked(), whole(b"{}", status=400)),
    ):
        body = response.body
        assert Adapter().request(request) is request
        assert Adapter().response(request, response).body is body


async def test_an_end_that_cannot_be_read_is_a_protocol_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        await read(Adapter().response(asked(), stream(b"event: response.completed\ndata: {}\n\n")).body)
