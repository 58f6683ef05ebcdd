"""Two engines that speak TensorRT-LLM's dialect, one of which dies under a stream."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.processes import command_line, descendants
from tests.servers import Tritium, free_ports, serving
from tests.stand_ins.served import MODEL, environment, repository
from tests.waiting import eventually

GREEDY: dict[str, Any] = {"max_tokens": 300, "temperature": 0, "extra_body": {"ignore_eos": True}}
COUNTED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tritium]:
    scratch = tmp_path_factory.mktemp("two")
    port, _ = free_ports(2)  # the second engine listens on the next one
    models = repository(scratch / "models", port)
    (models / MODEL / "config.pbtxt").write_text('backend: "tensorrtllm"\ninstance_group { count: 2 }\n')
    with serving(models, environment=environment(scratch / "engines")) as server:
        yield server


@pytest.fixture
def client(served: Tritium) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def engines(server: Tritium) -> dict[str, int]:
    """The processes of the engines, by their address."""
    lines = {pid: command_line(pid) for pid in descendants(server.pid)}
    return {
        line.partition("--port=")[2].split()[0]: pid
        for pid, line in lines.items()
        if "tests.stand_ins.tensorrtllm" in line and "guard" not in line
    }


def kill_under(server: Tritium, stream: Any) -> list[Any]:
    """The chunks of a stream whose engine is killed once it has begun."""
    ports = sorted(engines(server), key=int)
    number = int(stream.headers["x-tritium-endpoint"].rpartition("-")[2])
    chunks = []
    for chunk in stream.parse():
        chunks.append(chunk)
        if len(chunks) == 20:
            os.kill(engines(server)[ports[number]], signal.SIGKILL)
    return chunks


@pytest.fixture(autouse=True)
def both(served: Tritium) -> None:
    model = f"{served.url}/v1/models/{MODEL}"
    eventually(lambda: httpx.get(model).json()["endpoints"] == {"READY": 2}, seconds=20.0, what="both engines")


def test_a_text_goes_on_at_the_other_engine_as_if_nothing_had_been(served: Tritium, client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "Once upon a time", **GREEDY}
    undisturbed = client.completions.create(**asked)
    *chunks, last = kill_under(served, client.completions.with_raw_response.create(**asked, **COUNTED))
    assert "".join(chunk.choices[0].text for chunk in chunks) == undisturbed.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert (last.usage, last.choices) == (undisturbed.usage, [])


def test_a_chat_which_it_cannot_go_on_with_ends_with_an_error(served: Tritium, client: openai.OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **GREEDY}
    with pytest.raises(openai.APIError) as raised:
        kill_under(served, client.chat.completions.with_raw_response.create(**asked, **COUNTED))
    assert raised.value.code == "engine_error"
