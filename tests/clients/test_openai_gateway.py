"""What the gateway itself says to OpenAI's client: models, errors, deadlines, headers."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from tests.clients.asking import COUNT, STORY
from tests.clients.served import EMBEDDER, Served
from tests.waiting import eventually

pytestmark = pytest.mark.engine


@pytest.fixture
def served(completer: Served) -> Served:
    return completer


def test_models_are_listed_with_what_they_can_do(vllm: Served) -> None:
    with vllm.openai() as client:
        models = {model.id: model for model in client.models.list()}
        assert set(models) == {vllm.model, EMBEDDER}
        for name, model in models.items():
            assert client.models.retrieve(name) == model
            assert model.object == "model"
            assert (model.to_dict()["state"], model.to_dict()["backend"]) == ("READY", "vllm")
        assert models[vllm.model].to_dict()["max_model_len"] == 2048
        assert "chat" in str(models[vllm.model].to_dict()["capabilities"])
        assert "embeddings" in str(models[EMBEDDER].to_dict()["capabilities"])


def test_an_operation_that_the_model_lacks_is_refused_with_those_it_has(vllm: Served) -> None:
    with vllm.openai() as client:
        with pytest.raises(openai.BadRequestError, match=r"it supports: .*embeddings.*rerank") as chat:
            client.chat.completions.create(model=EMBEDDER, messages=COUNT)
        with pytest.raises(openai.BadRequestError, match="it supports: chat") as embeddings:
            client.embeddings.create(model=vllm.model, input="a")
    assert chat.value.code == embeddings.value.code == "unsupported_operation"


def test_an_unknown_model_is_not_found_and_the_nearest_named(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=served.model) as raised:
        client.chat.completions.create(model="smollm2-135m", messages=COUNT)
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_the_engines_own_refusal_keeps_its_status_and_message(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"(?i)context|max_seq_len") as raised:
        client.chat.completions.create(
            model=served.model, messages=[{"role": "user", "content": "again " * 5000}], max_tokens=4
        )
    assert raised.value.type
    wrong: Any = {"model": served.model, "messages": 5}
    for is_stream in (False, True):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**wrong, stream=is_stream)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_request_id_comes_back(served: Served, client: openai.OpenAI, is_stream: bool) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=served.model,
        messages=COUNT,
        max_tokens=2,
        stream=is_stream,
        extra_headers={"X-Request-Id": f"mine-{is_stream}"},
    )
    assert answer.headers["x-request-id"] == answer.request_id == f"mine-{is_stream}"
    made = client.chat.completions.with_raw_response.create(model=served.model, messages=COUNT, max_tokens=2)
    assert made.headers["x-request-id"]
    assert made.parse()._request_id == made.headers["x-request-id"]
    answer.http_response.close()


def test_the_clients_own_timeout_frees_the_engine(served: Served) -> None:
    with served.openai(timeout=0.6) as impatient:
        asked: Any = {"model": served.model, "messages": STORY, "max_tokens": 1000, "extra_body": {"ignore_eos": True}}
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(**asked)
        eventually(lambda: served.running() == 0, seconds=served.freed_seconds)


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_requests_deadline_ends_it_and_frees_the_engine(
    served: Served, client: openai.OpenAI, is_stream: bool
) -> None:
    started = time.monotonic()
    deadline = {"X-Request-Timeout-Ms": "700"}
    if is_stream:
        with (
            client.chat.completions.create(
                model=served.model, messages=STORY, stream=True, extra_headers=deadline, max_tokens=1000,
                extra_body={"ignore_eos": True},
            ) as stream,
            pytest.raises(openai.APIError, match="deadline"),
        ):  # fmt: skip
            for _ in stream:
                pass
    else:
        with pytest.raises(openai.InternalServerError, match="deadline") as raised:
            client.chat.completions.create(
                model=served.model, messages=STORY, extra_headers=deadline, max_tokens=1000,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
        assert (raised.value.status_code, raised.value.code) == (504, "request_timeout")
    assert 0.6 < time.monotonic() - started < 2.5
    eventually(lambda: served.running() == 0, seconds=served.freed_seconds)
