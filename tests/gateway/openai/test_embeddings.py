"""Embeddings: both encodings, as the SDK reads them."""

from __future__ import annotations

import openai
import pytest

from tests.servers import Tritium


@pytest.fixture
def client(shared: Tritium) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared.url}/v1", api_key="none", max_retries=0)


def test_the_sdks_base64_and_floats_are_the_same_vectors(client: openai.OpenAI) -> None:
    with client:
        encoded = client.embeddings.create(model="echo", input=["one", "two"], dimensions=8)
        plain = client.embeddings.create(model="echo", input=["one", "two"], dimensions=8, encoding_format="float")
    assert len(encoded.data) == 2
    for one, other in zip(encoded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
    assert plain.usage.prompt_tokens == 2


def test_what_the_engine_refuses_is_refused_in_the_envelope(client: openai.OpenAI) -> None:
    with client, pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="echo", input=[])
    assert raised.value.message
    assert raised.value.type
