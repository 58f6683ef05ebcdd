"""The list of models, and one of them by whatever name it has."""

from __future__ import annotations

import httpx
import openai
import pytest

from backends.config import ModelConfig
from backends.model import State
from gateway.snapshot import ModelStatus
from tests.gateway.openai.served import made
from tests.servers import Tritium


def test_every_model_is_listed_ready_or_not(http: httpx.Client) -> None:
    answer = http.get("/v1/models").json()
    assert answer["object"] == "list"
    models = {model["id"]: model for model in answer["data"]}
    assert set(models) == {"echo", "twins", "chatty", "broken"}
    for model in models.values():
        assert (model["object"], model["owned_by"], model["version"]) == ("model", "tritium", 1)
        assert isinstance(model["created"], int)
        assert http.get(f"/v1/models/{model['id']}").json() == model
    echo = models["echo"]
    assert (echo["state"], echo["backend"], echo["context_length"], echo["max_model_len"]) == (
        "READY",
        "echo",
        32768,
        32768,
    )
    assert {"chat", "embeddings", "rerank"} < set(echo["capabilities"])
    assert "reason" not in echo
    assert models["chatty"]["capabilities"] == ["chat"]
    assert (models["broken"]["state"], models["broken"]["capabilities"]) == ("FAILED", [])
    assert "'speed'" in models["broken"]["reason"]


@pytest.mark.parametrize("name", ["ecko", "team/ecko", "te am/é", "a%2Fb", "echo/"])
def test_an_unknown_name_is_404_as_the_sdk_reads_it(name: str, shared: Tritium) -> None:
    with openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            client.models.retrieve(name)
        assert raised.value.code in {"model_not_found", "not_found"}


async def test_a_name_may_have_slashes_and_spaces_and_be_escaped_or_not() -> None:
    failed = ModelStatus(ModelConfig("org/my model:1", "made"), State.FAILED, reason="no such file")
    async with made(failed) as (client, _):
        for path in ("org/my model:1", "org%2Fmy%20model%3A1"):
            model = (await client.get(f"/v1/models/{path}")).json()
            assert (model["id"], model["state"], model["reason"]) == ("org/my model:1", "FAILED", "no such file")
        assert (await client.get("/v1/models/org")).json()["error"]["code"] == "model_not_found"
