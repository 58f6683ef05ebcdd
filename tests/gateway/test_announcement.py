"""The text at the terminal."""

from __future__ import annotations

import ast
import json
import shlex

import pytest

from backends.config import ModelConfig
from backends.model import State
from gateway.announcement import announcement, base_url, failures
from gateway.snapshot import ModelStatus

MODELS = (
    ModelStatus(ModelConfig("it's a model", "echo"), State.READY),
    ModelStatus(ModelConfig("bad", "vllm"), State.FAILED, "exited with status 1"),
)


def text(*, chat_model: str | None = "it's a model", has_keys: bool = False) -> str:
    return announcement(
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8002",
        MODELS,
        chat_model=chat_model,
        has_keys=has_keys,
        grpc_address="127.0.0.1:8001",
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_the_url_is_one_that_a_client_on_this_machine_reaches(host: str, url: str) -> None:
    assert base_url(host, 80) == url


def test_each_address_and_each_model_has_one_line() -> None:
    lines = text().splitlines()
    assert lines.count("OpenAI API  http://127.0.0.1:8000/v1") == 1
    assert lines.count("KServe v2   http://127.0.0.1:8000/v2, gRPC at 127.0.0.1:8001") == 1
    assert lines.count("Docs        http://127.0.0.1:8000/docs") == 1
    assert lines.count("Metrics     http://127.0.0.1:8002/metrics") == 1
    assert lines.count("it's a model  READY") == 1
    assert lines.count("bad           FAILED: exited with status 1") == 1


@pytest.mark.parametrize("has_keys", [False, True])
def test_the_examples_can_be_pasted(has_keys: bool) -> None:
    printed = text(has_keys=has_keys)
    command = shlex.split(printed[printed.index("curl") : printed.index("\n\n", printed.index("curl"))])
    assert json.loads(command[-1])["model"] == "it's a model"
    assert ("Authorization: Bearer $TRITIUM_API_KEY" in command) == has_keys
    script = printed[printed.index("import os" if has_keys else "from openai") :]
    ast.parse(script)
    assert ('os.environ["TRITIUM_API_KEY"]' in script) == has_keys


def test_there_is_no_example_without_a_chat_model() -> None:
    assert "curl" not in text(chat_model=None)


def test_what_is_not_offered_is_not_told() -> None:
    printed = announcement("http://h:1", None, MODELS, chat_model=None, has_keys=False)
    assert "gRPC" not in printed
    assert "Metrics" not in printed


def test_an_empty_repository_is_told() -> None:
    printed = announcement("http://h:1", "http://h:2", (), chat_model=None, has_keys=False)
    assert "No model is loaded." in printed


def test_failures_name_each_model_that_failed_with_its_reason() -> None:
    assert failures(MODELS) == "bad failed: exited with status 1\n"
    assert failures(MODELS[:1]) == ""
