"""A gateway in front of another KServe server: its models under both APIs, by their own names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from tritonclient import grpc as grpc_client

from tests.servers import ROOT, Tritium, serving
from tests.waiting import eventually

pytestmark = pytest.mark.slow

CONFIG = """
backend: "kserve"
parameters {{ key: "endpoints" value {{ string_value: "{url}" }} }}
parameters {{ key: "grpc_port" value {{ string_value: "{port}" }} }}
parameters {{ key: "model" value {{ string_value: "{model}" }} }}
"""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }} {% endfor %}assistant:"


@pytest.fixture(scope="module")
def remote() -> Iterator[Tritium]:
    with serving(ROOT / "tests" / "backends" / "remote", environment={"CANCELLED_FILE": "/dev/null"}) as server:
        yield server


@pytest.fixture(scope="module")
def repository(remote: Tritium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("chatty", "stream"), ("numbers", "plain")):
        (folder / name / "1").mkdir(parents=True)
        text = CONFIG.format(url=remote.url, port=remote.grpc_port, model=model)
        (folder / name / "config.pbtxt").write_text(text)
    (folder / "chatty" / "1" / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Tritium]:
    with serving(repository, "--strict-readiness", "--health-interval", "0.2") as server:
        yield server


def test_a_chat_with_a_remote_model_streams_to_openais_client(server: Tritium) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="chatty",
            messages=[{"role": "user", "content": "one two"}],
            max_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "user: one two "
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_a_refusal_has_its_status_and_names_the_field(server: Tritium) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="offers no 'n'"):
            client.chat.completions.create(model="chatty", messages=[{"role": "user", "content": "a"}], n=2)
        with pytest.raises(openai.InternalServerError, match="An Error Occurred"):
            client.completions.create(model="chatty", prompt="FAIL")


def test_the_remote_models_configuration_is_taken_over(server: Tritium, remote: Tritium) -> None:
    ours = httpx.get(f"{server.url}/v2/models/numbers/config").json()
    theirs = httpx.get(f"{remote.url}/v2/models/plain/config").json()
    assert (ours["name"], ours["backend"]) == ("numbers", "kserve")
    for field in ("input", "output", "max_batch_size", "model_transaction_policy"):
        assert ours.get(field) == theirs.get(field)


def test_its_tensors_go_through_to_tritons_client(server: Tritium) -> None:
    with grpc_client.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        given = grpc_client.InferInput("IN", [2, 3], "FP32")
        given.set_data_from_numpy(np.arange(6, dtype=np.float32).reshape(2, 3))
        result = client.infer("numbers", [given], request_id="abc")
        assert result.as_numpy("OUT").tolist() == [[0, 2, 4], [6, 8, 10]]
        assert json.loads(result.as_numpy("SAID")[0, 0])["id"] == "abc"
        with pytest.raises(
            grpc_client.InferenceServerException, match="unexpected inference input 'NOPE' for model 'numbers'"
        ):
            client.infer(
                "numbers",
                [grpc_client.InferInput("NOPE", [1, 1], "FP32").set_data_from_numpy(np.ones((1, 1), np.float32))],
            )


def test_its_stream_goes_through_generate(server: Tritium) -> None:
    body = {"text_input": "one two", "max_tokens": 5, "stream": True}
    with httpx.stream("POST", f"{server.url}/v2/models/chatty/generate_stream", json=body) as answer:
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line]
    assert [event["text_output"] for event in events] == ["one ", "two "]


def test_readiness_follows_the_remote_one(repository: Path) -> None:
    with serving(ROOT / "tests" / "backends" / "remote", environment={"CANCELLED_FILE": "/dev/null"}) as other:
        folder = repository.with_name("other")
        (folder / "chatty" / "1").mkdir(parents=True)
        text = CONFIG.format(url=other.url, port=other.grpc_port, model="stream")
        (folder / "chatty" / "config.pbtxt").write_text(text)
        with serving(folder, "--health-interval", "0.2") as server:
            ready = f"{server.url}/v2/models/chatty/ready"
            eventually(lambda: httpx.get(ready).status_code == 200, what="readiness")
            other.stop()
            eventually(lambda: httpx.get(ready).status_code != 200, what="the end of readiness")
